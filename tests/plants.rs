//! What is shipped can't be broken on purpose: the binary holds none of the marks of `src/plant.rs`, not even a name.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The names in `planted!("…"` and `fail_point!("…"` of all of `src/`.
fn marks() -> BTreeSet<String> {
    let mut waiting = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut found = BTreeSet::new();
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let text: String = fs::read_to_string(&path).unwrap().split_whitespace().collect();
        for mark in ["planted!(\"", "fail_point!(\""] {
            let names = text.split(mark).skip(1);
            found.extend(names.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
        }
    }
    // The macros' own description.
    found.remove("name");
    found
}

fn holds(binary: &[u8], text: &str) -> bool {
    let text = text.as_bytes();
    let mut rest = binary;
    while let Some(at) = rest.iter().position(|byte| *byte == text[0]) {
        rest = &rest[at..];
        if rest.starts_with(text) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}

#[test]
fn the_shipped_binary_holds_no_plant() {
    let binary = fs::read(PathBuf::from(env!("CARGO_BIN_EXE_roster"))).unwrap();
    let marks = marks();
    assert!(marks.len() > 30, "the marks were not found: {marks:?}");
    // That the search finds what is there: a setting's name.
    assert!(holds(&binary, "ROSTER_ENDPOINTS"));
    let held: Vec<&String> = marks.iter().filter(|mark| holds(&binary, mark)).collect();
    if cfg!(feature = "failpoints") {
        assert_eq!(held.len(), marks.len(), "this build has them: else the search is blind");
    } else {
        assert!(held.is_empty(), "{held:?}");
    }
}
