//! Every binary is told its settings in the same way, and says all that is wrong with them before it does anything.

#![allow(clippy::expect_used, reason = "this is test code, though not all in test functions")]

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::process::{Command, Output};

use herald_e2e::place::{binary, free_address, root};
use herald_e2e::{Herald, until_blocking};

const SERVICES: [&str; 3] = ["herald-registry", "herald-ingest", "herald-edge"];

fn run(name: &str, arguments: &[&str], settings: &[(&str, &str)]) -> Output {
    Command::new(binary(name))
        .args(arguments)
        .env_clear()
        .envs(settings.iter().copied())
        .output()
        .expect("the binary runs")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The settings that a line of stderr complains about.
fn blamed(output: &Output) -> BTreeSet<String> {
    let text = stderr(output);
    text.lines().filter_map(|line| line.split(": ").nth(1)).map(str::to_owned).collect()
}

#[test]
fn all_that_is_wrong_is_told_at_once_and_no_port_is_bound() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let admin = taken.local_addr().unwrap().to_string();
    for (name, wrong) in [
        (
            "herald-registry",
            &[
                ("HERALD_LISTEN", "everywhere"),
                ("HERALD_REDIS_URL", "http://:secret@host"),
                ("HERALD_LEASE_MS", "0"),
            ][..],
        ),
        (
            "herald-ingest",
            &[
                ("HERALD_LISTEN", "127.0.0.1"),
                ("HERALD_AMQP_URL", "redis://:secret@host"),
                ("HERALD_REDIS_URL", ""),
                ("HERALD_WINDOW", "0"),
                ("HERALD_QUEUE", ""),
                ("HERALD_LOG", "a=b=c"),
            ],
        ),
        (
            "herald-edge",
            &[
                ("HERALD_LISTEN", ":8080"),
                ("HERALD_REDIS_URL", "amqp://:secret@host"),
                ("HERALD_REGISTRY_URL", "registry"),
                ("HERALD_PING_INTERVAL_MS", "soon"),
                ("HERALD_MAX_PAYLOAD_BYTES", "1"),
                ("HERALD_LOG_FORMAT", "xml"),
            ],
        ),
        (
            "herald",
            &[("HERALD_LISTEN", "8080"), ("HERALD_MAX_GROUPS", "0"), ("HERALD_SHUTDOWN_GRACE_MS", "soon")],
        ),
    ] {
        let settings = [&[("HERALD_ADMIN_LISTEN", admin.as_str())], wrong].concat();
        let output = run(name, &[], &settings);
        assert_eq!(output.status.code(), Some(2), "{name}: {}", stderr(&output));
        // were a port bound before, it would be the admin port that is complained about
        let expected: BTreeSet<String> = wrong.iter().map(|(setting, _)| (*setting).to_owned()).collect();
        assert!(blamed(&output).is_superset(&expected), "{name}: {}", stderr(&output));
        assert!(!blamed(&output).contains("HERALD_ADMIN_LISTEN"), "{name}: {}", stderr(&output));
        assert!(!stderr(&output).contains("secret"), "{name} tells a secret: {}", stderr(&output));
    }
}

#[test]
fn settings_that_contradict_each_other_are_told() {
    let redis = ("HERALD_REDIS_URL", "redis://127.0.0.1:1");
    let amqp = ("HERALD_AMQP_URL", "amqp://127.0.0.1:1");
    for (name, settings, blame) in [
        (
            "herald-ingest",
            &[redis, amqp, ("HERALD_DEAD_LETTER", "herald.messages")][..],
            "HERALD_DEAD_LETTER",
        ),
        (
            "herald-edge",
            &[redis, ("HERALD_DRAIN_MS", "2000"), ("HERALD_SHUTDOWN_GRACE_MS", "1000")],
            "HERALD_DRAIN_MS",
        ),
        ("herald-edge", &[redis, ("HERALD_ALLOWED_ORIGINS", "example.org")], "HERALD_ALLOWED_ORIGINS"),
    ] {
        let output = run(name, &[], settings);
        assert_eq!(output.status.code(), Some(2), "{name}: {}", stderr(&output));
        assert!(blamed(&output).contains(blame), "{name}: {}", stderr(&output));
    }
}

