//! Every limit that the API promises, in one table.
//!
//! Limits on the *state* are replicated with it (`registry::Settings` begins with these values); limits on a *node*
//! are its configuration. Limits of one room's own queues stand in that room.

/// A request or a response message, encoded.
pub const MESSAGE_MAX_BYTES: usize = 2 << 20;
/// One record's owner's fields, encoded.
pub const RECORD_MAX_BYTES: usize = 64 << 10;
/// A namespace, a service name, an instance's id, a node's name.
pub const NAME_MAX_BYTES: usize = 253;
/// Host name or IP.
pub const ADDRESS_MAX_BYTES: usize = 253;
/// Ports of an instance.
pub const PORTS_MAX: usize = 16;
/// A port's name and its protocol, each.
pub const PORT_NAME_MAX_BYTES: usize = 64;
/// The largest weight.
pub const WEIGHT_MAX: u32 = 65_535;
/// The weight of an instance that names none.
pub const WEIGHT_DEFAULT: u32 = 100;
/// Region, zone and version, each.
pub const LABEL_MAX_BYTES: usize = 253;
/// Tags of an instance.
pub const TAGS_MAX: usize = 64;
/// One tag.
pub const TAG_MAX_BYTES: usize = 64;
/// Metadata entries of an instance.
pub const METADATA_MAX: usize = 64;
/// One metadata key.
pub const METADATA_KEY_MAX_BYTES: usize = 64;
/// One metadata value.
pub const METADATA_VALUE_MAX_BYTES: usize = 4 << 10;
/// The shortest TTL.
pub const TTL_MIN_MS: u64 = 1_000;
/// The longest TTL.
pub const TTL_MAX_MS: u64 = 24 * 60 * 60 * 1_000;
/// Instances in one BatchRegister.
pub const BATCH_MAX: usize = 1_000;
/// Ids in one renewal.
pub const RENEWAL_IDS_MAX: usize = 10_000;
/// Instances in the cluster (replicated setting).
pub const INSTANCES_MAX: u64 = 2_000_000;
/// Leases in the cluster (replicated setting).
pub const LEASES_MAX: u64 = 1_000_000;
/// Instances that one lease holds (replicated setting).
pub const INSTANCES_PER_LEASE_MAX: u64 = 10_000;
/// Fences that outlive their records (replicated setting).
pub const FENCES_MAX: u64 = 100_000;
/// Instances on a page when the caller names no size.
pub const PAGE_DEFAULT: usize = 500;
/// The largest page.
pub const PAGE_MAX: usize = 5_000;
/// Watches on one stream.
pub const WATCHES_PER_STREAM_MAX: usize = 1_000;
/// Watches on one node.
pub const WATCHES_PER_NODE_MAX: usize = 50_000;
/// Changes that a node keeps for watches to resume from.
pub const HISTORY_MAX_CHANGES: usize = 100_000;
/// Their encoded size.
pub const HISTORY_MAX_BYTES: usize = 64 << 20;
/// What waits for one watcher, encoded.
pub const WATCH_QUEUE_MAX_BYTES: usize = 4 << 20;
/// Names in a selector's `services`.
pub const SELECTOR_SERVICES_MAX: usize = 1_000;
/// Matches in a selector.
pub const SELECTOR_MATCHES_MAX: usize = 32;
/// Values in one match.
pub const MATCH_VALUES_MAX: usize = 256;
