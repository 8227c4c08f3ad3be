//! What a run saw: every call of every client, every step of every watch, every fault, and the witness. A history is
//! complete in itself: the checkers look at nothing else.
//!
//! On disk it is JSON, one [`Event`] a line, in the order in which the events ended; so a run that was cut short can be
//! read up to its last whole line.
//!
//! **How a call is matched with the log.** By unique contents, not by a request id kept in the log: the product has no
//! field that only a test would use. Each Register, BatchRegister and Update carries a [`Mark`] in the instance's
//! metadata (key [`MARK`]), used by one logical call only; a blind retry of it repeats the mark. A Deregister is known
//! by (key, incarnation): a recording client deregisters each life by one logical call. A Grant brings its own id, a
//! Revoke names one that only it revokes.

mod asked;
mod call;
mod digest;
mod whole;

use serde::{Deserialize, Serialize};

pub use asked::{Part, asked, asked_by};
pub use call::{Answer, Call, Hold, Overview, Record, RenewOutcome, Renewed, Reply, Request, Row, Selector};
pub use digest::digest;
pub use whole::{History, HistoryError, write_event};

/// The metadata key under which a record carries the mark of the call that wrote it last.
pub const MARK: &str = "mark";

/// What makes a write recognisable: `CLIENT-NUMBER`.
pub type Mark = String;

/// An instant of the recorder's one monotonic clock, in nanoseconds since the run began. All clients of a run share it.
pub type At = u64;

/// One line of a history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The first line.
    Run(Run),
    /// A call that was answered, or given up.
    Call(Call),
    /// A stream of watch that was opened and has ended, or was open when the run ended.
    Watch(WatchStream),
    /// What the client library told its application.
    Held(Held),
    /// A fault and its end.
    Fault(Fault),
    /// A node's word about itself, at one moment.
    Sample(Sample),
    /// One record of a node's committed log.
    Log(NodeLog),
    /// A node's content hash at one log index.
    StateHash(NodeHash),
    /// How far a node's log is safe from a power cut: only a simulated disk can tell.
    Durable(Durable),
}

/// What was run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// `simulation`, `processes`, `compose`, or a test's name.
    pub harness: String,
    /// Everything that was chosen by chance comes from it.
    pub seed: u64,
    /// How many nodes founded the cluster.
    pub nodes: u32,
    /// The command that runs it again.
    pub replay: String,
}

/// What names a record: `namespace/service/id`.
pub type Key = String;

/// One stream of watch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WatchStream {
    /// Unique in the run.
    pub id: u64,
    /// Streams of one watcher, each resuming where the one before ended, share it.
    pub watcher: u64,
    /// Which node it asked, if it knows.
    #[serde(default)]
    pub node: Option<String>,
    /// Taken before the first byte could leave.
    pub opened: At,
    /// What it watches.
    pub selector: Selector,
    /// Where it begins.
    pub start: Start,
    /// None = the default of 10 s; 0 = never.
    #[serde(default)]
    pub max_age_ns: Option<u64>,
    /// Its client stops reading now and then: how late it is says nothing.
    #[serde(default)]
    pub slow: bool,
    /// As received.
    pub steps: Vec<Step>,
    /// None = open when the run ended.
    #[serde(default)]
    pub ended: Option<Ended>,
}

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// With all that there is.
    Snapshot,
    /// After this revision.
    After(i64),
    /// With nothing, at the node's present.
    Now,
}

/// Why a stream ended: a reason of the error table, or the transport's word.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// When it was noticed.
    pub at: At,
    /// Of the error table, or the transport's word.
    pub reason: String,
}

/// One step of a watch: its messages up to the one whose `more` is false.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// When the last message of it was read.
    pub at: At,
    /// What it is.
    pub kind: StepKind,
    /// The position: the view is complete through here.
    pub revision: i64,
    /// Upper bound of the view's age, where it has one.
    #[serde(default)]
    pub age_ns: Option<u64>,
    /// Set on a snapshot that nobody asked for.
    #[serde(default)]
    pub reset: Option<String>,
    /// In the order received; of a snapshot: its records, each as a put.
    #[serde(default)]
    pub changes: Vec<Change>,
}

