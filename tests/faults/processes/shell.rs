//! Programs of the machine: run to their end, with a limit.

use std::{
    ffi::OsStr,
    io,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// No program that is run here takes longer when it works.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Runs a program that must succeed, and returns what it printed. Blocks.
///
/// # Errors
/// It can't be started, failed (with what it said), or did not end within a minute.
pub(crate) fn run<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> io::Result<String> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))?;
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{program} did not end"),
            ));
        }
        thread::sleep(LOOK_EVERY);
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let given: Vec<_> = arguments
        .iter()
        .map(|argument| argument.as_ref().to_string_lossy())
        .collect();
    Err(io::Error::other(format!(
        "{program} {}: {}",
        given.join(" "),
        said.trim()
    )))
}

/// Whether a program is installed.
pub(super) fn is_there(program: &str) -> bool {
    let Some(path) = std::env::var_os("PATH") else {
        return false;
    };
    let more = ["/usr/sbin", "/sbin"].map(std::path::PathBuf::from);
    std::env::split_paths(&path)
        .chain(more)
        .any(|folder| folder.join(program).is_file())
}
