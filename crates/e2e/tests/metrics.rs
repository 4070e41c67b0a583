//! The page of metrics tells the truth: what the services export is documented, and what is documented exists.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use herald_e2e::herald::{reliable, to_group, to_socket};
use herald_e2e::place::root;
use herald_e2e::{Driver, Herald, PlainClient, SseClient, json};

const PAGE: &str = "docs/metrics.md";

/// Each documented metric and the rest of its row.
fn documented() -> BTreeMap<String, String> {
    let page = fs::read_to_string(root().join(PAGE)).unwrap_or_default();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `herald_"));
    rows.filter_map(|row| row.split_once('`'))
        .map(|(name, rest)| {
            let name = name.split('{').next().unwrap_or(name);
            (format!("herald_{name}"), rest.to_owned())
        })
        .collect()
}

/// The names in the sources, wherever a metric is declared.
fn declared() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut directories = vec![root().join("crates")];
    while let Some(directory) = directories.pop() {
        for path in fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()) {
            let skipped = ["e2e", "loadtest", "tests", "node_modules", "generated", "examples"];
            if path.is_dir() && !skipped.iter().any(|name| path.ends_with(name)) {
                directories.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = fs::read_to_string(&path).unwrap_or_default();
                let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
                let literals = code.split('"');
                // a crate's own name has one underscore, a metric's has more
                let is_metric = |name: &&str| {
                    name.starts_with("herald_")
                        && name.matches('_').count() > 1
                        && !name.ends_with('_')
                        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
                };
                names.extend(literals.filter(is_metric).map(str::to_owned));
            }
        }
    }
    names
}

#[test]
fn the_page_lists_what_the_sources_declare_and_nothing_else() {
    let documented: BTreeSet<String> = documented().into_keys().collect();
    let declared = declared();
    let missing: Vec<_> = declared.difference(&documented).collect();
    let invented: Vec<_> = documented.difference(&declared).collect();
    assert!(
        missing.is_empty() && invented.is_empty(),
        "{PAGE} lacks {missing:#?}\nand invents {invented:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_running_services_export_is_documented_by_name_and_kind() {
    let herald = Herald::named("metrics").edges(2).registries(1).start();
    let node = Driver::node();
    let mut a = node
        .registered("a", &herald.edge_url(0), json!({}), json!({"socketId": "a", "groupFlag": "g"}))
        .await;
    let mut b = PlainClient::registered(herald.edge(1), json!({"socketId": "b", "groupFlag": "g"})).await;
    let mut c = SseClient::connect(herald.edge(0), "/events?group=g").await;
    let producer = herald.producer().await;
    for message in
        [to_group("g", 1), reliable(to_group("g", 2)), json!({"no": "target"}), to_socket("nobody", 3)]
    {
        producer.send(&message).await;
        herald.publish(&to_group("g", 0)).await;
    }
    for inbox in [&mut a.inbox, &mut b.inbox, &mut c.inbox] {
        inbox.data_of(6).await;
    }
    let documented = documented();
    let mut problems = Vec::new();
    for process in herald.edges.iter().chain(&herald.ingests).chain(&herald.registries) {
        let metrics = process.metrics();
        for name in metrics.names().into_iter().filter(|name| name.starts_with("herald_")) {
            let kind = metrics.kind(&name).unwrap_or_default();
            match documented.get(&name) {
                None => problems.push(format!("{} exports {name}, which is not in {PAGE}", process.name)),
                Some(row) if !row.contains(kind) => problems.push(format!("{name} is a {kind}: {row}")),
                Some(_) => {}
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
