//! `herald`: registry, ingest and edge in one process, on a bus in memory. The same code as the separate services, and no
//! other software; what is in memory is gone when the process ends. Wiring only: what a service does is its crate's.

mod page;

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use herald_bus::{Bus, LogConfig};
use herald_chassis::{Binary, BoxError, Common, Context, MiMalloc, Problems, Settings};
use herald_edge::{ClientConfig, Elsewhere};
use herald_ingest::plan::Rules;
use herald_ingest::{Flow, FlowConfig, HttpConfig, Intake};
use herald_registry::{MemoryStore, Options, Store};
use herald_wire::Limits;
use tokio::net::TcpListener;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Settings of `herald`.
#[derive(Clone, Debug, clap::Parser)]
#[command(
    name = "herald",
    version,
    about = "Herald in one process: clients, publish endpoint and a page to look at",
    // like everything that this binary opens by itself, only for this machine
    mut_arg("admin_listen", |arg| arg.default_value("127.0.0.1:9090"))
)]
struct Config {
    /// Where everything public is served: clients, POST /publish, and the page
    #[arg(long, env = "HERALD_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    #[command(flatten)]
    clients: ClientConfig,
    #[command(flatten)]
    common: Common,
}

impl Settings for Config {
    fn common(&self) -> &Common {
        &self.common
    }

    fn validate(&self, problems: &mut Problems) {
        self.clients.validate(&self.common, problems);
    }
}

fn main() -> ExitCode {
    let binary = Binary { name: "herald", version: env!("CARGO_PKG_VERSION") };
    herald_chassis::run(binary, start)
}

async fn start(config: Config, ctx: Context) -> Result<(), BoxError> {
    let listener = herald_chassis::listen("HERALD_LISTEN", config.listen)?;
    let address = listener.local_addr()?;
    let bus = Bus::memory(LogConfig::default());
    let registry_url = start_registry(&ctx).await?;
    let limits = Limits { id_bytes_max: config.clients.max_id_bytes, ..Limits::DEFAULT };
    let rules = Rules { limits, ttl_ms: LogConfig::default().age.as_millis() as u64 };
    let heeding = FlowConfig { registry_url: Some(registry_url.parse()?), ..FlowConfig::default() };
    let flow = Flow::start(&heeding, &bus, &ctx)?;
    let intake = Intake::new(HttpConfig::default(), rules, (bus.clone(), flow), ctx.tasks.clone());
    let parts = herald_edge::Parts {
        clients: config.clients,
        registry_url: Some(registry_url),
        advertise: None,
        bus,
        listener,
        elsewhere: Some(Elsewhere::new(move |request| page::answer(intake.clone(), request))),
    };
    herald_edge::start(parts, &ctx)?;
    tracing::info!("herald listens on http://{address}/ (page, /socket.io/, /ws, /events, POST /publish)");
    Ok(())
}

/// The registry is spoken to as it always is, over gRPC, on a port that only this machine reaches.
async fn start_registry(ctx: &Context) -> Result<String, BoxError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let url = format!("http://{}", listener.local_addr()?);
    let options = Options::default();
    let store = Store::Memory(MemoryStore::new(options.lease));
    ctx.tasks.spawn("registry", herald_registry::run(store, options, listener, ctx.clone()));
    Ok(url)
}
