//! The end of a process: soft, then hard, and what its exit code says.

mod support;

use std::time::Duration;

use herald_chassis::shutdown::{Drained, HARD_GRACE};
use herald_chassis::{Shutdown, Tasks};
use support::Running;
use tokio::time::Instant;

const GRACE: Duration = Duration::from_secs(20);

fn tasks() -> Tasks {
    Tasks::new(Shutdown::new())
}

#[tokio::test(start_paused = true)]
async fn tasks_that_heed_the_soft_stage_end_the_drain_at_once() {
    let tasks = tasks();
    let shutdown = tasks.shutdown().clone();
    tasks.spawn("polite", async move {
        shutdown.soft().await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        Ok::<_, std::io::Error>(())
    });
    let start = Instant::now();
    assert_eq!(tasks.drain(GRACE).await, Drained::Soft);
    assert_eq!(start.elapsed(), Duration::from_secs(3));
    assert!(tasks.death().is_none());
    assert!(tasks.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_hard_stage_comes_a_grace_later() {
    let tasks = tasks();
    let shutdown = tasks.shutdown().clone();
    tasks.track("slow", async move { shutdown.hard().await });
    let start = Instant::now();
    assert_eq!(tasks.drain(GRACE).await, Drained::Hard);
    assert_eq!(start.elapsed(), GRACE);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_heeds_nothing_is_left_behind() {
    let tasks = tasks();
    tasks.track("deaf", std::future::pending());
    let start = Instant::now();
    assert_eq!(tasks.drain(GRACE).await, Drained::Stuck(1));
    assert_eq!(start.elapsed(), GRACE + HARD_GRACE);
}

#[tokio::test(start_paused = true)]
async fn force_cuts_the_grace_short() {
    let tasks = tasks();
    let shutdown = tasks.shutdown().clone();
    tasks.track("slow", async move { shutdown.hard().await });
    let impatient = tasks.shutdown().clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        impatient.force();
    });
    let start = Instant::now();
    assert_eq!(tasks.drain(GRACE).await, Drained::Hard);
    assert_eq!(start.elapsed(), Duration::from_secs(1));
}

#[tokio::test]
async fn a_task_that_ends_too_soon_is_a_death_and_begins_the_drain() {
    for (ending, cause) in [
        (Ok(()), "ended though nobody asked it to"),
        (Err(std::io::Error::other("no disk")), "failed: no disk"),
    ] {
        let tasks = tasks();
        tasks.spawn("feed", async move { ending });
        tasks.shutdown().soft().await;
        assert_eq!(tasks.death().unwrap().to_string(), format!("task feed {cause}"));
    }
}

#[tokio::test]
async fn a_panic_is_a_death_and_only_the_first_death_counts() {
    let tasks = tasks();
    tasks.spawn("feed", async { panic!("on purpose") as std::io::Result<()> });
    tasks.shutdown().soft().await;
    tasks.spawn("hub", async { Err(std::io::Error::other("because of the feed")) });
    assert_eq!(tasks.drain(GRACE).await, Drained::Soft);
    assert_eq!(tasks.death().unwrap().to_string(), "task feed panicked");
}

#[tokio::test]
async fn a_panic_of_a_tracked_task_is_its_own() {
    let tasks = tasks();
    tasks.track("connection", async { panic!("on purpose") });
    assert_eq!(tasks.drain(GRACE).await, Drained::Soft);
    assert!(tasks.death().is_none());
}

#[test]
fn sigterm_drains_with_code_0() {
    let running = Running::start(&[]);
    running.signal("-TERM");
    let (code, log) = running.wait();
    assert_eq!(code, 0, "{log}");
    assert!(log.contains("drained") && !log.contains("hunter2"), "{log}");
}

#[test]
fn sigint_twice_does_not_wait_for_the_grace() {
    let mut running = Running::start(&[("HERALD_SHUTDOWN_GRACE_MS", "3600000")]);
    running.tell("stay");
    // commands are taken one by one: once this one has panicked, the one before it stays
    running.tell("panic-in-a-connection");
    running.line_with("the others go on");
    running.signal("-INT");
    running.line_with("draining");
    running.signal("-INT");
    let (code, log) = running.wait();
    assert_eq!(code, 0, "{log}");
    assert!(log.contains("ending at once") && log.contains("by force"), "{log}");
}

#[test]
fn a_dead_task_ends_the_process_with_code_1_and_a_line_that_names_it() {
    for (command, cause) in
        [("fail", "failed: told to"), ("panic", "panicked"), ("end", "ended though nobody asked it to")]
    {
        let running = Running::start(&[]);
        running.tell(command);
        let (code, log) = running.wait();
        assert_eq!(code, 1, "{log}");
        assert!(log.contains(&format!("because task commands {cause}")), "{log}");
    }
}
