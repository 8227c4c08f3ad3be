//! A snapshot's body: the registry's items, each a `roster.internal.v1.SnapshotItem` framed by its length.
//!
//! ```text
//! item  = length (varint) bytes (a SnapshotItem)
//! body  = item*                                     in the canonical order of `registry::State::items`
//! ```
//!
//! Whether the file is whole is `storage`'s affair (a checksum at its end); here a body that ends between two items
//! ends, and one that ends within an item is an error.

use std::{
    io::{self, Read, Write},
    sync::Arc,
};

use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};

use super::{
    DecodeError,
    field::{Fields, Path},
    instance::{encoded_once, instance_from_proto, instance_to_proto, key_to_proto},
    internal,
    log::unset,
};
use crate::{
    model::{Incarnation, LeaseId, LeaseTime, Revision, Ttl},
    registry::{Settings, SnapshotItem},
};

/// The longest item: a record of the largest size has room in it several times, so that limits may grow.
pub const ITEM_MAX_BYTES: usize = 1 << 20;

const ITEM_INSTANCE_TAG: u32 = 3;
const INSTANCE_ITEM_INSTANCE_TAG: u32 = 1;

/// An item as it is written.
#[must_use]
pub fn item_to_proto(item: &SnapshotItem) -> internal::SnapshotItem {
    use internal::snapshot_item::Item;
    let item = match item {
        SnapshotItem::State {
            revision,
            clock,
            next_lease_id,
            settings,
        } => Item::State(internal::StateItem {
            revision: revision.0,
            clock_ns: clock.0,
            next_lease_id: next_lease_id.0,
            max_instances: settings.max_instances,
            max_leases: settings.max_leases,
            max_instances_per_lease: settings.max_instances_per_lease,
            max_fences: settings.max_fences,
        }),
        SnapshotItem::Lease {
            lease_id,
            ttl,
            own,
            deadline,
        } => Item::Lease(internal::LeaseItem {
            lease_id: lease_id.0,
            ttl_ms: ttl.as_ms(),
            own: *own,
            deadline_ns: deadline.0,
        }),
        SnapshotItem::Instance(instance) => Item::Instance(internal::InstanceItem {
            instance: Some(instance_to_proto(instance)),
        }),
        SnapshotItem::Fence {
            key,
            incarnation,
            until,
        } => Item::Fence(internal::FenceItem {
            key: Some(key_to_proto(key)),
            incarnation: incarnation.0,
            until_ns: until.0,
        }),
    };
    internal::SnapshotItem { item: Some(item) }
}

/// Reads an item.
///
/// # Errors
/// It breaks the rules of the model.
pub fn item_from_proto(item: internal::SnapshotItem) -> Result<SnapshotItem, DecodeError> {
    use internal::snapshot_item::Item;
    let item = match item.item {
        None => return Err(unset("item")),
        Some(Item::State(state)) => SnapshotItem::State {
            revision: Revision(state.revision),
            clock: LeaseTime(state.clock_ns),
            next_lease_id: LeaseId(state.next_lease_id),
            settings: Settings {
                max_instances: state.max_instances,
                max_leases: state.max_leases,
                max_instances_per_lease: state.max_instances_per_lease,
                max_fences: state.max_fences,
            },
        },
        Some(Item::Lease(lease)) => SnapshotItem::Lease {
            lease_id: LeaseId(lease.lease_id),
            ttl: Fields::check(|fields| {
                fields.accept(&Path::Root.field("lease").field("ttl_ms"), Ttl::from_ms(lease.ttl_ms))
            })?,
            own: lease.own,
            deadline: LeaseTime(lease.deadline_ns),
        },
        Some(Item::Instance(internal::InstanceItem { instance })) => {
            let instance = instance.ok_or_else(|| unset("instance.instance"))?;
            SnapshotItem::Instance(Arc::new(instance_from_proto(instance)?))
        }
        Some(Item::Fence(fence)) => SnapshotItem::Fence {
            key: Fields::check(|fields| fields.key(&Path::Root.field("fence").field("key"), fence.key))?,
            incarnation: Incarnation(fence.incarnation),
            until: LeaseTime(fence.until_ns),
        },
    };
    Ok(item)
}

/// Writes an item with its length before it.
///
/// # Errors
/// Those of the writer.
pub fn write_item(out: &mut impl Write, item: &SnapshotItem) -> io::Result<()> {
    // A record is nearly always encoded already, for the readers: its bytes are wrapped instead of made again.
    let SnapshotItem::Instance(instance) = item else {
        return out.write_all(&item_to_proto(item).encode_length_delimited_to_vec());
    };
    let record = encoded_once(instance);
    let length = |tag: u32, bytes: usize| key_len(tag) + encoded_len_varint(bytes as u64) + bytes;
    let inner = length(INSTANCE_ITEM_INSTANCE_TAG, record.len());
    let outer = length(ITEM_INSTANCE_TAG, inner);
    let mut head = Vec::with_capacity(16);
    encode_varint(outer as u64, &mut head);
    encode_key(ITEM_INSTANCE_TAG, WireType::LengthDelimited, &mut head);
    encode_varint(inner as u64, &mut head);
    encode_key(INSTANCE_ITEM_INSTANCE_TAG, WireType::LengthDelimited, &mut head);
    encode_varint(record.len() as u64, &mut head);
    out.write_all(&head)?;
    out.write_all(&record)
}

/// Reads the items of a body, one after the other. After an error it ends.
#[derive(Debug)]
pub struct ItemReader<R> {
    body: R,
    buffer: Vec<u8>,
    ended: bool,
}

impl<R: Read> ItemReader<R> {
    /// Reads `body` from where it stands; give it a buffered reader, for lengths are read byte by byte.
    pub fn new(body: R) -> Self {
        Self {
            body,
            buffer: Vec::new(),
            ended: false,
        }
    }

    fn read_item(&mut self) -> Result<Option<SnapshotItem>, DecodeError> {
        let Some(length) = self.read_length()? else {
            return Ok(None);
        };
        let fits = usize::try_from(length).ok().filter(|&length| length <= ITEM_MAX_BYTES);
        let Some(length) = fits else {
            return Err(DecodeError::TooLong {
                claimed: length,
                limit: ITEM_MAX_BYTES,
            });
        };
        self.buffer.resize(length, 0);
        self.body.read_exact(&mut self.buffer)?;
        item_from_proto(internal::SnapshotItem::decode(self.buffer.as_slice())?).map(Some)
    }

    /// The next length; `None` at the end of the body.
    fn read_length(&mut self) -> Result<Option<u64>, DecodeError> {
        let mut length = 0_u64;
        for shift in (0..64).step_by(7) {
            let mut byte = [0];
            match self.body.read_exact(&mut byte) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && shift == 0 => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            let [byte] = byte;
            length |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(Some(length));
            }
        }
        Err(DecodeError::TooLong {
            claimed: u64::MAX,
            limit: ITEM_MAX_BYTES,
        })
    }
}

impl<R: Read> Iterator for ItemReader<R> {
    type Item = Result<SnapshotItem, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let item = self.read_item().transpose();
        self.ended = !matches!(item, Some(Ok(_)));
        item
    }
}
