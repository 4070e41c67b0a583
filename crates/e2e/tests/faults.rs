//! The fault suite, briefly: faults of every kind under load, and every reliable delivery accounted for. A longer run is
//! `scripts/faults SECONDS SEED`.

use std::time::Duration;

use herald_e2e::faults::Run;

#[tokio::test(flavor = "multi_thread")]
async fn under_faults_of_every_kind_nothing_reliable_is_lost_doubled_or_out_of_order() {
    let run = Run { duration: Duration::from_secs(50), seed: 1, rate: 100, plain: 12, official: 6 };
    let report = run.run().await;
    println!("{report}");
    let total = report.total();
    assert_eq!(total.reliable[1..], [0, 0, 0], "lost, twice, disordered:\n{report}");
    // a gap may be told: a Redis that is killed may lose its last writes by its own rule, and edges cannot know whose
    assert_eq!((report.sessions_lost, report.foreign), (0, 0), "{report}");
    // it shows something only if there was something to lose, and clients had to come back for it
    assert!(total.faults > 50 && total.reliable[0] > 5_000 && report.connects > 60, "{report}");
    assert!(
        total.volatile[1] < total.volatile[0] / 2,
        "volatile ones are lost to faults, not by habit:\n{report}"
    );
}
