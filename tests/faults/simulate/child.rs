//! Programs that run for this one: each ends in time, none outlives it, and what they leave behind goes with it.
//!
//! Ctrl-C, SIGTERM and SIGHUP end a run in order: no more is begun, what runs is told to end, the folders are removed.
//! After a kill -9 of this program the kernel ends those that it started; then the folders stay.

use std::{
    fs::{self, File},
    io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

/// The environment in which `fail` finds what to switch on.
pub const SWITCH: &str = "FAILPOINTS";
/// What a program that was told to end may take, before it is killed.
const STOPS_WITHIN: Duration = Duration::from_secs(10);
/// What the work may take to end when this program was told to.
const ENDS_WITHIN: Duration = Duration::from_secs(15);
/// How often a running program is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The exit code of a program that was told to end, as shells have it.
const INTERRUPTED: u8 = 130;

/// Whether this program was told to end.
static ENDING: AtomicBool = AtomicBool::new(false);

/// Folders that are removed when this goes.
#[derive(Debug)]
pub struct Scratch {
    memory: TempDir,
    disk: TempDir,
}

/// Where the folders of a run are.
#[derive(Clone, Debug)]
pub struct Folders {
    /// In memory, if the machine has a file system for that: for what is synced often and need not be kept.
    pub memory: PathBuf,
    /// For what is large.
    pub disk: PathBuf,
}

impl Scratch {
    /// New, empty folders.
    ///
    /// # Errors
    /// The file system's answer.
    pub fn new() -> io::Result<Self> {
        let (memory, disk) = (PathBuf::from("/dev/shm"), std::env::temp_dir());
        Ok(Self {
            memory: tempfile::tempdir_in(if memory.is_dir() { &memory } else { &disk })?,
            disk: tempfile::tempdir_in(&disk)?,
        })
    }

    /// Where they are.
    #[must_use]
    pub fn folders(&self) -> Folders {
        Folders {
            memory: self.memory.path().to_owned(),
            disk: self.disk.path().to_owned(),
        }
    }
}

/// Does a command's work in folders that are removed however it ends.
///
/// # Errors
/// The folders can't be made, or signals not be waited for.
pub fn with_scratch(work: impl FnOnce(&Folders) -> ExitCode + Send + 'static) -> io::Result<ExitCode> {
    let scratch = Scratch::new()?;
    let folders = scratch.folders();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async move {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        let (done, mut over) = oneshot::channel();
        thread::spawn(move || {
            // Nobody waits any more when this program was told to end and the work took too long.
            let _in_time = done.send(work(&folders));
        });
        tokio::select! {
            // Else it panicked, and said so.
            code = &mut over => return Ok(code.unwrap_or(ExitCode::FAILURE)),
            _told = interrupt.recv() => {}
            _told = terminate.recv() => {}
            _told = hang_up.recv() => {}
        }
        ENDING.store(true, Ordering::Relaxed);
        // What does not end in time goes with the process.
        let _in_time = tokio::time::timeout(ENDS_WITHIN, over).await;
        drop(scratch);
        Ok(ExitCode::from(INTERRUPTED))
    })
}

/// Whether this program was told to end: nothing more is to be begun, and what failed since proves nothing.
#[must_use]
pub fn is_ending() -> bool {
    ENDING.load(Ordering::Relaxed)
}

/// What a program said and how it ended.
#[derive(Debug)]
pub struct Said {
    /// On its standard output.
    pub output: String,
    /// On its standard error.
    pub errors: String,
    /// `None`: it did not end in time, and was ended.
    pub status: Option<ExitStatus>,
}

impl Said {
    /// Whether it ended in time, with success.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// How it ended, and its last words.
    #[must_use]
    pub fn end(&self, lines: usize) -> String {
        let all = self.output.lines().chain(self.errors.lines());
        let said: Vec<&str> = all.filter(|line| !line.trim().is_empty()).collect();
        let last = said[said.len().saturating_sub(lines)..].join("\n");
        match self.status {
            Some(status) => format!("{status}\n{last}"),
            None => format!("no end in time\n{last}"),
        }
    }
}

/// A program that gets a signal when the thread that starts it is gone, and so at the latest with this process.
#[must_use]
pub fn command(program: &Path, when_alone: Signal) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has_setpriv = std::env::split_paths(&path).any(|folder| folder.join("setpriv").is_file());
    if !has_setpriv {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    let signal = if when_alone == Signal::TERM { "TERM" } else { "KILL" };
    command.args(["--pdeathsig", signal]).arg(program);
    command
}

/// Runs a program to its end, or to the end of our patience; what it says goes through files in the folder.
///
/// # Errors
/// It can't be started, or this program was told to end.
pub fn finish(command: &mut Command, folder: &Path, longest: Duration) -> io::Result<Said> {
    let (out, errors) = (folder.join("out"), folder.join("errors"));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(File::create(&out)?)
        .stderr(File::create(&errors)?)
        // A group of its own: Ctrl-C is for this program, which tells its children in order.
        .process_group(0)
        .spawn()?;
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if is_ending() || began.elapsed() > longest {
            stop(&mut child)?;
            break None;
        }
        thread::sleep(LOOK_EVERY);
    };
    if is_ending() {
        return Err(io::ErrorKind::Interrupted.into());
    }
    let read = |path: &Path| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Ok(Said {
        output: read(&out)?,
        errors: read(&errors)?,
        status,
    })
}

/// Tells a program and all of its group to end; kills what does not.
fn stop(child: &mut Child) -> io::Result<()> {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let tell = |signal: Signal| {
        // Nobody is there to be told when it has just ended by itself.
        group.map(|group| kill_process_group(group, signal))
    };
    let _ended = tell(Signal::TERM);
    let told = Instant::now();
    while child.try_wait()?.is_none() {
        if told.elapsed() > STOPS_WITHIN {
            let _ended = tell(Signal::KILL);
            child.wait()?;
            return Ok(());
        }
        thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_does_not_end_is_ended_with_all_that_it_began() {
        let scratch = Scratch::new().unwrap();
        let folder = scratch.folders().disk;
        let mut shell = command(Path::new("/bin/sh"), Signal::KILL);
        shell.args(["-c", "echo begun; sleep 600 & sleep 600; echo over"]);
        let said = finish(&mut shell, &folder, Duration::from_millis(300)).unwrap();
        assert_eq!((said.output.as_str(), said.status), ("begun\n", None));
        assert!(said.end(3).starts_with("no end in time\nbegun"));
    }

    #[test]
    fn what_a_program_says_and_how_it_ends_is_told() {
        let scratch = Scratch::new().unwrap();
        let folder = scratch.folders().memory;
        let mut shell = command(Path::new("/bin/sh"), Signal::TERM);
        shell.args(["-c", "echo good; echo bad >&2; exit 3"]);
        let said = finish(&mut shell, &folder, Duration::from_secs(60)).unwrap();
        assert_eq!((said.output.as_str(), said.errors.as_str()), ("good\n", "bad\n"));
        assert_eq!(said.status.and_then(|status| status.code()), Some(3));
        assert!(!said.succeeded());
    }

    #[test]
    fn folders_go_with_the_scratch() {
        let scratch = Scratch::new().unwrap();
        let Folders { memory, disk } = scratch.folders();
        fs::write(memory.join("one"), "1").unwrap();
        assert!(memory.is_dir() && disk.is_dir() && memory != disk);
        drop(scratch);
        assert!(!memory.exists() && !disk.exists());
    }
}
