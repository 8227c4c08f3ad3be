//! What the server's processes have used, as the kernel counts it: `/proc/PID/stat` and `/proc/PID/status`.

use std::{fs, time::Duration};

/// What a tick of the kernel's accounting is, for programs, on every architecture that is still in use (`USER_HZ`).
const TICK: Duration = Duration::from_millis(10);

/// Processes on this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Processes(Vec<u32>);

/// What processes have used up to a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Used {
    /// CPU time of all together, user and system.
    pub cpu: Duration,
    /// Resident memory of each, in bytes, in the order in which they were named.
    pub resident_bytes: Vec<u64>,
}

impl Used {
    /// Resident memory of all together, in bytes.
    pub fn resident_bytes_together(&self) -> u64 {
        self.resident_bytes.iter().sum()
    }
}

/// What the servers used while something was measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerUse {
    /// Nobody said which processes they are.
    NotAsked,
    /// It is not known: the run never came to be measured, or a process has ended.
    Unknown(String),
    /// From and to.
    Known(Used, Used),
}

impl Processes {
    /// The processes of these ids, each of which must run.
    ///
    /// # Errors
    /// One does not, or can't be looked at.
    pub fn new(ids: &[u32]) -> Result<Self, String> {
        let processes = Self(ids.to_vec());
        processes.used()?;
        Ok(processes)
    }

    /// Their ids, as they were named.
    pub fn ids(&self) -> &[u32] {
        &self.0
    }

    /// Whether none were named.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What they have used so far.
    ///
    /// # Errors
    /// One has ended, or can't be looked at.
    pub fn used(&self) -> Result<Used, String> {
        let mut used = Used {
            cpu: Duration::ZERO,
            resident_bytes: Vec::new(),
        };
        for id in &self.0 {
            let read = |file: &str| {
                fs::read_to_string(format!("/proc/{id}/{file}")).map_err(|error| format!("process {id}: {error}"))
            };
            let stat = cpu_time(&read("stat")?);
            used.cpu += stat.ok_or_else(|| format!("process {id}: /proc/{id}/stat has no CPU times"))?;
            let status = resident_bytes(&read("status")?);
            used.resident_bytes
                .push(status.ok_or_else(|| format!("process {id} has ended: it holds no memory any more"))?);
        }
        Ok(used)
    }

    /// What they used between an earlier look and now.
    pub fn used_since(&self, begin: Option<Result<Used, String>>) -> ServerUse {
        if self.is_empty() {
            return ServerUse::NotAsked;
        }
        let Some(begin) = begin else {
            return ServerUse::Unknown("the warm-up was not over".into());
        };
        match (begin, self.used()) {
            (Ok(begin), Ok(end)) => ServerUse::Known(begin, end),
            (Err(problem), _) | (_, Err(problem)) => ServerUse::Unknown(problem),
        }
    }
}

/// `pid (name) state …`: the 14th and the 15th field are ticks in user and in system mode. The name may hold
/// anything, parentheses and spaces too.
fn cpu_time(stat: &str) -> Option<Duration> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut ticks = fields.split_ascii_whitespace().skip(11);
    let user: u32 = ticks.next()?.parse().ok()?;
    let system: u32 = ticks.next()?.parse().ok()?;
    Some(TICK * user + TICK * system)
}

/// The line `VmRSS:   1234 kB`. A process that has ended, and waits for its parent, has none.
fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_behind_whatever_the_program_is_called() {
        let rest = "S 1 2 3 4 5 4194304 100 200 300 400 250 150 7 8 20 0 9 0 100";
        for name in ["roster", "a) b", "((", "1 2 3"] {
            let stat = format!("4711 ({name}) {rest}");
            assert_eq!(cpu_time(&stat), Some(Duration::from_secs(4)), "{name}");
        }
        assert_eq!(cpu_time("4711 (roster) S 1 2 3"), None);
        assert_eq!(cpu_time(""), None);
    }

    #[test]
    fn resident_memory_is_in_bytes_and_a_zombie_has_none() {
        let status = "Name:\troster\nVmPeak:\t  900 kB\nVmRSS:\t    1234 kB\nThreads:\t4\n";
        assert_eq!(resident_bytes(status), Some(1_234 * 1_024));
        assert_eq!(resident_bytes("Name:\troster\nState:\tZ (zombie)\n"), None);
        assert_eq!(resident_bytes("VmRSS:\tmuch kB\n"), None);
    }

    #[test]
    fn this_process_can_be_looked_at_and_one_that_is_not_there_is_named() {
        let processes = Processes::new(&[std::process::id()]).expect("it runs");
        let used = processes.used().expect("it runs");
        assert!(used.resident_bytes_together() > 0);
        // Larger than any id that Linux gives out.
        let problem = Processes::new(&[u32::MAX]).expect_err("not there");
        assert!(problem.contains("process 4294967295"), "{problem}");
    }

    #[test]
    fn what_was_not_asked_for_is_told_from_what_is_not_known() {
        assert_eq!(Processes::default().used_since(None), ServerUse::NotAsked);
        let processes = Processes::new(&[std::process::id()]).expect("it runs");
        assert!(matches!(processes.used_since(None), ServerUse::Unknown(_)));
        let gone = Some(Err("process 1 has ended".to_owned()));
        assert!(matches!(processes.used_since(gone), ServerUse::Unknown(_)));
    }
}
