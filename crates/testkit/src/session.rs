//! A session of stock psql that does one thing after the other, as an application does.

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

/// What psql prints when it is done with what it was told.
const DONE: &str = "that is done";

/// A running session. What it answers is passed over.
#[derive(Debug)]
pub struct Session {
    child: Child,
    input: ChildStdin,
    said: Lines<BufReader<ChildStdout>>,
}

impl Session {
    /// Starts one: a prepared psql that is quiet.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn begin(psql: &mut Command) -> Self {
        let mut child =
            psql.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("psql can be started");
        let input = child.stdin.take().expect("the input was asked for as a pipe");
        let output = child.stdout.take().expect("the output was asked for as a pipe");
        Self { child, input, said: BufReader::new(output).lines() }
    }

    /// Runs lines as psql takes them, and waits until they are done.
    ///
    /// # Panics
    /// When one fails, if psql was told to stop then.
    #[track_caller]
    pub fn run(&mut self, lines: &str) {
        // Who stopped before does not read it, and says nothing.
        let _ = writeln!(self.input, "{lines}\n\\echo {DONE}");
        let is_done = self.said.by_ref().map_while(Result::ok).any(|line| line == DONE);
        assert!(is_done, "the session ended in {lines}");
    }

    /// Ends it.
    ///
    /// # Panics
    /// When it failed.
    #[track_caller]
    pub fn end(mut self) {
        drop(self.input);
        let status = self.child.wait().expect("a child of ours can be waited for");
        assert!(status.success(), "the session failed: {status}");
    }
}

/// Tells whoever works until then that it is over, however it ends: nobody waits for a test that failed.
#[derive(Debug)]
pub struct Over<'a>(pub &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
