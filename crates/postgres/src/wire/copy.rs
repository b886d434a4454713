//! COPY in both directions.

use std::thread;
use std::time::Duration;

use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;

use super::{Connection, READ, server_error};
use crate::binary::{Encoder, Unsure};
use crate::{Error, Result};

/// What is collected before it is sent.
const SEND: usize = 128 << 10;
/// So much text is made binary at a time: it becomes seven times as long at most.
const STEP: usize = 64 << 10;
/// A server sends eight kilobytes at a time. Whoever waits for them is woken up for each, which costs both sides more than
/// to read them; a moment later there are many. A server fills what the system keeps for us in no less time.
const MOMENT: Duration = Duration::from_micros(250);
/// So much arrives at a time where we are not faster than the server.
const PLENTY: usize = 64 << 10;
/// What is shorter is over before it would matter.
const LONG: u64 = 1 << 20;
/// What stands before the bytes of a message: its kind and its length.
const HEAD: usize = 5;

/// Rows on their way from the server.
#[derive(Debug)]
pub struct CopyOut<'a> {
    connection: &'a mut Connection,
    /// Bytes of the row that the last piece did not have.
    left: usize,
    /// Where the last piece stands in the input.
    piece: std::ops::Range<usize>,
    /// How many bytes have arrived.
    arrived: u64,
    /// Whether we are faster than the server, and there are many rows.
    is_ahead: bool,
    done: bool,
}

impl Connection {
    /// Begins `COPY … TO STDOUT`.
    pub fn copy_out(&mut self, statement: &str) -> Result<CopyOut<'_>> {
        self.begin_copy(statement, |message| matches!(message, Message::CopyOutResponse(_)))?;
        Ok(CopyOut { connection: self, left: 0, piece: 0..0, arrived: 0, is_ahead: false, done: false })
    }

    /// Begins `COPY … FROM STDIN`.
    pub fn copy_in(&mut self, statement: &str) -> Result<CopyIn<'_>> {
        self.begin_copy(statement, |message| matches!(message, Message::CopyInResponse(_)))?;
        self.output.clear();
        Ok(CopyIn { connection: self, binary: None })
    }

    /// Begins `COPY … FROM STDIN` of rows in binary form, which are made of those that are written.
    pub(crate) fn copy_in_as_binary(&mut self, statement: &str, encoder: Encoder) -> Result<CopyIn<'_>> {
        let mut copy = self.copy_in(statement)?;
        let mut message = vec![b'd'; HEAD];
        encoder.begin(&mut message);
        copy.binary = Some(Box::new(Binary { encoder, message, unsure: None }));
        Ok(copy)
    }

    /// Sends a statement, and waits for the message with which its COPY begins.
    fn begin_copy(&mut self, statement: &str, begins: impl Fn(&Message) -> bool) -> Result<()> {
        self.ask(|output| frontend::query(statement, output))?;
        loop {
            match self.message()? {
                message if begins(&message) => return Ok(()),
                Message::ErrorResponse(error) => {
                    let error = server_error(error.fields())?;
                    self.skip_answer()?;
                    return Err(Error::Server(Box::new(error)));
                }
                Message::ReadyForQuery(_) => {
                    self.busy = false;
                    return Err(Error::protocol("no COPY in the answer"));
                }
                _ => {}
            }
        }
    }

    /// Reads the rest of an answer that failed.
    fn skip_answer(&mut self) -> Result<()> {
        while !matches!(self.message()?, Message::ReadyForQuery(_)) {}
        self.busy = false;
        Ok(())
    }
}

impl CopyOut<'_> {
    /// Returns the next bytes: whole rows, or, where a row is longer than a buffer, a piece of it. `None` is the end,
    /// and then all of it has arrived.
    ///
    /// # Errors
    /// When the server breaks off, the connection is lost, or somebody wants to stop. What came before is then worth
    /// nothing.
    pub fn next_piece(&mut self) -> Result<Option<&[u8]>> {
        if self.done {
            return Ok(None);
        }
        // A server that sends without a pause gives no other occasion.
        if (self.connection.stop)() {
            return Err(Error::Stopped);
        }
        self.connection.input.start = self.connection.input.start.max(self.piece.end);
        loop {
            if self.take_unread()? {
                return Ok(Some(&self.connection.input.buffer[self.piece.clone()]));
            }
            if self.done {
                return Ok(None);
            }
        }
    }

    /// Makes the next piece of what has arrived, and waits for more where there is nothing. Returns whether there is a
    /// piece.
    fn take_unread(&mut self) -> Result<bool> {
        let input = &mut self.connection.input;
        let begin = input.start;
        let (mut to, mut from) = (begin, begin);
        loop {
            // The rows stand one behind the other, each with a head of five bytes; the heads are closed up.
            let here = self.left.min(input.end - from);
            if here > 0 {
                input.buffer.copy_within(from..from + here, to);
                (to, from, self.left) = (to + here, from + here, self.left - here);
            }
            let unread = &input.buffer[from..input.end];
            if self.left > 0 || unread.len() < 5 || unread[0] != b'd' {
                break;
            }
            let length = u32::from_be_bytes([unread[1], unread[2], unread[3], unread[4]]) as usize;
            self.left = length.checked_sub(4).ok_or_else(|| Error::protocol("a row of less than nothing"))?;
            from += 5;
        }
        input.start = from;
        self.piece = begin..to;
        if to > begin {
            return Ok(true);
        }
        let is_head = input.end - input.start >= 5;
        if self.left == 0 && is_head && input.buffer[input.start] != b'd' {
            self.read_other()?;
        } else {
            if input.buffer.len() - input.end < READ / 2 {
                input.make_room(READ);
            }
            self.receive()?;
        }
        self.piece = 0..0;
        Ok(false)
    }

    /// Reads what has arrived.
    fn receive(&mut self) -> Result<()> {
        if self.is_ahead {
            thread::sleep(MOMENT);
        }
        let read = self.connection.receive()?;
        self.arrived += read as u64;
        self.is_ahead = read < PLENTY && self.arrived > LONG;
        Ok(())
    }

    /// Reads a message that is no row.
    fn read_other(&mut self) -> Result<()> {
        match self.connection.message()? {
            Message::ErrorResponse(error) => {
                let error = server_error(error.fields())?;
                self.connection.skip_answer()?;
                self.done = true;
                Err(Error::Server(Box::new(error)))
            }
            Message::ReadyForQuery(_) => {
                self.connection.busy = false;
                self.done = true;
                Ok(())
            }
            // `CopyDone` alone is not the end: the server may still say that it failed.
            _ => Ok(()),
        }
    }
}

