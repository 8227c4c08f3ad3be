//! The child of `roster run`: started, sent the signals that come, and how it ended.
//!
//! The child stays in our process group, so that it keeps the terminal. What the terminal sends (Ctrl-C, Ctrl-\) then
//! reaches it directly, and is not passed on a second time: many programs take a second Ctrl-C for impatience.
//!
//! Should this process be killed outright, the child lives on; nobody renews its lease, and its instance is gone
//! within a TTL.

use std::{ffi::OsString, io, os::unix::process::ExitStatusExt as _, process::ExitStatus};

use rustix::process::{Pid, Signal as KillSignal, kill_process};
use tokio::{
    process::{Child, Command},
    signal::unix::{Signal, SignalKind, signal},
};

use super::{failure::Failure, session::Exit};

/// What a shell says when a program is not there.
const NOT_FOUND: u8 = 127;
/// And when it can't be run.
const NOT_EXECUTABLE: u8 = 126;
/// What is added to the number of the signal that ended a program.
const BY_SIGNAL: i32 = 128;

/// The signals that are passed on.
pub(super) struct PassedOn {
    int: Signal,
    term: Signal,
    hup: Signal,
    quit: Signal,
    usr1: Signal,
    usr2: Signal,
}

impl PassedOn {
    /// Listens from now on: none of them ends this process any more.
    pub(super) fn listen() -> Result<Self, Failure> {
        let listen =
            |kind| signal(kind).map_err(|error| Failure::Failed(format!("cannot listen for signals: {error}")));
        Ok(Self {
            int: listen(SignalKind::interrupt())?,
            term: listen(SignalKind::terminate())?,
            hup: listen(SignalKind::hangup())?,
            quit: listen(SignalKind::quit())?,
            usr1: listen(SignalKind::user_defined1())?,
            usr2: listen(SignalKind::user_defined2())?,
        })
    }

    /// The next that comes.
    pub(super) async fn next(&mut self) -> KillSignal {
        tokio::select! {
            _ = self.int.recv() => KillSignal::INT,
            _ = self.term.recv() => KillSignal::TERM,
            _ = self.hup.recv() => KillSignal::HUP,
            _ = self.quit.recv() => KillSignal::QUIT,
            _ = self.usr1.recv() => KillSignal::USR1,
            _ = self.usr2.recv() => KillSignal::USR2,
        }
    }

    /// The next that asks to end.
    pub(super) async fn next_end(&mut self) -> KillSignal {
        loop {
            let signal = self.next().await;
            if ![KillSignal::USR1, KillSignal::USR2].contains(&signal) {
                return signal;
            }
        }
    }
}

/// Starts the command; the first word is the program.
pub(super) fn start(words: &[OsString]) -> Result<Child, Failure> {
    let Some((program, arguments)) = words.split_first() else {
        return Err(Failure::Usage(
            "no command; write `roster run SERVICE -- COMMAND`".into(),
        ));
    };
    Command::new(program).args(arguments).spawn().map_err(|error| {
        let code = if error.kind() == io::ErrorKind::NotFound {
            NOT_FOUND
        } else {
            NOT_EXECUTABLE
        };
        Failure::CannotStart(format!("cannot start {}: {error}", program.to_string_lossy()), code)
    })
}

/// Waits for the child's end, and sends it the signals that come meanwhile.
pub(super) async fn supervise(child: &mut Child, signals: &mut PassedOn) -> Result<ExitStatus, Failure> {
    loop {
        let signal = tokio::select! {
            ended = child.wait() => {
                return ended.map_err(|error| Failure::Failed(format!("cannot wait for the command: {error}")));
            }
            signal = signals.next() => signal,
        };
        let by_terminal = [KillSignal::INT, KillSignal::QUIT].contains(&signal) && in_foreground();
        if !by_terminal {
            pass_on(child, signal);
        }
    }
}

fn pass_on(child: &Child, signal: KillSignal) {
    // No id: it has ended, and is about to be waited for.
    let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(id) = id
        && let Err(error) = kill_process(id, signal)
    {
        tracing::debug!(%error, ?signal, "a signal could not be passed on");
    }
}

/// Whether our process group is the one that the terminal sends its signals to.
fn in_foreground() -> bool {
    std::fs::read_to_string("/proc/self/stat").is_ok_and(|stat| is_foreground(&stat))
}

/// `pid (name) state ppid pgrp session tty tpgid …`; the name may hold anything, parentheses too.
fn is_foreground(stat: &str) -> bool {
    let Some((_, fields)) = stat.rsplit_once(") ") else {
        return false;
    };
    let fields: Vec<&str> = fields.split(' ').collect();
    match (fields.get(2), fields.get(5)) {
        (Some(group), Some(foreground)) => group == foreground,
        _ => false,
    }
}

/// How we exit when the child has ended so.
pub(super) fn exit_of(status: ExitStatus) -> Exit {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| BY_SIGNAL + signal))
        .unwrap_or(1);
    Exit(u8::try_from(code).unwrap_or(u8::MAX))
}

/// How we exit when a signal ended us before there was a child.
pub(super) fn exit_by(signal: KillSignal) -> Exit {
    Exit(u8::try_from(BY_SIGNAL + signal.as_raw()).unwrap_or(u8::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn a_command_that_is_not_there_exits_as_a_shell_would() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let missing = start(&words(&["/no/such/program"])).map(|_| ());
            assert_eq!(missing.map_err(|failure| failure.exit_code()), Err(127));
            let folder = start(&words(&["/"])).map(|_| ());
            assert_eq!(folder.map_err(|failure| failure.exit_code()), Err(126));
        });
    }

    #[tokio::test]
    async fn we_exit_as_the_child_does() {
        for (script, code) in [
            ("exit 0", 0),
            ("exit 7", 7),
            ("kill -TERM $$", 143),
            ("kill -9 $$", 137),
        ] {
            let mut child = start(&words(&["sh", "-c", script])).expect("started");
            let mut signals = PassedOn::listen().expect("listening");
            let status = supervise(&mut child, &mut signals).await.expect("ended");
            assert_eq!(exit_of(status), Exit(code), "{script}");
        }
    }

    #[test]
    fn the_foreground_is_read_behind_any_name() {
        assert!(is_foreground("1 (a) b (c) S 0 7 7 34816 7 4194304"));
        assert!(!is_foreground("1 (roster) S 0 7 7 34816 9 4194304"));
        assert!(!is_foreground("1 (roster) S 0 7 7 0 -1 4194304"));
        assert!(!is_foreground(""));
    }
}
