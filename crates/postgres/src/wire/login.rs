//! From an address to a connection that is logged in.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding as Binding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;

use super::cancel::Canceller;
use super::stream::{Stream, is_nap};
use super::tls::{Protection, end_point};
use super::{Backends, Connection, Input, Options, server_error};
use crate::conninfo::{Address, ChannelBinding, ConnInfo, Host, Password, Target, TlsMode};
use crate::{Error, Result};

/// Connects to the first host that is of the kind that is asked for.
pub(super) fn open(info: &ConnInfo, options: &Options) -> Result<Connection> {
    let mut last = None;
    for target in passes(info.target) {
        for host in &info.hosts {
            let visit = Visit { info, options, host };
            match visit.open(*target) {
                Ok(connection) => return Ok(connection),
                // No other host would change that.
                Err(error @ (Error::ConnInfo(_) | Error::Certificates { .. } | Error::Stopped)) => {
                    return Err(error);
                }
                Err(error) => last = Some(error),
            }
        }
    }
    Err(last.unwrap_or_else(|| Error::protocol("no host")))
}

/// Asks a server to end what a connection is doing.
pub(super) fn cancel(canceller: &Canceller) -> Result<()> {
    let visit = Visit { info: &canceller.info, options: &canceller.options, host: &canceller.host };
    let timeout = canceller.info.connect_timeout.unwrap_or(canceller.options.connect_timeout);
    let until = Instant::now() + timeout;
    let failed = |source| visit.not_reached(source, timeout);
    let stream = Stream::connect(visit.host, timeout).map_err(failed)?;
    let mut stream = if canceller.tls { visit.protect(stream, until)? } else { stream };
    let mut request = BytesMut::new();
    frontend::cancel_request(canceller.process, canceller.key, &mut request);
    stream.write_all(&request).and_then(|()| stream.flush()).map_err(failed)?;
    // The server closes the connection when it has done it.
    let mut nothing = [0];
    while Instant::now() < until {
        match stream.read(&mut nothing) {
            Err(error) if is_nap(&error) => {}
            _ => break,
        }
    }
    Ok(())
}

/// Whoever would rather have a standby takes another one when there is none.
fn passes(target: Target) -> &'static [Target] {
    match target {
        Target::Any => &[Target::Any],
        Target::ReadWrite => &[Target::ReadWrite],
        Target::ReadOnly => &[Target::ReadOnly],
        Target::Primary => &[Target::Primary],
        Target::Standby => &[Target::Standby],
        Target::PreferStandby => &[Target::Standby, Target::Any],
    }
}

/// One host that is tried.
struct Visit<'a> {
    info: &'a ConnInfo,
    options: &'a Options,
    host: &'a Host,
}

