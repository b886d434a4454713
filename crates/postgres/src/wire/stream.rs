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

/// After so long without a word the other end is asked whether it is there.
const IDLE: Duration = Duration::from_secs(60);
/// So long it is waited for between two such questions.
const INTERVAL: Duration = Duration::from_secs(15);
/// So many of them stay without an answer before it counts as gone.
const QUESTIONS: u32 = 9;
/// So long the other end may be silent in all.
const SILENCE: Duration = Duration::from_secs(IDLE.as_secs() + INTERVAL.as_secs() * QUESTIONS as u64);

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
                    None => resolve(name, host.port)?,
                };
                let stream = connect_first(&places, timeout)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(NAP))?;
                stream.set_write_timeout(Some(NAP))?;
                end_after_silence(&stream)?;
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

/// Has the system end a connection whose other end is silent for [`SILENCE`], whether we wait for it or it should take
/// what we send.
fn end_after_silence(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    let alive = TcpKeepalive::new().with_time(IDLE).with_interval(INTERVAL).with_retries(QUESTIONS);
    socket.set_tcp_keepalive(&alive)?;
    // Nothing is asked while something of ours is on its way: Linux sends that anew for a quarter of an hour.
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(SILENCE))?;
    Ok(())
}

/// Returns the same for libpq, as a connection string that says nothing else. No variables say it.
pub(crate) fn silence_for_libpq() -> String {
    format!(
        "keepalives=1 keepalives_idle={} keepalives_interval={} keepalives_count={QUESTIONS} tcp_user_timeout={}",
        IDLE.as_secs(),
        INTERVAL.as_secs(),
        SILENCE.as_millis()
    )
}

/// Why the name of a host leads nowhere.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unresolved {
    /// The name is not known, or nobody can be asked.
    #[error(transparent)]
    NotFound(io::Error),
    /// The name is known, and nothing is there.
    #[error("the name of the host has no address")]
    Empty,
}

/// Looks up the addresses of a host. The error is an [`Unresolved`].
fn resolve(name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let found = (name, port).to_socket_addrs().map_err(Unresolved::NotFound);
    let places = found.map(Vec::from_iter).and_then(|places| match places.is_empty() {
        true => Err(Unresolved::Empty),
        false => Ok(places),
    });
    places.map_err(io::Error::other)
}

/// Connects to the first address that answers. The time is shared by all of them.
fn connect_first(places: &[SocketAddr], timeout: Duration) -> io::Result<TcpStream> {
    let until = Instant::now() + timeout;
    let mut last = io::Error::other(Unresolved::Empty);
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

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn connection_ends_when_the_other_end_is_silent_whether_it_is_asked_or_told_something() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let address = Address::Network { name: "localhost".to_owned(), address: Some([127, 0, 0, 1].into()) };
        let host = Host { address, port, password: None };
        let Stream::Tcp(stream) = Stream::connect(&host, Duration::from_secs(10)).unwrap() else {
            panic!("a host of the network is reached through it");
        };
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), IDLE);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), INTERVAL);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), QUESTIONS);
        assert_eq!(SILENCE, Duration::from_secs(195));
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(SILENCE));
    }

    #[test]
    fn host_without_an_address_is_told_from_a_socket_that_is_not_there() {
        let is_unresolved = |error: &io::Error| error.get_ref().is_some_and(|inner| inner.is::<Unresolved>());
        let error = resolve("nowhere.invalid", 5432).unwrap_err();
        assert!(is_unresolved(&error) && !is_nap(&error), "{error:?}");
        let error = connect_first(&[], Duration::from_secs(1)).unwrap_err();
        assert!(is_unresolved(&error), "{error:?}");
        assert_eq!(error.to_string(), "the name of the host has no address");
    }
}
