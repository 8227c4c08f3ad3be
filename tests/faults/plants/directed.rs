//! Directed tests: what random faults do not find, or find too seldom. Each looks at one promise at the one place where
//! it is kept, so it needs no luck.
//!
//! A test returns what it looked at, or the story of what it found. Without a plant all of them must pass: they run
//! with the other tests, too.

use std::{path::Path, sync::mpsc, thread, time::Duration};

use bytes::Bytes;
use roster::{
    lease_clock::LeaseClock,
    model::{LeaseId, LeaseTime, NodeId, Scope, Selector, Term},
    registry::{Command, State},
    storage::{DataDir, LogStore, Marker, Record},
    watch::{Delivery, Start},
    wire::{
        internal::{
            self, ForwardCommand, ForwardRequest, VouchRequest, forward_failure, forward_request::Request,
            forward_response::Response,
        },
        log::command_to_bytes,
    },
};

use super::lone::{Failure, Lone, copy, identity};

/// What a directed test found: what it looked at, or what contradicts the promise.
pub(super) type Found = Result<Result<String, String>, Failure>;

/// One directed test: it may use the (empty) folder as it likes.
pub(super) type Test = fn(&Path) -> Found;

/// By name, as the table of plants names them.
pub(super) const ALL: &[(&str, Test)] = &[
    (
        "a_granted_vote_survives_a_power_cut",
        a_granted_vote_survives_a_power_cut,
    ),
    ("what_is_answered_is_on_the_disk", what_is_answered_is_on_the_disk),
    ("what_is_confirmed_was_synced", what_is_confirmed_was_synced),
    ("a_pause_is_no_leap_of_lease_time", a_pause_is_no_leap_of_lease_time),
    (
        "a_forward_of_another_term_is_refused",
        a_forward_of_another_term_is_refused,
    ),
    (
        "a_node_vouches_for_its_votes_leadership_only",
        a_node_vouches_for_its_votes_leadership_only,
    ),
    (
        "a_watch_is_given_what_is_acknowledged",
        a_watch_is_given_what_is_acknowledged,
    ),
    ("a_list_goes_on_where_it_began", a_list_goes_on_where_it_began),
    (AS_A_PROGRAM, super::power::a_snapshot_survives_a_power_cut),
];

/// Runs this program again, so it runs from the command line alone.
const AS_A_PROGRAM: &str = "a_snapshot_survives_a_power_cut";

/// The test of that name.
pub(super) fn named(name: &str) -> Option<Test> {
    ALL.iter().find(|(known, _)| *known == name).map(|(_, test)| *test)
}

/// One of them, the program's own included, on a busy machine.
const TEST_MAX: Duration = Duration::from_secs(180);

/// Runs a test that may hang: then it is left behind, and that is its failure.
pub(super) fn in_time(test: Test, folder: &Path) -> Found {
    let folder = folder.to_owned();
    let (done, found) = mpsc::channel();
    thread::spawn(move || drop(done.send(test(&folder))));
    match found.recv_timeout(TEST_MAX) {
        Ok(found) => found,
        Err(mpsc::RecvTimeoutError::Timeout) => Err(format!("it did not end within {TEST_MAX:?}").into()),
        Err(mpsc::RecvTimeoutError::Disconnected) => Err("it panicked".into()),
    }
}

fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let done = runtime.block_on(future);
    runtime.shutdown_timeout(Duration::from_secs(5));
    done
}

/// Asks for a vote in the name of a node.
async fn ask(lone: &Lone, candidate: u64, term: u64) -> Result<bool, Failure> {
    let vote = internal::Vote {
        term,
        node_id: candidate,
        committed: false,
    };
    let request = internal::VoteRequest {
        vote: Some(vote),
        ..internal::VoteRequest::default()
    };
    let answer = lone.raft.serve_vote(NodeId(candidate), request).await?;
    Ok(answer.granted)
}

/// FAULTS row 18: a node votes, loses power, comes back and is asked by another candidate of the same term.
fn a_granted_vote_survives_a_power_cut(folder: &Path) -> Found {
    const TERM: u64 = 7;
    block_on(async {
        let (before, after) = (folder.join("before"), folder.join("after"));
        let lone = Lone::start(&before).await?;
        let syncs = lone.log.sync_count();
        if !ask(&lone, 2, TERM).await? {
            return Err("a new node refused its first vote".into());
        }
        // The power goes at this moment: what was only handed to the writer is not in the image.
        copy(&before, &after)?;
        let synced = lone.log.sync_count() > syncs;
        lone.stop().await?;
        let lone = Lone::start(&after).await?;
        let stored = lone.log.marker(Marker::Vote);
        let twice = ask(&lone, 3, TERM).await?;
        lone.stop().await?;
        Ok(if twice || !synced || stored.is_none() {
            Err(format!(
                "n1 voted for n2 in term {TERM}; the answer left {} a sync; the power went; n1 started again{} and{} voted \
                 for n3 in term {TERM}: {}",
                if synced { "after" } else { "without" },
                if stored.is_some() {
                    ""
                } else {
                    " with no vote on its disk"
                },
                if twice { "" } else { " had not yet" },
                if twice {
                    "two leaders in one term are possible"
                } else {
                    "chance saved it"
                },
            ))
        } else {
            Ok(format!(
                "one vote in term {TERM}, one power cut, the second candidate was refused"
            ))
        })
    })
}

