//! The one door through which the command line writes, in the format that was asked for.
//!
//! Standard output carries results, standard error notes and failures. When nobody reads the output any more (`roster
//! watch | head -1`), the command ends in silence.

use std::io::{self, BufWriter, IsTerminal as _, Write};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{
    arguments::Format,
    failure::{ErrorObject, Failure},
    json,
    table::Table,
};
use crate::client::Error;

/// Where results, notes and failures go.
pub(super) struct Output {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    format: Format,
    of_process: bool,
    /// Whether the terminal shows a line of progress.
    progressing: bool,
}

impl Output {
    /// The process's own.
    pub(super) fn of_process(format: Format) -> Self {
        Self {
            out: Box::new(BufWriter::new(io::stdout())),
            err: Box::new(io::stderr()),
            format,
            of_process: true,
            progressing: false,
        }
    }

    /// Any two writers, for tests.
    #[cfg(test)]
    pub(super) fn new(format: Format, out: impl Write + Send + 'static, err: impl Write + Send + 'static) -> Self {
        Self {
            out: Box::new(out),
            err: Box::new(err),
            format,
            of_process: false,
            progressing: false,
        }
    }

    /// Whether objects are wanted rather than lines.
    pub(super) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Whether all columns are wanted.
    pub(super) fn is_wide(&self) -> bool {
        self.format == Format::Wide
    }

    /// One line of the result.
    pub(super) fn line(&mut self, line: &str) -> Result<(), Failure> {
        writeln!(self.out, "{line}").map_err(closed)
    }

    /// A table, with its header.
    pub(super) fn table(&mut self, table: &Table) -> Result<(), Failure> {
        for line in table.lines() {
            self.line(&line)?;
        }
        Ok(())
    }

    /// A message of the API as one JSON object on a line. `name` is its name in `roster.v1`.
    pub(super) fn message(&mut self, name: &str, message: &impl prost::Message) -> Result<(), Failure> {
        let line = json::message(name, message).map_err(Failure::Failed)?;
        self.line(&line)
    }

    /// Raw bytes: a completion script.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.out.write_all(bytes).map_err(closed)
    }

    /// Makes the reader see what was written so far; once for each step of a stream.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        self.out.flush().map_err(closed)
    }

    /// Fails when nobody reads the output any more, so that a quiet stream ends too.
    pub(super) fn check_reader(&self) -> Result<(), Failure> {
        if !self.of_process {
            return Ok(());
        }
        let stdout = io::stdout();
        if stdout.is_terminal() {
            return Ok(());
        }
        let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
        let at_once = Timespec::default();
        match poll(&mut fds, Some(&at_once)) {
            Ok(_) if fds[0].revents().contains(PollFlags::ERR) => Err(Failure::ClosedPipe),
            // Not known is not closed.
            _ => Ok(()),
        }
    }

    /// A remark for people, on standard error; scripts that read JSON get none.
    pub(super) fn note(&mut self, text: &str) {
        if !self.is_json() {
            self.remark(&format!("roster: {text}"));
        }
    }

    /// How it goes, on standard error: on a terminal one line that each next one replaces; elsewhere a line each, and
    /// only if it was asked for.
    pub(super) fn progress(&mut self, text: &str, asked: bool) {
        if self.of_process && io::stderr().is_terminal() {
            self.progressing = true;
            self.show(&format!("\r{text}\x1b[K"));
        } else if asked {
            self.remark(&format!("roster: {text}"));
        }
    }

    /// Takes the line of progress away, for what comes next.
    pub(super) fn end_progress(&mut self) {
        if std::mem::take(&mut self.progressing) {
            self.show("\r\x1b[K");
        }
    }

    fn show(&mut self, text: &str) {
        let shown = write!(self.err, "{text}").and_then(|()| self.err.flush());
        if let Err(error) = shown {
            tracing::trace!(%error, "standard error is gone");
        }
    }

    /// An error that is being dealt with: a remark, or an object.
    pub(super) fn trouble(&mut self, doing: &str, error: &Error) {
        if self.is_json() {
            self.object(&ErrorObject::of_call(error));
        } else {
            self.remark(&format!("roster: {error}; {doing}"));
        }
    }

    /// What went wrong in the end.
    pub(super) fn failure(&mut self, failure: &Failure) {
        match failure {
            Failure::ClosedPipe => {}
            failure if self.is_json() => self.object(&failure.object()),
            failure => self.remark(&format!("error: {}", failure.line())),
        }
    }

    fn object(&mut self, object: &ErrorObject) {
        match serde_json::to_string(object) {
            Ok(line) => self.remark(&line),
            Err(error) => self.remark(&format!("error: {error}")),
        }
    }

    /// Standard error that can't be written to is nothing that one could tell anyone.
    fn remark(&mut self, line: &str) {
        if let Err(error) = writeln!(self.err, "{line}") {
            tracing::trace!(%error, "standard error is gone");
        }
    }
}

/// A write that failed: by a reader who has gone, or otherwise.
fn closed(error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        Failure::ClosedPipe
    } else {
        Failure::Output(error)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::{Arc, Mutex, PoisonError};

    use super::*;

    /// A writer whose bytes can be looked at.
    #[derive(Clone, Default)]
    pub(in super::super) struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Shared {
        pub(in super::super) fn text(&self) -> String {
            let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
            String::from_utf8(bytes).expect("UTF-8")
        }
    }

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_closed_pipe_ends_the_command_in_silence() {
        let err = Shared::default();
        let mut output = Output::new(Format::Table, Closed, err.clone());
        let failure = output.line("anything").expect_err("closed");
        assert_eq!(failure.exit_code(), 0);
        output.failure(&failure);
        assert_eq!(err.text(), "");
    }

    #[test]
    fn notes_are_for_people_only() {
        let err = Shared::default();
        Output::new(Format::Table, io::sink(), err.clone()).note("so it is");
        assert_eq!(err.text(), "roster: so it is\n");
        let err = Shared::default();
        Output::new(Format::Json, io::sink(), err.clone()).note("so it is");
        assert_eq!(err.text(), "");
    }

    #[test]
    fn progress_is_told_off_a_terminal_only_when_asked_for() {
        let err = Shared::default();
        let mut output = Output::new(Format::Json, io::sink(), err.clone());
        output.progress("halfway", false);
        output.progress("there", true);
        output.end_progress();
        assert_eq!(err.text(), "roster: there\n");
    }

    #[test]
    fn a_failure_is_a_line_or_an_object() {
        let failure = Failure::Failed("no".into());
        let err = Shared::default();
        Output::new(Format::Table, io::sink(), err.clone()).failure(&failure);
        assert_eq!(err.text(), "error: no\n");
        let err = Shared::default();
        Output::new(Format::Json, io::sink(), err.clone()).failure(&failure);
        let object: serde_json::Value = serde_json::from_str(&err.text()).expect("JSON");
        assert_eq!(object["message"], "no");
    }
}
