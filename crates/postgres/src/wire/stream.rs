//! The way to a server: a socket of the network or of the system, with TLS or without.
//!
//! Reads and writes wake up several times a second, so that a stop is noticed while a server is silent.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustls::{ClientConnection, StreamOwned};
use socket2::{SockRef, TcpKeepalive};

use crate::conninfo::{Address, Host};

/// How long a read or a write sleeps before it looks whether to stop.
pub(crate) const NAP: Duration = Duration::from_millis(200);

/// An open way to a server.
pub(crate) enum Stream {
    /// Through the network.
    Tcp(TcpStream),
    /// Within the system.
    Unix(UnixStream),
    /// Through the network, protected.
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    /// Connects to a host, within a time.
    pub(crate) fn connect(host: &Host, timeout: Duration) -> io::Result<Self> {
        match &host.address {
            Address::Socket(folder) => {
                let stream = UnixStream::connect(folder.join(format!(".s.PGSQL.{}", host.port)))?;
                stream.set_read_timeout(Some(NAP))?;
                stream.set_write_timeout(Some(NAP))?;
                Ok(Self::Unix(stream))
            }
            Address::Network { name, address } => {
                let places = match address {
                    Some(address) => vec![SocketAddr::new(*address, host.port)],
                    None => (name.as_str(), host.port).to_socket_addrs()?.collect(),
                };
                let stream = connect_first(&places, timeout)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(NAP))?;
                stream.set_write_timeout(Some(NAP))?;
                // A server that is gone without a word is noticed after some minutes.
                let alive = TcpKeepalive::new().with_time(Duration::from_secs(60));
                let alive = alive.with_interval(Duration::from_secs(15));
                SockRef::from(&stream).set_tcp_keepalive(&alive)?;
                Ok(Self::Tcp(stream))
            }
        }
    }

    /// Returns whether TLS protects it.
    pub(crate) fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Returns the port of our end; none of a socket of the system.
    pub(super) fn port(&self) -> Option<u16> {
        let address = match self {
            Self::Tcp(stream) => stream.local_addr(),
            Self::Tls(stream) => stream.sock.local_addr(),
            Self::Unix(_) => return None,
        };
        address.ok().map(|address| address.port())
    }

    /// Returns the port at which the server is; a socket of the system has it in its name.
    pub(super) fn server_port(&self) -> Option<u16> {
        let address = match self {
            Self::Tcp(stream) => stream.peer_addr(),
            Self::Tls(stream) => stream.sock.peer_addr(),
            Self::Unix(stream) => {
                let address = stream.peer_addr().ok()?;
                return address.as_pathname()?.extension()?.to_str()?.parse().ok();
            }
        };
        address.ok().map(|address| address.port())
    }

    /// Closes it in both directions, whatever is still on its way.
    pub(crate) fn shut_down(&self) {
        // It may be closed already.
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Self::Unix(stream) => stream.shutdown(Shutdown::Both),
            Self::Tls(stream) => stream.sock.shutdown(Shutdown::Both),
        };
    }
}

/// Connects to the first address that answers. The time is shared by all of them.
fn connect_first(places: &[SocketAddr], timeout: Duration) -> io::Result<TcpStream> {
    let until = Instant::now() + timeout;
    let mut last = io::Error::new(ErrorKind::NotFound, "the name of the host has no address");
    for (number, place) in places.iter().enumerate() {
        let left = until.saturating_duration_since(Instant::now());
        let others = u32::try_from(places.len() - number).unwrap_or(u32::MAX);
        match TcpStream::connect_timeout(place, (left / others).max(Duration::from_millis(1))) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(buffer),
            Self::Unix(stream) => stream.write(buffer),
            Self::Tls(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.flush(),
            Self::Unix(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

/// Returns whether an error only says that the nap is over.
pub(crate) fn is_nap(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}
