//! One `roster server` process: started, stopped, killed, paused, traced, and started again.

use std::{
    fs,
    io::{self, Read as _, Seek as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Resource, Rlimit, Signal};

use super::{disk::Disk, shell};

/// SIGTERM ends a node within 10 s, it promises.
const STOP_MAX: Duration = Duration::from_secs(15);
/// A killed process is gone by then, unless its disk is frozen.
const KILL_MAX: Duration = Duration::from_secs(10);
const ATTACH_MAX: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// How much of a log a report shows.
const TAIL_BYTES: u64 = 1_500;

/// What a node is started with, beside its own names and addresses.
#[derive(Clone, Debug, Default)]
pub(crate) struct Launch {
    /// The binary.
    pub(crate) binary: PathBuf,
    /// All nodes, as `--initial-cluster` lists them.
    pub(crate) initial_cluster: String,
    /// More flags.
    pub(crate) flags: Vec<String>,
    /// libfaketime, when wall clocks are to jump.
    pub(crate) fake_clock: Option<PathBuf>,
}

/// One node.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) name: String,
    /// Where it listens for clients; nobody but the tool itself connects there.
    pub(crate) client_address: SocketAddr,
    /// Where it listens for peers.
    pub(crate) peer_address: SocketAddr,
    /// The proxy in front of that.
    pub(crate) advertised: SocketAddr,
    pub(crate) disk: Disk,
    pub(crate) log: PathBuf,
    /// How often it was started.
    pub(crate) starts: Arc<AtomicU32>,
    /// Whether the fault under way may end it.
    pub(crate) may_end: bool,
    pub(crate) paused: bool,
    child: Option<Child>,
    tracer: Option<Child>,
}

impl Server {
    pub(crate) fn new(name: String, addresses: [SocketAddr; 3], disk: Disk, log: PathBuf) -> Self {
        let [client_address, peer_address, advertised] = addresses;
        Self {
            name,
            client_address,
            peer_address,
            advertised,
            disk,
            log,
            starts: Arc::default(),
            may_end: false,
            paused: false,
            child: None,
            tracer: None,
        }
    }

    /// Where a fake wall clock is set.
    fn clock_file(&self) -> PathBuf {
        self.log.with_extension("clock")
    }

    /// Starts it. To be called on the thread that lives as long as the tool: the kernel ends the process with it.
    ///
    /// # Errors
    /// The binary can't be run.
    pub(crate) fn start(&mut self, launch: &Launch) -> io::Result<u32> {
        let data = self.disk.data();
        self.start_on(launch, &data)
    }

