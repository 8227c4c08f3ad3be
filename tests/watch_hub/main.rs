//! The hub in front of a real registry: whatever is published, opened, read late, resumed, compacted or replaced, each
//! watcher's view is the selected part of the registry at its position.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(clippy::print_stdout, reason = "seeds and figures, for whoever asks for them")]

mod concurrent;
mod fan_out;
mod property;
mod stories;
mod world;
