//! What every Herald binary does once: configuration, telemetry, admin port, shutdown, backoff, listening, and the one
//! shape of `main` ([`run()`]). Knows no domain: no message, no target, no protocol but the admin port's.
//!
//! A binary is its settings, and what it starts:
//!
//! ```no_run
//! use herald_chassis::{Binary, Common, Settings};
//!
//! #[derive(clap::Parser)]
//! struct Config {
//!     /// Where clients connect.
//!     #[arg(long, env = "HERALD_LISTEN", default_value = "0.0.0.0:8080")]
//!     listen: std::net::SocketAddr,
//!     #[command(flatten)]
//!     common: Common,
//! }
//!
//! impl Settings for Config {
//!     fn common(&self) -> &Common {
//!         &self.common
//!     }
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     let binary = Binary { name: "herald-echo", version: env!("CARGO_PKG_VERSION") };
//!     herald_chassis::run(binary, async |config: Config, ctx| {
//!         let listener = herald_chassis::listen("HERALD_LISTEN", config.listen)?;
//!         let shutdown = ctx.shutdown.clone();
//!         ctx.tasks.spawn("echo", async move {
//!             tokio::select! {
//!                 () = shutdown.soft() => {}
//!                 accepted = listener.accept() => drop(accepted?),
//!             }
//!             Ok::<_, std::io::Error>(())
//!         });
//!         Ok(())
//!     })
//! }
//! ```
//!
//! # Metrics of every binary
//!
//! | name | kind | meaning |
//! |---|---|---|
//! | `herald_build_info{service,version}` | gauge | 1, so that a dashboard can tell versions apart |
//! | `herald_task_panics_total{task}` | counter | panics of tasks, also of those that do not end the process |
//! | `herald_runtime_alive_tasks` | gauge | tasks that live on the runtime |
//! | `herald_runtime_global_queue_depth` | gauge | tasks that wait for a worker in the shared queue |
//! | `process_cpu_seconds_total` | gauge | user and system time used |
//! | `process_resident_memory_bytes` | gauge | memory in RAM |
//! | `process_open_fds`, `process_max_fds` | gauge | file descriptors, and how many there may be |
//! | `process_threads` | gauge | threads |
//! | `process_start_time_seconds` | gauge | when the process started, seconds since the Unix epoch |

pub mod admin;
pub mod backoff;
pub mod config;
pub mod listen;
mod process;
pub mod readiness;
pub mod run;
pub mod shutdown;
pub mod telemetry;

pub use backoff::Backoff;
pub use config::{Common, Problems, Secret, SecretUrl, Settings};
pub use listen::listen;
pub use readiness::{Condition, Readiness};
pub use run::{Binary, BoxError, Context, run};
pub use shutdown::{Shutdown, Tasks};

/// The allocator of every binary, set in its `main.rs` by one line:
/// `#[global_allocator] static ALLOCATOR: herald_chassis::MiMalloc = herald_chassis::MiMalloc;`
pub use mimalloc::MiMalloc;
