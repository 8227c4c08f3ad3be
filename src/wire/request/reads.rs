//! Get, List, ListServices, ListNamespaces, and what every read shares: consistency and pages.

use std::time::Duration;

use prost::Message as _;

use crate::{
    model::{
        InstanceKey, Namespace, Revision, Selector,
        limits::{PAGE_DEFAULT, PAGE_MAX},
    },
    wire::{
        FieldErrors,
        field::{Fields, Path},
        page_token::{After, PageToken, request_hash},
        selector::selector_to_proto,
        v1,
    },
};

/// How fresh an answer must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// It reflects every write acknowledged before the read began.
    Linearizable,
    /// From the node's own state.
    Stale {
        /// Older than this is refused.
        max_age: Option<Duration>,
    },
}

/// How to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadOptions {
    /// How fresh.
    pub consistency: Consistency,
    /// Wait until the node has this revision.
    pub min_revision: Option<Revision>,
}

impl Default for ReadOptions {
    /// Linearizable.
    fn default() -> Self {
        Self {
            consistency: Consistency::Linearizable,
            min_revision: None,
        }
    }
}

/// Which page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// At most so many elements.
    pub size: usize,
    /// Where it goes on; `None` = the first page.
    pub token: Option<PageToken>,
    /// What the tokens of this list must carry.
    pub request: u32,
}

/// One instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Get {
    /// Which.
    pub key: InstanceKey,
    /// How.
    pub read: ReadOptions,
}

/// Reads a Get.
///
/// # Errors
/// Everything that is wrong with it.
pub fn get(request: v1::GetRequest) -> Result<Get, FieldErrors> {
    Fields::check(|fields| {
        let key = fields.key(&Path::Root.field("key"), request.key);
        let read = fields.read_options(request.read);
        Some(Get { key: key?, read: read? })
    })
}

/// Instances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// Which.
    pub selector: Selector,
    /// How.
    pub read: ReadOptions,
    /// Which page; its token's `after` is an [`After::Instance`].
    pub page: Page,
}

/// Reads a List.
///
/// # Errors
/// Everything that is wrong with it.
pub fn list(request: v1::ListRequest) -> Result<List, FieldErrors> {
    Fields::check(|fields| {
        let selector = fields.selector(&Path::Root.field("selector"), request.selector);
        let asked = selector
            .as_ref()
            .map(|selector| selector_to_proto(selector).encode_to_vec())
            .unwrap_or_default();
        let read = fields.read_options(request.read);
        let page = fields.page(
            request.page_size,
            &request.page_token,
            request_hash("instances", &asked),
            |after| matches!(after, After::Instance(_)),
        );
        Some(List {
            selector: selector?,
            read: read?,
            page: page?,
        })
    })
}

/// Services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListServices {
    /// In this namespace; `None` = in all.
    pub namespace: Option<Namespace>,
    /// How.
    pub read: ReadOptions,
    /// Which page; its token's `after` is an [`After::Service`].
    pub page: Page,
}

/// Reads a ListServices.
///
/// # Errors
/// Everything that is wrong with it.
pub fn list_services(request: &v1::ListServicesRequest) -> Result<ListServices, FieldErrors> {
    Fields::check(|fields| {
        let root = Path::Root;
        let namespace = if !request.all_namespaces {
            fields.namespace(&root.field("namespace"), &request.namespace).map(Some)
        } else if request.namespace.is_empty() {
            Some(None)
        } else {
            fields.refuse(
                &root.field("all_namespaces"),
                "must not be set together with a namespace",
            )
        };
        // No namespace has an empty name, so "all" and each of them hash apart.
        let asked = namespace.iter().flatten().next().map_or("", Namespace::as_str);
        let request_hash = request_hash("services", asked.as_bytes());
        let read = fields.read_options(request.read);
        let page = fields.page(request.page_size, &request.page_token, request_hash, |after| {
            matches!(after, After::Service(..))
        });
        Some(ListServices {
            namespace: namespace?,
            read: read?,
            page: page?,
        })
    })
}

/// Namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListNamespaces {
    /// How.
    pub read: ReadOptions,
    /// Which page; its token's `after` is an [`After::Namespace`].
    pub page: Page,
}

/// Reads a ListNamespaces.
///
/// # Errors
/// Everything that is wrong with it.
pub fn list_namespaces(request: &v1::ListNamespacesRequest) -> Result<ListNamespaces, FieldErrors> {
    Fields::check(|fields| {
        let read = fields.read_options(request.read);
        let request_hash = request_hash("namespaces", &[]);
        let page = fields.page(request.page_size, &request.page_token, request_hash, |after| {
            matches!(after, After::Namespace(_))
        });
        Some(ListNamespaces {
            read: read?,
            page: page?,
        })
    })
}

impl Fields {
    pub(super) fn read_options(&mut self, read: Option<v1::ReadOptions>) -> Option<ReadOptions> {
        use v1::read_options::Consistency as Sent;
        let Some(read) = read else {
            return Some(ReadOptions::default());
        };
        let root = Path::Root;
        let path = root.field("read");
        let max_age = self.span(&path.field("max_age"), read.max_age);
        let consistency = match Sent::try_from(read.consistency) {
            Ok(Sent::Stale) => Some(Consistency::Stale {
                max_age: max_age.flatten(),
            }),
            Ok(Sent::Unspecified | Sent::Linearizable) if read.max_age.is_none() => Some(Consistency::Linearizable),
            Ok(Sent::Unspecified | Sent::Linearizable) => self.refuse(
                &path.field("max_age"),
                "is for STALE reads only; a linearizable one is never old",
            ),
            Err(_) => self.refuse(
                &path.field("consistency"),
                format_args!("is {}, which is no consistency", read.consistency),
            ),
        };
        let min_revision = self.number(&path.field("min_revision"), read.min_revision);
        max_age?;
        Some(ReadOptions {
            consistency: consistency?,
            min_revision: min_revision.map(|revision| (revision > 0).then_some(Revision(revision)))?,
        })
    }

    pub(super) fn page(
        &mut self,
        size: i32,
        token: &str,
        request: u32,
        fits: impl FnOnce(&After) -> bool,
    ) -> Option<Page> {
        let root = Path::Root;
        let size = match usize::try_from(size) {
            Ok(0) => Some(PAGE_DEFAULT),
            Ok(size) if size <= PAGE_MAX => Some(size),
            _ => self.refuse(
                &root.field("page_size"),
                format_args!("is {size}; it must be 0 to {PAGE_MAX}"),
            ),
        };
        let path = root.field("page_token");
        let token = match token {
            "" => Some(None),
            text => match self.accept(&path, PageToken::decode(text)) {
                Some(token) if token.request == request && fits(&token.after) => Some(Some(token)),
                Some(_) => self.refuse(
                    &path,
                    "belongs to another request: only page_size may change between pages",
                ),
                None => None,
            },
        };
        Some(Page {
            size: size?,
            token: token?,
            request,
        })
    }
}
