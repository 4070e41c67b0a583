//! The laws of the house, as far as a machine can tell: who may depend on whom, and how files look. Knows no behaviour.

#![allow(clippy::expect_used, clippy::panic, reason = "this is test code, though not all in test functions")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use herald_e2e::Value;
use herald_e2e::place::root;

const LINES_MAX: usize = 500;

/// For each package of ours, the names of all it depends on, for building, running or testing.
fn dependencies() -> BTreeMap<String, Vec<String>> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let told = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .expect("cargo metadata");
    let told: Value = serde_json::from_slice(&told.stdout).expect("JSON");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let packages = told["packages"].as_array().expect("packages").iter();
    packages
        .map(|package| {
            let all = package["dependencies"].as_array().expect("dependencies").iter();
            (text(&package["name"]), all.map(|dependency| text(&dependency["name"])).collect())
        })
        .collect()
}

/// Every file below a directory with this ending, as a path from the root.
fn files(below: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![root().join(below)];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name();
            if path.is_dir() {
                if name != "node_modules" && name != "target" && name != "generated" {
                    directories.push(path);
                }
            } else if name.to_string_lossy().ends_with(ending) {
                found.push(path.strip_prefix(root()).expect("below the root").to_owned());
            }
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The lines of a source file that are neither a comment nor under `#[cfg(test)]`, with their numbers.
fn code(path: &Path) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    // rustfmt's doing: an item ends where its first line's indentation comes back
    let mut until: Option<usize> = None;
    for (number, line) in read(path).lines().enumerate() {
        let trimmed = line.trim_start();
        let indentation = line.len() - trimmed.len();
        if trimmed == "#[cfg(test)]" {
            until = Some(indentation);
        } else if until.is_none() && !trimmed.starts_with("//") {
            lines.push((number + 1, line.to_owned()));
        } else if until == Some(indentation) && (trimmed.starts_with('}') || trimmed.ends_with([';', '}'])) {
            until = None;
        }
    }
    lines
}

/// Files that hold nothing but tests: below a `tests` directory, or a module that is declared under `#[cfg(test)]`.
fn is_test(path: &Path) -> bool {
    let below_tests =
        path.components().any(|part| part.as_os_str() == "tests" || part.as_os_str() == "benches");
    let named = path.file_name().is_some_and(|name| name == "tests.rs" || name == "testing.rs");
    below_tests || named || path.starts_with("crates/e2e")
}

fn sources() -> Vec<PathBuf> {
    let is_source = |path: &PathBuf| path.components().nth(2).is_some_and(|part| part.as_os_str() == "src");
    files("crates", ".rs").into_iter().filter(is_source).collect()
}

/// Fails with all that was found, or passes when that is nothing.
fn none(law: &str, breaches: impl IntoIterator<Item = String>) {
    let breaches: Vec<String> = breaches.into_iter().collect();
    assert!(breaches.is_empty(), "{law}:\n  {}", breaches.join("\n  "));
}

#[test]
fn services_never_depend_on_each_other() {
    let services = ["herald-ingest", "herald-edge", "herald-registry"];
    let all = dependencies();
    for service in services {
        let others =
            all[service].iter().filter(|name| services.contains(&name.as_str()) || *name == "herald");
        none(&format!("{service} must not know another service"), others.cloned());
    }
}

#[test]
fn foundations_depend_on_nothing_of_ours_and_the_bus_on_wire_alone() {
    let all = dependencies();
    let ours = |name: &str| -> Vec<String> {
        all[name].iter().filter(|name| name.starts_with("herald")).cloned().collect()
    };
    for foundation in ["herald-wire", "herald-socketio", "herald-chassis"] {
        none(&format!("{foundation} must know nothing of ours"), ours(foundation));
    }
    assert_eq!(ours("herald-bus"), ["herald-wire"]);
}

#[test]
fn each_broker_and_protocol_library_is_known_only_where_it_belongs() {
    // the load generator and these tests are clients of the same protocols
    for (library, allowed) in [
        ("lapin", &["herald-ingest", "herald-loadtest", "herald-e2e"][..]),
        ("tungstenite", &["herald-edge", "herald-loadtest", "herald-e2e"]),
        ("redis", &["herald-bus", "herald-registry"]),
        ("deadpool-redis", &["herald-registry"]),
        ("axum", &[]),
    ] {
        let known = dependencies().into_iter().filter(|(_, all)| all.iter().any(|name| name == library));
        let elsewhere =
            known.map(|(package, _)| package).filter(|package| !allowed.contains(&package.as_str()));
        none(&format!("only {allowed:?} may depend on {library}"), elsewhere);
    }
}

#[test]
fn inside_a_service_one_place_knows_the_library() {
    for (library, service, allowed) in [
        ("lapin::", "crates/ingest/src", "crates/ingest/src/source/amqp"),
        ("redis::", "crates/registry/src", "crates/registry/src/store"),
        ("deadpool_redis::", "crates/registry/src", "crates/registry/src/store"),
    ] {
        let mut elsewhere = Vec::new();
        for path in files(service, ".rs") {
            let names = |line: &str| {
                line.match_indices(library).any(|(at, _)| {
                    let before = line[..at].chars().next_back();
                    // `store::redis::` is ours
                    !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
                })
            };
            // `store` is `store.rs` and all below `store/`
            let inside = path.with_extension("").starts_with(Path::new(allowed).with_extension(""));
            if !inside && !is_test(&path) && code(&path).iter().any(|(_, line)| names(line)) {
                elsewhere.push(path.display().to_string());
            }
        }
        none(&format!("{library} belongs to {allowed}"), elsewhere);
    }
}