/// FAULTS rows 8 and 19: a node that is a quorum by itself answers a write; the power may go at this moment.
fn what_is_answered_is_on_the_disk(folder: &Path) -> Found {
    const WRITES: u64 = 200;
    block_on(async {
        let lone = Lone::start(folder).await?;
        let term = lone.lead().await?;
        for number in 0..WRITES {
            let index = lone.register(term, number).await?.index;
            let durable = lone.log.durable_last_index();
            if durable.is_none_or(|durable| durable < index.0) {
                lone.stop().await?;
                return Ok(Err(format!(
                    "the register of i{number:06} was answered at log index {index}, when a power cut would have left \
                     the log only through {durable:?}"
                )));
            }
        }
        lone.stop().await?;
        Ok(Ok(format!("{WRITES} answers, each behind the sync of its record")))
    })
}

/// FAULTS row 19: each confirmation of the log's writer comes after a sync that RocksDB itself counts.
fn what_is_confirmed_was_synced(folder: &Path) -> Found {
    const APPENDS: u64 = 100;
    let data_dir = DataDir::open(folder)?;
    data_dir.save_identity(&identity()?)?;
    let log = LogStore::open(&data_dir, |error| panic!("the log failed: {error}"))?;
    let mut found = Ok(format!("{APPENDS} confirmations, each after a sync of its own"));
    for index in 0..APPENDS {
        let before = log.sync_count();
        let (done, confirmed) = mpsc::channel();
        let record = Record {
            index,
            bytes: Bytes::from_static(b"a record"),
        };
        log.append(vec![record], Box::new(move |outcome| drop(done.send(outcome))));
        confirmed.recv_timeout(Duration::from_secs(30))??;
        if log.sync_count() == before {
            found = Err(format!(
                "the append of record {index} was confirmed, and no sync had happened since it was handed in"
            ));
            break;
        }
    }
    log.flush_and_close()?;
    Ok(found)
}

/// FAULTS rows 41 to 53, in the pure clock: a renewal's stamp is taken when the quorum was silent for long; then
/// acknowledgements come again. Until the lease's TTL has passed since, no stamp may lie beyond its deadline.
fn a_pause_is_no_leap_of_lease_time(_folder: &Path) -> Found {
    let ms = Duration::from_millis;
    let mut looked_at = 0;
    for silence in (0..=10_000).step_by(250) {
        let ttl = ms(2_000);
        let mut clock = LeaseClock::begin(LeaseTime(0), ms(0));
        let renewed = clock.step(ms(silence), ms(0));
        let deadline = renewed.after(ttl);
        for passed in (0..2_000).step_by(100) {
            let now = ms(silence + passed);
            let stamp = clock.step(now, now);
            looked_at += 1;
            if stamp > deadline {
                return Ok(Err(format!(
                    "after {silence} ms without a quorum a renewal was stamped {renewed:?}, so its lease of {ttl:?} \
                     lives through {deadline:?}; {passed} ms later the clock said {stamp:?}: the lease ended {:?} early",
                    ttl - ms(passed)
                )));
            }
        }
    }
    Ok(Ok(format!("{looked_at} stamps after 41 lengths of silence")))
}

/// W11, without faults: what was answered reaches an open watch soon. (Simulated runs are too short to be calm for long.)
fn a_watch_is_given_what_is_acknowledged(folder: &Path) -> Found {
    const WRITES: u64 = 50;
    const SOON: Duration = Duration::from_secs(5);
    block_on(async {
        let lone = Lone::start(folder).await?;
        let term = lone.lead().await?;
        let everything = Selector {
            namespace: None,
            scope: Scope::All,
            serving: false,
            matches: vec![],
        };
        let mut watch = lone.hub.watch(everything, Start::Now)?;
        let mut found = Ok(format!("{WRITES} changes, each delivered after its answer"));
        for number in 0..WRITES {
            let revision = lone.register(term, number).await?.applied.revision;
            let Ok(delivery) = tokio::time::timeout(SOON, watch.next()).await else {
                found = Err(format!(
                    "revision {revision} was answered; {SOON:?} later a watch of everything stood at {}, and nothing came",
                    watch.position()
                ));
                break;
            };
            if !matches!(&delivery, Delivery::Changes { revision: given, .. } if *given == revision) {
                found = Err(format!(
                    "revision {revision} was answered; the watch was given {delivery:?}"
                ));
                break;
            }
        }
        drop(watch);
        lone.stop().await?;
        Ok(found)
    })
}

