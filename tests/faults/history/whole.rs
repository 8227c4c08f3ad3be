//! A whole history: its events by kind, read from JSON lines and written as such.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
};

use super::{Call, Durable, Event, Fault, Held, NodeHash, NodeLog, Run, Sample, WatchStream};

/// Everything that one run recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct History {
    /// What was run.
    pub run: Run,
    /// In the order in which they ended.
    pub calls: Vec<Call>,
    /// In the order in which they ended.
    pub watches: Vec<WatchStream>,
    /// In the order in which they ended.
    pub held: Vec<Held>,
    /// In the order in which they ended.
    pub faults: Vec<Fault>,
    /// In the order in which they were taken.
    pub samples: Vec<Sample>,
    /// In the order in which they were dumped: a node's records may come in several parts, and parts may overlap.
    pub logs: Vec<NodeLog>,
    /// In the order in which they were asked.
    pub hashes: Vec<NodeHash>,
    /// In the order in which they came about.
    pub durable: Vec<Durable>,
    /// The last line was cut short, as when the recorder was killed: everything up to it stands here.
    pub cut_short: bool,
}

/// Why a history can't be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The file can't be opened or read.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A line that is whole is no event.
    #[error("line {line} is no event: {source}")]
    Line {
        /// Counts from 1.
        line: usize,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// It does not begin with what was run, or says it twice.
    #[error("a history begins with one `run`, and has no other")]
    Run,
}

impl History {
    /// A history of nothing yet.
    #[must_use]
    pub fn new(run: Run) -> Self {
        Self {
            run,
            calls: Vec::new(),
            watches: Vec::new(),
            held: Vec::new(),
            faults: Vec::new(),
            samples: Vec::new(),
            logs: Vec::new(),
            hashes: Vec::new(),
            durable: Vec::new(),
            cut_short: false,
        }
    }

    /// Gathers events, of which the first says what was run.
    ///
    /// # Errors
    /// [`HistoryError::Run`] if the first does not, or another does too.
    pub fn from_events(events: impl IntoIterator<Item = Event>) -> Result<Self, HistoryError> {
        let mut events = events.into_iter();
        let Some(Event::Run(run)) = events.next() else {
            return Err(HistoryError::Run);
        };
        let mut history = Self::new(run);
        events.try_for_each(|event| history.add(event))?;
        Ok(history)
    }

    /// Takes in one more event.
    ///
    /// # Errors
    /// [`HistoryError::Run`] if it says once more what was run.
    pub fn add(&mut self, event: Event) -> Result<(), HistoryError> {
        match event {
            Event::Run(_) => return Err(HistoryError::Run),
            Event::Call(call) => self.calls.push(call),
            Event::Watch(watch) => self.watches.push(watch),
            Event::Held(held) => self.held.push(held),
            Event::Fault(fault) => self.faults.push(fault),
            Event::Sample(sample) => self.samples.push(sample),
            Event::Log(record) => self.logs.push(record),
            Event::StateHash(hash) => self.hashes.push(hash),
            Event::Durable(fact) => self.durable.push(fact),
        }
        Ok(())
    }

    /// Reads JSON lines. Empty lines and lines that begin with `#` are for people. A last line without its end is
    /// accepted if it is an event, and else left out and said so in `cut_short`.
    ///
    /// # Errors
    /// All of [`HistoryError`].
    pub fn read(path: &Path) -> Result<Self, HistoryError> {
        let io = |source| HistoryError::Io {
            path: path.to_owned(),
            source,
        };
        Self::read_from(BufReader::new(File::open(path).map_err(io)?), io)
    }

    fn read_from(mut lines: impl BufRead, io: impl Fn(io::Error) -> HistoryError) -> Result<Self, HistoryError> {
        let mut history: Option<Self> = None;
        let mut text = Vec::new();
        for line in 1.. {
            text.clear();
            if lines.read_until(b'\n', &mut text).map_err(&io)? == 0 {
                break;
            }
            let whole = text.ends_with(b"\n");
            let trimmed = text.trim_ascii();
            if trimmed.is_empty() || trimmed.starts_with(b"#") {
                continue;
            }
            match (serde_json::from_slice(trimmed), &mut history) {
                (Ok(Event::Run(run)), None) => history = Some(Self::new(run)),
                (Ok(event), Some(history)) => history.add(event)?,
                (Ok(_), None) => return Err(HistoryError::Run),
                (Err(_), Some(history)) if !whole => history.cut_short = true,
                (Err(source), _) => return Err(HistoryError::Line { line, source }),
            }
        }
        history.ok_or(HistoryError::Run)
    }

    /// Writes it as JSON lines; events of one kind keep their order, and the witness comes last.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        for event in self.events() {
            write_event(&mut file, &event)?;
        }
        file.flush()
    }

    /// Its events: what was run, what clients saw, faults, samples, the witness.
    pub fn events(&self) -> impl Iterator<Item = Event> + '_ {
        std::iter::once(Event::Run(self.run.clone()))
            .chain(self.calls.iter().cloned().map(Event::Call))
            .chain(self.watches.iter().cloned().map(Event::Watch))
            .chain(self.held.iter().cloned().map(Event::Held))
            .chain(self.faults.iter().cloned().map(Event::Fault))
            .chain(self.samples.iter().cloned().map(Event::Sample))
            .chain(self.logs.iter().cloned().map(Event::Log))
            .chain(self.hashes.iter().cloned().map(Event::StateHash))
            .chain(self.durable.iter().cloned().map(Event::Durable))
    }
}

/// One line.
///
/// # Errors
/// It can't be written.
pub fn write_event(out: &mut impl Write, event: &Event) -> io::Result<()> {
    serde_json::to_writer(&mut *out, event)?;
    out.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = r#"{"run":{"harness":"test","seed":7,"nodes":3,"replay":"none"}}"#;
    const GRANT: &str = r#"{"call":{"id":1,"client":1,"sent":5,"ended":9,"request":{"grant":{"lease":4611686018427387904,"ttl_ms":1000}},"answer":{"unknown":{"reason":"deadline"}}}}"#;

    fn read(text: &str) -> Result<History, HistoryError> {
        History::read_from(text.as_bytes(), |source| HistoryError::Io {
            path: PathBuf::new(),
            source,
        })
    }

    #[test]
    fn a_history_is_read_as_it_was_written() {
        let history = read(&format!("{RUN}\n# for people\n\n{GRANT}\n")).unwrap();
        assert_eq!((history.calls.len(), history.cut_short), (1, false));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("history.jsonl");
        history.write(&path).unwrap();
        assert_eq!(History::read(&path).unwrap(), history);
        assert_eq!(History::from_events(history.events()).unwrap(), history);
    }

    #[test]
    fn a_last_line_that_was_cut_short_is_left_out_and_said() {
        let history = read(&format!("{RUN}\n{GRANT}\n{}", &GRANT[..40])).unwrap();
        assert_eq!((history.calls.len(), history.cut_short), (1, true));
        let history = read(&format!("{RUN}\n{GRANT}")).unwrap();
        assert_eq!((history.calls.len(), history.cut_short), (1, false));
    }

    #[test]
    fn a_broken_line_within_is_no_history() {
        let error = read(&format!("{RUN}\n{}\n{GRANT}\n", &GRANT[..40])).unwrap_err();
        assert!(matches!(error, HistoryError::Line { line: 2, .. }));
        assert!(matches!(read(GRANT), Err(HistoryError::Run)));
        assert!(matches!(read(&format!("{RUN}\n{RUN}\n")), Err(HistoryError::Run)));
        assert!(matches!(read(""), Err(HistoryError::Run)));
    }
}
