//! The protocol between a client and a server of PostgreSQL, version 3, blocking.
//!
//! A connection of our own and not a library's, because of COPY: the server sends a message for each row, and a client
//! that hands out rows one by one costs several times as much processor time as one that looks for the ends of messages
//! in a buffer (`docs/design/postgres.md` has the figures). Messages and SCRAM are those of `postgres-protocol`.
//!
//! Source: the chapter "Frontend/Backend Protocol" of PostgreSQL's manual.

mod cancel;
mod copy;
mod login;
mod own;
mod stream;
#[cfg(test)]
mod tests;
mod tls;

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::IsNull;
use postgres_protocol::message::backend::{ErrorFields, Message};
use postgres_protocol::message::frontend;

pub use cancel::{Backends, Canceller};
pub use copy::{CopyIn, CopyOut};
pub use own::{Way, was_opened_here};

use self::stream::{Stream, is_nap};
pub(crate) use self::stream::{Unresolved, silence_for_libpq};
use crate::conninfo::{ConnInfo, Host};
use crate::error::ServerError;
use crate::{Error, Result};

/// What is read at a time.
const READ: usize = 256 << 10;
/// A message other than rows of a COPY may be so long; the limit of the protocol is 1 GiB.
const LONGEST: usize = 1 << 30;

/// Says whether to stop; asked several times a second while a server is waited for.
pub type Stop = Arc<dyn Fn() -> bool + Send + Sync>;

/// How connections behave.
#[derive(Clone)]
pub struct Options {
    /// What they call themselves, where the connection string does not say it.
    pub application_name: String,
    /// How long one host is waited for, where the connection string does not say it.
    pub connect_timeout: Duration,
    /// Whether to stop.
    pub stop: Stop,
    /// Where they are noted while they are open.
    pub backends: Option<Arc<Backends>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            application_name: "dbkeep".to_owned(),
            connect_timeout: Duration::from_secs(15),
            stop: Arc::new(|| false),
            backends: None,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Options").field("application_name", &self.application_name).finish_non_exhaustive()
    }
}

/// A row of an answer, each value as PostgreSQL writes it.
pub type Row = Vec<Option<String>>;

/// A connection to a server, logged in.
pub struct Connection {
    stream: Stream,
    host: Host,
    input: Input,
    output: BytesMut,
    parameters: BTreeMap<String, String>,
    process: i32,
    key: i32,
    stop: Stop,
    /// Until when the server has to answer; none while it may take any time.
    deadline: Option<Instant>,
    /// Set while an answer is not read to its end: nothing else can be asked then.
    busy: bool,
    canceller: Canceller,
    noted: Option<cancel::Noted>,
}

/// A column of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// The table that it is a column of; 0 where it is none.
    pub table: u32,
    /// Its place among the columns of the table.
    pub number: i16,
    /// The number of its type.
    pub type_oid: u32,
}

impl fmt::Debug for Connection {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Connection").field("process", &self.process).finish_non_exhaustive()
    }
}

/// Bytes that the server sent and nobody has read yet.
struct Input {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    fn new() -> Self {
        Self { buffer: vec![0; READ], start: 0, end: 0 }
    }

    fn unread(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Makes room behind what is unread, for `size` unread bytes in all.
    fn make_room(&mut self, size: usize) {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.buffer.len() < size {
            self.buffer.resize(size, 0);
        }
    }

    /// Gives the memory of one long message back.
    fn shrink(&mut self) {
        if self.buffer.len() > READ && self.start == self.end {
            *self = Self::new();
        }
    }
}

impl Connection {
    /// Connects and logs in, at the first host that is of the kind that is asked for.
    ///
    /// # Errors
    /// That of the last host.
    pub fn open(info: &ConnInfo, options: &Options) -> Result<Self> {
        login::open(info, options)
    }

    /// Returns what the server says of itself, as `server_version`.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// Returns the host that answered.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Returns the number of the server's process, as `pg_stat_activity` has it.
    pub fn process(&self) -> i32 {
        self.process
    }

    /// Returns what ends a statement of it from outside.
    pub fn canceller(&self) -> Canceller {
        self.canceller.clone()
    }

    /// Takes note of the server's process that carries out the transaction. A pooler may tell another number at the
    /// login, and change processes between transactions.
    pub(crate) fn is_served_by(&self, process: i32) {
        if let Some(noted) = &self.noted {
            noted.is_served_by(process);
        }
    }

    /// Returns whether TLS protects it.
    pub fn is_protected(&self) -> bool {
        self.stream.is_tls()
    }

