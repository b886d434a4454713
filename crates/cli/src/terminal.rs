//! The terminal, lent to a command that is run in a process group of its own.
//!
//! Who reads a terminal has to be of the group that it is lent to. So a command gets it, Ctrl-C and Ctrl-Z then reach the
//! command alone, and it is taken back when the command stops or ends. Whoever else has it then keeps it: a command may end
//! in the background, while its user is in an editor.

use std::fs::File;

use nix::sys::signal::{SigSet, Signal};
use rustix::io::Errno;
use rustix::process::{Pid, getpgrp, test_kill_process_group};
use rustix::termios::{tcgetpgrp, tcsetpgrp};

/// The terminal of this process, which is ours to lend while we are in the foreground.
pub(crate) struct Terminal {
    file: File,
    own: Pid,
}

impl Terminal {
    /// Returns the terminal; `None` without one.
    pub(crate) fn open() -> Option<Self> {
        let file = File::options().read(true).write(true).open("/dev/tty").ok()?;
        Some(Self { file, own: getpgrp() })
    }

    /// Says whether it is lent to nobody.
    pub(crate) fn is_ours(&self) -> bool {
        tcgetpgrp(&self.file).is_ok_and(|group| group == self.own)
    }

    /// Lends it to a process group.
    pub(crate) fn lend(&self, group: Pid) {
        self.give(group);
    }

    /// Takes it back from a process group. One that has it from somebody else than us keeps it, unless it is gone.
    pub(crate) fn take_back(&self, group: Pid) {
        let has_it_left =
            |holder: Pid| holder == group || test_kill_process_group(holder) == Err(Errno::SRCH);
        if tcgetpgrp(&self.file).is_ok_and(has_it_left) {
            self.give(self.own);
        }
    }

    fn give(&self, group: Pid) {
        // Whoever gives the terminal away from the background is stopped by this signal, unless it is blocked.
        let mut blocked = SigSet::empty();
        blocked.add(Signal::SIGTTOU);
        let before = blocked.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK);
        // A terminal that has gone away, or a group that has ended, needs nothing.
        let _ = tcsetpgrp(&self.file, group);
        if let Ok(before) = before {
            let _ = before.thread_set_mask();
        }
    }
}
