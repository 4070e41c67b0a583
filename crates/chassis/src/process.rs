//! What the operating system knows of this process, read from `/proc` when metrics are asked for. Knows only Linux:
//! elsewhere the gauges stay at zero.

use std::fs;

use metrics::{Gauge, describe_gauge, gauge};

#[derive(Clone)]
pub(crate) struct ProcessMetrics {
    cpu: Gauge,
    resident: Gauge,
    open_fds: Gauge,
    max_fds: Gauge,
    threads: Gauge,
    start_time: Gauge,
    alive_tasks: Gauge,
    queue_depth: Gauge,
}

impl ProcessMetrics {
    pub(crate) fn new() -> Self {
        describe_gauge!("process_cpu_seconds_total", "User and system time used, in seconds");
        describe_gauge!("process_resident_memory_bytes", "Memory in RAM");
        describe_gauge!("process_open_fds", "Open file descriptors");
        describe_gauge!("process_max_fds", "How many file descriptors may be open");
        describe_gauge!("process_threads", "Threads");
        describe_gauge!(
            "process_start_time_seconds",
            "Start of the process, in seconds since the Unix epoch"
        );
        describe_gauge!("herald_runtime_alive_tasks", "Tasks that live on the runtime");
        describe_gauge!(
            "herald_runtime_global_queue_depth",
            "Tasks that wait for a worker in the shared queue"
        );
        Self {
            cpu: gauge!("process_cpu_seconds_total"),
            resident: gauge!("process_resident_memory_bytes"),
            open_fds: gauge!("process_open_fds"),
            max_fds: gauge!("process_max_fds"),
            threads: gauge!("process_threads"),
            start_time: gauge!("process_start_time_seconds"),
            alive_tasks: gauge!("herald_runtime_alive_tasks"),
            queue_depth: gauge!("herald_runtime_global_queue_depth"),
        }
    }

    pub(crate) fn refresh(&self) {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            self.alive_tasks.set(runtime.metrics().num_alive_tasks() as f64);
            self.queue_depth.set(runtime.metrics().global_queue_depth() as f64);
        }
        let ticks_per_second = rustix::param::clock_ticks_per_second() as f64;
        if let Some(stat) = read("/proc/self/stat").as_deref().and_then(parse_stat) {
            self.cpu.set(stat.cpu_ticks as f64 / ticks_per_second);
            self.threads.set(stat.threads as f64);
            if let Some(boot) = read("/proc/stat").as_deref().and_then(|text| number_after(text, "btime")) {
                self.start_time.set(boot as f64 + stat.start_ticks as f64 / ticks_per_second);
            }
        }
        if let Some(kib) = read("/proc/self/status").as_deref().and_then(|text| number_after(text, "VmRSS:"))
        {
            self.resident.set(kib as f64 * 1024.0);
        }
        if let Ok(entries) = fs::read_dir("/proc/self/fd") {
            // one of them is this very listing
            self.open_fds.set(entries.count().saturating_sub(1) as f64);
        }
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        self.max_fds.set(limit.current.map_or(f64::INFINITY, |limit| limit as f64));
    }
}

/// Raises the limit of open files to the most this process may have: the usual 1,024 is less than an edge needs.
pub(crate) fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, ?current, ?maximum, "the limit of open files stays as it is");
    }
}

/// Asks for pages of 4 KiB only. Connections come and go, and what they leave behind in a page of 2 MiB keeps all of it
/// in memory: at 19,000 idle connections, a fifth of an edge.
#[cfg(target_os = "linux")]
pub(crate) fn keep_pages_small() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "huge pages stay as they are");
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn keep_pages_small() {}

struct Stat {
    cpu_ticks: u64,
    threads: u64,
    start_ticks: u64,
}

/// Fields as `man 5 proc` counts them from 1: 14 utime, 15 stime, 20 num_threads, 22 starttime.
fn parse_stat(text: &str) -> Option<Stat> {
    // the second field is the program's name in parentheses, which may hold anything
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Stat { cpu_ticks: field(14)? + field(15)?, threads: field(20)?, start_ticks: field(22)? })
}

fn number_after(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_s_name_does_not_confuse() {
        let text = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 100 23 0 0 20 0 5 0 4242 99";
        let stat = parse_stat(text).unwrap();
        assert_eq!((stat.cpu_ticks, stat.threads, stat.start_ticks), (123, 5, 4242));
        assert!(parse_stat("").is_none());
    }

    #[test]
    fn this_process_is_read() {
        let recorder = crate::telemetry::recorder().unwrap();
        metrics::with_local_recorder(&recorder, || ProcessMetrics::new().refresh());
        let text = recorder.handle().render();
        for name in ["process_resident_memory_bytes", "process_open_fds", "process_start_time_seconds"] {
            let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
            assert!(line.split(' ').nth(1).unwrap().parse::<f64>().unwrap() > 1.0, "{line}");
        }
    }
}
