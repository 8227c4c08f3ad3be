//! Keeps `docs/reliability.md` honest: all 72 rows are there, each with a test or the capability that its test waits for,
//! and every test, scenario and plant that it names is in the tree.
//!
//! With the standard library alone, like `tests/tidy.rs`.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{fs, path::Path};

const ROWS: usize = 72;
/// What a row without a test of its own may wait for.
const CAPABILITIES: [&str; 3] = ["*membership*", "*backup*", "*security*"];

fn read(path: &str) -> Option<String> {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).ok()
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The names behind a word, as in "plant `NAME`".
fn named<'t>(text: &'t str, word: &str) -> Vec<&'t str> {
    let pattern = format!("{word} `");
    let found = text
        .match_indices(pattern.as_str())
        .map(|(at, _)| &text[at + pattern.len()..]);
    found.filter_map(|rest| Some(rest.split_once('`')?.0)).collect()
}

/// What the page names and the tree does not have.
fn missing(page: &str, read: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut missing = Vec::new();
    for reference in quoted(page).filter(|reference| reference.starts_with("tests/") || reference.starts_with("src/")) {
        let (path, name) = reference.split_once("::").unwrap_or((reference, ""));
        if name.is_empty() {
            let is_folder = path.ends_with('/');
            if !is_folder && read(path).is_none() {
                missing.push(format!("{path}: no such file"));
            }
            continue;
        }
        let text = read(path).unwrap_or_default();
        let defined = |keyword: &str| text.contains(&format!("{keyword} {name}("));
        if !defined("fn") && !defined("def") {
            missing.push(format!("{path}: no test {name}"));
        }
    }
    let tables = [
        ("scenario", "tests/faults/processes/scenarios.rs"),
        ("plant", "tests/faults/plants/table.rs"),
    ];
    for (word, path) in tables {
        let table = read(path).unwrap_or_default();
        for name in named(page, word) {
            if !table.contains(&format!("\"{name}\"")) {
                missing.push(format!("{path}: no {word} {name}"));
            }
        }
    }
    missing
}

/// The numbers of the rows, in the order of the page, and those that name neither a test nor what theirs waits for.
fn rows(page: &str) -> (Vec<usize>, Vec<usize>) {
    let mut numbers = Vec::new();
    let mut bare = Vec::new();
    for line in page.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let Some(number) = cells.get(1).and_then(|cell| cell.parse().ok()) else {
            continue;
        };
        numbers.push(number);
        let shows = cells.get(3).copied().unwrap_or_default();
        let waits = CAPABILITIES.iter().any(|capability| shows.contains(capability));
        let tested = quoted(shows).any(|reference| reference.contains("::") || reference.contains("tests/"));
        if !waits && !tested && named(shows, "scenario").is_empty() {
            bare.push(number);
        }
    }
    (numbers, bare)
}

#[test]
fn the_page_names_all_rows_and_nothing_that_is_not_there() {
    let page = read("docs/reliability.md").unwrap();
    let (numbers, bare) = rows(&page);
    assert_eq!(numbers, (1..=ROWS).collect::<Vec<_>>());
    assert!(bare.is_empty(), "rows that show nothing: {bare:?}");
    let missing = missing(&page, read);
    assert!(
        missing.is_empty(),
        "docs/reliability.md names what is not there:\n  {}",
        missing.join("\n  ")
    );
}

#[test]
fn what_is_not_there_is_found() {
    let page = "| 1 | x | `tests/a.rs::gone`, scenario `none`, plant `p` |\n| 2 | y | nothing |\n| 3 | z | comes with *backup* |";
    let tree = |path: &str| match path {
        "tests/a.rs" => Some("fn there() {}".to_owned()),
        "tests/faults/plants/table.rs" => Some("name: \"p\"".to_owned()),
        _ => None,
    };
    let found = missing(page, tree);
    assert_eq!(
        found,
        [
            "tests/a.rs: no test gone",
            "tests/faults/processes/scenarios.rs: no scenario none"
        ]
    );
    assert_eq!(rows(page), (vec![1, 2, 3], vec![2]));
}
