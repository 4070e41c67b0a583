//! What kind of Redis a URL names, and how one of its nodes is connected to. Which node serves what is `nodes`'.

use std::fmt;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind};
use redis::{IntoConnectionInfo, ProtocolVersion, PushInfo, RedisError, RedisResult};
use tokio::time::timeout;

use crate::BusError;

/// One attempt to connect, handshake included.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Clone)]
pub(super) enum Deployment {
    One(Place),
    Cluster {
        /// Any of these tells the slots; user, password and TLS are the same for all nodes.
        seeds: Vec<ConnectionInfo>,
    },
}

/// Where a node is.
#[derive(Clone)]
pub(super) enum Place {
    At(Box<ConnectionInfo>),
    /// Where the Sentinels say it is, each time anew.
    Named(Box<Sentinels>),
}

#[derive(Clone)]
pub(super) struct Sentinels {
    at: Vec<ConnectionInfo>,
    master: String,
    template: ConnectionInfo,
}

impl Deployment {
    pub(super) fn parse(url: &str) -> Result<Self, BusError> {
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(config(
                "it must begin with redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://",
            ));
        };
        match scheme {
            "redis" | "rediss" | "unix" | "redis+unix" => {
                Ok(Self::One(Place::At(Box::new(connection_info(url)?))))
            }
            "redis+sentinel" => Self::sentinel("redis", rest),
            "rediss+sentinel" => Self::sentinel("rediss", rest),
            "redis+cluster" => Self::cluster("redis", rest),
            "rediss+cluster" => Self::cluster("rediss", rest),
            // not repeated: what stands there may be a password that lost its scheme
            _ => Err(config("its scheme is none of redis, rediss, unix, redis+sentinel, redis+cluster")),
        }
    }

    fn sentinel(scheme: &str, rest: &str) -> Result<Self, BusError> {
        let parts = Parts::split(rest)?;
        let (master, db) = parts.path.split_once('/').unwrap_or((parts.path, "0"));
        if master.is_empty() {
            return Err(config(
                "a Sentinel URL ends with the master's name: redis+sentinel://host:26379/mymaster",
            ));
        }
        let at = parts.hosts.iter().map(|host| connection_info(&format!("redis://{host}")));
        let template = connection_info(&format!("{scheme}://{}localhost/{db}", parts.user))?;
        let sentinels = Sentinels { at: at.collect::<Result<_, _>>()?, master: master.to_owned(), template };
        Ok(Self::One(Place::Named(Box::new(sentinels))))
    }

    fn cluster(scheme: &str, rest: &str) -> Result<Self, BusError> {
        let parts = Parts::split(rest)?;
        if !matches!(parts.path, "" | "0") {
            return Err(config("a cluster has no database but 0: leave the path out"));
        }
        let seeds =
            parts.hosts.iter().map(|host| connection_info(&format!("{scheme}://{}{host}", parts.user)));
        Ok(Self::Cluster { seeds: seeds.collect::<Result<_, _>>()? })
    }
}

/// A URL with several hosts, after its scheme.
struct Parts<'u> {
    /// With its `@`, or empty.
    user: &'u str,
    hosts: Vec<&'u str>,
    path: &'u str,
}

impl<'u> Parts<'u> {
    fn split(rest: &'u str) -> Result<Self, BusError> {
        let (user, rest) = rest.split_at(rest.rfind('@').map_or(0, |at| at + 1));
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        if path.contains('?') || hosts.contains('?') {
            return Err(config("it must not have a query"));
        }
        let hosts: Vec<_> = hosts.split(',').filter(|host| !host.is_empty()).collect();
        if hosts.is_empty() {
            return Err(config("it names no host"));
        }
        Ok(Self { user, hosts, path })
    }
}

fn config(reason: &str) -> BusError {
    BusError::Config { reason: reason.to_owned() }
}

fn connection_info(url: &str) -> Result<ConnectionInfo, BusError> {
    let info = url.into_connection_info().map_err(|error| config(&error.to_string()))?;
    if matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
        // for the whole process; refused where it has one already, which serves as well
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    Ok(info.set_redis_settings(settings).set_tcp_settings(TcpSettings::default().set_nodelay(true)))
}

/// The same user, password and TLS at another address.
pub(super) fn at(template: &ConnectionInfo, host: &str, port: u16) -> ConnectionInfo {
    let host = host.to_owned();
    let address = match template.addr() {
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
            ConnectionAddr::TcpTls { host, port, insecure: *insecure, tls_params: tls_params.clone() }
        }
        _ => ConnectionAddr::Tcp(host, port),
    };
    template.clone().set_addr(address)
}

