//! What goes on while the many instances are kept alive: their renewals, writes, lists, watches.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rand::Rng as _;
use roster::{
    cli::bench::sample,
    client::{Client, WatchEvent, Watcher},
    wire::{
        span::span_to_proto,
        v1::{self, renew_result::Outcome},
    },
};
use tokio::{
    task::JoinSet,
    time::{Interval, interval, interval_at},
};

use super::samples::{Kind, Samples};
use crate::problem::{Problem, While as _};

/// How long leases live: what an own lease lasts when nobody says otherwise. They are renewed three times in it.
pub(super) const TTL: Duration = Duration::from_secs(15);
/// Leases renewed by one message.
const RENEWED_AT_ONCE: usize = 100;
/// What the names of the services begin with whose instances are kept alive.
const SERVICE: &str = "service-";
/// The metadata that says when an update was sent, in microseconds of Unix time.
const SENT: &str = "sent";

/// What the load shares.
pub(super) struct Load {
    pub(super) client: Client,
    pub(super) samples: Samples,
    pub(super) stop: AtomicBool,
    /// Instances of a service.
    pub(super) per_service: usize,
    pub(super) services: usize,
    /// The first services are watched, each by one watcher.
    pub(super) watched: usize,
    /// Leases that were gone at their renewal.
    pub(super) not_found: AtomicU64,
    /// Removals that a watch of everything saw, for want of renewal.
    pub(super) expired: AtomicU64,
    /// Calls that failed, by what they were and why.
    pub(super) failed: Mutex<BTreeMap<String, u64>>,
}

/// The ticks of one of so many who do the same: each has its own moments, so that a slow moment is met by one of them, and
/// a p99 is no matter of a single one.
fn one_of(number: usize, count: usize, every: Duration) -> Interval {
    let behind = every.mul_f64(number as f64 / count as f64);
    interval_at(tokio::time::Instant::now() + behind, every)
}

pub(super) fn service(number: usize) -> String {
    format!("{SERVICE}{number}")
}

pub(super) fn key(service_number: usize, number: usize) -> v1::InstanceKey {
    v1::InstanceKey {
        service: service(service_number),
        id: format!("i-{number}"),
        ..Default::default()
    }
}

fn selector(scope: v1::selector::Scope) -> v1::Selector {
    v1::Selector {
        scope: Some(scope),
        ..Default::default()
    }
}

fn of_service(number: usize) -> v1::Selector {
    selector(v1::selector::Scope::Services(v1::Services {
        names: vec![service(number)],
    }))
}

fn unix_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

