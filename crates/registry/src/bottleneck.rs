//! What keeps an edge, in one sentence for people. Pure.

use herald_wire::registry::{Edge, Pressure};

/// Less than this is not worth a word.
const QUIET_US: u64 = 20_000;
/// Fuller than this, an edge's feed waits because its hub is full.
const FULL_PERMILLE: u32 = 500;

/// The pressure of an edge, with the sentence.
pub(crate) fn explained(edge: &Edge) -> Pressure {
    let pressure = edge.pressure.clone().unwrap_or_default();
    Pressure { bottleneck: sentence(&edge.address, &pressure), ..pressure }
}

/// The pressure of the worst edge.
pub(crate) fn worst(edges: &[Edge]) -> Pressure {
    // fuller than half ranks like later than 100 ms: from there on ingest slows down
    let rank = |edge: &&Edge| {
        let pressure = edge.pressure.as_ref()?;
        let full = pressure.fullness_permille.saturating_sub(FULL_PERMILLE);
        let as_late = if full > 0 { 100_000 + u64::from(full) * 200 } else { 0 };
        Some((pressure.lateness_us.max(as_late), pressure.fullness_permille))
    };
    edges.iter().max_by_key(rank).map_or_else(
        || Pressure { bottleneck: "no edge is attached".to_owned(), ..Pressure::default() },
        explained,
    )
}

fn sentence(address: &str, pressure: &Pressure) -> String {
    let Pressure { lateness_us, feed_us, fullness_permille, .. } = pressure;
    let full = *fullness_permille > FULL_PERMILLE;
    if *lateness_us < QUIET_US && !full {
        return format!("the edge at {address} keeps up");
    }
    let place = if feed_us.saturating_mul(2) > *lateness_us {
        "between Redis and the edge's reading of its feed"
    } else {
        "in handing messages to its clients' sockets"
    };
    let late = format!("the edge at {address} is {} ms behind, most of it {place}", lateness_us / 1_000);
    if full { format!("{late}; the queues on the way are {} % full", fullness_permille / 10) } else { late }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(address: &str, lateness_us: u64, feed_us: u64, fullness_permille: u32) -> Edge {
        let pressure = Pressure { lateness_us, feed_us, fullness_permille, ..Pressure::default() };
        Edge { address: address.to_owned(), pressure: Some(pressure), ..Edge::default() }
    }

    #[test]
    fn the_sentence_names_the_edge_and_the_place() {
        for (edge, expected) in [
            (edge("a:1", 3_000, 2_000, 0), "the edge at a:1 keeps up"),
            (
                edge("a:1", 230_000, 10_000, 0),
                "the edge at a:1 is 230 ms behind, most of it in handing messages to its clients' sockets",
            ),
            (
                edge("a:1", 230_000, 200_000, 712),
                "the edge at a:1 is 230 ms behind, most of it between Redis and the edge's reading of its feed; the \
                 queues on the way are 71 % full",
            ),
        ] {
            assert_eq!(explained(&edge).bottleneck, expected);
        }
    }

    #[test]
    fn the_worst_is_the_latest_or_the_fullest() {
        let (late, full) = (edge("late", 150_000, 0, 0), edge("full", 1_000, 0, 900));
        let of = |edges: &[Edge]| worst(edges).bottleneck;
        assert!(of(&[edge("fine", 50_000, 0, 10), late.clone()]).contains("late"));
        assert!(of(&[late, full]).contains("full"));
        assert_eq!(of(&[]), "no edge is attached");
    }
}
