//! Settings from flags and environment: parsed whole, and everything wrong with them told at once, before a port is
//! bound. What a setting means belongs to its service.

mod parse;
mod secret;
mod values;

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

pub use parse::{Stop, parse, parse_with};
pub use secret::{Secret, SecretUrl, url};
pub use values::{ValueError, bytes, millis, number, text};

/// What every binary can be told.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Common")]
pub struct Common {
    /// Where /livez, /readyz and /metrics are served
    #[arg(long, env = "HERALD_ADMIN_LISTEN", value_name = "ADDRESS", default_value = "0.0.0.0:9090")]
    pub admin_listen: SocketAddr,
    /// What is logged: a level, or tracing directives such as `info,herald_edge=debug`
    #[arg(long, env = "HERALD_LOG", value_name = "FILTER", default_value = "info", value_parser = values::log_filter)]
    pub log: String,
    /// How it is logged
    #[arg(long, env = "HERALD_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// How long a drain may take after SIGTERM before what is left is cut off, in milliseconds
    #[arg(long = "shutdown-grace-ms", env = "HERALD_SHUTDOWN_GRACE_MS", value_name = "MS", default_value = "20000",
          value_parser = millis(0..=3_600_000))]
    pub shutdown_grace: Duration,
    /// Ask the running process on this machine whether it is ready, and exit with 0 or 1
    #[arg(long)]
    pub check_health: bool,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A binary's settings: a `clap::Parser` that flattens [`Common`].
pub trait Settings: clap::Parser {
    /// The part that every binary has.
    fn common(&self) -> &Common;

    /// Adds whatever no single setting can tell of itself. Bounds of one value belong to its `value_parser`: this is
    /// called only once every value could be read.
    fn validate(&self, problems: &mut Problems) {
        let _ = problems;
    }
}

/// Everything that is wrong with the settings, each by the setting's name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Problems(Vec<String>);

impl Problems {
    /// Adds one: what is wrong with this setting and what would be right.
    pub fn add(&mut self, setting: &str, what: impl fmt::Display) {
        self.0.push(format!("{setting}: {what}"));
    }

    /// Adds one unless `holds`.
    pub fn check(&mut self, holds: bool, setting: &str, what: impl fmt::Display) {
        if !holds {
            self.add(setting, what);
        }
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One line each, in the order found.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}
