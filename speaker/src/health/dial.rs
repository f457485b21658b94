//! Connections to what is probed.

use std::io::{Error, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use futures::FutureExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream, UnixStream};

use super::question::Place;

/// A connection of whatever kind.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connects.
///
/// # Errors
/// One sentence.
pub(super) async fn dial(place: &Place) -> Result<Box<dyn Stream>, String> {
    match place {
        Place::Node(address) => Ok(Box::new(from_itself(*address).await?)),
        Place::Host(host, port) => {
            let host = host.trim_matches(['[', ']']);
            let stream = TcpStream::connect((host, *port))
                .await
                .map_err(|error| describe(&error))?;
            stream.set_zero_linger().map_err(|error| describe(&error))?;
            Ok(Box::new(stream))
        }
        Place::Agent(path) => {
            let stream = UnixStream::connect(path).await;
            let stream = stream.map_err(|error| format!("node agent: {}", describe(&error)))?;
            Ok(Box::new(stream))
        }
    }
}

/// Connects to an address of this node from that same address. If it is another machine's, nothing is sent.
async fn from_itself(address: SocketAddr) -> Result<TcpStream, String> {
    if !is_own(address) {
        return Err(format!("{} is not an address of this node", address.ip()));
    }
    let connect = async {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // Closing is a reset. Otherwise every connection that we close would keep a port for a minute.
        socket.set_zero_linger()?;
        socket.bind(SocketAddr::new(address.ip(), 0))?;
        socket.connect(address).await
    };
    connect.await.map_err(|error| describe(&error))
}

/// Is it an address of this node? That it can be bound to does not tell (`net.ipv6.ip_nonlocal_bind`), but the kernel's
/// choice of a source does: towards an address of its own it is that address. Nothing is sent by a UDP socket that is
/// merely connected.
fn is_own(address: SocketAddr) -> bool {
    let source = || {
        let any: IpAddr = match address {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(address)?;
        socket.local_addr()
    };
    address.ip().is_loopback() || source().is_ok_and(|source: SocketAddr| source.ip() == address.ip())
}

/// Is a connection that was kept still open, with nothing in it that nobody asked for?
pub(super) fn is_idle(stream: &mut Box<dyn Stream>) -> bool {
    stream.read(&mut [0]).now_or_never().is_none()
}

/// An error in plain words.
pub(super) fn describe(error: &Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "nobody listens".into(),
        ErrorKind::Other => error.to_string(),
        kind => kind.to_string(),
    }
}
