//! Drives load at Herald, or at anything that speaks its protocols, and accounts for every delivery: `docs/loadtest.md`
//! says what is measured and how.
//!
//! A [`Plan`] says who the clients are; [`Load::connect`] connects them; [`Load::run`] sends an [`Offer`] and returns a
//! [`Report`]. Tests that break something meanwhile run it in a task of its own and watch [`Load::progress`]. All work is
//! done on threads of its own: the caller's runtime only waits.

mod client;
mod clock;
mod frame;
mod histogram;
pub mod ledger;
pub mod load;
pub mod mark;
pub mod plan;
pub mod publish;
pub mod report;
pub mod schedule;
pub mod scrape;
pub mod search;
mod swarm;
pub mod tally;
pub mod usage;

pub use load::{Load, LoadError};
pub use plan::{Audience, Behaviour, Cast, Flow, Offer, Plan, Protocol, Publish, Storm};
pub use report::{Connected, Progress, Report};
pub use scrape::{ScrapeError, Scraper, Stage, Stages};
pub use swarm::{WORKER, work};

/// Raises this process' limit of open files to the most it may have. Without, a thousand clients are too many.
pub fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // where it fails, connecting says so
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}
