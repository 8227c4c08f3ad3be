//! What nodes may log: nothing above INFO. What these tests do to nodes, kills and lost quorums, is what nodes are for.

/// What says something of the machine and not of the node: a part of the text, and why it may come.
const EXPECTED: [(&str, &str); 3] = [
    (
        "the disk is slow: a write has been waiting",
        "a busy machine takes seconds for a sync",
    ),
    (
        "an append is malformed",
        "what no node would send is sent in a node's name",
    ),
    ("few files may be open at once", "a node is given few"),
];

/// The lines of a log that nobody expected: warnings, errors, and whatever is no line of a log, as what a panic prints.
pub(crate) fn surprises(log: &str) -> Vec<&str> {
    let is_quiet = |line: &&str| matches!(level(line), Some("INFO" | "DEBUG" | "TRACE"));
    log.lines()
        .filter(|line| !line.trim().is_empty() && !is_quiet(line))
        .filter(|line| !EXPECTED.iter().any(|(text, _because)| line.contains(text)))
        .collect()
}

/// The level of a line: the word after its time.
fn level(line: &str) -> Option<&str> {
    let (time, rest) = line.split_once(' ')?;
    let is_time = time.ends_with('Z') && time.starts_with(|first: char| first.is_ascii_digit());
    is_time.then(|| rest.split_whitespace().next()).flatten()
}

#[test]
fn warnings_errors_and_panics_are_surprises() {
    let log = "\
2026-11-21T12:00:00.000001Z  INFO roster::server: starting node=n1
2026-11-21T12:00:00.000002Z  WARN roster::server::disk: the disk is slow: a write has been waiting oldest_ms=2100
2026-11-21T12:00:00.000003Z  WARN roster::node: gave up waiting for calls in flight
2026-11-21T12:00:00.000004Z ERROR roster::server: the node can't go on reason=\"INFO\"
2026-11-21T12:00:00.000005Z DEBUG roster::service: an ERROR of its own

thread 'api' panicked at src/node/mod.rs:1:1:
";
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(surprises(log), [lines[2], lines[3], lines[6]]);
}
