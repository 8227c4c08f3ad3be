//! What happened, as one number: two runs of one seed must have the same.

use std::{
    fmt,
    fs::File,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::{self, BufWriter, Write as _},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

/// Gathers everything that happens in a simulation, in the order in which it happens; clones share it.
#[derive(Clone, Default)]
pub(super) struct Trace(Arc<Mutex<Gathered>>);

#[derive(Default)]
struct Gathered {
    hash: DefaultHasher,
    count: u64,
    /// Every line in clear, to see where two runs part.
    file: Option<BufWriter<File>>,
}

impl Trace {
    /// Writes every line to a file, too.
    pub(super) fn to_file(path: &Path) -> io::Result<Self> {
        let gathered = Gathered {
            file: Some(BufWriter::new(File::create(path)?)),
            ..Gathered::default()
        };
        Ok(Self(Arc::new(Mutex::new(gathered))))
    }

    /// Something happened, at this time of the simulation.
    pub(super) fn note(&self, what: impl fmt::Display) {
        let at = turmoil::sim_elapsed().unwrap_or_default();
        let line = format!("{} {what}", at.as_micros());
        let mut gathered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        line.hash(&mut gathered.hash);
        gathered.count += 1;
        if let Some(file) = &mut gathered.file {
            // A trace is for people who look into a run; that it is cut short shows.
            let _short = writeln!(file, "{line}");
        }
    }

    /// The number, and how much it stands for.
    pub(super) fn sum(&self) -> (u64, u64) {
        let gathered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (gathered.hash.finish(), gathered.count)
    }
}

/// A short name for bytes.
pub(super) fn digest(bytes: &[u8]) -> u64 {
    let mut hash = DefaultHasher::new();
    bytes.hash(&mut hash);
    hash.finish()
}
