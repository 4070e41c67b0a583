//! The directory by tables, and by a seeded random driver against a model that knows only the rules.

use super::*;
use proptest::prelude::*;

const LEASE: u64 = 10_000;
const T: u64 = 1_000_000;

fn claim(socket_id: &str, connection: u64, age_ms: u64) -> Claim {
    Claim { socket_id: socket_id.into(), connection, age_ms }
}

fn release(socket_id: &str, connection: u64) -> Release {
    Release { socket_id: socket_id.into(), connection }
}

fn owner_of(directory: &Directory, now: u64, socket_id: &str) -> Option<(String, u64)> {
    let found = directory.locate(now, &[socket_id.to_owned()]);
    found.into_iter().next().map(|location| (location.edge_id, location.connection))
}

fn owner(edge_id: &str, connection: u64, since_ms: u64) -> Owner {
    Owner { edge_id: edge_id.into(), connection, since_ms, attachment: 1 }
}

#[test]
fn the_conflict_rule() {
    let held = owner("a", 1, 100);
    for (claim, ruling) in [
        (owner("a", 1, 100), Ruling::Kept),
        (owner("a", 1, 50), Ruling::Kept),
        (owner("a", 1, 150), Ruling::Kept),
        (owner("a", 2, 101), Ruling::Won),
        (owner("a", 2, 99), Ruling::Lost),
        (owner("b", 1, 101), Ruling::Won),
        (owner("b", 1, 100), Ruling::Won),
        (owner("b", 1, 99), Ruling::Lost),
    ] {
        assert_eq!(rule(Some(&held), &claim), ruling, "{claim:?}");
        assert_eq!(rule(None, &claim), Ruling::Taken);
    }
}

#[test]
fn the_newest_claim_wins_whichever_comes_first() {
    let mut directory = Directory::new(LEASE);
    let a = directory.attach(T, "a", "a:1");
    let b = directory.attach(T, "b", "b:1");
    assert_eq!(directory.claim(T, &a, &[claim("s", 1, 100)]), Ok(vec![]));
    let to_a = Eviction::new("a", hold("s", 1), "b");
    assert_eq!(directory.claim(T, &b, &[claim("s", 7, 50)]), Ok(vec![to_a.clone()]));
    assert_eq!(owner_of(&directory, T, "s"), Some(("b".into(), 7)));
    // the older one says it again, and is told again
    assert_eq!(directory.claim(T + 5, &a, &[claim("s", 1, 105)]), Ok(vec![to_a]));
    assert_eq!(owner_of(&directory, T, "s"), Some(("b".into(), 7)));
    // the newer one says it again: nothing happens, and its time stays
    assert_eq!(directory.claim(T + 500, &b, &[claim("s", 7, 0)]), Ok(vec![]));
    assert_eq!(directory.locate(T, &["s".into()])[0].since_ms, T - 50);
}

#[test]
fn two_connections_of_one_edge_compete_too() {
    let mut directory = Directory::new(LEASE);
    let a = directory.attach(T, "a", "a:1");
    let evictions = directory.claim(T, &a, &[claim("s", 1, 9), claim("s", 2, 3), claim("s", 3, 5)]).unwrap();
    assert_eq!(evictions, [Eviction::new("a", hold("s", 1), "a"), Eviction::new("a", hold("s", 3), "a")]);
    assert_eq!(owner_of(&directory, T, "s"), Some(("a".into(), 2)));
}

#[test]
fn a_late_release_harms_nobody() {
    let mut directory = Directory::new(LEASE);
    let a = directory.attach(T, "a", "a:1");
    let b = directory.attach(T, "b", "b:1");
    directory.claim(T, &a, &[claim("s", 1, 9)]).unwrap();
    directory.claim(T, &b, &[claim("s", 1, 3)]).unwrap();
    assert_eq!(directory.release(T, &a, &[release("s", 1)]), Ok(0));
    assert_eq!(directory.release(T, &b, &[release("s", 2), release("unknown", 1)]), Ok(0));
    assert_eq!(owner_of(&directory, T, "s"), Some(("b".into(), 1)));
    assert_eq!(directory.release(T, &b, &[release("s", 1)]), Ok(1));
    assert_eq!(owner_of(&directory, T, "s"), None);
}

