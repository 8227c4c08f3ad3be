//! A call of a client: what was asked, and what came back.

use serde::{Deserialize, Serialize};

use super::{At, Key, Mark};

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
    /// Of what a Register, BatchRegister or Update asks for besides (see [`asked`](super::asked())); 0 = not recorded, not compared.
    #[serde(default)]
    pub asked: u64,
    /// What came back.
    pub answer: Answer,
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// One instance, put whole.
    Register {
        /// Which record.
        key: Key,
        /// Its life; 0 = not fenced.
        incarnation: i64,
        /// What is to hold it.
        hold: Hold,
        /// What makes this call recognisable.
        mark: Mark,
        /// Its `mod_revision` must be this; 0 = must not exist.
        #[serde(default)]
        expected: Option<i64>,
    },
    /// Several instances in one revision.
    BatchRegister {
        /// Which records.
        keys: Vec<Key>,
        /// The life of each.
        incarnation: i64,
        /// What is to hold them: a lease, or nothing.
        hold: Hold,
        /// Each of them carries it.
        mark: Mark,
    },
    /// A change of a part of a record: its mark and nothing that a checker looks at besides.
    Update {
        /// Which record.
        key: Key,
        /// Of the asker; 0 = not fenced.
        incarnation: i64,
        /// What makes this call recognisable.
        mark: Mark,
        /// Its `mod_revision` must be this.
        #[serde(default)]
        expected: Option<i64>,
    },
    /// The end of a record.
    Deregister {
        /// Which record.
        key: Key,
        /// Of the asker; 0 = not fenced.
        incarnation: i64,
        /// Its `mod_revision` must be this.
        #[serde(default)]
        expected: Option<i64>,
    },
    /// A shared lease.
    Grant {
        /// The asker's own id, 2^62 or more.
        lease: i64,
        /// Its length in milliseconds.
        ttl_ms: u64,
    },
    /// The end of a lease.
    Revoke {
        /// Which.
        lease: i64,
    },
    /// Unary, or one message of a KeepAlive stream.
    Renew {
        /// Which.
        leases: Vec<i64>,
        /// Whether it went on a KeepAlive stream.
        #[serde(default)]
        stream: bool,
    },
    /// One record.
    Get {
        /// Which.
        key: Key,
        /// Whether it asked for consistency STALE.
        #[serde(default)]
        stale: bool,
        /// Of a stale read: older is refused.
        #[serde(default)]
        max_age_ns: Option<u64>,
        /// The answer is to be at this revision or a later one.
        #[serde(default)]
        min_revision: i64,
    },
    /// All pages of one list.
    List {
        /// Which records.
        selector: Selector,
        /// Whether it asked for consistency STALE.
        #[serde(default)]
        stale: bool,
        /// Of a stale read: older is refused.
        #[serde(default)]
        max_age_ns: Option<u64>,
        /// The answer is to be at this revision or a later one.
        #[serde(default)]
        min_revision: i64,
    },
    /// Leases, or what there is in numbers: all pages of it, or the first ones.
    Overview {
        /// Of what.
        of: Overview,
        /// Whether it asked for consistency STALE.
        #[serde(default)]
        stale: bool,
        /// Of a stale read: older is refused.
        #[serde(default)]
        max_age_ns: Option<u64>,
        /// The answer is to be at this revision or a later one.
        #[serde(default)]
        min_revision: i64,
    },
}

impl Request {
    /// Whether it can change nothing.
    #[must_use]
    pub fn is_read(&self) -> bool {
        matches!(self, Self::Get { .. } | Self::List { .. } | Self::Overview { .. })
    }

    /// Whether it is a read that asked for consistency STALE.
    #[must_use]
    pub fn is_stale_read(&self) -> bool {
        matches!(
            self,
            Self::Get { stale: true, .. } | Self::List { stale: true, .. } | Self::Overview { stale: true, .. }
        )
    }
}

/// What an overview is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overview {
    /// `GetLease`: one lease, and the keys that it holds.
    Lease(i64),
    /// `ListLeases`.
    Leases,
    /// `ListServices`, of all namespaces.
    Services,
    /// `ListNamespaces`.
    Namespaces,
}

