//! Lists, page by page, all of one version of the registry.
//!
//! The first page is as fresh as its caller asks; when more follow, its version is pinned on this node and named by
//! the page token. A later page is read from that version, whatever has changed since; a node that is asked for a page
//! that another one pins passes the request on, one hop. A version that is gone is PAGE_EXPIRED: the list begins anew.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use prost::Message;
use tokio::time::Instant;
use tonic::Status;

use super::{
    call::{Freshness, read},
    status::{CallKind, invalid, refused},
};
use crate::{
    blocking,
    model::{Instance, InstanceKey, NodeId, Selector, limits::MESSAGE_MAX_BYTES},
    node::{Node, NodeError},
    peer::PeerError,
    registry::State,
    wire::{
        ErrorDetail, FieldErrors, Path,
        instance::encoded,
        internal::{PassPageRequest, pass_page_request::Method},
        page_token::{After, PageToken},
        request::{Consistency, Page, ReadOptions},
    },
};

/// What a page keeps free for what surrounds its elements: header, token, position.
const ENVELOPE_MAX_BYTES: usize = 8 << 10;
/// What a page's elements may take together, encoded.
pub(super) const PAGE_MAX_BYTES: usize = MESSAGE_MAX_BYTES - ENVELOPE_MAX_BYTES;
/// What a field's tag and length add to an element.
const FIELD_MAX_BYTES: usize = 6;
/// A registry of more records than this is searched on a thread of its own, when most of them may be passed over.
const SEARCH_IN_PLACE_MAX: usize = 20_000;

/// Where a page is read.
#[derive(Debug)]
pub(super) enum Opened {
    /// Here, from this version.
    Here(Box<Version>),
    /// On the node that pins the version.
    At(NodeId),
}

/// The version that a page is read from.
#[derive(Clone, Debug)]
pub(super) struct Version {
    /// The version.
    pub(super) state: State,
    /// How fresh it is.
    pub(super) freshness: Freshness,
    /// The number under which it is pinned already.
    pin: Option<u64>,
    /// The last element of the page before.
    pub(super) after: Option<After>,
}

/// Finds the version of a page.
pub(super) async fn open(node: &Node, page: &Page, options: ReadOptions, deadline: Instant) -> Result<Opened, Status> {
    let Some(token) = &page.token else {
        let read = read(node, options, deadline).await?;
        let freshness = Freshness::of(&read);
        return Ok(Opened::Here(Box::new(Version {
            state: read.state,
            freshness,
            pin: None,
            after: None,
        })));
    };
    if token.cluster_id != node.cluster_id() {
        let problem = "belongs to another cluster";
        return Err(invalid(
            FieldErrors::one(&Path::Root.field("page_token"), problem),
            CallKind::Read,
        ));
    }
    if token.node_id != node.node_id() {
        return Ok(Opened::At(token.node_id));
    }
    let state = node
        .pinned(token.pin_id)
        .map_err(|error| refused(error, CallKind::Read))?;
    let named = token.revision;
    // Plant: nor does anyone notice here that it is another one.
    planted!("page-of-another-revision", let named = state.revision());
    // Numbers of pins begin anew with the process: the revision tells a version from its predecessor's.
    if state.revision() != named {
        return Err(expired());
    }
    // A list is as fresh as its first page was; how old the version of a stale one is by now, nobody counts.
    let freshness = match options.consistency {
        Consistency::Linearizable => Freshness::Linearizable,
        Consistency::Stale { .. } => Freshness::Stale(None),
    };
    Ok(Opened::Here(Box::new(Version {
        state,
        freshness,
        pin: Some(token.pin_id),
        after: Some(token.after.clone()),
    })))
}

impl Version {
    /// The token of the page after `last`; `""` when there is none, and the version is let go.
    pub(super) fn next_token(&self, node: &Node, page: &Page, last: Option<After>) -> String {
        let Some(after) = last else {
            if let Some(number) = self.pin {
                node.unpin(number);
            }
            return String::new();
        };
        let token = PageToken {
            cluster_id: node.cluster_id(),
            node_id: node.node_id(),
            pin_id: self.pin.unwrap_or_else(|| node.pin(self.state.clone())),
            revision: self.state.revision(),
            request: page.request,
            after,
        };
        token.encode()
    }
}

