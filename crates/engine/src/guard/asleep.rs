//! Whether a command slept from one moment to another. Whatever was done meanwhile, somebody else did.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::task;

/// The threads of a command, none of which has a processor, and how often each one has given up its processor and was given
/// one until now. Where two of these are equal, none of the threads ran in between.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asleep(BTreeMap<u32, Rest>);

/// How a thread rests.
#[derive(Debug, PartialEq, Eq)]
struct Rest {
    /// The letter of the system.
    state: u8,
    /// How often it has given up its processor, of its own will and not.
    given_up: [u64; 2],
    /// How often it was given one, where the system says so. A thread that is about to rest says that it does before it has
    /// given up its processor, and this tells it from one that rests.
    given: Option<u64>,
}

impl Asleep {
    /// Returns it for a process group; `None` where one of its threads is awake or cannot be asked, where one began
    /// meanwhile, or where there is none.
    pub(super) fn of(group: u32) -> Option<Self> {
        let newest = newest();
        let members = task::members(group).ok()?;
        let mut threads = BTreeMap::new();
        for process in &members {
            for thread in task::numbered(Path::new(&format!("/proc/{process}/task"))).ok()? {
                threads.insert(thread, Rest::of(&format!("/proc/{process}/task/{thread}"))?);
            }
        }
        // One that is begun after the processes were listed would be missed.
        let is_whole = newest.is_some() && self::newest() == newest || task::members(group).ok()? == members;
        (is_whole && !threads.is_empty()).then_some(Self(threads))
    }
}

/// Returns the number of the newest process or thread of the system (proc_loadavg(5)).
fn newest() -> Option<String> {
    let load = fs::read_to_string("/proc/loadavg").ok()?;
    load.split_whitespace().next_back().map(str::to_owned)
}

impl Rest {
    /// Returns it for the thread with this folder; `None` for one that is awake, or gone.
    fn of(folder: &str) -> Option<Self> {
        let status = fs::read_to_string(format!("{folder}/status")).ok()?;
        let given = fs::read_to_string(format!("{folder}/schedstat")).ok();
        Self::read(&status, given.as_deref())
    }

    /// Reads what the system writes of a thread (proc_pid_status(5); the third number of `schedstat`).
    fn read(status: &str, schedstat: Option<&str>) -> Option<Self> {
        let value = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let count = |name: &str| value(name)?.parse().ok();
        let state = *value("State:")?.as_bytes().first()?;
        let given_up = [count("voluntary_ctxt_switches:")?, count("nonvoluntary_ctxt_switches:")?];
        let given = schedstat.and_then(|text| text.split_whitespace().nth(2)?.parse().ok());
        (state != b'R').then_some(Self { state, given_up, given })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command};
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A script in a process group of its own, which ends with this.
    pub(in crate::guard) struct Group(Child);

    impl Group {
        pub(in crate::guard) fn start(script: &str, folder: &Path) -> Self {
            let mut command = Command::new("sh");
            Self(command.args(["-c", script]).current_dir(folder).process_group(0).spawn().unwrap())
        }

        pub(in crate::guard) fn number(&self) -> u32 {
            self.0.id()
        }
    }

    impl Drop for Group {
        fn drop(&mut self) {
            let group = i32::try_from(self.0.id()).ok().and_then(rustix::process::Pid::from_raw).unwrap();
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            let _ = self.0.wait();
        }
    }

    #[test]
    fn command_that_waits_is_asleep_all_the_time() {
        let command = Group::start("sleep 60; true", Path::new("/"));
        let now = || Asleep::of(command.number());
        let deadline = Instant::now() + Duration::from_secs(30);
        // As soon as it has come to its rest, and nothing else of the machine begins.
        loop {
            let then = now();
            thread::sleep(50 * MS);
            if then.is_some() && now() == then {
                break;
            }
            assert!(Instant::now() < deadline, "{:?}", now());
        }
    }

    #[test]
    fn command_that_works_now_and_then_is_not_asleep_from_one_time_to_the_next() {
        let command =
            Group::start("while :; do for i in 1 2 3; do :; done; sleep 0.01; done", Path::new("/"));
        for _ in 0..20 {
            let then = Asleep::of(command.number());
            thread::sleep(200 * MS);
            assert!(then.is_none() || Asleep::of(command.number()) != then, "{then:?}");
        }
    }

    #[test]
    fn only_who_is_awake_has_no_rest() {
        let of = |state: &str| {
            Rest::read(
                &format!(
                    "Name:\tState: R\nState:\t{state}\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t2\n"
                ),
                Some("100 200 9\n"),
            )
        };
        assert_eq!(of("R (running)"), None);
        for state in ["S (sleeping)", "D (disk sleep)", "T (stopped)", "Z (zombie)"] {
            let expected = Rest { state: state.as_bytes()[0], given_up: [7, 2], given: Some(9) };
            assert_eq!(of(state), Some(expected));
        }
        assert_eq!(Rest::read("State:\tS (sleeping)\n", None), None);
        assert_eq!(Asleep::of(u32::MAX), None, "nobody sleeps");
    }
}
