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

use serde::{Deserialize, Serialize};

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
    /// A fault and its end.
    Fault(Fault),
    /// A node's word about itself, at one moment.
    Sample(Sample),
    /// One record of a node's committed log.
    Log(NodeLog),
    /// A node's content hash at one log index.
    StateHash(NodeHash),
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

/// One logical call. A retry of the same call by the same client is another attempt of it (`attempt` counts).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// Unique in the run; attempts of one logical call share it.
    pub id: u64,
    /// Counts from 0.
    #[serde(default)]
    pub attempt: u32,
    /// Which client: it has one call at a time, but for those on streams.
    pub client: u32,
    /// Which node it asked, if it knows.
    #[serde(default)]
    pub node: Option<String>,
    /// Taken before the first byte could leave.
    pub sent: At,
    /// Taken after the answer was read, or when the client gave up.
    pub ended: At,
    /// What was asked.
    pub request: Request,
    /// What came back.
    pub answer: Answer,
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    Register {
        key: Key,
        incarnation: i64,
        hold: Hold,
        mark: Mark,
        #[serde(default)]
        expected: Option<i64>,
    },
    BatchRegister {
        keys: Vec<Key>,
        incarnation: i64,
        hold: Hold,
        mark: Mark,
    },
    Update {
        key: Key,
        incarnation: i64,
        mark: Mark,
        #[serde(default)]
        expected: Option<i64>,
    },
    Deregister {
        key: Key,
        incarnation: i64,
        #[serde(default)]
        expected: Option<i64>,
    },
    Grant {
        lease: i64,
        ttl_ms: u64,
    },
    Revoke {
        lease: i64,
    },
    /// Unary, or one message of a KeepAlive stream.
    Renew {
        leases: Vec<i64>,
        #[serde(default)]
        stream: bool,
    },
    Get {
        key: Key,
        #[serde(default)]
        stale: bool,
        #[serde(default)]
        max_age_ns: Option<u64>,
        #[serde(default)]
        min_revision: i64,
    },
    /// All pages of one list.
    List {
        selector: Selector,
        #[serde(default)]
        stale: bool,
        #[serde(default)]
        max_age_ns: Option<u64>,
        #[serde(default)]
        min_revision: i64,
    },
}

/// What holds an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hold {
    Own { ttl_ms: u64 },
    Lease(i64),
    Permanent,
}

/// What a list or a watch selects, in namespace `default`; all that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selector {
    /// These services; none = every service.
    #[serde(default)]
    pub services: Vec<String>,
    /// Services whose names begin so.
    #[serde(default)]
    pub prefix: Option<String>,
    /// UP and weight > 0.
    #[serde(default)]
    pub serving: bool,
    /// Has this tag.
    #[serde(default)]
    pub tag: Option<String>,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It took effect, or was answered, at this revision.
    Done {
        revision: i64,
        #[serde(default)]
        term: i64,
        reply: Reply,
    },
    /// The state machine refused it at this revision: NOT_FOUND, FENCED, REVISION_MISMATCH …: a read of the state.
    Rejected { revision: i64, reason: String },
    /// A definite failure (`outcome` = `not_applied`, or refused before anything was proposed); for a read: any failure.
    Failed { reason: String },
    /// It may have taken effect: `outcome` = `unknown`, or the connection or the deadline ended it.
    Unknown { reason: String },
}

/// What a call that was done brought back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// A register or an update: the record as it now stands.
    Record(Record),
    /// BatchRegister.
    Batch {
        changed: bool,
    },
    /// Deregister, Revoke.
    Gone {
        existed: bool,
    },
    Lease {
        lease: i64,
        ttl_ms: u64,
    },
    Renewed(Vec<Renewed>),
    Read {
        #[serde(default)]
        stale: bool,
        #[serde(default)]
        age_ns: Option<u64>,
        records: Vec<Record>,
    },
}

/// One lease's result of a renewal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Renewed {
    pub lease: i64,
    pub outcome: RenewOutcome,
    /// How many instances it holds.
    #[serde(default)]
    pub instances: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RenewOutcome {
    Renewed,
    NotFound,
    Unconfirmed,
}

/// A record as a client saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub key: Key,
    pub incarnation: i64,
    /// 0 = permanent.
    #[serde(default)]
    pub lease: i64,
    pub mark: Mark,
    pub create_revision: i64,
    pub mod_revision: i64,
    /// Of the whole instance but its wall-clock times (see `digest`); 0 in histories written by hand: not compared.
    #[serde(default)]
    pub digest: u64,
}

/// One stream of watch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WatchStream {
    /// Unique in the run.
    pub id: u64,
    /// Streams of one watcher, each resuming where the one before ended, share it.
    pub watcher: u64,
    #[serde(default)]
    pub node: Option<String>,
    pub opened: At,
    pub selector: Selector,
    pub start: Start,
    #[serde(default)]
    pub max_age_ns: Option<u64>,
    pub steps: Vec<Step>,
    /// None = open when the run ended.
    #[serde(default)]
    pub ended: Option<Ended>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    Snapshot,
    After(i64),
    Now,
}

/// Why a stream ended: a reason of the error table, or the transport's word.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    pub at: At,
    pub reason: String,
}

/// One step of a watch: its messages up to the one whose `more` is false.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// When the last message of it was read.
    pub at: At,
    pub kind: StepKind,
    /// The position: the view is complete through here.
    pub revision: i64,
    #[serde(default)]
    pub age_ns: Option<u64>,
    /// Set on a snapshot that nobody asked for.
    #[serde(default)]
    pub reset: Option<String>,
    #[serde(default)]
    pub changes: Vec<Change>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepKind {
    Snapshot,
    Changes,
    Progress,
}

/// One change within a step, in the order received.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    pub revision: i64,
    pub key: Key,
    /// None = removed.
    #[serde(default)]
    pub put: Option<Record>,
    /// Why removed; unset after coalescing.
    #[serde(default)]
    pub reason: Option<String>,
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
    pub from: At,
    /// None = until the run ended.
    #[serde(default)]
    pub until: Option<At>,
    #[serde(default)]
    pub details: String,
}

/// A node's GetNodeStatus at one moment, or that it did not answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub node: String,
    pub sent: At,
    pub ended: At,
    pub term: i64,
    pub leader: String,
    pub revision: i64,
    pub log_index: i64,
    pub applied_index: i64,
    /// Which start of the process it was: counts from 0.
    #[serde(default)]
    pub life: u32,
}

/// One committed record of a node's log: the witness.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeLog {
    pub node: String,
    pub index: u64,
    pub term: u64,
    pub payload: Payload,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Payload {
    Blank,
    Membership,
    Entry(Entry),
}

/// What a record of the log says. The commands stand here as the log has them: `wire::log`'s protobuf, in hex; histories
/// written by hand give [`Request`]s instead.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub stamp_ns: u64,
    #[serde(default)]
    pub renewals: Vec<i64>,
    #[serde(default)]
    pub commands: Vec<Request>,
    /// The whole entry as the log has it; then `renewals` and `commands` are not given.
    #[serde(default)]
    pub encoded: Option<String>,
}

/// A node's GetStateHash.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeHash {
    pub node: String,
    pub applied_index: u64,
    pub revision: i64,
    pub hash: String,
}