/// What holds an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hold {
    /// Its own lease, which lives and ends with it.
    Own {
        /// Its length in milliseconds.
        ttl_ms: u64,
    },
    /// A shared lease, granted before.
    Lease(i64),
    /// Nothing: until deregistered.
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
        /// Of the answer's header.
        revision: i64,
        /// Of the answer's header.
        #[serde(default)]
        term: i64,
        /// What it says.
        reply: Reply,
    },
    /// The state machine refused it at this revision: NOT_FOUND, FENCED, REVISION_MISMATCH …: a read of the state.
    Rejected {
        /// Of the error's metadata; 0 where it had none.
        revision: i64,
        /// Of the error table.
        reason: String,
    },
    /// A definite failure (`outcome` = `not_applied`, or refused before anything was proposed); for a read: any failure.
    Failed {
        /// Of the error table, or the transport's word.
        reason: String,
    },
    /// It may have taken effect: `outcome` = `unknown`, or the connection or the deadline ended it.
    Unknown {
        /// Of the error table, or the transport's word.
        reason: String,
    },
}

/// What a call that was done brought back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// A register or an update: the record as it now stands.
    Record(Record),
    /// BatchRegister.
    Batch {
        /// Whether it moved the revision.
        changed: bool,
    },
    /// Deregister, Revoke.
    Gone {
        /// Whether there was anything to end.
        existed: bool,
    },
    /// Grant.
    Lease {
        /// Its id.
        lease: i64,
        /// Its length in milliseconds.
        ttl_ms: u64,
    },
    /// Renew: a result for each id, in the order asked.
    Renewed(Vec<Renewed>),
    /// Get, List, Overview.
    Read {
        /// Whether the header says so.
        #[serde(default)]
        stale: bool,
        /// Upper bound of its age, where it has one.
        #[serde(default)]
        age_ns: Option<u64>,
        /// In order of key.
        records: Vec<Record>,
        /// Of an overview, in the order received.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        rows: Vec<Row>,
        /// The client asked for no further page, though there was one.
        #[serde(default)]
        partial: bool,
    },
}

/// One line of an overview.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Row {
    /// A lease.
    Lease {
        /// Its id.
        lease: i64,
        /// Whether it was made with an instance and ends with it.
        own: bool,
        /// Its length in milliseconds.
        ttl_ms: u64,
        /// What is left of it by lease time, in nanoseconds.
        remaining_ns: u64,
        /// How many instances it holds.
        instances: u32,
    },
    /// A key that the lease asked for holds.
    Held(Key),
    /// A service with instances in it.
    Service {
        /// `namespace/service`.
        service: String,
        /// How many are STARTING, UP, DRAINING, DOWN.
        by_status: [u32; 4],
        /// The latest of its instances'.
        mod_revision: i64,
    },
    /// A namespace with instances in it.
    Namespace {
        /// Its name.
        namespace: String,
        /// How many services have instances.
        services: u32,
        /// How many instances there are.
        instances: u32,
    },
}

/// One lease's result of a renewal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Renewed {
    /// Which lease.
    pub lease: i64,
    /// What became of it.
    pub outcome: RenewOutcome,
    /// How many instances it holds.
    #[serde(default)]
    pub instances: u32,
}

/// What became of the renewal of one lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RenewOutcome {
    /// A quorum has it.
    Renewed,
    /// There is no such lease.
    NotFound,
    /// It may yet take effect.
    Unconfirmed,
}

/// A record as a client saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its name.
    pub key: Key,
    /// Its life.
    pub incarnation: i64,
    /// 0 = permanent.
    #[serde(default)]
    pub lease: i64,
    /// Of the call that wrote it last.
    pub mark: Mark,
    /// Of its first change.
    pub create_revision: i64,
    /// Of its last change.
    pub mod_revision: i64,
    /// Of the whole instance but its wall-clock times (see [`digest`]); 0 in histories written by hand: not compared.
    #[serde(default)]
    pub digest: u64,
}
