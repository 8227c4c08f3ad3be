//! Planted bugs: what a test build can break on purpose, so that the checkers are seen to find it.
//!
//! **Owns** the two macros by which every room marks where it may be broken. **Promises** that a build without the
//! feature `failpoints`, and so every binary that is shipped, holds nothing of a plant, not even its name: the sound
//! code alone is left. **Never** changes what the sound code does.
//!
//! `tests/faults/plants` has the table: which plants there are, what each breaks, and which checker must catch it. A
//! plant is switched on by its name, as the crate `fail` says: `fail::cfg("NAME", "return")`, or `FAILPOINTS=NAME=return`
//! in the environment of the example `roster-planted`. A *crash point* is a plain `fail::fail_point!`: `panic` there
//! ends the process where it stands.

/// `planted!("name" => { .. })`: what to do there when the plant is switched on.
/// `planted!("name", let value = broken)`: what `value` becomes from there on.
/// `planted!("name", broken, sound)`: which value to take.
#[cfg(feature = "failpoints")]
macro_rules! planted {
    ($name:literal, let $value:ident = $broken:expr) => {
        let $value = if fail::eval($name, |_argument| ()).is_some() {
            $broken
        } else {
            $value
        };
    };
    ($name:literal => $broken:block) => {
        if fail::eval($name, |_argument| ()).is_some() {
            $broken
        }
    };
    ($name:literal, $broken:expr, $sound:expr $(,)?) => {
        if fail::eval($name, |_argument| ()).is_some() {
            $broken
        } else {
            $sound
        }
    };
}

/// Without the feature: nothing, and the sound value.
#[cfg(not(feature = "failpoints"))]
macro_rules! planted {
    ($name:literal, let $value:ident = $broken:expr) => {};
    ($name:literal => $broken:block) => {};
    ($name:literal, $broken:expr, $sound:expr $(,)?) => {
        $sound
    };
}