/// Rows on their way to the server.
#[derive(Debug)]
pub struct CopyIn<'a> {
    connection: &'a mut Connection,
    /// None where rows go as they are.
    binary: Option<Box<Binary>>,
}

/// Rows that become binary on their way.
#[derive(Debug)]
struct Binary {
    encoder: Encoder,
    /// The message that is being written, with its head.
    message: Vec<u8>,
    /// Why one of them cannot become binary.
    unsure: Option<Unsure>,
}

impl CopyIn<'_> {
    /// Sends bytes of rows as text; where rows begin and end does not matter.
    ///
    /// # Errors
    /// When the connection fails. [`Error::Unsure`] where rows become binary on their way and one of them cannot: whoever
    /// writes them passes that on.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        if self.binary.is_some() {
            return bytes.chunks(STEP).try_for_each(|some| self.write_as_binary(some));
        }
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(SEND));
            let data = frontend::CopyData::new(now).map_err(|error| Error::protocol(error.to_string()))?;
            data.write(&mut self.connection.output);
            bytes = later;
            if self.connection.output.len() >= SEND {
                self.connection.send()?;
            }
        }
        Ok(())
    }

    fn write_as_binary(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(binary) = &mut self.binary else { return Ok(()) };
        binary.encoder.push(bytes, &mut binary.message).inspect_err(|why| binary.unsure = Some(*why))?;
        if binary.message.len() >= SEND { self.send_binary() } else { Ok(()) }
    }

    /// Sends the binary rows that are complete.
    fn send_binary(&mut self) -> Result<()> {
        let Some(binary) = &mut self.binary else { return Ok(()) };
        // The length counts itself, but not the kind.
        let length = u32::try_from(binary.message.len() - 1);
        let length = length.map_err(|_| Error::protocol("a message without end"))?;
        binary.message[1..HEAD].copy_from_slice(&length.to_be_bytes());
        self.connection.send_bytes(&binary.message)?;
        binary.message.truncate(HEAD);
        Ok(())
    }

    /// Returns why a row cannot become binary, if that is so. The rows have to be sent again, as text.
    pub(crate) fn unsure(&self) -> Option<Unsure> {
        self.binary.as_ref()?.unsure
    }

    /// Breaks off: the server takes none of the rows, and the transaction has failed.
    pub(crate) fn abandon(self) -> Result<()> {
        self.connection.output.clear();
        frontend::copy_fail("the rows are sent in another form", &mut self.connection.output)
            .map_err(|error| Error::protocol(error.to_string()))?;
        self.connection.send()?;
        self.connection.skip_answer()
    }

    /// Ends the rows. Returns how many the server took.
    ///
    /// # Errors
    /// When the server refuses any of them: then it took none. [`Error::Unsure`] as [`CopyIn::write`].
    pub fn finish(mut self) -> Result<u64> {
        if let Some(binary) = &mut self.binary {
            if let Err(why) = binary.encoder.finish(&mut binary.message) {
                self.abandon()?;
                return Err(why.into());
            }
            self.send_binary()?;
        }
        frontend::copy_done(&mut self.connection.output);
        self.connection.send()?;
        let mut taken = None;
        let mut failed = None;
        loop {
            match self.connection.message()? {
                Message::CommandComplete(complete) => {
                    let tag = complete.tag().map_err(|error| Error::protocol(error.to_string()))?;
                    taken = tag.strip_prefix("COPY ").and_then(|count| count.parse().ok());
                }
                Message::ErrorResponse(error) => failed = Some(server_error(error.fields())?),
                Message::ReadyForQuery(_) => break,
                _ => {}
            }
        }
        self.connection.busy = false;
        match failed {
            Some(error) => Err(Error::Server(Box::new(error))),
            None => taken.ok_or_else(|| Error::protocol("no count of rows")),
        }
    }
}
