//! Signals, the terminal, and the control of jobs by a shell.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::{has, line, rows};
use crate::environment::TestEnvironment;

/// How long a line of a shell may take before this test counts as hung.
const PATIENCE: Duration = Duration::from_secs(90);

/// Runs a script of bash with control of jobs on a terminal of its own, and returns what is to be seen on it. `GUARD` in
/// it stands for a guard of `app.db`.
fn on_a_terminal(environment: &TestEnvironment, input: &str, script: &str) -> Option<String> {
    if !has("script") || !has("bash") {
        return None;
    }
    let guard = format!("{} guard app.db --on-failure restore --", env!("CARGO_BIN_EXE_dbkeep"));
    std::fs::write(environment.path("job.sh"), script.replace("GUARD", &guard)).unwrap();
    let mut command = environment.program("script");
    // Its input stays open, as a person's keyboard does.
    command.args(["-qec", "bash -m job.sh", "/dev/null"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut keyboard = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut keyboard, input.as_bytes()).unwrap();
    let mut output = child.stdout.take().unwrap();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut seen = String::new();
        let _ = output.read_to_string(&mut seen);
        let _ = sender.send(seen);
    });
    let seen = receiver.recv_timeout(PATIENCE);
    let _ = child.kill();
    child.wait().unwrap();
    Some(seen.expect("the job ends"))
}

#[test]
fn command_that_asks_for_the_terminal_in_the_background_gets_it_when_its_job_comes_to_the_foreground() {
    let environment = TestEnvironment::new();
    let path = environment.users("app.db", 10);
    let script = "GUARD sh -c 'sqlite3 app.db \"DELETE FROM users\"; read word </dev/tty; echo got $word; exit 5' &\n\
                  until jobs -s | grep -q guard; do sleep 0.1; done\n\
                  fg %1\n\
                  echo code $?\n";
    let Some(seen) = on_a_terminal(&environment, "hello\n", script) else { return };
    assert!(seen.contains("got hello") && seen.contains("code 5"), "{seen}");
    assert_eq!(rows(&path), 10);
}

#[test]
fn program_behind_a_pipe_reads_the_keyboard() {
    let environment = TestEnvironment::new();
    let path = environment.users("app.db", 10);
    let script = "GUARD sh -c 'echo out; sqlite3 app.db \"DELETE FROM users\"; exit 5' | \
                  (read line; read key </dev/tty; echo $line and $key; cat >/dev/null)\n\
                  echo codes ${PIPESTATUS[@]}\n";
    let Some(seen) = on_a_terminal(&environment, "key\n", script) else { return };
    assert!(seen.contains("out and key") && seen.contains("codes 5 0"), "{seen}");
    assert_eq!(rows(&path), 10);
}

/// Returns a guard whose command has written `ready`.
fn started(environment: &TestEnvironment, script: &str) -> Child {
    let mut command = environment.command(line(&[], script));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut word = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut word).unwrap();
    assert_eq!(word, "ready\n");
    child
}

fn send(signal: &str, child: &Child) {
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

#[test]
fn quit_goes_on_to_the_command() {
    let environment = TestEnvironment::new();
    let path = environment.users("app.db", 10);
    let script =
        "trap 'exit 43' QUIT; sqlite3 app.db 'DELETE FROM users'; echo ready; while :; do sleep 0.05; done";
    let child = started(&environment, script);
    send("-QUIT", &child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(43), "{output:?}");
    assert_eq!(rows(&path), 10);
}

#[test]
fn command_that_is_stopped_hears_the_signal_that_ends_it() {
    let environment = TestEnvironment::new();
    let path = environment.users("app.db", 10);
    let script = "trap 'exit 45' TERM; sqlite3 app.db 'DELETE FROM users'; echo $$ >pid; echo ready; kill -STOP $$; \
                  while :; do sleep 0.05; done";
    let child = started(&environment, script);
    let pid = std::fs::read_to_string(environment.path("pid")).unwrap();
    let status = format!("/proc/{}/stat", pid.trim());
    while !std::fs::read_to_string(&status).unwrap().contains(") T ") {
        thread::sleep(Duration::from_millis(10));
    }
    send("-TERM", &child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(45), "{output:?}");
    assert_eq!(rows(&path), 10);
}

#[test]
fn hang_up_that_was_ignored_from_the_start_stays_so() {
    let environment = TestEnvironment::new();
    environment.users("app.db", 10);
    let mut command = environment.program("sh");
    command.args(["-c", "trap '' HUP; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_dbkeep")]);
    let output = command.args(line(&[], "kill -HUP $PPID; sleep 0.5; exit 7")).output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{output:?}");
}