#[test]
fn a_lease_ends_and_takes_everything_with_it() {
    let mut directory = Directory::new(LEASE);
    let a = directory.attach(T, "a", "a:1");
    directory.claim(T, &a, &[claim("s", 1, 0)]).unwrap();
    directory.heartbeat(T + 9_000, &a, &Heartbeat::default()).unwrap();
    assert!(owner_of(&directory, T + 18_999, "s").is_some());
    let end = T + 19_000;
    assert_eq!(owner_of(&directory, end, "s"), None);
    assert_eq!(directory.edges(end), (vec![], vec!["a".to_owned()]));
    assert_eq!(directory.heartbeat(end, &a, &Heartbeat::default()), Err(Fenced));
    assert_eq!(directory.claim(end, &a, &[claim("s", 1, 0)]), Err(Fenced));
    // an older claim than the dead edge's wins: the dead own nothing, and need not be told
    let b = directory.attach(end, "b", "b:1");
    assert_eq!(directory.claim(end, &b, &[claim("s", 4, 1_000_000)]), Ok(vec![]));
    assert_eq!(directory.sweep(end - 1, "a"), None);
    assert_eq!(directory.sweep(end, "a"), Some(0));
    assert_eq!(directory.sweep(end, "a"), None);
    assert_eq!(owner_of(&directory, end, "s"), Some(("b".into(), 4)));
}

#[test]
fn what_is_not_repeated_after_a_new_attach_is_forgotten() {
    let mut directory = Directory::new(LEASE);
    let old = directory.attach(T, "a", "a:1");
    directory.claim(T, &old, &[claim("kept", 1, 0), claim("gone", 2, 0)]).unwrap();
    let new = directory.attach(T, "a", "a:2");
    assert!(new.number > old.number);
    assert_eq!(directory.claim(T, &old, &[claim("late", 3, 0)]), Err(Fenced));
    assert_eq!(directory.release(T, &old, &[release("kept", 1)]), Err(Fenced));
    directory.claim(T, &new, &[claim("kept", 1, 0)]).unwrap();
    assert_eq!(owner_of(&directory, T, "gone"), Some(("a".into(), 2)));
    assert_eq!(directory.forget(&new), 1);
    assert_eq!(owner_of(&directory, T, "gone"), None);
    assert_eq!(owner_of(&directory, T, "kept"), Some(("a".into(), 1)));
    assert_eq!(directory.locate(T, &["kept".into()])[0].address, "a:2");
}

#[test]
fn an_audit_finds_evictions_that_were_not_told_and_owners_that_were_lost() {
    let mut directory = Directory::new(LEASE);
    let a = directory.attach(T, "a", "a:1");
    let b = directory.attach(T, "b", "b:1");
    directory.claim(T, &a, &[claim("s", 1, 9), claim("t", 2, 9)]).unwrap();
    directory.claim(T, &b, &[claim("s", 1, 3)]).unwrap();
    let lost = Eviction::new("a", hold("s", 1), "b");
    assert_eq!(directory.audit(T, &a), Ok(vec![lost.clone()]));
    assert_eq!(directory.audit(T, &a), Ok(vec![lost]), "until it was told");
    directory.told(&a, &[hold("s", 1)]);
    assert_eq!(directory.audit(T, &a), Ok(vec![]));
    directory.owners.clear();
    assert_eq!(directory.audit(T, &a), Ok(vec![]));
    assert_eq!(owner_of(&directory, T, "t"), Some(("a".into(), 2)));
}

#[test]
fn an_edge_s_last_heartbeat_says_how_it_is() {
    let mut directory = Directory::new(LEASE);
    for (edge, lateness_us, fullness_permille) in [("a", 5, 900), ("b", 7, 1), ("c", 7, 2)] {
        let attachment = directory.attach(T, edge, "x");
        let pressure =
            Pressure { edge_id: "ignored".into(), lateness_us, fullness_permille, ..Pressure::default() };
        let beat = Heartbeat { connections: 1, sessions: 2, pressure: Some(pressure) };
        directory.heartbeat(T, &attachment, &beat).unwrap();
    }
    let (edges, _) = directory.edges(T);
    let last = Pressure { edge_id: "c".into(), lateness_us: 7, fullness_permille: 2, ..Pressure::default() };
    assert_eq!(edges[2].pressure, Some(last));
    assert_eq!((edges[0].connections, edges[0].sessions, edges[0].lease_left_ms), (1, 2, LEASE));
}

