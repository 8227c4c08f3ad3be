//! Why something could not be done, in a line.

use std::fmt::Display;

/// A line for people.
#[derive(Debug)]
pub(crate) struct Problem(pub(crate) String);

impl<E: Display> From<E> for Problem {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// Says what was being done when it failed.
pub(crate) trait While<T> {
    fn when(self, doing: impl Display) -> Result<T, Problem>;
}

impl<T, E: Into<Problem>> While<T> for Result<T, E> {
    fn when(self, doing: impl Display) -> Result<T, Problem> {
        self.map_err(|error| Problem(format!("{doing}: {}", error.into().0)))
    }
}
