//! Page tokens: where a list goes on, as opaque text.
//!
//! ```text
//! token   = hex of: version (1 byte) cluster_id node_id pin_id revision (8 each) request (4) kind (1) after crc32c (4)
//! after   = kind 1, 5: namespace service id    2: namespace service    3: namespace    4: lease id (8)
//! text    = length (1 byte) bytes                               numbers are big-endian
//! ```
//!
//! A token names the node that pins its revision; every node can read it, and pass the page on. It is no secret and
//! no permission: its checksum keeps mistakes away, not malice, and what it says is checked like any request.

use crate::model::{ClusterId, InstanceId, InstanceKey, LeaseId, Namespace, NodeId, Revision, ServiceName};

const VERSION: u8 = 1;
/// Text of the longest token: three names of 253 bytes and the numbers, two digits a byte.
const TOKEN_MAX_BYTES: usize = 2 * (3 * 254 + 64);

/// Where a list goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageToken {
    /// The cluster whose list this is: a token of another one is told apart, whatever its numbers.
    pub cluster_id: ClusterId,
    /// The node that pins the revision.
    pub node_id: NodeId,
    /// The pin's number on that node.
    pub pin_id: u64,
    /// The revision of all pages of this list.
    pub revision: Revision,
    /// [`request_hash`] of the list's request: a token fits no other.
    pub request: u32,
    /// The last element of the page before.
    pub after: After,
}

/// The last element of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum After {
    /// Of instances.
    Instance(InstanceKey),
    /// Of services.
    Service(Namespace, ServiceName),
    /// Of namespaces.
    Namespace(Namespace),
    /// Of leases.
    Lease(LeaseId),
    /// Of a lease's instances.
    Held(InstanceKey),
}

/// The text is no page token: cut, mistyped, or from elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no page token of this cluster: it must be passed back as it was received")]
pub struct PageTokenError;

/// A number for a request, so that a token is not used with another: what it asks for, encoded, in any form that is
/// the same each time.
#[must_use]
pub fn request_hash(kind: &str, encoded: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(kind.as_bytes()), encoded)
}

impl PageToken {
    /// The text.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut bytes = vec![VERSION];
        bytes.extend(self.cluster_id.as_u64().to_be_bytes());
        bytes.extend(self.node_id.0.to_be_bytes());
        bytes.extend(self.pin_id.to_be_bytes());
        bytes.extend(self.revision.0.to_be_bytes());
        bytes.extend(self.request.to_be_bytes());
        bytes.push(self.after.kind());
        match &self.after {
            After::Instance(key) | After::Held(key) => {
                put_text(&mut bytes, key.namespace.as_str());
                put_text(&mut bytes, key.service.as_str());
                put_text(&mut bytes, key.id.as_str());
            }
            After::Service(namespace, service) => {
                put_text(&mut bytes, namespace.as_str());
                put_text(&mut bytes, service.as_str());
            }
            After::Namespace(namespace) => put_text(&mut bytes, namespace.as_str()),
            After::Lease(id) => bytes.extend(id.0.to_be_bytes()),
        }
        bytes.extend(crc32c::crc32c(&bytes).to_be_bytes());
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Reads the text.
    ///
    /// # Errors
    /// It is not one that [`Self::encode`] wrote.
    pub fn decode(text: &str) -> Result<Self, PageTokenError> {
        let bytes = from_hex(text).ok_or(PageTokenError)?;
        let (said, sum) = bytes.split_last_chunk::<4>().ok_or(PageTokenError)?;
        if crc32c::crc32c(said) != u32::from_be_bytes(*sum) {
            return Err(PageTokenError);
        }
        let mut rest = said;
        read(&mut rest).filter(|_| rest.is_empty()).ok_or(PageTokenError)
    }
}

impl After {
    fn kind(&self) -> u8 {
        match self {
            Self::Instance(_) => 1,
            Self::Service(..) => 2,
            Self::Namespace(_) => 3,
            Self::Lease(_) => 4,
            Self::Held(_) => 5,
        }
    }
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.push(u8::try_from(text.len()).expect("a name is at most 253 bytes long"));
    bytes.extend(text.as_bytes());
}

fn read(rest: &mut &[u8]) -> Option<PageToken> {
    let [version] = take(rest)?;
    if version != VERSION {
        return None;
    }
    let cluster_id = ClusterId::new(take_u64(rest)?)?;
    let node_id = NodeId(take_u64(rest)?);
    let pin_id = take_u64(rest)?;
    let revision = Revision(take_u64(rest)?);
    let request = u32::from_be_bytes(take(rest)?);
    let [kind] = take(rest)?;
    let after = match kind {
        1 => After::Instance(take_key(rest)?),
        2 => After::Service(take_name(rest, Namespace::parse)?, take_name(rest, ServiceName::parse)?),
        3 => After::Namespace(take_name(rest, Namespace::parse)?),
        4 => After::Lease(LeaseId(take_u64(rest)?)),
        5 => After::Held(take_key(rest)?),
        _ => return None,
    };
    Some(PageToken {
        cluster_id,
        node_id,
        pin_id,
        revision,
        request,
        after,
    })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, others) = rest.split_first_chunk::<N>()?;
    *rest = others;
    Some(*first)
}

fn take_u64(rest: &mut &[u8]) -> Option<u64> {
    take(rest).map(u64::from_be_bytes)
}

fn take_name<T, E>(rest: &mut &[u8], parse: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
    let [length] = take(rest)?;
    let (text, others) = rest.split_at_checked(usize::from(length))?;
    *rest = others;
    parse(std::str::from_utf8(text).ok()?).ok()
}

fn take_key(rest: &mut &[u8]) -> Option<InstanceKey> {
    Some(InstanceKey::new(
        take_name(rest, Namespace::parse)?,
        take_name(rest, ServiceName::parse)?,
        take_name(rest, InstanceId::parse)?,
    ))
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if text.len() > TOKEN_MAX_BYTES || !text.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    text.as_bytes()
        .chunks_exact(2)
        .map(|pair| u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> PageToken {
        let key = InstanceKey::new(
            Namespace::default(),
            ServiceName::parse("web").unwrap(),
            InstanceId::parse("10.0.0.7:80").unwrap(),
        );
        PageToken {
            cluster_id: ClusterId::new(9).unwrap(),
            node_id: NodeId(3),
            pin_id: 77,
            revision: Revision(12),
            request: 5,
            after: After::Instance(key),
        }
    }

    #[test]
    fn every_kind_reads_back() {
        let After::Instance(key) = token().after else {
            unreachable!()
        };
        for after in [
            After::Instance(key.clone()),
            After::Service(key.namespace.clone(), key.service.clone()),
            After::Namespace(key.namespace.clone()),
            After::Lease(LeaseId(u64::MAX)),
            After::Held(key),
        ] {
            let token = PageToken { after, ..token() };
            assert_eq!(PageToken::decode(&token.encode()), Ok(token));
        }
    }

    #[test]
    fn a_token_that_was_touched_is_refused() {
        let text = token().encode();
        for at in 0..text.len() {
            let mut touched = text.clone().into_bytes();
            touched[at] = if touched[at] == b'0' { b'1' } else { b'0' };
            let touched = String::from_utf8(touched).unwrap();
            assert_eq!(PageToken::decode(&touched), Err(PageTokenError), "{at}");
            assert_eq!(PageToken::decode(&text[..at]), Err(PageTokenError), "{at}");
        }
        for text in ["x", "0", "ä", "zz", &"0".repeat(1 << 20)] {
            assert_eq!(PageToken::decode(text), Err(PageTokenError));
        }
    }
}