impl Load {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn failed(&self, what: &str, why: &str) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        *failed.entry(format!("{what}: {why}")).or_default() += 1;
    }

    /// Renews a share of the leases three times in their life, until it is told to end: as one of so many.
    pub(super) async fn keep(self: Arc<Self>, (number, count): (usize, usize), leases: Arc<Mutex<Vec<i64>>>) {
        let mut rounds = one_of(number, count, TTL / 3);
        while self.goes_on() {
            rounds.tick().await;
            let ids = leases.lock().unwrap_or_else(PoisonError::into_inner).clone();
            // Spread over the time until the next round, as many owners' renewals are.
            let parts = ids.chunks(RENEWED_AT_ONCE);
            let mut pause = interval((TTL / 3) * 9 / 10 / u32::try_from(parts.len().max(1)).unwrap_or(u32::MAX));
            for part in parts {
                pause.tick().await;
                self.renew(part.to_vec()).await;
            }
        }
    }

    async fn renew(&self, mut ids: Vec<i64>) {
        let until = Instant::now() + TTL / 2;
        while !ids.is_empty() && Instant::now() < until {
            let sent = Instant::now();
            match self.client.renew(ids.clone()).await {
                Ok(answer) => {
                    self.samples.add(Kind::Renew, sent);
                    let of = |outcome: Outcome| {
                        let results = answer.results.iter().filter(move |result| result.outcome() == outcome);
                        results.map(|result| result.lease_id)
                    };
                    let gone = of(Outcome::NotFound).count() as u64;
                    self.not_found.fetch_add(gone, Ordering::Relaxed);
                    // Not committed in time: they are sent again.
                    ids = of(Outcome::Unconfirmed).collect();
                    if !ids.is_empty() {
                        self.failed("renewals sent again", "not confirmed in time");
                    }
                }
                Err(error) => self.failed("renewal", &error.to_string()),
            }
        }
    }

    /// Updates instances, registers others and takes them away again, so many a second.
    pub(super) async fn write(self: Arc<Self>, (number, count): (usize, usize), every: Duration) {
        let mut pace = one_of(number, count, every);
        let mut own = 0_u64;
        while self.goes_on() {
            pace.tick().await;
            let sent = Instant::now();
            own += 1;
            let done = match own % 4 {
                1 => self.register(number).await,
                2 => self.deregister(number).await,
                _ => self.update().await,
            };
            match done {
                Ok(()) => self.samples.add(Kind::Write, sent),
                Err(error) => self.failed("write", &error.to_string()),
            }
        }
    }

    fn own_key(number: usize) -> v1::InstanceKey {
        v1::InstanceKey {
            service: "writers".into(),
            id: format!("w-{number}"),
            ..Default::default()
        }
    }

    async fn register(&self, number: usize) -> Result<(), roster::client::Error> {
        let request = v1::RegisterRequest {
            instance: Some(sample(Self::own_key(number))),
            hold: Some(v1::register_request::Hold::OwnLease(v1::OwnLease {
                ttl: Some(span_to_proto(Duration::from_secs(60))),
            })),
            ..Default::default()
        };
        self.client.register(request).await.map(drop)
    }

    async fn deregister(&self, number: usize) -> Result<(), roster::client::Error> {
        let request = v1::DeregisterRequest {
            key: Some(Self::own_key(number)),
            ..Default::default()
        };
        self.client.deregister(request).await.map(drop)
    }

    /// Half of the updates are of watched services.
    async fn update(&self) -> Result<(), roster::client::Error> {
        let (service, number) = {
            let mut chance = rand::rng();
            let services = if chance.random() { self.watched } else { self.services };
            let service = chance.random_range(0..services);
            (service, chance.random_range(0..self.per_service))
        };
        let request = v1::UpdateRequest {
            key: Some(key(service, number)),
            set_metadata: [(SENT.to_owned(), unix_us().to_string())].into(),
            ..Default::default()
        };
        self.client.update(request).await.map(drop)
    }

    /// Lists services, every other time a stale one.
    pub(super) async fn list(self: Arc<Self>, (number, count): (usize, usize), every: Duration) {
        let mut pace = one_of(number, count, every);
        let mut stale = false;
        while self.goes_on() {
            pace.tick().await;
            stale = !stale;
            let number = rand::rng().random_range(0..self.services);
            let kind = if stale { Kind::ListStale } else { Kind::List };
            let sent = Instant::now();
            match self.client.list(list(number, stale)).await {
                Ok(answer) if answer.instances.len() == self.per_service => self.samples.add(kind, sent),
                Ok(answer) => self.failed("list", &format!("{} instances", answer.instances.len())),
                Err(error) => self.failed("list", &error.to_string()),
            }
        }
    }

    /// Watches one service; in the end its view is what a list says.
    pub(super) async fn watch(self: Arc<Self>, number: usize) -> Result<(), Problem> {
        let request = v1::WatchRequest {
            selector: Some(of_service(number)),
            ..Default::default()
        };
        let mut watcher = Watcher::new(self.client.clone(), request);
        while self.goes_on() {
            let Ok(event) = tokio::time::timeout(Duration::from_secs(1), watcher.next()).await else {
                continue;
            };
            if let WatchEvent::Step(step) = event.when("a watch")?
                && !step.snapshot
            {
                for sent in step.changes().filter_map(sent) {
                    let took = Duration::from_micros(unix_us().saturating_sub(sent));
                    // A wall clock that was set may say that it took longer than the machine runs.
                    if let Some(sent) = Instant::now().checked_sub(took) {
                        self.samples.add(Kind::Watch, sent);
                    }
                }
            }
        }
        self.compare(number, watcher).await
    }

    async fn compare(&self, number: usize, mut watcher: Watcher) -> Result<(), Problem> {
        let listed = self.client.list(list(number, false)).await?;
        let revision = |position: Option<&v1::Position>| position.map_or(0, |position| position.revision);
        let wanted = revision(listed.position.as_ref());
        let until = tokio::time::Instant::now() + Duration::from_secs(30);
        while revision(watcher.position()) < wanted {
            let next = tokio::time::timeout_at(until, watcher.next()).await;
            next.when("a watch that is to become complete")?.when("a watch")?;
        }
        let seen: BTreeMap<String, i64> = watcher.view().instances().map(|one| named(one)).collect();
        let there: BTreeMap<String, i64> = listed.instances.iter().map(named).collect();
        if seen == there {
            return Ok(());
        }
        Err(Problem(format!(
            "service {number}: a watcher has {} instances, a list {}, or other ones",
            seen.len(),
            there.len()
        )))
    }

    /// Watches everything, and counts what goes for want of renewal.
    pub(super) async fn watch_all(self: Arc<Self>) -> Result<(), Problem> {
        let request = v1::WatchRequest {
            selector: Some(selector(v1::selector::Scope::AllServices(true))),
            ..Default::default()
        };
        let mut watcher = Watcher::new(self.client.clone(), request).without_view();
        while self.goes_on() {
            let Ok(event) = tokio::time::timeout(Duration::from_secs(1), watcher.next()).await else {
                continue;
            };
            if let WatchEvent::Step(step) = event.when("the watch of everything")? {
                let gone = step.changes().filter(|change| is_false_expiry(change)).count() as u64;
                self.expired.fetch_add(gone, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

fn list(number: usize, stale: bool) -> v1::ListRequest {
    let consistency = if stale {
        v1::read_options::Consistency::Stale
    } else {
        v1::read_options::Consistency::Linearizable
    };
    v1::ListRequest {
        selector: Some(of_service(number)),
        read: Some(v1::ReadOptions {
            consistency: consistency.into(),
            ..Default::default()
        }),
        page_size: 1_000,
        ..Default::default()
    }
}

/// Of an instance that is kept alive; others end by themselves, such as those that measuring left.
fn is_false_expiry(change: &v1::Change) -> bool {
    let kept = |key: &v1::InstanceKey| key.service.starts_with(SERVICE);
    change.reason() == v1::change::Reason::Expired && change.removed.as_ref().is_some_and(kept)
}

fn sent(change: &v1::Change) -> Option<u64> {
    change.instance.as_ref()?.metadata.get(SENT)?.parse().ok()
}

fn named(one: &v1::Instance) -> (String, i64) {
    (one.key.clone().unwrap_or_default().id, one.mod_revision)
}

/// Registers so many further services, each of `leases` leases with an equal share of its instances. Keepers get the
/// leases as they come.
pub(super) async fn fill(
    client: &Client,
    services: std::ops::Range<usize>,
    per_service: usize,
    per_lease: usize,
    keepers: &[Arc<Mutex<Vec<i64>>>],
) -> Result<(), Problem> {
    let services = Arc::new(Mutex::new(services));
    let mut tasks = JoinSet::new();
    for number in 0..64 {
        let (client, services) = (client.clone(), services.clone());
        let keeper = keepers[number % keepers.len()].clone();
        tasks.spawn(async move {
            loop {
                let next = services.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some(service) = next else {
                    return Ok::<_, Problem>(());
                };
                for first in (0..per_service).step_by(per_lease) {
                    let lease = client.grant_lease(v1::GrantLeaseRequest {
                        lease_id: 0,
                        ttl: Some(span_to_proto(TTL)),
                    });
                    let lease_id = lease.await.when("a lease")?.lease.unwrap_or_default().lease_id;
                    keeper.lock().unwrap_or_else(PoisonError::into_inner).push(lease_id);
                    let numbers = first..(first + per_lease).min(per_service);
                    let batch = client.batch_register(v1::BatchRegisterRequest {
                        instances: numbers.map(|number| sample(key(service, number))).collect(),
                        hold: Some(v1::batch_register_request::Hold::LeaseId(lease_id)),
                    });
                    batch.await.when("a batch")?;
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}