/// Asks the node that pins a page for it. Whatever keeps the page away, the list can only begin anew.
pub(super) async fn pass_on<R: Message + Default>(
    node: &Node,
    to: NodeId,
    method: Method,
    request: Bytes,
    deadline: Instant,
) -> Result<R, Status> {
    let request = PassPageRequest {
        method: method.into(),
        request: request.into(),
    };
    let patience: Duration = deadline.saturating_duration_since(Instant::now());
    match node.peers().pass_page(to, request, patience).await {
        Ok(answer) => R::decode(Bytes::from(answer.response)).map_err(|_garbled| expired()),
        // What the other node says of the list is the answer; what it says of itself is not.
        Err(PeerError::Refused(status)) if ErrorDetail::from_status(&status).is_some() => Err(status),
        Err(_away) => Err(expired()),
    }
}

/// How a call ends whose list can't go on.
pub(super) fn expired() -> Status {
    refused(NodeError::PageExpired, CallKind::Read)
}

/// As many elements as fit on a page, and whether there are more.
#[derive(Debug)]
pub(super) struct Filled<T> {
    /// The elements, in order.
    pub(super) elements: Vec<T>,
    /// Whether others follow.
    pub(super) more: bool,
}

impl<T> Filled<T> {
    /// What the next page begins after; `None` when there is none.
    pub(super) fn last(&self, after: impl FnOnce(&T) -> After) -> Option<After> {
        self.elements.last().filter(|_| self.more).map(after)
    }
}

/// Takes elements until `count` or the bytes of a page are reached; always at least one, if there is one.
pub(super) fn fill<T>(
    elements: impl Iterator<Item = T>,
    count: usize,
    max_bytes: usize,
    bytes_of: impl Fn(&T) -> usize,
) -> Filled<T> {
    let (mut filled, mut bytes) = (Vec::new(), 0);
    for element in elements {
        bytes += bytes_of(&element) + FIELD_MAX_BYTES;
        if !filled.is_empty() && (filled.len() >= count || bytes > max_bytes) {
            return Filled {
                elements: filled,
                more: true,
            };
        }
        filled.push(element);
    }
    Filled {
        elements: filled,
        more: false,
    }
}

/// [`fill`] with the bytes of a page.
pub(super) fn fill_page<T: Message>(elements: impl Iterator<Item = T>, count: usize) -> Filled<T> {
    fill(elements, count, PAGE_MAX_BYTES, Message::encoded_len)
}

/// A page of the selected records.
pub(super) async fn fill_instances(
    state: &State,
    selector: &Arc<Selector>,
    after: Option<InstanceKey>,
    count: usize,
    max_bytes: Option<usize>,
) -> Result<Filled<Arc<Instance>>, Status> {
    let max_bytes = max_bytes.unwrap_or(PAGE_MAX_BYTES);
    let searched = selector.serving || !selector.matches.is_empty();
    if !searched || state.instance_count() <= SEARCH_IN_PLACE_MAX {
        return Ok(select(state, selector, after.as_ref(), count, max_bytes));
    }
    let (state, selector) = (state.clone(), selector.clone());
    blocking::run(move || select(&state, &selector, after.as_ref(), count, max_bytes))
        .await
        .map_err(|_stopped| refused(NodeError::ShuttingDown, CallKind::Read))
}

fn select(
    state: &State,
    selector: &Selector,
    after: Option<&InstanceKey>,
    count: usize,
    max_bytes: usize,
) -> Filled<Arc<Instance>> {
    fill(state.select(selector, after).cloned(), count, max_bytes, |record| {
        encoded(record).len()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(lengths: &[usize], count: usize) -> (usize, bool) {
        let filled = fill(lengths.iter(), count, 100, |length| **length);
        (filled.elements.len(), filled.more)
    }

    #[test]
    fn a_page_ends_at_its_count_or_its_bytes() {
        assert_eq!(filled(&[1; 10], 3), (3, true));
        assert_eq!(filled(&[1; 3], 3), (3, false));
        assert_eq!(
            filled(&[44; 10], 9),
            (2, true),
            "twice 44 and what surrounds them is 100"
        );
        assert_eq!(filled(&[45; 10], 9), (1, true));
        assert_eq!(filled(&[], 9), (0, false));
    }

    #[test]
    fn a_page_holds_at_least_one_element_so_that_the_list_goes_on() {
        assert_eq!(filled(&[1_000, 1], 9), (1, true));
        assert_eq!(filled(&[1_000], 9), (1, false));
    }
}
