//! A server's bytes, split anywhere, lead to the same accounts.

use proptest::prelude::*;

use super::*;
use crate::plan::{Flow, Offer};
use std::time::Duration;

fn server_frame(text: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x81];
    match text.len() {
        length @ 0..=125 => frame.push(length as u8),
        length => {
            frame.push(126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
    }
    frame.extend_from_slice(text);
    frame
}

fn cast() -> Cast {
    Cast { prefix: "x".into(), first: 0, held: 1, clients: 1, groups: 1, groups_per_client: 1 }
}

fn round() -> Round {
    let flow = Flow { audience: Audience::Group, reliable: true, rate: 10.0 };
    let offer = Offer {
        streams: vec![flow],
        warm_up: Duration::ZERO,
        duration: Duration::from_secs(1),
        drain: Duration::ZERO,
        storm: None,
    };
    Round::new(7, &offer, &cast(), 1_000)
}

fn message(number: u32) -> Vec<u8> {
    let mut data = Vec::new();
    Mark { run: 7, stream: 0, target: 0, number, scheduled_us: 1_000 }.write(&mut data);
    let data = String::from_utf8(data).unwrap();
    server_frame(format!(r#"42["message",{{"data":{{{data}}}}},"cursor-{number}"]"#).as_bytes())
}

/// Everything that an edge says to a client that is sent these numbers.
fn conversation(numbers: &[u32]) -> Vec<u8> {
    let mut bytes = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n".to_vec();
    for text in [
        &br#"0{"sid":"e","pingInterval":25000,"pingTimeout":20000}"#[..],
        br#"40{"sid":"s","pid":"p"}"#,
        br#"431[{"ok":true}]"#,
    ] {
        bytes.extend(server_frame(text));
    }
    for number in numbers {
        bytes.extend(message(*number));
    }
    bytes.extend(server_frame(b"2"));
    bytes
}

proptest! {
    #[test]
    fn however_it_is_split(cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20)) {
        let (round, cast) = (round(), cast());
        let bytes = conversation(&[1, 2, 4, 3, 3, 6]);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
        cuts.push(bytes.len());
        cuts.sort_unstable();
        let (mut tally, mut finder, mut out) = (Tally::new(1), MarkFinder::new(), Vec::new());
        let mut announced_us = None;
        let mut around = Around {
            protocol: Protocol::SocketIo,
            resume: true,
            cast: &cast,
            round: Some(&round),
            tally: &mut tally,
            finder: &mut finder,
            out: &mut out,
            announced_us: &mut announced_us,
            now_us: 500,
        };
        let mut client = Client::new(0);
        client.begin(&round, &cast, true);
        client.open(&mut around, "host");
        let mut taken = 0;
        for cut in cuts {
            taken += client.heed(&bytes[taken..cut], &mut around).unwrap();
        }
        prop_assert_eq!(taken, bytes.len());
        prop_assert!(client.is_live());
        prop_assert_eq!(client.cursor.as_deref(), Some("cursor-6"));
        prop_assert!(out.ends_with(b"3"), "the ping is answered");
        prop_assert_eq!(announced_us, Some(45_000_000));
        prop_assert_eq!(tally.streams[0].received, 6);
        let settlement = Settlement { sent: vec![8], exempt: vec![(0, 0, 8)] };
        let expected = Account {
            due: 7, delivered: 5, lost: 2, duplicated: 1, out_of_order: 1, ..Account::default()
        };
        prop_assert_eq!(client.settle(&round, &settlement), vec![(0, expected)]);
    }
}

#[test]
fn a_server_that_refuses_is_quoted() {
    let (cast, mut tally) = (cast(), Tally::default());
    let (mut finder, mut out, mut announced_us) = (MarkFinder::new(), Vec::new(), None);
    let mut around = Around {
        protocol: Protocol::SocketIo,
        resume: false,
        cast: &cast,
        round: None,
        tally: &mut tally,
        finder: &mut finder,
        out: &mut out,
        announced_us: &mut announced_us,
        now_us: 0,
    };
    let mut client = Client::new(0);
    client.open(&mut around, "host");
    let refused = client.heed(b"HTTP/1.1 503 Service Unavailable\r\n\r\nfull", &mut around);
    assert_eq!(refused, Err(Ended::refused(b"HTTP/1.1 503 Service Unavailable\r\n\r\nfull")));
}
