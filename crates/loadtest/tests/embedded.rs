//! Real load at a real `herald`: what was due is counted exactly; what a server keeps back is reported.

#![allow(clippy::expect_used, clippy::panic, reason = "this is test code, though not all in test functions")]

use std::net::SocketAddr;
use std::time::Duration;

use herald_e2e::Process;
use herald_loadtest::ledger::Account;
use herald_loadtest::{Audience, Behaviour, Cast, Flow, Load, Offer, Plan, Protocol, Publish, Storm};

const PATIENCE: Duration = Duration::from_secs(20);

fn herald(name: &str) -> Process {
    let mut herald = Process::new(name, "herald", Vec::new());
    herald.start();
    herald.wait_ready();
    herald
}

fn plan(edge: SocketAddr, protocol: Protocol) -> Plan {
    let prefix = format!("load-{:08x}", fastrand::u32(..));
    Plan {
        edges: vec![edge],
        source: None,
        protocol,
        cast: Cast { prefix, first: 0, held: 50, clients: 50, groups: 5, groups_per_client: 2 },
        connect_rate: 1_000.0,
        threads: 2,
        processes: 0,
        program: None,
        publish: Publish::Http(vec![edge]),
        volatile: None,
        publishers: 2,
        data_bytes: 200,
        behaviour: Behaviour { resume: true, ..Behaviour::default() },
    }
}

fn offer(streams: Vec<Flow>) -> Offer {
    Offer {
        streams,
        warm_up: Duration::from_millis(200),
        duration: Duration::from_millis(800),
        drain: PATIENCE,
        storm: None,
    }
}

fn flow(audience: Audience, reliable: bool, rate: f64) -> Flow {
    Flow { audience, reliable, rate }
}

fn exactly(due: u64) -> Account {
    Account { due, delivered: due, ..Account::default() }
}

#[tokio::test]
async fn every_delivery_is_counted_over_every_protocol() {
    let herald = herald("load-every");
    for protocol in [Protocol::SocketIo, Protocol::Plain, Protocol::Events] {
        let (mut load, connected) =
            Load::connect(plan(herald.listen, protocol), PATIENCE).await.expect("connects");
        assert_eq!(connected.clients, 50);
        let streams = vec![
            flow(Audience::Group, true, 50.0),
            flow(Audience::Client, true, 100.0),
            flow(Audience::Group, false, 25.0),
            flow(Audience::Everyone, false, 5.0),
        ];
        let report = load.run(&offer(streams)).await.expect("runs");
        let accounts: Vec<Account> = report.streams.iter().map(|stream| stream.account).collect();
        // 50 clients are in 2 of 5 groups each
        assert_eq!(accounts, [exactly(50 * 20), exactly(100), exactly(25 * 20), exactly(5 * 50)], "{report}");
        assert_eq!(report.streams[1].offered, 100);
        assert!(report.latency.count > 0 && report.latency.max < 20_000.0, "{report}");
        // a second round begins at 1 again
        let again = load.run(&offer(vec![flow(Audience::Client, true, 100.0)])).await.expect("runs again");
        assert_eq!(again.account, exactly(100), "{again}");
        assert_eq!(again.events.strays, 0);
    }
}

#[tokio::test]
async fn a_storm_loses_nothing_that_is_reliable_when_clients_resume() {
    let herald = herald("load-storm");
    for protocol in [Protocol::SocketIo, Protocol::Plain] {
        let (mut load, _) = Load::connect(plan(herald.listen, protocol), PATIENCE).await.expect("connects");
        let storm =
            Storm { after: Duration::from_millis(300), share: 1.0, spread: Duration::from_millis(200) };
        let streams = vec![flow(Audience::Group, true, 100.0), flow(Audience::Group, false, 100.0)];
        let report = load.run(&Offer { storm: Some(storm), ..offer(streams) }).await.expect("runs");
        assert_eq!(report.events.cut, 50, "{report}");
        assert_eq!(report.events.resumed, 50, "{report}");
        assert_eq!(report.streams[0].account, exactly(100 * 20), "{report}");
        let volatile = report.streams[1].account;
        assert!(volatile.due < 100 * 20 && volatile.due == volatile.delivered + volatile.lost, "{report}");
        assert_eq!(report.away, 0);
    }
}

#[tokio::test]
async fn processes_count_together() {
    let herald = herald("load-processes");
    let mut plan = plan(herald.listen, Protocol::SocketIo);
    plan.processes = 2;
    plan.program = Some(herald_e2e::place::binary("herald-loadtest"));
    let (mut load, connected) = Load::connect(plan, PATIENCE).await.expect("connects");
    assert_eq!(connected.clients, 50);
    let streams = vec![flow(Audience::Group, true, 50.0), flow(Audience::Client, false, 100.0)];
    let report = load.run(&offer(streams)).await.expect("runs");
    assert_eq!(report.account, exactly(50 * 20 + 100), "{report}");
    assert_eq!(report.latency.count, (50 * 20 + 100) * 4 / 5, "of what was scheduled after the warm-up");
}

#[tokio::test]
async fn what_reaches_nobody_is_lost() {
    let herald = herald("load-lost");
    let other = self::herald("load-elsewhere");
    // published where no client is connected
    let mut lost = plan(herald.listen, Protocol::SocketIo);
    lost.publish = Publish::Http(vec![herald.listen, other.listen]);
    let (mut load, _) = Load::connect(lost, PATIENCE).await.expect("connects");
    let mut offer = offer(vec![flow(Audience::Client, true, 100.0)]);
    offer.drain = Duration::from_millis(500);
    let report = load.run(&offer).await.expect("runs");
    // every second target's publisher talks to the other one
    let expected = Account { due: 100, delivered: 50, lost: 50, ..Account::default() };
    assert_eq!(report.account, expected, "{report}");
    assert_eq!(report.faults(), ["50 reliable deliveries lost"]);
}
