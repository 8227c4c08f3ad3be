//! A look at RocksDB's write-ahead log before RocksDB replays it.
//!
//! RocksDB itself refuses most damage, but names no place; and two kinds within the last 32 KiB it takes for the end
//! of the file and drops in silence, with all that follows: a length that points beyond the end, and zeros where a
//! record should begin.
//! So the log is read here first. What breaks off at its end was never confirmed and is left to RocksDB, which drops
//! it; damage with a later record behind it is an error that names file and offset.
//!
//! ```text
//! file    blocks of 32 KiB, each a row of physical records; fewer than 7 bytes left in a block are zeros
//! record  ┌──────────────┬────────┬──────┬─────────┐
//!         │ crc32c       │ length │ type │ payload │      type: 1 whole, 2 first, 3 middle, 4 last part
//!         │ 4, masked    │ 2      │ 1    │ length  │      checksum over type and payload
//!         └──────────────┴────────┴──────┴─────────┘      numbers little-endian
//! ```
//!
//! Source: "Write Ahead Log File Format" in RocksDB's documentation; log recycling and compression are off here.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::error::{Corruption, OpenError};

const BLOCK_BYTES: usize = 32 << 10;
const HEADER_BYTES: usize = 7;
const CHECKSUM_MASK: u32 = 0xa282_ead8;

/// The write-ahead logs in a database's directory, oldest first.
pub(super) fn files(directory: &Path) -> Result<Vec<PathBuf>, OpenError> {
    let entries = fs::read_dir(directory).map_err(|error| OpenError::io(directory, "list", error))?;
    let mut numbered = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| OpenError::io(directory, "list", error))?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            let number = path
                .file_stem()
                .and_then(|stem| stem.to_str())
                .and_then(|stem| stem.parse::<u64>().ok());
            numbered.extend(number.map(|number| (number, path)));
        }
    }
    numbered.sort();
    Ok(numbered.into_iter().map(|(_, path)| path).collect())
}

/// Reads every write-ahead log in the directory. Returns the place where the newest breaks off, if it does.
///
/// # Errors
/// [`OpenError::Corrupt`] with file and offset when one is damaged anywhere but at its end.
pub(super) fn inspect(directory: &Path) -> Result<Option<String>, OpenError> {
    let mut torn = None;
    for path in files(directory)? {
        let opened = File::open(&path).and_then(read);
        let place = |offset| format!("{}, offset {offset}", path.display());
        match opened.map_err(|error| OpenError::io(&path, "read", error))? {
            Verdict::Whole => torn = None,
            Verdict::Torn { offset } => torn = Some(place(offset)),
            Verdict::Damaged { offset, later } => {
                return Err(OpenError::Corrupt(Corruption::new(
                    place(offset),
                    format!("a record of the write-ahead log is damaged, and another one follows at offset {later}"),
                )));
            }
        }
    }
    Ok(torn)
}

/// What one write-ahead log looks like.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Whole,
    /// The first record that can't be read begins at `offset`, and no other begins behind it.
    Torn {
        offset: u64,
    },
    /// The first record that can't be read begins at `offset`, and one that can begins at `later`.
    Damaged {
        offset: u64,
        later: u64,
    },
}

/// Reads one write-ahead log.
pub(super) fn read(mut file: impl Read) -> io::Result<Verdict> {
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    let mut base = 0_u64;
    let mut broken: Option<u64> = None;
    loop {
        block.clear();
        file.by_ref().take(BLOCK_BYTES as u64).read_to_end(&mut block)?;
        if block.is_empty() {
            return Ok(broken.map_or(Verdict::Whole, |offset| Verdict::Torn { offset }));
        }
        let begins = match broken {
            // The damage may have hidden where the next record begins within its block, but not the next block.
            Some(_) => walk(&block).0,
            None => match walk(&block) {
                (_, None) => None,
                (_, Some(position)) => {
                    broken = Some(base + position as u64);
                    (position + 1..block.len()).find(|&later| begins_record(&block[later..]))
                }
            },
        };
        if let (Some(offset), Some(later)) = (broken, begins) {
            return Ok(Verdict::Damaged {
                offset,
                later: base + later as u64,
            });
        }
        base += block.len() as u64;
    }
}

