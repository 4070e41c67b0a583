//! Settings, as a process sees them: all that is wrong is told at once, secrets are not.

mod support;

use support::{minimal, output};

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

#[test]
fn three_bad_settings_are_three_lines_and_code_2() {
    let (code, stderr) = output(
        minimal()
            .env("HERALD_CONNECTIONS_MAX", "0")
            .env("HERALD_ADMIN_LISTEN", "everywhere")
            .args(["--redis-url", "http://:hunter2@localhost"]),
    );
    assert_eq!(code, 2);
    let mut told = lines(&stderr);
    told.sort_unstable();
    assert_eq!(
        told,
        [
            "minimal: HERALD_ADMIN_LISTEN: `everywhere`: invalid socket address syntax",
            "minimal: HERALD_CONNECTIONS_MAX: `0`: is not between 1 and 100",
            "minimal: HERALD_REDIS_URL: its value: its scheme is not one of redis, rediss",
        ]
    );
}

#[test]
fn what_is_missing_or_misspelt_is_told_too() {
    let (code, stderr) = output(
        minimal()
            .env("HERALD_WAIT_MS", "soon")
            .env("HERALD_QUICK", "maybe")
            .env("HERALD_LOG", "a=b=c")
            .env("HERALD_LOG_FORMAT", "xml"),
    );
    assert_eq!(code, 2);
    let mut told = lines(&stderr);
    told.sort_unstable();
    assert_eq!(
        told,
        [
            "minimal: HERALD_LOG: `a=b=c`: is not a level or a list of target=level",
            "minimal: HERALD_LOG_FORMAT: `xml` is not one of text, json",
            "minimal: HERALD_QUICK: `maybe` is not one of true, false",
            "minimal: HERALD_REDIS_URL: is required and not set",
            "minimal: HERALD_WAIT_MS: `soon`: is not a whole number",
        ]
    );
}

#[test]
fn settings_that_contradict_each_other_are_told() {
    let (code, stderr) =
        output(minimal().env("HERALD_REDIS_URL", "redis://h").args(["--quick", "--wait-ms", "100"]));
    assert_eq!(
        (code, stderr.as_str()),
        (2, "minimal: HERALD_WAIT_MS: must be below 100 when HERALD_QUICK is set\n")
    );
}

#[test]
fn an_unknown_flag_is_told() {
    let (code, stderr) = output(minimal().env("HERALD_WAIT_MS", "soon").arg("--qick"));
    assert_eq!(code, 2);
    assert!(stderr.contains("minimal: command line: unexpected argument '--qick' found"), "{stderr}");
}

#[test]
fn help_shows_settings_and_no_secret() {
    let help =
        minimal().env("HERALD_REDIS_URL", "redis://:hunter2@localhost").arg("--help").output().unwrap();
    assert!(help.status.success());
    let text = String::from_utf8(help.stdout).unwrap();
    assert!(text.contains("HERALD_REDIS_URL") && text.contains("HERALD_SHUTDOWN_GRACE_MS"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
    let version = minimal().arg("--version").output().unwrap();
    assert!(version.status.success() && version.stdout.ends_with(b"0.1.0\n"));
}

#[test]
fn a_taken_port_is_told_by_its_setting_and_code_1() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, stderr) = output(
        minimal()
            .env("HERALD_REDIS_URL", "redis://h")
            .env("HERALD_ADMIN_LISTEN", "127.0.0.1:0")
            .env("HERALD_LISTEN", &address),
    );
    assert_eq!(code, 1);
    assert!(stderr.contains(&format!("HERALD_LISTEN {address}: Address already in use")), "{stderr}");
}