/// FAULTS row 70: a forward that was stuck names the term that its sender believed in; another one's leader refuses it.
fn a_forward_of_another_term_is_refused(folder: &Path) -> Found {
    block_on(async {
        let lone = Lone::start(folder).await?;
        let term = lone.lead().await?;
        let node = lone.node()?;
        let mut taken = None;
        for other in [Term(term.0 - 1), Term(term.0 + 1), Term(0)] {
            let command = Command::GrantLease {
                lease_id: Some(LeaseId(LeaseId::FIRST_OF_CALLERS.0 + other.0)),
                ttl: roster::model::Ttl::DEFAULT,
            };
            let request = ForwardRequest {
                seq: 1,
                term: other.0,
                request: Some(Request::Command(ForwardCommand {
                    command: command_to_bytes(&command),
                    timeout_ms: 2_000,
                })),
            };
            let answer = node.forwarded(NodeId(2), request).await.response;
            let refused = matches!(&answer, Some(Response::Failure(failure)) if failure.kind() == forward_failure::Kind::NotLeader);
            if !refused {
                taken = Some((other, answer));
                break;
            }
        }
        let leases = lone.hub.view().state.lease_count();
        node.shut_down().await;
        drop(node);
        lone.stop().await?;
        Ok(match taken {
            Some((other, answer)) => Err(format!(
                "the leader of term {term} took a grant that was sent to the leader of term {other}, and answered \
                 {answer:?}: {leases} leases there now"
            )),
            None if leases > 0 => Err(format!("three grants were refused, and {leases} leases are there")),
            None => Ok("3 forwards of other terms refused, nothing applied".to_owned()),
        })
    })
}

/// FAULTS row 3: a leader names a read index on one voter's word, so a node gives it for no leadership but that which has
/// its vote.
fn a_node_vouches_for_its_votes_leadership_only(folder: &Path) -> Found {
    block_on(async {
        let lone = Lone::start(folder).await?;
        let term = lone.lead().await?;
        let node = lone.node()?;
        let own = node.node_id();
        let asked = [
            (own, term, true),
            (own, Term(term.0 - 1), false),
            (own, Term(term.0 + 1), false),
            (NodeId(2), term, false),
            (NodeId(2), Term(term.0 - 1), false),
        ];
        let mut wrong = None;
        for (leader, of, right) in asked {
            let question = ForwardRequest {
                seq: 1,
                term: of.0,
                request: Some(Request::Vouch(VouchRequest {})),
            };
            let answer = node.forwarded(leader, question).await.response;
            if matches!(answer, Some(Response::VouchedThrough(_))) != right {
                wrong = Some((leader, of, answer));
                break;
            }
        }
        node.shut_down().await;
        drop(node);
        lone.stop().await?;
        Ok(match wrong {
            Some((leader, of, answer)) => Err(format!(
                "node {own} has voted for itself in term {term}; asked whether it vouches for node {leader} in term \
                 {of}, it answered {answer:?}"
            )),
            None => Ok(format!("{} questions, each answered by the vote", asked.len())),
        })
    })
}

/// All pages of a list show the revision of the first one, whatever is written between them.
fn a_list_goes_on_where_it_began(folder: &Path) -> Found {
    const BEFORE: u64 = 10;
    const BETWEEN: u64 = 5;
    block_on(async {
        let lone = Lone::start(folder).await?;
        let term = lone.lead().await?;
        let node = lone.node()?;
        for number in 0..BEFORE {
            lone.register(term, number).await?;
        }
        let first = node.state();
        let pin = node.pin(first.clone());
        for number in BEFORE..BEFORE + BETWEEN {
            lone.register(term, number).await?;
        }
        let (next, present) = (node.pinned(pin), node.state());
        node.shut_down().await;
        drop(node);
        lone.stop().await?;
        let next = next?;
        let shown = |state: &State| (state.revision(), state.instance_count());
        if shown(&present) == shown(&first) {
            return Err("what was written between the pages changed nothing".into());
        }
        Ok(if shown(&next) == shown(&first) {
            Ok(format!("the next page shows {:?}, as the first did", shown(&next)))
        } else {
            Err(format!(
                "the first page of a list showed {:?} (revision, instances); {BETWEEN} registers later the next one \
                 shows {:?}",
                shown(&first),
                shown(&next)
            ))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With the plants switched off; `faults plants` runs them switched on.
    #[test]
    fn nothing_is_found_where_nothing_is_planted() {
        // What is left out has a test of its own in `tests/storage/failure.rs`.
        for (name, test) in ALL.iter().filter(|(name, _)| *name != AS_A_PROGRAM) {
            let folder = tempfile::tempdir().unwrap();
            match in_time(*test, folder.path()).unwrap() {
                Ok(looked_at) => println!("{name}: {looked_at}"),
                Err(story) => panic!("{name}: {story}"),
            }
        }
    }
}