    /// Carries out statements that return nothing of interest.
    pub fn execute(&mut self, statements: &str) -> Result<()> {
        self.ask(|output| frontend::query(statements, output))?;
        self.rows().map(drop)
    }

    /// Asks for rows. `$1`, `$2`, … in the statement stand for the parameters, all of them text to the server unless
    /// the statement casts them.
    pub fn query(&mut self, statement: &str, parameters: &[Option<&str>]) -> Result<Vec<Row>> {
        self.ask(|output| {
            frontend::parse("", statement, [], output)?;
            let write = |value: &Option<&str>, output: &mut BytesMut| {
                let Some(value) = value else { return Ok(IsNull::Yes) };
                output.extend_from_slice(value.as_bytes());
                Ok(IsNull::No)
            };
            let bound = frontend::bind("", "", [], parameters, write, [0], output);
            bound.map_err(|error| match error {
                frontend::BindError::Conversion(error) => io::Error::other(error),
                frontend::BindError::Serialization(error) => error,
            })?;
            frontend::execute("", 0, output)?;
            frontend::sync(output);
            Ok(())
        })?;
        self.rows()
    }

    /// Returns what columns a statement would give, as the server knows them now. It is not carried out.
    pub fn describe(&mut self, statement: &str) -> Result<Vec<Field>> {
        self.ask(|output| {
            frontend::parse("", statement, [], output)?;
            frontend::describe(b'S', "", output)?;
            frontend::sync(output);
            Ok(())
        })?;
        let (mut found, mut failed) = (Vec::new(), None);
        loop {
            match self.message()? {
                Message::RowDescription(body) => {
                    let field = |field: postgres_protocol::message::backend::Field<'_>| {
                        Ok(Field {
                            name: field.name().to_owned(),
                            table: field.table_oid(),
                            number: field.column_id(),
                            type_oid: field.type_oid(),
                        })
                    };
                    found = body
                        .fields()
                        .map(field)
                        .collect()
                        .map_err(|error: io::Error| Error::protocol(error.to_string()))?;
                }
                Message::ErrorResponse(error) => failed = Some(server_error(error.fields())?),
                Message::ReadyForQuery(_) => break,
                _ => {}
            }
        }
        self.busy = false;
        failed.map_or(Ok(found), |error| Err(Error::Server(Box::new(error))))
    }

    /// Sends a question.
    fn ask(&mut self, write: impl FnOnce(&mut BytesMut) -> io::Result<()>) -> Result<()> {
        if self.busy {
            return Err(Error::protocol("an answer was not read to its end"));
        }
        self.output.clear();
        write(&mut self.output).map_err(|error| Error::protocol(error.to_string()))?;
        self.busy = true;
        self.send()
    }