    /// Starts it on another data directory than its own.
    ///
    /// # Errors
    /// The binary can't be run.
    pub(crate) fn start_on(&mut self, launch: &Launch, data: &Path) -> io::Result<u32> {
        let log = fs::OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = if shell::is_there("setpriv") {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL"]).arg(&launch.binary);
            command
        } else {
            Command::new(&launch.binary)
        };
        for (variable, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ROSTER_")) {
            command.env_remove(variable);
        }
        command
            .args(["server", "--name", &self.name, "--data-dir"])
            .arg(data)
            .args(["--client-addr", &self.client_address.to_string()])
            .args(["--peer-addr", &self.peer_address.to_string()])
            .args(["--peer-advertise-addr", &self.advertised.to_string()])
            .args(["--initial-cluster", &launch.initial_cluster])
            .args(&launch.flags)
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        if let Some(library) = &launch.fake_clock {
            fs::write(self.clock_file(), "+0")?;
            command
                .env("LD_PRELOAD", library)
                .env("FAKETIME_TIMESTAMP_FILE", self.clock_file())
                .env("FAKETIME_NO_CACHE", "1")
                // Wall clocks jump; time as the kernel counts it does not.
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.spawn()?;
        self.starts.fetch_add(1, Ordering::Relaxed);
        let pid = child.id();
        self.child = Some(child);
        self.paused = false;
        Ok(pid)
    }

    /// Sets its wall clock, as libfaketime writes it: `+1d`, `-1d`, `+0`.
    ///
    /// # Errors
    /// The file can't be written.
    pub(crate) fn set_clock(&self, offset: &str) -> io::Result<()> {
        fs::write(self.clock_file(), offset)
    }

    /// Whether it was started and has not ended, paused or not.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// How it ended, if it did so by itself.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    /// Waits until it has ended by itself.
    pub(crate) fn wait_ended(&mut self, within: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + within;
        loop {
            match self.ended() {
                Some(status) => return Some(status),
                None if Instant::now() > deadline || self.child.is_none() => return None,
                None => thread::sleep(LOOK_EVERY),
            }
        }
    }

    /// Sends kill -9 and does not wait.
    pub(crate) fn shoot(&mut self) {
        self.signal(Signal::KILL);
    }

    /// kill -9; returns when it is gone.
    pub(crate) fn kill(&mut self) {
        self.untrace();
        self.shoot();
        self.reap(KILL_MAX);
    }

    /// SIGTERM; returns whether it ended in order and in time. Otherwise it is killed.
    pub(crate) fn stop(&mut self) -> bool {
        self.resume();
        self.untrace();
        if !self.is_running() {
            self.let_go();
            return true;
        }
        self.signal(Signal::TERM);
        let in_order = self.wait_ended(STOP_MAX).is_some_and(|status| status.success());
        self.kill();
        in_order
    }

    /// SIGSTOP.
    pub(crate) fn pause(&mut self) {
        self.signal(Signal::STOP);
        self.paused = true;
    }

    /// SIGCONT.
    pub(crate) fn resume(&mut self) {
        if std::mem::take(&mut self.paused) {
            self.signal(Signal::CONT);
        }
    }

    /// Limits the file descriptors that it may open from now on.
    ///
    /// # Errors
    /// It does not run; the kernel's answer.
    pub(crate) fn limit_files(&self, limit: u64) -> io::Result<()> {
        let pid = self.must_run()?;
        let limits = Rlimit {
            current: Some(limit),
            maximum: rustix::process::getrlimit(Resource::Nofile).maximum,
        };
        rustix::process::prlimit(Some(pid), Resource::Nofile, limits)?;
        Ok(())
    }

    /// How many file descriptors it has open.
    pub(crate) fn open_files(&self) -> u64 {
        let folder = self.pid().map(|pid| format!("/proc/{}/fd", pid.as_raw_nonzero()));
        folder
            .and_then(|folder| fs::read_dir(folder).ok())
            .map_or(0, |open| open.count() as u64)
    }

    /// Its memory in RAM, in kB.
    pub(crate) fn resident_kb(&self) -> u64 {
        let file = self.pid().map(|pid| format!("/proc/{}/status", pid.as_raw_nonzero()));
        let text = file.and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok())
            .unwrap_or_default()
    }

    /// Injects into its syncs from now on, as strace's `inject=fsync,fdatasync:` takes it. Returns once every thread is
    /// traced.
    ///
    /// # Errors
    /// It does not run; strace is missing or may not trace.
    pub(crate) fn trace_syncs(&mut self, injection: &str) -> io::Result<()> {
        self.untrace();
        let pid = self.must_run()?.as_raw_nonzero().to_string();
        let log = self.log.with_extension("strace");
        let tracer = Command::new("strace")
            .args(["-f", "-p", &pid, "-e", "trace=fsync,fdatasync", "-o"])
            .arg(self.log.with_extension("syncs"))
            .arg("-e")
            .arg(format!("inject=fsync,fdatasync:{injection}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log)?)
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("strace: {error}")))?;
        let wanted = format!("TracerPid:\t{}\n", tracer.id());
        let tracer = self.tracer.insert(tracer);
        let deadline = Instant::now() + ATTACH_MAX;
        while !all_threads_have(&pid, &wanted) {
            if Instant::now() > deadline || tracer.try_wait()?.is_some() {
                let said = fs::read_to_string(&log).unwrap_or_default();
                self.untrace();
                // A node that ended meanwhile is no lack of strace's.
                if !self.is_running() {
                    return Err(self.does_not_run());
                }
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    format!("strace can't trace: {}", said.trim()),
                ));
            }
            thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Whether any sync met what [`Server::trace_syncs`] injected last: an error or a delay.
    pub(crate) fn met_injection(&self) -> bool {
        let traced = fs::read_to_string(self.log.with_extension("syncs"));
        traced.is_ok_and(|traced| traced.contains("(INJECTED") || traced.contains("(DELAYED"))
    }

