//! Flow control's handle on the paused clock.

use std::time::Duration;

use super::*;

fn late(ms: u64) -> Heard {
    let edges = Edges { lateness: Duration::from_millis(ms), fullness_permille: 0 };
    Heard { edges, bottleneck: "an edge".to_owned() }
}

fn drain(flow: &Flow) {
    let room = flow.room();
    flow.spend(room);
    assert_eq!(flow.room(), 0);
}

#[tokio::test(start_paused = true)]
async fn room_comes_back_at_the_pace() {
    let flow = Flow::new(TARGET_DEFAULT);
    flow.step(Some(&late(0)), 0);
    drain(&flow);
    let start = tokio::time::Instant::now();
    for _ in 0..100 {
        flow.has_room().await;
        flow.spend(1);
    }
    let took = start.elapsed();
    // 1,024 a second; the clock has no finer steps than milliseconds
    assert!((95..=110).contains(&took.as_millis()), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn lateness_slows_down_at_once_and_its_end_wakes_who_waits() {
    let flow = Flow::new(TARGET_DEFAULT);
    drain(&flow);
    for _ in 0..40 {
        flow.hold_back();
        tokio::time::advance(Duration::from_millis(500)).await;
        drain(&flow);
        flow.step(Some(&late(3_000)), 0);
    }
    assert!(flow.is_pressed());
    assert!(flow.window() < 20, "{}", flow.window());
    let step = flow.step(Some(&late(3_000)), 0);
    assert!(step.pace < 6.0, "{}", step.pace);
    // one that costs a hundred is waited for a second, or until the pace is another
    flow.spend(100);
    let waiting = tokio::spawn({
        let flow = flow.clone();
        async move { flow.has_room().await }
    });
    tokio::task::yield_now().await;
    tokio::time::advance(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished());
    flow.step(Some(&late(0)), 0);
    waiting.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn requests_that_wait_for_room_pass_one_by_one() {
    let flow = Flow::new(TARGET_DEFAULT);
    drain(&flow);
    let start = tokio::time::Instant::now();
    let requests: Vec<_> = (0..50)
        .map(|_| {
            let flow = flow.clone();
            tokio::spawn(async move { flow.admit(10).await })
        })
        .collect();
    for request in requests {
        request.await.unwrap();
    }
    let took = start.elapsed();
    assert!((470..=520).contains(&took.as_millis()), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn only_under_pressure_the_old_and_volatile_are_shed() {
    let flow = Flow::new(TARGET_DEFAULT);
    let old = Envelope { sent_at_us: 1, ..Envelope::default() };
    let now_us = 10_000_000;
    assert!(!flow.sheds(&old, now_us, now_us));
    flow.hold_back();
    flow.step(Some(&late(500)), 0);
    assert!(flow.sheds(&old, now_us, now_us));
    assert!(!flow.sheds(&Envelope { reliable: true, ..old.clone() }, now_us, now_us));
    // no time of sending: by how long the queue is
    let untimed = Envelope::default();
    assert!(!flow.sheds(&untimed, now_us - flow.queued_us(), now_us));
    flow.note_backlog(1_000.0);
    assert!(flow.sheds(&untimed, now_us - flow.queued_us().min(now_us), now_us));
    tokio::time::advance(controller::RELIEF).await;
    flow.step(Some(&late(0)), 0);
    assert!(!flow.sheds(&old, now_us, now_us));
}
