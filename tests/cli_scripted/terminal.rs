//! The binary, as people and scripts run it.

use std::{
    io::Read as _,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::SOON;

/// What a command left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// Its lines, of which it must have some.
    pub(crate) fn lines(&self) -> Vec<&str> {
        self.out.lines().collect()
    }

    /// Its one line of JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn done(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }
}

fn command(endpoints: &str, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roster"));
    command
        .args(words)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("ROSTER_ENDPOINTS", endpoints)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs a command to its end.
pub(crate) fn roster(endpoints: &str, words: &[&str]) -> Ran {
    Running::start(endpoints, words).end()
}

/// A command that runs; killed when dropped.
pub(crate) struct Running {
    child: Child,
    out: Option<std::thread::JoinHandle<()>>,
    err: Option<std::thread::JoinHandle<()>>,
    seen: std::sync::Arc<std::sync::Mutex<(String, String)>>,
}

impl Running {
    pub(crate) fn start(endpoints: &str, words: &[&str]) -> Self {
        let mut child = command(endpoints, words).spawn().expect("the binary runs");
        let seen = std::sync::Arc::<std::sync::Mutex<(String, String)>>::default();
        let (stdout, stderr) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        let out = follow(stdout, seen.clone(), |seen| &mut seen.0);
        let err = follow(stderr, seen.clone(), |seen| &mut seen.1);
        Self {
            child,
            out: Some(out),
            err: Some(err),
            seen,
        }
    }

    pub(crate) fn seen(&self) -> (String, String) {
        self.seen.lock().expect("no panic while it is held").clone()
    }

    /// Waits until its output, or what it says on standard error, holds the text.
    pub(crate) fn until_seen(&self, text: &str) {
        let began = Instant::now();
        loop {
            let seen = self.seen();
            if seen.0.contains(text) || seen.1.contains(text) {
                return;
            }
            assert!(began.elapsed() < SOON, "not seen: {text:?} in {seen:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn send(&self, signal: Signal) {
        let id = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .expect("an id");
        kill_process(id, signal).expect("it runs");
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Ran {
        let began = Instant::now();
        let status = loop {
            match self.child.try_wait().expect("a child") {
                Some(status) => break status,
                None => assert!(began.elapsed() < SOON, "still runs: {:?}", self.seen()),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        for reader in [self.out.take(), self.err.take()].into_iter().flatten() {
            reader.join().expect("read to the end");
        }
        let (out, err) = self.seen();
        Ran {
            code: status.code(),
            out,
            err,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn follow(
    mut from: impl std::io::Read + Send + 'static,
    seen: std::sync::Arc<std::sync::Mutex<(String, String)>>,
    part: fn(&mut (String, String)) -> &mut String,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut bytes = [0; 4_096];
        while let Ok(count) = from.read(&mut bytes) {
            if count == 0 {
                break;
            }
            let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
            part(&mut seen.lock().expect("no panic while it is held")).push_str(&text);
        }
    })
}

/// Runs a command whose output nobody reads beyond the first line.
pub(crate) fn first_line_only(endpoints: &str, words: &[&str], then: impl FnOnce()) -> Ran {
    let mut child = command(endpoints, words).spawn().expect("the binary runs");
    let mut stdout = child.stdout.take().expect("piped");
    let mut line = Vec::new();
    let mut byte = [0; 1];
    while stdout.read(&mut byte).is_ok_and(|count| count == 1) {
        line.push(byte[0]);
        if byte[0] == b'\n' {
            break;
        }
    }
    drop(stdout);
    then();
    let began = Instant::now();
    let status = loop {
        match child.try_wait().expect("a child") {
            Some(status) => break status,
            None if began.elapsed() > SOON => {
                child.kill().expect("it runs");
                panic!("goes on although nobody reads it");
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let mut err = String::new();
    child
        .stderr
        .take()
        .expect("piped")
        .read_to_string(&mut err)
        .expect("text");
    Ran {
        code: status.code(),
        out: String::from_utf8_lossy(&line).into_owned(),
        err,
    }
}