#[test]
fn help_names_every_setting_that_a_deployment_relies_on() {
    for (name, settings) in [
        (
            "herald-registry",
            &["HERALD_LISTEN", "HERALD_ADMIN_LISTEN", "HERALD_REDIS_URL", "HERALD_REDIS_PREFIX"][..],
        ),
        (
            "herald-ingest",
            &["HERALD_LISTEN", "HERALD_ADMIN_LISTEN", "HERALD_AMQP_URL", "HERALD_QUEUE", "HERALD_REDIS_URL"],
        ),
        (
            "herald-edge",
            &[
                "HERALD_LISTEN",
                "HERALD_ADMIN_LISTEN",
                "HERALD_REDIS_URL",
                "HERALD_REGISTRY_URL",
                "HERALD_PING_INTERVAL_MS",
                "HERALD_PING_TIMEOUT_MS",
                "HERALD_MAX_PAYLOAD_BYTES",
            ],
        ),
        ("herald", &["HERALD_LISTEN", "HERALD_ADMIN_LISTEN", "HERALD_PING_INTERVAL_MS"]),
    ] {
        let help = run(name, &["--help"], &[]);
        assert!(help.status.success());
        let text = String::from_utf8_lossy(&help.stdout).into_owned();
        for setting in settings {
            assert!(text.contains(setting), "{name} --help does not name {setting}");
        }
        // each setting is a flag and an environment variable, and says what it is for
        assert_eq!(text.matches("[env: ").count(), text.matches("\n      --").count() - 1, "{name}:\n{text}");
        assert!(run(name, &["--version"], &[]).status.success());
    }
}

#[test]
fn documents_and_deployments_name_settings_that_exist() {
    // of docker-compose.yml and the scripts
    const OTHERS: [&str; 4] =
        ["HERALD_PORT", "HERALD_AMQP_PORT", "HERALD_PROMETHEUS_PORT", "HERALD_DEV_PORT"];
    let words = |text: &str| -> BTreeSet<String> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        words.filter(|word| word.starts_with("HERALD_")).map(str::to_owned).collect()
    };
    let mut known: BTreeSet<String> = OTHERS.map(str::to_owned).into();
    for name in SERVICES.iter().chain(&["herald"]) {
        known.append(&mut words(&String::from_utf8_lossy(&run(name, &["--help"], &[]).stdout)));
    }
    let mut unknown = Vec::new();
    for path in [
        "README.md",
        "ARCHITECTURE.md",
        "docs/protocol.md",
        "docs/metrics.md",
        "docker-compose.yml",
        "k8s/base/edge.yaml",
        "k8s/base/kustomization.yaml",
        "k8s/try/kustomization.yaml",
    ] {
        let text = std::fs::read_to_string(root().join(path)).expect(path);
        unknown.extend(words(&text).difference(&known).map(|name| format!("{path}: {name}")));
    }
    assert!(unknown.is_empty(), "no binary has these settings: {unknown:#?}");
}

#[test]
fn the_embedded_default_opens_nothing_to_other_machines() {
    let help = run("herald", &["--help"], &[]);
    let text = String::from_utf8_lossy(&help.stdout).into_owned();
    let addresses: Vec<&str> =
        text.split("[default: ").skip(1).filter_map(|rest| rest.split(']').next()).collect();
    assert_eq!(addresses.iter().filter(|default| **default == "127.0.0.1:8080").count(), 1, "{text}");
    assert_eq!(addresses.iter().filter(|default| **default == "127.0.0.1:9090").count(), 1, "{text}");
    assert!(!text.contains("0.0.0.0"), "{text}");
}

#[test]
fn a_port_that_is_taken_is_named_by_its_setting() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let free = free_address().to_string();
    for name in SERVICES {
        for setting in ["HERALD_LISTEN", "HERALD_ADMIN_LISTEN"] {
            let other = if setting == "HERALD_LISTEN" { "HERALD_ADMIN_LISTEN" } else { "HERALD_LISTEN" };
            let settings = [
                (setting, taken.as_str()),
                (other, free.as_str()),
                ("HERALD_REDIS_URL", "redis://127.0.0.1:1"),
                ("HERALD_AMQP_URL", "amqp://127.0.0.1:1"),
            ];
            let output = run(name, &[], &settings);
            assert_eq!(output.status.code(), Some(1), "{name}: {}", stderr(&output));
            let text = stderr(&output) + &String::from_utf8_lossy(&output.stdout);
            assert!(text.contains(&format!("{setting} {taken}")), "{name}: {text}");
        }
    }
}

#[test]
fn the_health_check_of_a_container_is_the_binary_itself() {
    let mut herald = Herald::named("health").edges(1).start();
    for (process, name) in herald.processes().zip(SERVICES) {
        let admin = process.admin.to_string();
        // the settings of the service itself are not needed for asking
        let settings = [
            ("HERALD_ADMIN_LISTEN", admin.as_str()),
            ("HERALD_AMQP_URL", "amqp://127.0.0.1:1"),
            ("HERALD_REDIS_URL", "redis://127.0.0.1:1"),
        ];
        let check = || run(name, &["--check-health"], &settings);
        assert_eq!(check().status.code(), Some(0), "{name}: {}", stderr(&check()));
        process.kill();
        until_blocking(&format!("{name} is unhealthy"), || (check().status.code() == Some(1)).then_some(()));
    }
}

#[test]
fn sigterm_drains_every_service_and_ends_it_with_success() {
    let mut herald = Herald::named("sigterm").edges(1).start();
    for process in herald.processes() {
        assert_eq!(process.terminate(), Some(0), "{}", process.name);
    }
}
