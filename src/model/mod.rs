//! The nouns that every room shares: ids, names, revisions, instances, leases, selectors.
//!
//! Parsing makes the invalid unrepresentable: a value of one of these types already satisfies the rules of its
//! field, so no other room checks a name, a range or a length again. Nothing here knows of gRPC, of clocks or of
//! I/O.

mod encoded_size;
mod id;
mod instance;
mod key;
mod lease;
pub mod limits;
mod member;
mod metadata;
mod name;
mod selector;
mod tags;
mod text;

pub use id::{ClusterId, Incarnation, LeaseId, LogIndex, NodeId, Revision, Term};
pub use instance::{Instance, InstanceSpec, Port, Status};
pub use key::{InstanceKey, Names};
pub use lease::{Hold, LeaseInfo, LeaseTime, Ttl, TtlError};
pub use member::{Member, NodeName, Position};
pub use metadata::Metadata;
pub use name::{InstanceId, NameError, Namespace, ServiceName};
pub use selector::{Match, MatchField, MatchOp, Scope, Selector};
pub use tags::Tags;
pub use text::Text;