#[derive(Clone, Debug)]
enum Step {
    Claim { edge: usize, socket: usize, connection: u64, age_ms: u64 },
    Release { edge: usize, socket: usize, connection: u64 },
    Beat { edge: usize },
    Attach { edge: usize },
    Wait { ms: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let (edge, socket, connection) = (0..3_usize, 0..3_usize, 1..4_u64);
    prop_oneof![
        6 => (edge.clone(), socket.clone(), connection.clone(), 0..30_000_u64)
            .prop_map(|(edge, socket, connection, age_ms)| Step::Claim { edge, socket, connection, age_ms }),
        2 => (edge.clone(), socket, connection)
            .prop_map(|(edge, socket, connection)| Step::Release { edge, socket, connection }),
        4 => edge.clone().prop_map(|edge| Step::Beat { edge }),
        1 => edge.prop_map(|edge| Step::Attach { edge }),
        2 => (1..4_000_u64).prop_map(|ms| Step::Wait { ms }),
    ]
}

fn socket_name(socket: usize) -> String {
    format!("s{socket}")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// At most one owner, always a standing edge, never older than a claim that was accepted; nobody but the holder's
    /// own release, its death, or a newer claim takes it away; whoever loses is told.
    #[test]
    fn the_rules_hold_whatever_happens(steps in proptest::collection::vec(step(), 1..120)) {
        let mut directory = Directory::new(LEASE);
        let mut now = T;
        let mut stays: Vec<Attachment> =
            (0..3).map(|edge| directory.attach(now, &format!("e{edge}"), "x")).collect();
        for step in steps {
            let before: Vec<_> = (0..3).map(|socket| directory.locate(now, &[socket_name(socket)])).collect();
            let mut touched = None;
            match step {
                Step::Wait { ms } => {
                    now += ms;
                    for edge in directory.edges(now).1 {
                        prop_assert!(directory.sweep(now, &edge).is_some());
                    }
                    continue;
                }
                Step::Attach { edge } => {
                    let old = stays[edge].clone();
                    stays[edge] = directory.attach(now, &old.edge_id, "x");
                    prop_assert!(stays[edge].number > old.number);
                    prop_assert_eq!(directory.claim(now, &old, &[claim("s0", 9, 0)]), Err(Fenced));
                }
                Step::Beat { edge } => {
                    let _ = directory.heartbeat(now, &stays[edge], &Heartbeat::default());
                }
                Step::Claim { edge, socket, connection, age_ms } => {
                    touched = Some(socket);
                    let name = socket_name(socket);
                    let held = before[socket].first();
                    let Ok(evictions) = directory.claim(now, &stays[edge], &[claim(&name, connection, age_ms)])
                    else { continue };
                    let after = directory.locate(now, std::slice::from_ref(&name)).remove(0);
                    let mine = (stays[edge].edge_id.clone(), connection);
                    let won = (after.edge_id.clone(), after.connection) == mine;
                    let same = held.is_some_and(|held| (held.edge_id.clone(), held.connection) == mine);
                    let newer = held.is_none_or(|held| now - age_ms.min(now) >= held.since_ms);
                    prop_assert_eq!(won, same || newer);
                    let losers: Vec<_> =
                        evictions.iter().map(|e| (e.edge_id.clone(), e.evict.connection)).collect();
                    let expected = match held {
                        Some(held) if won && !same => vec![(held.edge_id.clone(), held.connection)],
                        _ if !won => vec![mine],
                        _ => vec![],
                    };
                    prop_assert_eq!(losers, expected);
                }
                Step::Release { edge, socket, connection } => {
                    touched = Some(socket);
                    let name = socket_name(socket);
                    let Ok(dropped) = directory.release(now, &stays[edge], &[release(&name, connection)])
                    else { continue };
                    let was_mine = before[socket].first().is_some_and(|held| {
                        held.edge_id == stays[edge].edge_id && held.connection == connection
                    });
                    prop_assert_eq!(dropped, usize::from(was_mine));
                    prop_assert_eq!(directory.locate(now, &[name]).is_empty(), was_mine || before[socket].is_empty());
                }
            }
            for (socket, held) in before.iter().enumerate().filter(|(socket, _)| touched != Some(*socket)) {
                prop_assert_eq!(&directory.locate(now, &[socket_name(socket)]), held);
            }
        }
    }
}
