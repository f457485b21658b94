//! Connections to what is probed.

use std::io::{Error, ErrorKind};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};

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
    let connect = async {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(own) if is_own(own) => TcpSocket::new_v6()?,
            SocketAddr::V6(_) => return Err(ErrorKind::AddrNotAvailable.into()),
        };
        // Closing is a reset. Otherwise every connection that we close would keep a port for a minute.
        socket.set_zero_linger()?;
        socket.bind(SocketAddr::new(address.ip(), 0))?;
        // With net.ipv4.ip_nonlocal_bind it is here that the kernel refuses a source that is not its own.
        let refused = |error: Error| match error.kind() {
            ErrorKind::InvalidInput | ErrorKind::NetworkUnreachable => ErrorKind::AddrNotAvailable.into(),
            _ => error,
        };
        socket.connect(address).await.map_err(refused)
    };
    connect.await.map_err(|error| match error.kind() {
        ErrorKind::AddrNotAvailable => format!("{} is not an address of this node", address.ip()),
        _ => describe(&error),
    })
}

/// Is it an address of this node? With `net.ipv6.ip_nonlocal_bind` every address can be bound to and sent from, but the
/// kernel's own choice of a source tells: towards an address of its own it is that address (RFC 6724 §5, rule 1).
/// Nothing is sent by a UDP socket that is merely connected.
fn is_own(address: SocketAddrV6) -> bool {
    let source = || {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
        socket.connect(address)?;
        socket.local_addr()
    };
    source().is_ok_and(|source: SocketAddr| source.ip() == *address.ip())
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
