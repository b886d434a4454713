//! Whether a command slept from one moment to another. Whatever was done meanwhile, somebody else did.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use super::task;

/// The threads of a command, all of them asleep, and how often each one has given up its processor until now. Where two
/// of these are equal, none of the threads ran in between: it would have given up its processor since, or be awake.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asleep(BTreeMap<u32, [u64; 2]>);

impl Asleep {
    /// Returns it for a process group; `None` where one of its threads is awake or cannot be asked, or where there is none.
    pub(super) fn of(group: u32) -> Option<Self> {
        let mut threads = BTreeMap::new();
        for process in task::members(group).ok()? {
            for thread in task::numbered(Path::new(&format!("/proc/{process}/task"))).ok()? {
                let status = status(process, thread).ok()?;
                threads.insert(thread, switches(&status)?);
            }
        }
        (!threads.is_empty()).then_some(Self(threads))
    }
}

fn status(process: u32, thread: u32) -> io::Result<String> {
    fs::read_to_string(format!("/proc/{process}/task/{thread}/status"))
}

/// Returns how often a thread has given up its processor, of its own will and not, by its status as the system writes it
/// (proc_pid_status(5)); `None` for one that is awake.
fn switches(status: &str) -> Option<[u64; 2]> {
    let value = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let is_awake = value("State:")?.starts_with('R');
    let count = |name: &str| value(name)?.parse().ok();
    let both = [count("voluntary_ctxt_switches:")?, count("nonvoluntary_ctxt_switches:")?];
    (!is_awake).then_some(both)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command};
    use std::thread;
    use std::time::Duration;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn start(script: &str) -> Child {
        Command::new("sh").args(["-c", script]).process_group(0).spawn().unwrap()
    }

    fn end(mut child: Child) {
        let group = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw).unwrap();
        rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn command_that_waits_is_asleep_all_the_time() {
        let child = start("sleep 60; true");
        let begins = || Asleep::of(child.id()).filter(|asleep| asleep.0.len() == 2);
        let then = loop {
            let then = begins();
            thread::sleep(50 * MS);
            // As soon as it has come to its rest.
            if then.is_some() && then == begins() {
                break then;
            }
        };
        thread::sleep(50 * MS);
        assert_eq!(Asleep::of(child.id()), then);
        end(child);
    }

    #[test]
    fn command_that_works_now_and_then_is_not_asleep_from_one_time_to_the_next() {
        let child = start("while :; do sleep 0.01; done");
        for _ in 0..20 {
            let then = Asleep::of(child.id());
            thread::sleep(100 * MS);
            assert!(then.is_none() || Asleep::of(child.id()) != then, "{then:?}");
        }
        end(child);
    }

    #[test]
    fn only_who_is_awake_has_no_count() {
        let of = |state: &str| {
            switches(&format!(
                "Name:\tState: R\nState:\t{state}\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t2\n"
            ))
        };
        assert_eq!(of("R (running)"), None);
        for state in ["S (sleeping)", "D (disk sleep)", "T (stopped)", "Z (zombie)"] {
            assert_eq!(of(state), Some([7, 2]));
        }
        assert_eq!(switches("State:\tS (sleeping)\n"), None);
        assert_eq!(Asleep::of(u32::MAX), None, "nobody sleeps");
    }
}