#[test]
fn every_source_file_opens_by_saying_what_it_is_for() {
    let silent = files("crates", ".rs").into_iter().filter(|path| !read(path).starts_with("//! "));
    none("must open with `//!`", silent.map(|path| path.display().to_string()));
}

#[test]
fn source_files_stay_readable_in_one_sitting() {
    let long = files("crates", ".rs").into_iter().filter_map(|path| {
        let lines = read(&path).lines().count();
        (lines > LINES_MAX).then(|| format!("{} has {lines} lines", path.display()))
    });
    none(&format!("at most {LINES_MAX} lines a file"), long);
}

#[test]
fn nothing_but_tests_may_panic_on_purpose() {
    let mut found = Vec::new();
    for path in sources().into_iter().filter(|path| !is_test(path)) {
        for (number, line) in code(&path) {
            for word in [".unwrap()", ".expect(", "panic!(", "todo!(", "unimplemented!(", "dbg!("] {
                if line.contains(word) {
                    found.push(format!("{}:{number}: {}", path.display(), line.trim()));
                }
            }
        }
    }
    none("no unwrap, expect or panic outside of tests", found);
}

#[test]
fn no_test_sleeps_for_a_result() {
    let mut found = Vec::new();
    for path in files("crates", ".rs") {
        let text = read(&path);
        // the paused clock jumps, nobody waits; and what the tests of a crate share may poll for an event
        let polls = path.iter().nth(2).is_some_and(|part| part == "tests") && path.iter().count() > 4;
        if text.contains("start_paused = true") || polls || path == Path::new("crates/e2e/src/wait.rs") {
            continue;
        }
        let shipped: Vec<usize> = if is_test(&path) {
            Vec::new()
        } else {
            code(&path).into_iter().map(|(number, _)| number).collect()
        };
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            let is_ours = !shipped.contains(&(number + 1)) && !line.starts_with("//");
            // put together here, so that this line does not find itself
            if is_ours && line.contains(concat!("sleep", "(")) {
                found.push(format!("{}:{}: {line}", path.display(), number + 1));
            }
        }
    }
    none("tests wait for the event, not for a time", found);
}

#[test]
fn every_version_lint_and_profile_is_in_the_root_manifest() {
    let mut found = Vec::new();
    for manifest in files("crates", "Cargo.toml") {
        let text = read(&manifest);
        for inherited in
            ["version.workspace", "edition.workspace", "license.workspace", "[lints]\nworkspace = true"]
        {
            if !text.contains(inherited) {
                found.push(format!("{} lacks {inherited}", manifest.display()));
            }
        }
        let mut section = "";
        for line in text.lines().map(str::trim) {
            if line.starts_with('[') {
                section = line;
                if section.starts_with("[profile") || section.starts_with("[workspace") {
                    found.push(format!("{}: {section}", manifest.display()));
                }
            } else if section.contains("dependencies") && line.contains('=') && !line.starts_with('#') {
                let inherits = line.contains("workspace = true");
                found.extend((!inherits).then(|| format!("{}: {line}", manifest.display())));
            }
        }
    }
    none("manifests inherit from the root", found);
}

#[test]
fn paths_named_in_documents_exist() {
    let mut documents: Vec<PathBuf> = files("docs", ".md");
    documents.extend(["README.md", "ARCHITECTURE.md", "CHANGELOG.md"].map(PathBuf::from));
    let mut found = Vec::new();
    for document in documents.iter().filter(|path| root().join(path).exists()) {
        let text = read(document);
        let code_spans = text.split('`').skip(1).step_by(2);
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for (name, is_link) in code_spans.map(|s| (s, false)).chain(links.map(|s| (s, true))) {
            let name = name.split(['#', ' ']).next().unwrap_or("");
            let Some(path) = named_path(document, name, is_link) else { continue };
            if !root().join(&path).exists() {
                found.push(format!("{} names {}", document.display(), path.display()));
            }
        }
    }
    none("documents name files that exist", found);
}

/// What a word in a document means as a path from the root; `None` when it is no path.
fn named_path(document: &Path, name: &str, is_link: bool) -> Option<PathBuf> {
    const TOP: [&str; 8] = ["crates/", "docs/", "scripts/", "proto/", "docker/", "k8s/", ".ci/", "bench/"];
    if name.contains(['*', '<', '{', '$', '\n', '…']) || name.contains("://") || name.is_empty() {
        return None;
    }
    if is_link {
        return Some(document.parent()?.join(name.trim_end_matches('/')));
    }
    let name = name.trim_end_matches(['.', ',', ':']);
    // `path:line` is not used, `path::module` is code
    (TOP.iter().any(|top| name.starts_with(top)) && !name.contains("::")).then(|| PathBuf::from(name))
}

#[test]
fn lock_files_of_node_packages_name_no_host() {
    for lock in ["crates/e2e/clients/package-lock.json", "bench/node-peer/package-lock.json"] {
        let text = read(Path::new(lock));
        assert!(!text.contains("\"resolved\""), "{lock}: run npm with omit-lockfile-registry-resolved=true");
        // whom a package asks to fund it is in its own manifest
        let is_host = |line: &&str| line.contains("://") && !line.trim_start().starts_with("\"url\": ");
        none(&format!("{lock} names a host"), text.lines().filter(is_host).map(str::to_owned));
    }
}
