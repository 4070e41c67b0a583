//! Binding a TCP port the way every Herald service wants it.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// How many connections the kernel holds until they are accepted; it caps this at `net.core.somaxconn`.
pub const BACKLOG: i32 = 4096;

/// A port could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("{setting} {address}: {source}")]
pub struct ListenError {
    setting: &'static str,
    address: SocketAddr,
    source: io::Error,
}

/// Binds `address`, which came from `setting`. Needs a Tokio runtime around it.
///
/// # Errors
/// Names the setting and the address, so that the line tells what to change.
pub fn listen(setting: &'static str, address: SocketAddr) -> Result<TcpListener, ListenError> {
    bind(address).map_err(|source| ListenError { setting, address, source })
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // a restarted service takes its port at once, although old connections linger in TIME_WAIT
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_told_by_its_setting() {
        let first = listen("HERALD_LISTEN", "127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.local_addr().unwrap();
        let error = listen("HERALD_LISTEN", address).unwrap_err().to_string();
        assert!(error.starts_with(&format!("HERALD_LISTEN {address}: Address already in use")), "{error}");
    }
}