    /// Reads an answer to its end. The first error in it is the result.
    fn rows(&mut self) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        let (mut failed, mut is_text) = (None, true);
        loop {
            match self.message()? {
                Message::DataRow(row) => {
                    let (buffer, mut ranges) = (row.buffer(), row.ranges());
                    let mut values = Vec::new();
                    while let Some(range) =
                        ranges.next().map_err(|error| Error::protocol(error.to_string()))?
                    {
                        let text = range.map(|range| std::str::from_utf8(&buffer[range]));
                        is_text &= !matches!(text, Some(Err(_)));
                        values.push(text.and_then(|text| Some(text.ok()?.to_owned())));
                    }
                    rows.push(values);
                }
                Message::ErrorResponse(error) => {
                    let error = server_error(error.fields())?;
                    failed.get_or_insert(error);
                }
                Message::ReadyForQuery(_) => break,
                Message::CopyInResponse(_) | Message::CopyOutResponse(_) | Message::CopyData(_) => {
                    return Err(Error::protocol("a COPY where rows were asked for"));
                }
                _ => {}
            }
        }
        self.busy = false;
        self.input.shrink();
        match failed {
            Some(error) => Err(Error::Server(Box::new(error))),
            None if is_text => Ok(rows),
            None => Err(Error::NotUtf8),
        }
    }

    /// Returns the next message. What the server says by the way (notices, changed parameters) is taken note of.
    fn message(&mut self) -> Result<Message> {
        loop {
            let (_, length) = self.header()?;
            self.fill(length)?;
            let mut bytes = BytesMut::from(&self.input.unread()[..length]);
            self.input.start += length;
            let message = Message::parse(&mut bytes).map_err(|error| Error::protocol(error.to_string()))?;
            match message.ok_or_else(|| Error::protocol("a message that is cut"))? {
                Message::NoticeResponse(notice) => {
                    let notice = server_error(notice.fields())?;
                    tracing::debug!(code = %notice.code, "{}", notice.message);
                }
                Message::ParameterStatus(status) => {
                    let (name, value) = (status.name(), status.value());
                    if let (Ok(name), Ok(value)) = (name, value) {
                        self.parameters.insert(name.to_owned(), value.to_owned());
                    }
                }
                Message::NotificationResponse(_) => {}
                message => return Ok(message),
            }
        }
    }

    /// Returns the kind of the next message and its length with everything, without reading it.
    fn header(&mut self) -> Result<(u8, usize)> {
        self.fill(5)?;
        let head = &self.input.unread()[..5];
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if !(4..=LONGEST).contains(&length) {
            return Err(Error::protocol(format!("a message of {length} bytes")));
        }
        Ok((head[0], length + 1))
    }

    /// Reads until so many bytes are unread.
    fn fill(&mut self, size: usize) -> Result<()> {
        while self.input.end - self.input.start < size {
            if self.input.buffer.len() - self.input.start < size.max(READ / 2) {
                self.input.make_room(size);
            }
            self.receive()?;
        }
        Ok(())
    }

    /// Reads what has arrived; there must be room. Returns how many bytes that is.
    fn receive(&mut self) -> Result<usize> {
        loop {
            match self.stream.read(&mut self.input.buffer[self.input.end..]) {
                Ok(0) => return Err(Error::Lost { source: io::ErrorKind::UnexpectedEof.into() }),
                Ok(read) => {
                    self.input.end += read;
                    return Ok(read);
                }
                Err(error) if is_nap(&error) => self.look_up()?,
                Err(source) => return Err(Error::Lost { source }),
            }
        }
    }

    /// Reads what the server says while it does not take what we send: it may wait for us to read.
    fn take_what_is_there(&mut self) -> Result<()> {
        if self.input.buffer.len() - self.input.end < READ / 2 {
            let size = self.input.end - self.input.start + READ;
            self.input.make_room(size);
        }
        match self.stream.read(&mut self.input.buffer[self.input.end..]) {
            Ok(0) => Err(Error::Lost { source: io::ErrorKind::UnexpectedEof.into() }),
            Ok(read) => {
                self.input.end += read;
                Ok(())
            }
            Err(error) if is_nap(&error) => Ok(()),
            Err(source) => Err(Error::Lost { source }),
        }
    }

    /// Sends what stands in the output buffer.
    fn send(&mut self) -> Result<()> {
        let mut output = std::mem::take(&mut self.output);
        let sent = self.send_bytes(&output);
        output.clear();
        self.output = output;
        sent
    }

    fn send_bytes(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(0) => return Err(Error::Lost { source: io::ErrorKind::WriteZero.into() }),
                Ok(written) => bytes = &bytes[written..],
                Err(error) if is_nap(&error) => {
                    self.look_up()?;
                    self.take_what_is_there()?;
                }
                Err(source) => return Err(Error::Lost { source }),
            }
        }
        loop {
            match self.stream.flush() {
                Ok(()) => return Ok(()),
                Err(error) if is_nap(&error) => self.look_up()?,
                Err(source) => return Err(Error::Lost { source }),
            }
        }
    }

    /// After a nap: goes on, unless somebody wants to stop or the time is over.
    fn look_up(&self) -> Result<()> {
        if (self.stop)() {
            return Err(Error::Stopped);
        }
        if self.deadline.is_some_and(|until| Instant::now() >= until) {
            return Err(Error::Lost { source: io::ErrorKind::TimedOut.into() });
        }
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // What served it may serve others from now on.
        self.noted = None;
        if !self.busy {
            self.output.clear();
            frontend::terminate(&mut self.output);
            // The server notices the end in any case.
            let _ = self.stream.write(&self.output);
            let _ = self.stream.flush();
        }
        self.stream.shut_down();
    }
}

/// Reads what the server says in an error or a notice.
fn server_error(mut fields: ErrorFields<'_>) -> Result<ServerError> {
    let mut error = ServerError::default();
    while let Some(field) = fields.next().map_err(|error| Error::protocol(error.to_string()))? {
        let value = String::from_utf8_lossy(field.value_bytes()).into_owned();
        match field.type_() {
            b'V' => error.severity = value,
            b'S' if error.severity.is_empty() => error.severity = value,
            b'C' => error.code = value,
            b'M' => error.message = value,
            b'D' => error.detail = Some(value),
            b'H' => error.hint = Some(value),
            b'W' => error.context = Some(value),
            b's' => error.schema = Some(value),
            b't' => error.table = Some(value),
            _ => {}
        }
    }
    Ok(error)
}