impl Place {
    /// One attempt. `on_push` is called on the connection's own task for everything that is not an answer, its end
    /// included: it must not block.
    pub(super) async fn connect<F>(&self, on_push: F) -> RedisResult<MultiplexedConnection>
    where
        F: Fn(PushInfo) + Send + Sync + 'static,
    {
        let attempt = async {
            let info = match self {
                Self::At(info) => info.as_ref().clone(),
                Self::Named(sentinels) => sentinels.ask().await?,
            };
            connect_to(info, Some(on_push)).await
        };
        within(CONNECT_TIMEOUT, attempt).await
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(info) => info.addr().fmt(f),
            Self::Named(sentinels) => write!(f, "{} (by Sentinel)", sentinels.master),
        }
    }
}

async fn connect_to<F>(info: ConnectionInfo, on_push: Option<F>) -> RedisResult<MultiplexedConnection>
where
    F: Fn(PushInfo) + Send + Sync + 'static,
{
    let mut config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    if let Some(on_push) = on_push {
        config = config.set_push_sender(move |push: PushInfo| {
            on_push(push);
            Ok::<(), std::convert::Infallible>(())
        });
    }
    Box::pin(Client::open(info)?.get_multiplexed_async_connection_with_config(&config)).await
}

/// A step that must not hang.
pub(super) async fn within<T>(limit: Duration, step: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    timeout(limit, step).await.unwrap_or_else(|_| {
        let text = format!("no answer within {limit:?}");
        Err(RedisError::from(std::io::Error::new(std::io::ErrorKind::TimedOut, text)))
    })
}

impl Sentinels {
    async fn ask(&self) -> RedisResult<ConnectionInfo> {
        let mut last = RedisError::from((ErrorKind::EmptySentinelList, "no Sentinel is named"));
        for sentinel in &self.at {
            match within(CONNECT_TIMEOUT / 3, self.ask_one(sentinel)).await {
                Ok(info) => return Ok(info),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn ask_one(&self, sentinel: &ConnectionInfo) -> RedisResult<ConnectionInfo> {
        let mut connection = connect_to(sentinel.clone(), None::<fn(PushInfo)>).await?;
        let found: Option<(String, u16)> = redis::cmd("SENTINEL")
            .arg("GET-MASTER-ADDR-BY-NAME")
            .arg(&self.master)
            .query_async(&mut connection)
            .await?;
        let Some((host, port)) = found else {
            let error = (ErrorKind::MasterNameNotFoundBySentinel, "the Sentinel knows no such master");
            return Err(RedisError::from(error));
        };
        Ok(at(&self.template, &host, port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> String {
        match Deployment::parse(url) {
            Ok(_) => panic!("{url} was taken"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_without_repeating_the_password() {
        for url in [
            "",
            "localhost:6379",
            "http://:secret@localhost",
            "redis://:secret@localhost:99999",
            "redis://:secret@localhost/x",
            "secret",
            "redis+sentinel://:secret@localhost",
            "redis+sentinel://:secret@/mymaster",
            "redis+cluster://:secret@",
            "redis+cluster://:secret@localhost/3",
            "redis+cluster://:secret@localhost?x=secret",
        ] {
            let error = refused(url);
            assert!(
                error.starts_with("the Redis URL cannot be used: ") && !error.contains("secret"),
                "{error}"
            );
        }
    }

    #[test]
    fn one_node() {
        for url in
            ["redis://localhost", "redis://:p@[::1]:7/3", "unix:///run/redis.sock", "rediss://u:p@host"]
        {
            assert!(matches!(Deployment::parse(url), Ok(Deployment::One(Place::At(_)))), "{url}");
        }
    }

    #[test]
    fn several_hosts_share_user_and_password() {
        let Ok(Deployment::Cluster { seeds }) = Deployment::parse("redis+cluster://u:p@a:1,b:2") else {
            panic!()
        };
        let seeds: Vec<_> = seeds
            .iter()
            .map(|seed| (seed.addr().to_string(), seed.redis_settings().password().map(str::to_owned)))
            .collect();
        assert_eq!(seeds, [("a:1".into(), Some("p".into())), ("b:2".into(), Some("p".into()))]);
    }

    #[test]
    fn a_sentinel_url_names_sentinels_master_and_database() {
        let Ok(Deployment::One(Place::Named(found))) = Deployment::parse("redis+sentinel://u:p@a:1,b/main/2")
        else {
            panic!()
        };
        let hosts: Vec<_> = found.at.iter().map(|sentinel| sentinel.addr().to_string()).collect();
        assert_eq!(hosts, ["a:1", "b:6379"]);
        assert!(found.at.iter().all(|sentinel| sentinel.redis_settings().password().is_none()));
        assert_eq!((found.master.as_str(), found.template.redis_settings().db()), ("main", 2));
        assert_eq!(at(&found.template, "c", 9).redis_settings().username(), Some("u"));
    }
}
