//! Reads: a record, or all pages of a list or an overview as one answer.

use std::{future::Future, time::Duration};

use roster::wire::{
    span::{span_from_proto, span_to_proto},
    v1::{self, leases_client::LeasesClient, read_options::Consistency, registry_client::RegistryClient},
};
use tonic::{Status, transport::Channel};

use super::{
    content::{key_from_wire, key_to_wire, record, selector_to_wire},
    send::{Answered, NONSENSE, answered, plain, timed},
    session::Logical,
};
use crate::history::{Overview, Record, Reply, Request, Row};

/// Pages of one list at the most.
const LIST_PAGES_MAX: usize = 10_000;
/// Pages of one overview at the most: the first ones tell enough of a hundred thousand leases.
const OVERVIEW_PAGES_MAX: usize = 20;

/// One page of an answer.
struct Page {
    header: Option<v1::Header>,
    /// What each page begins with, the same on all of them.
    head: Option<Row>,
    records: Vec<Record>,
    rows: Vec<Row>,
    /// "" = it is the last one.
    next: String,
}

impl Page {
    fn of_records(header: Option<v1::Header>, instances: Vec<v1::Instance>, next: String) -> Self {
        Self {
            header,
            head: None,
            records: instances.into_iter().map(record).collect(),
            rows: Vec::new(),
            next,
        }
    }

    fn of_rows(header: Option<v1::Header>, rows: impl IntoIterator<Item = Row>, next: String) -> Self {
        Self {
            header,
            head: None,
            records: Vec::new(),
            rows: rows.into_iter().collect(),
            next,
        }
    }

    fn answer(self) -> Answered {
        let of_header = self.header.as_ref();
        let reply = Reply::Read {
            stale: of_header.is_some_and(|header| header.stale),
            age_ns: of_header.and_then(age_ns),
            records: self.records,
            rows: self.head.into_iter().chain(self.rows).collect(),
            partial: !self.next.is_empty(),
        };
        answered(self.header, reply)
    }
}

/// Reads once.
pub(super) async fn read(
    registry: RegistryClient<Channel>,
    leases: LeasesClient<Channel>,
    call: &Logical,
    limit: Duration,
) -> Result<Answered, Status> {
    let page_size = call.page_size;
    match &call.request {
        Request::Get {
            key,
            stale,
            max_age_ns,
            min_revision,
        } => {
            let mut registry = registry;
            let get = v1::GetRequest {
                key: Some(key_to_wire(key)),
                read: Some(read_options(*stale, *max_age_ns, *min_revision)),
            };
            let answer = plain(registry.get(timed(get, limit))).await?;
            let found = answer.instance.into_iter().collect();
            Ok(Page::of_records(answer.header, found, String::new()).answer())
        }
        Request::List {
            selector,
            stale,
            max_age_ns,
            min_revision,
        } => {
            let list = v1::ListRequest {
                selector: Some(selector_to_wire(selector)),
                read: Some(read_options(*stale, *max_age_ns, *min_revision)),
                page_size,
                page_token: String::new(),
            };
            let page = |page_token| {
                let list = v1::ListRequest {
                    page_token,
                    ..list.clone()
                };
                list_page(registry.clone(), list, limit)
            };
            whole(page, LIST_PAGES_MAX).await
        }
        Request::Overview {
            of,
            stale,
            max_age_ns,
            min_revision,
        } => {
            let page = |page_token| {
                let (registry, leases) = (registry.clone(), leases.clone());
                let read = Some(read_options(*stale, *max_age_ns, *min_revision));
                overview(registry, leases, *of, read, page_size, page_token, limit)
            };
            whole(page, OVERVIEW_PAGES_MAX).await
        }
        _ => Err(Status::internal("not a read")),
    }
}

/// All pages as one answer: all of one revision, or nonsense.
async fn whole<F>(mut page: impl FnMut(String) -> F, pages_max: usize) -> Result<Answered, Status>
where
    F: Future<Output = Result<Page, Status>>,
{
    let mut whole = page(String::new()).await?;
    for _ in 1..pages_max {
        if whole.next.is_empty() {
            break;
        }
        let next = page(std::mem::take(&mut whole.next)).await?;
        let revision = |header: &Option<v1::Header>| header.as_ref().map(|header| header.revision);
        let fits = revision(&next.header) == revision(&whole.header) && next.head == whole.head;
        if !fits && let Some(header) = &mut whole.header {
            header.revision = NONSENSE;
        }
        whole.records.extend(next.records);
        whole.rows.extend(next.rows);
        whole.next = next.next;
    }
    Ok(whole.answer())
}