/// Goes through a block's records: where the first whole or first part of a logical record stands, and where the
/// first thing stands that is no record.
fn walk(block: &[u8]) -> (Option<usize>, Option<usize>) {
    let mut begins = None;
    let mut position = 0;
    while position < block.len() {
        let rest = &block[position..];
        if BLOCK_BYTES - position < HEADER_BYTES {
            let padding = rest.iter().all(|&byte| byte == 0);
            return (begins, (!padding).then_some(position));
        }
        let Some(bytes) = record_bytes(rest) else {
            return (begins, Some(position));
        };
        if begins_record(rest) {
            begins = begins.or(Some(position));
        }
        position += bytes;
    }
    (begins, None)
}

/// Length of the valid physical record at the front of `bytes`, its header included.
fn record_bytes(bytes: &[u8]) -> Option<usize> {
    let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
    let &[a, b, c, d, low, high, kind] = header;
    let payload = rest.get(..usize::from(u16::from_le_bytes([low, high])))?;
    if kind == 0 {
        return None;
    }
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&[kind]), payload);
    let masked = checksum.rotate_right(15).wrapping_add(CHECKSUM_MASK);
    (masked == u32::from_le_bytes([a, b, c, d])).then_some(HEADER_BYTES + payload.len())
}

/// Whether a logical record begins here, in one part or with its first one.
fn begins_record(bytes: &[u8]) -> bool {
    matches!(bytes.get(HEADER_BYTES - 1), Some(1 | 2)) && record_bytes(bytes).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(log: &mut Vec<u8>, kind: u8, payload: &[u8]) {
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&[kind]), payload);
        let masked = checksum.rotate_right(15).wrapping_add(CHECKSUM_MASK);
        log.extend_from_slice(&masked.to_le_bytes());
        log.extend_from_slice(&u16::try_from(payload.len()).unwrap().to_le_bytes());
        log.push(kind);
        log.extend_from_slice(payload);
    }

    /// Ten small records, one that spans three blocks, ten small ones.
    fn log() -> Vec<u8> {
        let mut log = Vec::new();
        for i in 0..10 {
            put(&mut log, 1, &[i; 100]);
        }
        let room = BLOCK_BYTES - log.len() - HEADER_BYTES;
        put(&mut log, 2, &vec![20; room]);
        put(&mut log, 3, &vec![21; BLOCK_BYTES - HEADER_BYTES]);
        put(&mut log, 4, &[22; 100]);
        for i in 30..40 {
            put(&mut log, 1, &[i; 100]);
        }
        log
    }

    #[test]
    fn a_sound_log_and_every_torn_tail_pass() {
        let log = log();
        assert_eq!(read(&log[..]).unwrap(), Verdict::Whole);
        for cut in (0..log.len()).step_by(41) {
            let verdict = read(&log[..cut]).unwrap();
            assert!(!matches!(verdict, Verdict::Damaged { .. }), "cut at {cut}: {verdict:?}");
        }
    }

    #[test]
    fn a_flip_in_any_but_the_last_record_is_found_at_its_record() {
        let log = log();
        let last = log.len() - HEADER_BYTES - 100;
        for position in (0..last).step_by(13) {
            for bit in [0, 7] {
                let mut damaged = log.clone();
                damaged[position] ^= 1 << bit;
                let Verdict::Damaged { offset, later } = read(&damaged[..]).unwrap() else {
                    panic!("bit {bit} of byte {position} was not found");
                };
                assert!(
                    offset <= position as u64 && later > position as u64,
                    "{offset} {position} {later}"
                );
            }
        }
    }

    #[test]
    fn zeros_where_a_record_should_begin_are_found() {
        let mut log = log();
        let second = HEADER_BYTES + 100;
        log[second..second + 50].fill(0);
        let verdict = read(&log[..]).unwrap();
        assert!(
            matches!(verdict, Verdict::Damaged { offset, .. } if offset == second as u64),
            "{verdict:?}"
        );
    }

    #[test]
    fn zeros_at_the_end_are_a_torn_tail() {
        let mut log = log();
        let offset = log.len() as u64;
        log.extend_from_slice(&[0; 5_000]);
        assert_eq!(read(&log[..]).unwrap(), Verdict::Torn { offset });
    }
}
