//! Numbers that must not be taken for one another.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl $name {
            /// The number as the API carries it, which has no unsigned 64-bit fields. Values beyond `i64::MAX`
            /// never arise: parsing refuses them and counters can't reach them.
            #[must_use]
            pub fn as_i64(self) -> i64 {
                i64::try_from(self.0).unwrap_or(i64::MAX)
            }
        }
    };
}

number! {
    /// A node's number in the cluster; given once, never used again after the node is removed.
    NodeId
}
number! {
    /// A Raft term.
    Term
}
number! {
    /// A position in the Raft log, from 0.
    LogIndex
}
number! {
    /// A position in the registry's history: one more for each command that changed something. 0 = nothing has
    /// changed yet.
    Revision
}
number! {
    /// A lease's number. The state machine gives them in sequence from 1; a caller's own is
    /// [`LeaseId::FIRST_OF_CALLERS`] or more. Never reused.
    LeaseId
}
number! {
    /// Which life of an instance a record belongs to: set by its owner, grows with each new life. 0 = not fenced.
    Incarnation
}

impl Revision {
    /// The revision after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl LogIndex {
    /// The index after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl LeaseId {
    /// The smallest id that a caller may choose for itself: below it the state machine counts.
    pub const FIRST_OF_CALLERS: Self = Self(1 << 62);
}

/// Which cluster: random, made when the cluster is founded, changed by a restore from backup. Printed as 16 hex
/// digits. Never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(std::num::NonZeroU64);

impl ClusterId {
    /// `None` for 0, which means "no cluster".
    #[must_use]
    pub fn new(id: u64) -> Option<Self> {
        std::num::NonZeroU64::new(id).map(Self)
    }

    /// Reads the 16 hex digits that [`fmt::Display`] prints.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let well_formed = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        if well_formed {
            u64::from_str_radix(text, 16).ok().and_then(Self::new)
        } else {
            None
        }
    }

    /// The number behind it.
    #[must_use]
    pub fn as_u64(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_id_reads_back_what_it_prints() {
        let id = ClusterId::new(0xab_cdef).expect("not 0");
        assert_eq!(ClusterId::parse(&id.to_string()), Some(id));
    }

    #[test]
    fn cluster_id_refuses_all_that_it_does_not_print() {
        for text in [
            "",
            "0",
            "0000000000000000",
            "00000000000000g1",
            "+000000000000001",
            "00000000000000001",
        ] {
            assert_eq!(ClusterId::parse(text), None, "{text:?}");
        }
    }
}