impl Visit<'_> {
    fn open(&self, target: Target) -> Result<Connection> {
        let mut connection = self.open_protected_enough()?;
        let wanted = match target {
            Target::Any => return Ok(connection),
            Target::ReadWrite => "a server that takes writes",
            Target::ReadOnly => "a server that takes no writes",
            Target::Primary => "a primary server",
            Target::Standby => "a standby server",
            Target::PreferStandby => "a server",
        };
        let sql = "SELECT pg_catalog.current_setting('transaction_read_only'), pg_catalog.pg_is_in_recovery()::text";
        let rows = connection.query(sql, &[])?;
        let is = |column: usize, word: &str| {
            rows.first().and_then(|row| row.get(column)).is_some_and(|value| value.as_deref() == Some(word))
        };
        let (read_only, standby) = (is(0, "on"), is(1, "true"));
        let fits = match target {
            Target::ReadWrite => !read_only && !standby,
            Target::ReadOnly => read_only || standby,
            Target::Primary => !standby,
            _ => standby,
        };
        if fits { Ok(connection) } else { Err(Error::Target { place: self.place(), wanted }) }
    }

    /// Connects with TLS or without, in the order that the mode says.
    fn open_protected_enough(&self) -> Result<Connection> {
        let is_socket = matches!(self.host.address, Address::Socket(_));
        match self.info.tls.mode {
            _ if is_socket => self.open_with(false),
            TlsMode::Disable => self.open_with(false),
            TlsMode::Allow => self.open_with(false).or_else(|error| match worth_another_way(&error) {
                true => self.open_with(true).map_err(|_| error),
                false => Err(error),
            }),
            TlsMode::Prefer => self.open_with(true).or_else(|error| match worth_another_way(&error) {
                true => self.open_with(false),
                false => Err(error),
            }),
            TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => self.open_with(true),
        }
    }

    fn open_with(&self, tls: bool) -> Result<Connection> {
        let timeout = self.info.connect_timeout.unwrap_or(self.options.connect_timeout);
        let until = Instant::now() + timeout;
        let login = super::own::Login::begin();
        let stream =
            Stream::connect(self.host, timeout).map_err(|source| self.not_reached(source, timeout))?;
        let stream = if tls { self.protect(stream, until)? } else { stream };
        let mut connection = Connection {
            stream,
            host: self.host.clone(),
            input: Input::new(),
            output: BytesMut::new(),
            parameters: BTreeMap::new(),
            process: 0,
            key: 0,
            stop: self.options.stop.clone(),
            deadline: Some(until),
            busy: true,
            canceller: self.canceller(tls),
            noted: None,
        };
        self.log_in(&mut connection).map_err(|error| match error {
            Error::Lost { source } => self.not_reached(source, timeout),
            error => error,
        })?;
        super::own::remember(connection.process);
        drop(login);
        (connection.canceller.process, connection.canceller.key) = (connection.process, connection.key);
        let note = |backends: &Arc<Backends>| backends.note(connection.canceller.clone());
        connection.noted = self.options.backends.as_ref().map(note);
        Ok(connection)
    }

    /// What wants to stop stops by this: it must not be stopped itself, nor be noted.
    fn canceller(&self, tls: bool) -> Canceller {
        let options = Options { stop: Arc::new(|| false), backends: None, ..self.options.clone() };
        Canceller {
            info: Arc::new(self.info.clone()),
            options,
            host: self.host.clone(),
            tls,
            process: 0,
            key: 0,
        }
    }

    fn place(&self) -> String {
        self.host.place()
    }

    fn not_reached(&self, source: io::Error, after: Duration) -> Error {
        // The time may be over when a process goes on that was stopped; its read is interrupted then.
        match is_nap(&source) {
            true => Error::TimedOut { place: self.place(), after },
            false => Error::Connect { place: self.place(), source },
        }
    }

    fn failed(&self, what: impl Into<String>) -> Error {
        Error::Login { place: self.place(), what: what.into() }
    }

    /// Asks the server whether it can do TLS, and shakes hands.
    fn protect(&self, stream: Stream, until: Instant) -> Result<Stream> {
        let Stream::Tcp(mut tcp) = stream else { return Ok(stream) };
        if !self.info.tls.direct {
            let mut request = BytesMut::new();
            frontend::ssl_request(&mut request);
            // One byte is read and no more: whatever came with it would be taken for protected otherwise.
            let answer = ask_for_byte(&mut tcp, &request, until)
                .map_err(|source| self.not_reached(source, self.options.connect_timeout))?;
            if answer != b'S' {
                return Err(Error::Tls {
                    place: self.place(),
                    what: "the server does not offer it".to_owned(),
                    hint: Some("sslmode=disable goes without; on a network of strangers do not".to_owned()),
                });
            }
        }
        let protection = Protection::new(&self.info.tls, &self.place())?;
        let stream = protection.protect(tcp, &self.host.name(), &self.place(), until)?;
        Ok(Stream::Tls(Box::new(stream)))
    }

    fn log_in(&self, connection: &mut Connection) -> Result<()> {
        let name = self.info.application_name.as_deref().unwrap_or(&self.options.application_name);
        let mut parameters = vec![
            ("user", self.info.user.as_str()),
            ("database", self.info.database.as_str()),
            ("application_name", name),
            ("client_encoding", "UTF8"),
        ];
        parameters.extend(self.info.options.as_deref().map(|options| ("options", options)));
        frontend::startup_message(parameters, &mut connection.output)
            .map_err(|_| self.failed("a name has a zero byte in it"))?;
        connection.send()?;
        self.authenticate(connection)?;
        loop {
            match connection.message()? {
                Message::BackendKeyData(data) => {
                    (connection.process, connection.key) = (data.process_id(), data.secret_key());
                }
                Message::ReadyForQuery(_) => break,
                Message::ErrorResponse(error) => return Err(refused(&error)?),
                _ => {}
            }
        }
        connection.busy = false;
        connection.deadline = None;
        Ok(())
    }

    fn authenticate(&self, connection: &mut Connection) -> Result<()> {
        let binds = self.info.channel_binding == ChannelBinding::Require;
        let mut scram: Option<ScramSha256> = None;
        let mut bound = false;
        let mut proved = false;
        loop {
            match connection.message()? {
                Message::AuthenticationOk if binds && !bound => {
                    return Err(
                        self.failed("the server lets us in without the channel binding that is required")
                    );
                }
                // A server that asked for SCRAM and never proved that it knows the password is not the right one.
                Message::AuthenticationOk if scram.is_some() && !proved => {
                    return Err(self.failed("the server did not prove that it knows the password"));
                }
                Message::AuthenticationOk => return Ok(()),
                Message::AuthenticationCleartextPassword => {
                    self.refuse_unbound(binds)?;
                    frontend::password_message(self.password()?.expose().as_bytes(), &mut connection.output)
                        .map_err(|_| self.failed("the password has a zero byte in it"))?;
                    connection.send()?;
                }
                Message::AuthenticationMd5Password(body) => {
                    self.refuse_unbound(binds)?;
                    let password = self.password()?;
                    let hash = md5_hash(self.info.user.as_bytes(), password.expose().as_bytes(), body.salt());
                    frontend::password_message(hash.as_bytes(), &mut connection.output)
                        .map_err(|_| self.failed("the password has a zero byte in it"))?;
                    connection.send()?;
                }
                Message::AuthenticationSasl(body) => {
                    let begun = self.begin_scram(connection, &body)?;
                    bound = begun.1;
                    scram = Some(begun.0);
                }
                Message::AuthenticationSaslContinue(body) => {
                    let scram = scram.as_mut().ok_or_else(|| Error::protocol("an answer to no question"))?;
                    scram.update(body.data()).map_err(|error| self.failed(error.to_string()))?;
                    frontend::sasl_response(scram.message(), &mut connection.output)
                        .map_err(|error| self.failed(error.to_string()))?;
                    connection.send()?;
                }
                Message::AuthenticationSaslFinal(body) => {
                    let scram = scram.as_mut().ok_or_else(|| Error::protocol("an answer to no question"))?;
                    scram.finish(body.data()).map_err(|error| self.failed(error.to_string()))?;
                    proved = true;
                }
                Message::AuthenticationGss | Message::AuthenticationSspi => {
                    return Err(self.failed("the server wants Kerberos, which is not supported"));
                }
                Message::ErrorResponse(error) => return Err(refused(&error)?),
                _ => return Err(self.failed("the server wants a way that is not known")),
            }
        }
    }

    fn refuse_unbound(&self, binds: bool) -> Result<()> {
        if binds {
            return Err(
                self.failed("the server wants a password without the channel binding that is required")
            );
        }
        Ok(())
    }

    fn password(&self) -> Result<&Password> {
        let none = "it wants a password, and none is known: ~/.pgpass, PGPASSWORD or the URL says it";
        self.host.password.as_ref().ok_or_else(|| self.failed(none))
    }

    /// Sends the first message of SCRAM. Returns the exchange, and whether it is bound to the connection.
    fn begin_scram(
        &self,
        connection: &mut Connection,
        body: &AuthenticationSaslBody,
    ) -> Result<(ScramSha256, bool)> {
        let offered: Vec<String> = body
            .mechanisms()
            .map(|mechanism| Ok(mechanism.to_owned()))
            .collect()
            .map_err(|error| Error::protocol(error.to_string()))?;
        let offers = |name: &str| offered.iter().any(|mechanism| mechanism == name);
        let wants = self.info.channel_binding != ChannelBinding::Disable;
        let end_point = match &connection.stream {
            Stream::Tls(stream) if wants => end_point(stream),
            _ => None,
        };
        let (mechanism, binding, bound) = match end_point {
            Some(hash) if offers(SCRAM_SHA_256_PLUS) => {
                (SCRAM_SHA_256_PLUS, Binding::tls_server_end_point(hash), true)
            }
            // Who could bind and is not offered it says so: a server that did offer it knows then that somebody
            // between us took it away.
            Some(_) if offers(SCRAM_SHA_256) => (SCRAM_SHA_256, Binding::unrequested(), false),
            None if offers(SCRAM_SHA_256) => (SCRAM_SHA_256, Binding::unsupported(), false),
            _ => return Err(self.failed(format!("it offers {}, which is not supported", offered.join(", ")))),
        };
        self.refuse_unbound(self.info.channel_binding == ChannelBinding::Require && !bound)?;
        let scram = ScramSha256::new(self.password()?.expose().as_bytes(), binding);
        frontend::sasl_initial_response(mechanism, scram.message(), &mut connection.output)
            .map_err(|error| self.failed(error.to_string()))?;
        connection.send()?;
        Ok((scram, bound))
    }
}

/// Sends a request and returns the one byte of its answer.
fn ask_for_byte(stream: &mut std::net::TcpStream, request: &[u8], until: Instant) -> io::Result<u8> {
    stream.write_all(request)?;
    let mut answer = [0];
    loop {
        match stream.read(&mut answer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => return Ok(answer[0]),
            Err(error) if is_nap(&error) && Instant::now() < until => {}
            Err(error) => return Err(error),
        }
    }
}

/// Returns whether the other way, with TLS or without, may succeed where this one failed.
fn worth_another_way(error: &Error) -> bool {
    match error {
        Error::Tls { .. } => true,
        // `pg_hba.conf` may have lines for one of the two only.
        Error::Server(error) => error.code == "28000",
        _ => false,
    }
}

fn refused(body: &postgres_protocol::message::backend::ErrorResponseBody) -> Result<Error> {
    Ok(Error::Server(Box::new(server_error(body.fields())?)))
}
