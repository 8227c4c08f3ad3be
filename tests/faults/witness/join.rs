//! One log out of the nodes' logs (I1).

use std::collections::BTreeMap;

use super::Flaw;
use crate::history::NodeLog;

/// The records by index, and whether they agree: at each index all nodes that have it have the same term and contents;
/// no index is missing; terms never fall. What one node has committed counts, whether others have it or not.
///
/// Whether it is whole comes with it: by a log that lacks something, nothing else can be judged.
pub(super) fn join<'a>(logs: &'a [NodeLog], flaws: &mut Vec<Flaw>) -> (Vec<&'a NodeLog>, bool) {
    let mut is_whole = true;
    let mut log: BTreeMap<u64, &NodeLog> = BTreeMap::new();
    for record in logs {
        let known = log.entry(record.index).or_insert(record);
        if known.term != record.term || known.payload != record.payload {
            flaws.push(flaw(format!(
                "nodes {} and {} disagree about what was committed at index {}:\n  {}: {}\n  {}: {}",
                known.node,
                record.node,
                record.index,
                known.node,
                describe(known),
                record.node,
                describe(record),
            )));
        }
    }
    let log: Vec<&NodeLog> = log.into_values().collect();
    if let Some(first) = log.first().filter(|first| first.index > 1) {
        flaws.push(flaw(format!(
            "no node's log was kept from its beginning: the first record is {}, so what came before can't be known",
            first.index
        )));
        is_whole = false;
    }
    for pair in log.windows(2) {
        let (one, next) = (pair[0], pair[1]);
        if next.index != one.index + 1 {
            let story = format!("no node has what lies between index {} and {}", one.index, next.index);
            flaws.push(flaw(story));
            is_whole = false;
        }
        if next.term < one.term {
            flaws.push(flaw(format!(
                "the term falls from {} at index {} to {} at index {}",
                one.term, one.index, next.term, next.index
            )));
        }
    }
    (log, is_whole)
}

fn flaw(story: String) -> Flaw {
    Flaw { checker: "I1", story }
}

fn describe(record: &NodeLog) -> String {
    let text = format!("term {}, {:?}", record.term, record.payload);
    text.chars().take(300).collect()
}