async fn list_page(
    mut registry: RegistryClient<Channel>,
    list: v1::ListRequest,
    limit: Duration,
) -> Result<Page, Status> {
    let answer = plain(registry.list(timed(list, limit))).await?;
    Ok(Page::of_records(
        answer.header,
        answer.instances,
        answer.next_page_token,
    ))
}

/// One page of an overview.
async fn overview(
    mut registry: RegistryClient<Channel>,
    mut leases: LeasesClient<Channel>,
    of: Overview,
    read: Option<v1::ReadOptions>,
    page_size: i32,
    page_token: String,
    limit: Duration,
) -> Result<Page, Status> {
    match of {
        Overview::Lease(lease_id) => {
            let get = v1::GetLeaseRequest {
                lease_id,
                read,
                page_size,
                page_token,
            };
            let answer = plain(leases.get_lease(timed(get, limit))).await?;
            let held = answer.instances.iter().map(|key| Row::Held(key_from_wire(key)));
            Ok(Page {
                head: answer.lease.as_ref().map(lease),
                ..Page::of_rows(answer.header, held, answer.next_page_token)
            })
        }
        Overview::Leases => {
            let list = v1::ListLeasesRequest {
                read,
                page_size,
                page_token,
            };
            let answer = plain(leases.list_leases(timed(list, limit))).await?;
            let rows = answer.leases.iter().map(lease);
            Ok(Page::of_rows(answer.header, rows, answer.next_page_token))
        }
        Overview::Services => {
            let list = v1::ListServicesRequest {
                namespace: String::new(),
                all_namespaces: true,
                read,
                page_size,
                page_token,
            };
            let answer = plain(registry.list_services(timed(list, limit))).await?;
            let rows = answer.services.iter().map(service);
            Ok(Page::of_rows(answer.header, rows, answer.next_page_token))
        }
        Overview::Namespaces => {
            let list = v1::ListNamespacesRequest {
                read,
                page_size,
                page_token,
            };
            let answer = plain(registry.list_namespaces(timed(list, limit))).await?;
            let rows = answer.namespaces.iter().map(namespace);
            Ok(Page::of_rows(answer.header, rows, answer.next_page_token))
        }
    }
}

fn lease(lease: &v1::Lease) -> Row {
    let span = |span: Option<_>| span.and_then(span_from_proto);
    Row::Lease {
        lease: lease.lease_id,
        own: lease.own,
        ttl_ms: span(lease.ttl).map_or(0, |ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)),
        remaining_ns: span(lease.remaining).map_or(u64::MAX, ns),
        instances: count(lease.instances),
    }
}

fn service(summary: &v1::ServiceSummary) -> Row {
    Row::Service {
        service: format!("{}/{}", summary.namespace, summary.service),
        by_status: [summary.starting, summary.up, summary.draining, summary.down].map(count),
        mod_revision: summary.mod_revision,
    }
}

fn namespace(summary: &v1::NamespaceSummary) -> Row {
    Row::Namespace {
        namespace: summary.namespace.clone(),
        services: count(summary.services),
        instances: count(summary.instances),
    }
}

/// How many, as the history has it; what no answer may say is more than there can be.
fn count(told: i32) -> u32 {
    u32::try_from(told).unwrap_or(u32::MAX)
}

fn ns(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// How to read, as the wire has it.
pub(super) fn read_options(stale: bool, max_age_ns: Option<u64>, min_revision: i64) -> v1::ReadOptions {
    let consistency = if stale {
        Consistency::Stale
    } else {
        Consistency::Linearizable
    };
    v1::ReadOptions {
        consistency: consistency.into(),
        max_age: max_age_ns.map(|ns| span_to_proto(Duration::from_nanos(ns))),
        min_revision,
    }
}

/// The age that a stale answer gives itself.
pub(super) fn age_ns(header: &v1::Header) -> Option<u64> {
    header.age.and_then(span_from_proto).map(ns)
}