/// What a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepKind {
    /// The whole view, in place of what was there.
    Snapshot,
    /// What to change in it.
    Changes,
    /// Nothing; the position alone moves.
    Progress,
}

/// One change within a step, in the order received.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// At which it happened; of a snapshot's record: as received.
    pub revision: i64,
    /// Which record.
    pub key: Key,
    /// None = removed.
    #[serde(default)]
    pub put: Option<Record>,
    /// Why removed; unset after coalescing.
    #[serde(default)]
    pub reason: Option<String>,
}

/// For how long the client library told its application, whenever it asked, that an instance is registered and its
/// lease held.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// Which client.
    pub client: u32,
    /// Which record.
    pub key: Key,
    /// Its life.
    pub incarnation: i64,
    /// Its own lease.
    pub lease: i64,
    /// Its length in milliseconds.
    pub ttl_ms: u64,
    /// After the first time that it said so.
    pub from: At,
    /// Before the last time that it said so: whoever saw the lease expired before this contradicts it.
    pub until: At,
}

/// A fault and when it held.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// `kill`, `pause`, `partition`, `one_way`, `disk_frozen` …
    pub kind: String,
    /// The nodes that it hit.
    pub nodes: Vec<String>,
    /// Whether the leader of that moment was among them, in a minority or not running.
    #[serde(default)]
    pub hit_leader: bool,
    /// Whether a majority of voters stayed connected with each other and running.
    pub majority_left: bool,
    /// Taken before it began.
    pub from: At,
    /// Taken after it was over; None = until the run ended.
    #[serde(default)]
    pub until: Option<At>,
    /// For people.
    #[serde(default)]
    pub details: String,
}

/// A node's GetNodeStatus at one moment, or that it did not answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Who was asked.
    pub node: String,
    /// Taken before the question left.
    pub sent: At,
    /// Taken after the answer was read.
    pub ended: At,
    /// Its term.
    pub term: i64,
    /// Whom it takes for the leader; "" = none, or no answer.
    pub leader: String,
    /// Of its state.
    pub revision: i64,
    /// The last record of its log.
    pub log_index: i64,
    /// The last record that it applied.
    pub applied_index: i64,
    /// Which start of the process it was: counts from 0.
    #[serde(default)]
    pub life: u32,
}

/// One committed record of a node's log: the witness.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeLog {
    /// Whose log.
    pub node: String,
    /// Counts from 1 (0 where the founding membership stands there).
    pub index: u64,
    /// In which it was appended.
    pub term: u64,
    /// What it is.
    pub payload: Payload,
}

/// What a record of the log is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Payload {
    /// The first of a term.
    Blank,
    /// Who votes.
    Membership,
    /// Renewals and commands.
    Entry(Entry),
}

/// What a record of the log says. The commands stand here as the log has them: `wire::log`'s protobuf, in hex; histories
/// written by hand give [`Request`]s instead.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Lease time in nanoseconds.
    pub stamp_ns: u64,
    /// Which leases it renews.
    #[serde(default)]
    pub renewals: Vec<i64>,
    /// What it asks of the state machine, in order.
    #[serde(default)]
    pub commands: Vec<Request>,
    /// The whole entry as the log has it; then `renewals` and `commands` are not given.
    #[serde(default)]
    pub encoded: Option<String>,
}

/// A node's GetStateHash.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeHash {
    /// Whose state.
    pub node: String,
    /// At which index of the log.
    pub applied_index: u64,
    /// Of that state.
    pub revision: i64,
    /// In hex.
    pub hash: String,
}

/// How far a node's log is safe from a power cut, told whenever that changes, and before it is acted upon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Durable {
    /// When.
    pub at: At,
    /// Whose log.
    pub node: String,
    /// The last record that would be there after a power cut; falls when the log's end is cut off.
    pub synced_index: u64,
    /// Of a leader, when it takes more to be committed: through which record. Must be of its own term.
    #[serde(default)]
    pub committed_index: Option<u64>,
}
