//! I4a and I6 of what is not a record: leases, services and namespaces, each in its order. What is left of a lease is
//! told by lease time, which goes on without a revision: it must be what is left at some record of the log at which the
//! registry stood at the revision that was told.

use std::collections::{BTreeMap, BTreeSet};

use roster::model::Status;

use super::reads::Standing;
use crate::{
    history::{Overview, Reply, Row},
    witness::{Lease, Shown, Witness, service_of},
};

/// A line as it must be.
#[derive(Debug)]
enum Line {
    Lease(Expected),
    Exactly(Row),
}

/// A lease at a revision.
#[derive(Debug)]
struct Expected {
    lease: i64,
    own: bool,
    /// Whatever it was renewed with while the registry stood at the revision.
    ttl_ms: BTreeSet<u64>,
    /// No less than the first, no more than the second.
    remaining_ns: [u64; 2],
    instances: u32,
}

impl Line {
    fn is(&self, row: &Row) -> bool {
        match (self, row) {
            (Self::Exactly(expected), row) => expected == row,
            (
                Self::Lease(expected),
                Row::Lease {
                    lease,
                    own,
                    ttl_ms,
                    remaining_ns,
                    instances,
                },
            ) => {
                (expected.lease, expected.own, expected.instances) == (*lease, *own, *instances)
                    && expected.ttl_ms.contains(ttl_ms)
                    && expected.remaining_ns[0] <= *remaining_ns
                    && *remaining_ns <= expected.remaining_ns[1]
            }
            (Self::Lease(_), _) => false,
        }
    }
}

/// What an overview shows and State(ρ) does not have, or lacks.
pub(super) fn wrong(
    witness: &Witness,
    revision: i64,
    of: Overview,
    told: &Reply,
    standing: &Standing<'_>,
) -> Option<String> {
    let Reply::Read { rows, partial, .. } = told else {
        return Some("it was answered with something else".to_owned());
    };
    let expected = expected(witness, revision, of, standing);
    if let Some((line, row)) = expected.iter().zip(rows).find(|(line, row)| !line.is(row)) {
        return Some(format!("it has {row:?} in the place of {line:?}"));
    }
    match (expected.get(rows.len()), rows.get(expected.len())) {
        (Some(line), _) if !partial => Some(format!("it lacks {line:?}")),
        (_, Some(row)) => Some(format!("it has {row:?}, which there was not")),
        _ => None,
    }
}

fn expected(witness: &Witness, revision: i64, of: Overview, standing: &Standing<'_>) -> Vec<Line> {
    let live = || witness.leases.live(|place| witness.event(place).revision <= revision);
    match of {
        Overview::Lease(id) => match live().get(&id) {
            None => Vec::new(),
            Some(lease) => {
                let held = in_order(standing, |shown| shown.record.lease == id);
                let instances = count(held.len());
                let lease = Line::Lease(at(witness, id, lease, revision, instances));
                let held = held.into_iter().map(|parts| Line::Exactly(Row::Held(parts.join("/"))));
                std::iter::once(lease).chain(held).collect()
            }
        },
        Overview::Leases => {
            let mut held: BTreeMap<i64, u32> = BTreeMap::new();
            for shown in standing.values() {
                *held.entry(shown.record.lease).or_default() += 1;
            }
            let line = |(id, lease)| at(witness, id, lease, revision, held.get(&id).copied().unwrap_or(0));
            live().into_iter().map(line).map(Line::Lease).collect()
        }
        Overview::Services => services(standing),
        Overview::Namespaces => namespaces(standing),
    }
}

/// Keys by their parts: the API's order, which is not that of the keys written as one.
fn in_order<'s>(standing: &'s Standing<'_>, which: impl Fn(&Shown) -> bool) -> BTreeSet<Vec<&'s str>> {
    let those = standing.iter().filter(|(_, shown)| which(shown));
    those.map(|(key, _)| parts(key)).collect()
}

fn parts(key: &str) -> Vec<&str> {
    key.splitn(3, '/').collect()
}

fn services(standing: &Standing<'_>) -> Vec<Line> {
    let mut services: BTreeMap<Vec<&str>, ([u32; 4], i64)> = BTreeMap::new();
    for (key, shown) in standing {
        let (by_status, newest) = services.entry(parts(service_of(key))).or_default();
        let status = match shown.instance.spec.status {
            Status::Starting => 0,
            Status::Up => 1,
            Status::Draining => 2,
            Status::Down => 3,
        };
        by_status[status] += 1;
        *newest = shown.record.mod_revision.max(*newest);
    }
    let row = |(service, (by_status, mod_revision)): (Vec<&str>, _)| Row::Service {
        service: service.join("/"),
        by_status,
        mod_revision,
    };
    services.into_iter().map(row).map(Line::Exactly).collect()
}

fn namespaces(standing: &Standing<'_>) -> Vec<Line> {
    let mut namespaces: BTreeMap<&str, (BTreeSet<&str>, u32)> = BTreeMap::new();
    for key in standing.keys() {
        let parts = parts(key);
        let (services, instances) = namespaces.entry(parts[0]).or_default();
        services.insert(parts.get(1).copied().unwrap_or_default());
        *instances += 1;
    }
    let row = |(namespace, (services, instances)): (&str, (BTreeSet<&str>, u32))| Row::Namespace {
        namespace: namespace.to_owned(),
        services: count(services.len()),
        instances,
    };
    namespaces.into_iter().map(row).map(Line::Exactly).collect()
}

/// A lease that lives at a revision, as it was told of at any place of that revision.
fn at(witness: &Witness, id: i64, lease: &Lease, revision: i64, instances: u32) -> Expected {
    let clock = |place| witness.event(place).clock_ns;
    let (first, last) = (witness.first_at(revision).unwrap_or(0), witness.last_at(revision));
    // Records without an effect move lease time, too, and stand at no place: until the next event it may go on.
    let until = if last < witness.end() {
        clock(last + 1)
    } else {
        u64::MAX
    };
    // The renewal that held when the revision was made, and those that came before the next one.
    let held = lease
        .renewals
        .partition_point(|(place, _)| *place <= first)
        .saturating_sub(1);
    let renewals = lease.renewals[held..].iter().take_while(|(place, _)| *place <= last);
    let mut expected = Expected {
        lease: id,
        own: lease.own,
        ttl_ms: BTreeSet::new(),
        remaining_ns: [u64::MAX, 0],
        instances,
    };
    for (place, ttl_ms) in renewals {
        let deadline = clock(*place).saturating_add(ttl_ms.saturating_mul(1_000_000));
        let [least, most] = expected.remaining_ns;
        let at_first = deadline.saturating_sub(clock(first.max(*place)));
        expected.remaining_ns = [least.min(deadline.saturating_sub(until)), most.max(at_first)];
        expected.ttl_ms.insert(*ttl_ms);
    }
    expected
}

fn count(things: usize) -> u32 {
    u32::try_from(things).unwrap_or(u32::MAX)
}
