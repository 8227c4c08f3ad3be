//! How one record of the log and one marker look in the database.
//!
//! ```text
//! column family "log"       key    log index, 8 bytes, big-endian: keys sort as the log does
//!                           value  ┌────────┬──────────┬─────────┐
//!                                  │ format │ checksum │ bytes … │
//!                                  └────────┴──────────┴─────────┘
//!                                   1 byte   4, little   as handed in
//! column family "default"   key    one byte: 'v' vote, 'c' committed, 'p' purged, 'a' acknowledged,
//!                                  's' start = the index where the log begins (8 bytes, big-endian)
//!                           value  as above
//! ```
//!
//! The checksum is CRC-32C over format, key and bytes: a value that sits under another's key is found too. RocksDB
//! checks its own blocks; this one also covers what happens to a value on its way there and back.

use bytes::Bytes;

/// The newest format known here.
const FORMAT: u8 = 1;
/// Format and checksum.
const HEADER_BYTES: usize = 5;

/// One record of the log: opaque bytes under an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its place in the log.
    pub index: u64,
    /// What it holds.
    pub bytes: Bytes,
}

/// A small value beside the log, in the same order of writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marker {
    /// The vote that this node cast.
    Vote,
    /// How far the log was known to be committed: a hint, written without a sync.
    Committed,
    /// The last record that was purged; written by `purge_through` alone.
    Purged,
    /// The last record that this node told anyone it has.
    Acknowledged,
}

impl Marker {
    pub(super) const ALL: [Self; 4] = [Self::Vote, Self::Committed, Self::Purged, Self::Acknowledged];

    pub(super) fn key(self) -> [u8; 1] {
        match self {
            Self::Vote => *b"v",
            Self::Committed => *b"c",
            Self::Purged => *b"p",
            Self::Acknowledged => *b"a",
        }
    }

    /// Its place in arrays of [`Marker::ALL`]'s order.
    pub(super) fn position(self) -> usize {
        match self {
            Self::Vote => 0,
            Self::Committed => 1,
            Self::Purged => 2,
            Self::Acknowledged => 3,
        }
    }
}

/// The marker that is storage's own: where the log begins.
pub(super) const START_KEY: [u8; 1] = *b"s";

/// The key of a record.
pub(super) fn log_key(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}

/// The index that a key stands for; `None` for what is no key of a record.
pub(super) fn log_index(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.try_into().ok()?))
}

/// Writes a value into `buffer`, which is emptied first.
pub(super) fn encode(buffer: &mut Vec<u8>, key: &[u8], bytes: &[u8]) {
    buffer.clear();
    buffer.reserve(HEADER_BYTES + bytes.len());
    buffer.push(FORMAT);
    buffer.extend_from_slice(&checksum(FORMAT, key, bytes).to_le_bytes());
    buffer.extend_from_slice(bytes);
}

/// Takes a value apart.
///
/// # Errors
/// Says what is wrong with it.
pub(super) fn decode<'a>(key: &[u8], value: &'a [u8]) -> Result<&'a [u8], &'static str> {
    let Some((&[format, a, b, c, d], bytes)) = value.split_first_chunk::<HEADER_BYTES>() else {
        return Err("its value is shorter than its header");
    };
    if u32::from_le_bytes([a, b, c, d]) != checksum(format, key, bytes) {
        return Err("its checksum is wrong");
    }
    if format == FORMAT {
        Ok(bytes)
    } else {
        Err("a newer release wrote it")
    }
}

fn checksum(format: u8, key: &[u8], bytes: &[u8]) -> u32 {
    let head = crc32c::crc32c_append(crc32c::crc32c(&[format]), key);
    crc32c::crc32c_append(head, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_reads_back_under_its_own_key_only() {
        let mut value = Vec::new();
        encode(&mut value, &log_key(7), b"seven");
        assert_eq!(decode(&log_key(7), &value), Ok(&b"seven"[..]));
        assert!(decode(&log_key(8), &value).is_err());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let mut value = Vec::new();
        encode(&mut value, &log_key(7), b"seven");
        for bit in 0..value.len() * 8 {
            let mut damaged = value.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&log_key(7), &damaged).is_err(), "bit {bit}");
        }
        for cut in 0..value.len() {
            assert!(decode(&log_key(7), &value[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn keys_sort_as_the_log_does() {
        let indexes = [0, 1, 255, 256, 65_535, 65_536, u64::MAX - 1, u64::MAX];
        assert!(indexes.map(log_key).is_sorted());
        assert!(indexes.iter().all(|&index| log_index(&log_key(index)) == Some(index)));
        assert_eq!(log_index(b"short"), None);
    }
}
