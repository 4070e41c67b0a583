//! What processes cost: CPU time and memory, read from `/proc`. Knows only Linux.

use std::fs;
use std::time::Instant;

use serde::Serialize;

/// A process that is watched.
#[derive(Clone, Debug)]
pub struct Watched {
    pid: u32,
    name: String,
    cpu_before: f64,
    since: Instant,
}

/// What a process cost.
#[derive(Clone, Debug, Serialize)]
pub struct Usage {
    /// Its id.
    pub pid: u32,
    /// Its program's name.
    pub name: String,
    /// Cores used on average, user and system together.
    pub cores: f64,
    /// Memory in RAM now, in MiB.
    pub rss_mib: f64,
}

/// The processes with this id or program name.
pub fn find(pid_or_name: &str) -> Vec<Watched> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let named = pids.filter_map(Watched::new);
    named.filter(|one| one.name == pid_or_name || one.pid.to_string() == pid_or_name).collect()
}

/// This process and those that it started.
pub fn family() -> Vec<Watched> {
    let me = std::process::id();
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| *pid == me || parent(*pid) == Some(me)).filter_map(Watched::new).collect()
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

impl Watched {
    /// Begins to watch; `None` when there is no such process.
    pub fn new(pid: u32) -> Option<Self> {
        let argument = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let program = argument.split(|byte| *byte == 0).next()?;
        let program = String::from_utf8_lossy(program).into_owned();
        // the kernel's own name of a process is cut to 15 bytes
        let name = program.rsplit('/').next().filter(|name| !name.is_empty())?.to_owned();
        Some(Self { pid, name, cpu_before: cpu_seconds(pid)?, since: Instant::now() })
    }

    /// What it cost since it is watched; `None` when it is gone.
    pub fn usage(&self) -> Option<Usage> {
        let cores = (cpu_seconds(self.pid)? - self.cpu_before) / self.since.elapsed().as_secs_f64();
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let rss_kib: f64 = rss.split_whitespace().next()?.parse().ok()?;
        Some(Usage { pid: self.pid, name: self.name.clone(), cores, rss_mib: rss_kib / 1024.0 })
    }
}

/// User and system time: fields 14 and 15 as `man 5 proc` counts them.
fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // the second field is the program's name in parentheses, which may hold anything
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / rustix::param::clock_ticks_per_second() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found_by_its_id_and_costs_something() {
        let me = find(&std::process::id().to_string());
        let usage = me[0].usage().unwrap();
        assert_eq!((me.len(), usage.pid), (1, std::process::id()));
        assert!(usage.rss_mib > 0.5 && usage.cores >= 0.0, "{usage:?}");
        assert!(find("no such program").is_empty());
    }
}
