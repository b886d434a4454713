//! A way to a server of the network that can be cut.
//!
//! A proxy passes bytes on in both directions. After a number of them, counted over all connections, it closes every
//! connection at once, in the midst of whatever is being said.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;

/// What becomes of connections that are made after the cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Afterwards {
    /// They are closed, too.
    Down,
    /// They pass, and are not cut.
    Back,
}

/// A proxy before a port of this machine; all of its connections end with the value.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    wire: Arc<Wire>,
}

/// What all connections share.
#[derive(Debug, Default)]
struct Wire(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// How many bytes have passed since the last order.
    passed: u64,
    /// How many may pass before the cut, and what comes then.
    cut: Option<(u64, Afterwards)>,
    is_down: bool,
    is_over: bool,
    open: Vec<Weak<TcpStream>>,
}

impl Proxy {
    /// Starts one that passes everything on to a port of this machine.
    ///
    /// # Panics
    /// When it cannot listen.
    pub fn start(to: u16) -> Self {
        Self::try_start(to).expect("a proxy can listen")
    }

    fn try_start(to: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let wire = Arc::new(Wire::default());
        let shared = wire.clone();
        let listen = move || {
            for client in listener.incoming() {
                if shared.state().is_over {
                    return;
                }
                // Who cannot be joined to the server sees a connection that is closed.
                let _ = client.and_then(|client| join(client, to, &shared));
            }
        };
        thread::Builder::new().name("proxy".to_owned()).spawn(listen)?;
        Ok(Self { port, wire })
    }

    /// Returns the port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Cuts all connections as soon as this many bytes have passed from now on, in both directions together.
    pub fn cut_after(&self, bytes: u64, afterwards: Afterwards) {
        self.order(Some((bytes, afterwards)));
    }

    /// Cuts all connections now.
    pub fn cut(&self, afterwards: Afterwards) {
        self.cut_after(0, afterwards);
        self.wire.state().cut();
    }

    /// Passes everything on from now on.
    pub fn mend(&self) {
        self.order(None);
    }

    fn order(&self, cut: Option<(u64, Afterwards)>) {
        let mut state = self.wire.state();
        (state.passed, state.cut, state.is_down) = (0, cut, false);
    }

    /// Returns how many bytes have passed since it was told last what to do.
    pub fn passed(&self) -> u64 {
        self.wire.state().passed
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let mut state = self.wire.state();
        state.is_over = true;
        state.close_all();
        drop(state);
        // Whoever waits for a connection gets the last one.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

impl Wire {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how many of some bytes may pass, and whether the connections are cut behind these.
    fn admit(&self, bytes: usize) -> (usize, bool) {
        let mut state = self.state();
        let left = state.cut.map(|(after, _)| after.saturating_sub(state.passed));
        let admitted = left.map_or(bytes, |left| bytes.min(usize::try_from(left).unwrap_or(bytes)));
        state.passed += admitted as u64;
        (admitted, left == Some(admitted as u64))
    }
}

impl State {
    fn cut(&mut self) {
        if let Some((_, afterwards)) = self.cut.take() {
            self.is_down = afterwards == Afterwards::Down;
            self.close_all();
        }
    }

    fn close_all(&mut self) {
        for stream in self.open.drain(..).filter_map(|stream| stream.upgrade()) {
            // It may be closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Joins a connection with one to the server.
fn join(client: TcpStream, to: u16, wire: &Arc<Wire>) -> io::Result<()> {
    {
        let mut state = wire.state();
        if matches!(state.cut, Some((0, _))) {
            state.cut();
            return Ok(());
        }
        if state.is_down {
            return Ok(());
        }
    }
    let server = Arc::new(TcpStream::connect((Ipv4Addr::LOCALHOST, to))?);
    let client = Arc::new(client);
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
    }
    let mut state = wire.state();
    state.open.retain(|stream| stream.strong_count() > 0);
    state.open.extend([&client, &server].map(Arc::downgrade));
    if state.is_down {
        state.close_all();
    }
    drop(state);
    for (from, to) in [(client.clone(), server.clone()), (server, client)] {
        let wire = wire.clone();
        thread::Builder::new().name("proxied".to_owned()).spawn(move || pass_on(&from, &to, &wire))?;
    }
    Ok(())
}

/// Passes on what comes from one side, until it ends or is cut.
fn pass_on(mut from: &TcpStream, mut to: &TcpStream, wire: &Wire) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        let (admitted, is_last) = wire.admit(read);
        let written = to.write_all(&buffer[..admitted]);
        if is_last {
            return wire.state().cut();
        }
        if written.is_err() {
            // Nobody is there any more to whom it could be passed.
            let _ = from.shutdown(Shutdown::Both);
            return;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Starts somebody who sends back whatever comes, and returns the port.
    fn echo() -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || io::copy(&mut stream.try_clone().unwrap(), &mut stream));
            }
        });
        port
    }

    /// Says something, and returns all that came back before the end.
    fn say(proxy: &Proxy, text: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
        let mut heard = Vec::new();
        // The connection may be closed before all is said, and before all is heard.
        let _ = stream.write_all(text).and_then(|()| stream.shutdown(Shutdown::Write));
        let _ = stream.read_to_end(&mut heard);
        heard
    }

    #[test]
    fn bytes_pass_until_so_many_have_and_all_connections_are_cut_then() {
        let proxy = Proxy::start(echo());
        assert_eq!(say(&proxy, b"hello"), b"hello");
        assert_eq!(proxy.passed(), 10);
        let mut other = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
        proxy.cut_after(9, Afterwards::Down);
        other.write_all(b"a").unwrap();
        other.read_exact(&mut [0]).unwrap();
        assert_eq!(say(&proxy, b"hello"), b"he", "two of nine bytes are those of another connection");
        assert_eq!(other.read(&mut [0]).unwrap_or(0), 0, "the other connection is cut, too");
        assert_eq!(say(&proxy, b"hello"), b"", "it stays down");
        proxy.cut_after(0, Afterwards::Back);
        assert_eq!(say(&proxy, b"hello"), b"");
        assert_eq!(say(&proxy, b"hello"), b"hello", "it is back");
        proxy.cut_after(3, Afterwards::Down);
        assert_eq!(say(&proxy, b"hello"), b"");
        proxy.mend();
        let mut other = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
        other.write_all(b"a").unwrap();
        other.read_exact(&mut [0]).unwrap();
        proxy.cut(Afterwards::Back);
        assert_eq!(other.read(&mut [0]).unwrap_or(0), 0);
        assert_eq!(say(&proxy, b"hello"), b"hello");
    }
}