    /// Ends the tracing, if it is traced.
    pub(crate) fn untrace(&mut self) {
        if let Some(mut tracer) = self.tracer.take() {
            // strace lets go of its threads when it is told to end.
            if let Some(pid) = Pid::from_raw(tracer.id().cast_signed()) {
                let _gone = rustix::process::kill_process(pid, Signal::TERM);
            }
            let deadline = Instant::now() + KILL_MAX;
            while matches!(tracer.try_wait(), Ok(None)) {
                if Instant::now() > deadline {
                    let _killed = tracer.kill();
                    let _reaped = tracer.wait();
                    return;
                }
                thread::sleep(LOOK_EVERY);
            }
        }
    }

    /// The end of its log, for a report.
    pub(crate) fn last_words(&self) -> String {
        let read = || -> io::Result<String> {
            let mut file = fs::File::open(&self.log)?;
            let length = file.metadata()?.len();
            file.seek(io::SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        read().unwrap_or_else(|error| error.to_string())
    }

    /// What it has logged so far, in bytes.
    pub(crate) fn log_bytes(&self) -> u64 {
        fs::metadata(&self.log).map_or(0, |found| found.len())
    }

    /// What it logged after so many bytes.
    pub(crate) fn log_since(&self, bytes: u64) -> String {
        let all = fs::read(&self.log).unwrap_or_default();
        let start = usize::try_from(bytes).map_or(all.len(), |start| start.min(all.len()));
        String::from_utf8_lossy(&all[start..]).into_owned()
    }

    fn pid(&self) -> Option<Pid> {
        Pid::from_raw(self.child.as_ref()?.id().cast_signed())
    }

    /// Its process, which must be there to be harmed.
    fn must_run(&self) -> io::Result<Pid> {
        self.pid().ok_or_else(|| self.does_not_run())
    }

    fn does_not_run(&self) -> io::Error {
        io::Error::other(format!("{} does not run, so it can't be harmed", self.name))
    }

    fn signal(&mut self, signal: Signal) {
        if self.is_running()
            && let Some(pid) = self.pid()
        {
            // It may have ended since; then there is nothing to tell it.
            let _gone = rustix::process::kill_process(pid, signal);
        }
    }

    fn reap(&mut self, within: Duration) {
        // A process whose disk is frozen ends when it thaws.
        if self.child.is_some() && self.wait_ended(within).is_none() {
            let _thawed = self.disk.thaw();
            self.wait_ended(KILL_MAX);
        }
        self.let_go();
        self.paused = false;
    }

    /// Forgets a process that has ended, and what libfaketime kept in shared memory for it, which a kill leaves behind.
    fn let_go(&mut self) {
        let Some(child) = self.child.take() else { return };
        for what in ["faketime_shm_", "sem.faketime_sem_"] {
            // It is there only where the wall clock was to jump.
            let _gone = fs::remove_file(format!("/dev/shm/{what}{}", child.id()));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _thawed = self.disk.thaw();
        self.kill();
    }
}

fn all_threads_have(pid: &str, wanted: &str) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return false;
    };
    threads
        .flatten()
        .all(|thread| fs::read_to_string(thread.path().join("status")).is_ok_and(|status| status.contains(wanted)))
}
