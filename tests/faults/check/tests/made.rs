//! Histories that are right: a cluster of one mind, played by the naive model, with clients whose calls overlap, whose
//! answers get lost, who retry, and who watch.

use std::collections::{BTreeMap, VecDeque};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom as _};
use roster::{
    model::LeaseInfo,
    registry::{Applied, Outcome, Renewal, Settings},
};

use crate::{
    history::{
        Answer, At, Call, Change, Entry, History, Hold, NodeLog, Overview, Payload, Record, RenewOutcome, Renewed,
        Reply, Request, Row, Run, Selector, Start, Step, StepKind, WatchStream,
    },
    witness::{Naive, Shown, decode_entry, reason_name, rejection_name},
};

const NODES: [&str; 3] = ["n1", "n2", "n3"];
const KEYS: [&str; 6] = [
    "default/api/1",
    "default/api/2",
    "default/web/1",
    "default/web/2",
    "default/web/3",
    "default/web-2/1",
];
/// Watches open at once.
const WATCHES_MAX: usize = 8;
const MS: u64 = 1_000_000;
/// A stamp is due so often when nothing else happens.
const STAMP_EVERY: u64 = 200 * MS;

/// One change as the model told it.
struct Told {
    revision: i64,
    key: String,
    put: Option<Record>,
    had: bool,
    reason: Option<&'static str>,
}

/// A call on its way.
struct Pending {
    call: Call,
    /// Its answer, once it took effect.
    answer: Option<Answer>,
    /// Nobody waits for it any more.
    given_up: bool,
}

struct Watching {
    stream: WatchStream,
    position: i64,
    view: BTreeMap<String, i64>,
}

struct Made {
    rng: StdRng,
    now: At,
    model: Naive,
    index: u64,
    term: u64,
    stamped: At,
    revision: i64,
    /// When each revision was the last for the first time, and the records and leases then.
    versions: Vec<(At, i64, Vec<Record>, Vec<LeaseInfo>)>,
    told: Vec<Told>,
    pending: Vec<Pending>,
    watching: VecDeque<Watching>,
    history: History,
    next: u64,
    lives: BTreeMap<&'static str, i64>,
    leases: Vec<i64>,
}

/// A right history: the same for the same seed.
pub(super) fn made(seed: u64, turns: usize) -> History {
    let run = Run {
        harness: "made".into(),
        seed,
        nodes: 3,
        replay: format!("made({seed}, {turns})"),
    };
    let mut made = Made {
        rng: StdRng::seed_from_u64(seed),
        now: 1,
        model: Naive::new(Settings::default()),
        index: 0,
        term: 1,
        stamped: 0,
        revision: 0,
        versions: vec![(0, 0, Vec::new(), Vec::new())],
        told: Vec::new(),
        pending: Vec::new(),
        watching: VecDeque::new(),
        history: History::new(run),
        next: 1,
        lives: BTreeMap::new(),
        leases: Vec::new(),
    };
    made.log(&Payload::Membership);
    for _ in 0..turns {
        made.turn();
    }
    made.finish();
    made.history
}

impl Made {
    fn id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn turn(&mut self) {
        self.now += self.rng.random_range(0..20 * MS);
        match self.rng.random_range(0..100) {
            0..30 => {
                if self.pending.len() < 5 {
                    self.send();
                }
            }
            30..62 => self.take_effect(),
            62..80 => self.answer(),
            80..82 => self.give_up(),
            82..84 => self.watch(),
            84..99 => self.step(),
            _ => {
                self.term += 1;
                self.log(&Payload::Blank);
            }
        }
        if self.now >= self.stamped + STAMP_EVERY {
            self.apply(Vec::new(), Vec::new());
        }
    }

    fn finish(&mut self) {
        while !self.pending.is_empty() {
            self.now += MS;
            self.take_effect();
            self.answer();
            if self.rng.random_bool(0.1) {
                self.give_up();
            }
            // What was given up and never arrived is over, too.
            self.pending
                .retain(|pending| !pending.given_up || self.rng.random_bool(0.5));
        }
        while let Some(watching) = self.watching.pop_front() {
            self.history.watches.push(watching.stream);
        }
    }

    /// Appends a record to every node's log.
    fn log(&mut self, payload: &Payload) {
        self.index += 1;
        for node in NODES {
            self.history.logs.push(NodeLog {
                node: node.into(),
                index: self.index,
                term: self.term,
                payload: payload.clone(),
            });
        }
    }

    fn apply(&mut self, renewals: Vec<i64>, commands: Vec<Request>) -> Applied {
        self.stamped = self.now;
        let entry = Entry {
            stamp_ns: self.now,
            renewals,
            commands,
            encoded: None,
        };
        let applied = self.model.apply(&decode_entry(&entry).unwrap());
        self.log(&Payload::Entry(entry));
        for change in &applied.changes {
            let record = |it: &std::sync::Arc<_>| Shown::of(it).record.clone();
            self.told.push(Told {
                revision: change.revision.as_i64(),
                key: change.key().to_string(),
                put: change.after.as_ref().map(record),
                had: change.before.is_some(),
                reason: change.reason.map(reason_name),
            });
        }
        self.revision = applied.revision.as_i64();
        let records = self
            .model
            .records()
            .iter()
            .map(|it| Shown::of(it).record.clone())
            .collect();
        self.versions
            .push((self.now, self.revision, records, self.model.leases()));
        applied
    }

    fn send(&mut self) {
        let request = self.request();
        let id = self.id();
        let client = u32::try_from(id % 7).unwrap();
        self.begin(id, 0, client, request);
    }

    fn begin(&mut self, id: u64, attempt: u32, client: u32, request: Request) {
        let node = NODES.choose(&mut self.rng).map(|&node| node.to_owned());
        let call = Call {
            id,
            attempt,
            client,
            node,
            sent: self.now,
            ended: self.now,
            request,
            asked: 0,
            answer: Answer::Unknown { reason: "LOST".into() },
        };
        self.pending.push(Pending {
            call,
            answer: None,
            given_up: false,
        });
    }

    fn request(&mut self) -> Request {
        let key = *KEYS.choose(&mut self.rng).unwrap();
        let (mark, ttl_ms) = (format!("m{}", self.id()), 1_000);
        match self.rng.random_range(0..20) {
            0..6 => {
                let new = self.rng.random_bool(0.5);
                let life = self.lives.entry(key).or_insert(1);
                *life += i64::from(new);
                // Now and then a zombie.
                let incarnation = (*life - i64::from(mark.ends_with('3'))).max(1);
                let hold = match self.leases.choose(&mut self.rng) {
                    Some(lease) if mark.ends_with('7') => Hold::Lease(*lease),
                    _ if mark.ends_with('9') => Hold::Permanent,
                    _ => Hold::Own { ttl_ms },
                };
                Request::Register {
                    key: key.into(),
                    incarnation,
                    hold,
                    mark,
                    expected: None,
                }
            }
            6 => {
                let lease = (1 << 62) + i64::try_from(self.id()).unwrap();
                self.leases.push(lease);
                Request::Grant { lease, ttl_ms: 1_500 }
            }
            7 if !self.leases.is_empty() => {
                let hold = Hold::Lease(*self.leases.choose(&mut self.rng).unwrap());
                let keys = KEYS[..3].iter().map(|&key| key.to_owned()).collect();
                let incarnation = self.lives.values().max().copied().unwrap_or(1);
                for key in &KEYS[..3] {
                    self.lives.insert(key, incarnation);
                }
                Request::BatchRegister {
                    keys,
                    incarnation,
                    hold,
                    mark,
                }
            }
            8 if self.leases.len() > 2 => Request::Revoke {
                lease: self.leases.remove(0),
            },
            9 | 10 => Request::Update {
                key: key.into(),
                incarnation: 0,
                mark,
                expected: self.rng.random_bool(0.3).then_some(self.revision),
            },
            // Each life is deregistered by one call.
            11 => {
                let life = self.lives.entry(key).or_insert(1);
                *life += 1;
                Request::Deregister {
                    key: key.into(),
                    incarnation: *life,
                    expected: None,
                }
            }
            12..15 => self.renewal(),
            15..17 => Request::Get {
                key: key.into(),
                stale: self.rng.random_bool(0.3),
                max_age_ns: None,
                min_revision: 0,
            },
            17 => Request::Overview {
                of: self.overview(),
                stale: self.rng.random_bool(0.3),
                max_age_ns: None,
                min_revision: 0,
            },
            _ => Request::List {
                selector: self.selector(),
                stale: self.rng.random_bool(0.3),
                max_age_ns: None,
                min_revision: 0,
            },
        }
    }

    /// Of leases that live, and of some that do not.
    fn renewal(&mut self) -> Request {
        let leases = (0..2).map(|_| self.any_lease()).collect();
        Request::Renew { leases, stream: false }
    }

    /// One that holds something, or is granted, or was.
    fn any_lease(&mut self) -> i64 {
        let records = self.model.records();
        let own = records.iter().filter_map(|it| it.lease_id());
        let own = own.map(roster::model::LeaseId::as_i64);
        let all: Vec<i64> = own.chain(self.leases.iter().copied()).collect();
        all.choose(&mut self.rng).copied().unwrap_or(1)
    }

    fn overview(&mut self) -> Overview {
        match self.rng.random_range(0..4) {
            0 => Overview::Lease(self.any_lease()),
            1 => Overview::Leases,
            2 => Overview::Services,
            _ => Overview::Namespaces,
        }
    }

    fn selector(&mut self) -> Selector {
        match self.rng.random_range(0..3) {
            0 => Selector::default(),
            1 => Selector {
                services: vec!["web".into()],
                ..Selector::default()
            },
            _ => Selector {
                prefix: Some("web".into()),
                ..Selector::default()
            },
        }
    }

    /// One or more calls arrive, whether anyone waits for them or not.
    fn take_effect(&mut self) {
        let waiting: Vec<usize> = (0..self.pending.len())
            .filter(|at| self.pending[*at].answer.is_none())
            .collect();
        let Some(&at) = waiting.choose(&mut self.rng) else {
            return;
        };
        let request = self.pending[at].call.request.clone();
        let answer = match &request {
            _ if request.is_read() => self.read(&request, request.is_stale_read()),
            Request::Renew { leases, .. } => {
                let applied = self.apply(leases.clone(), Vec::new());
                renewed(leases, &applied)
            }
            _ => written(&self.apply(Vec::new(), vec![request.clone()])),
        };
        self.pending[at].answer = Some(answer);
        // What was given up and has taken effect is over.
        let over = self.pending[at].given_up;
        if over {
            self.pending.remove(at);
        }
    }

    fn read(&mut self, request: &Request, stale: bool) -> Answer {
        let back = if stale { self.rng.random_range(0..4) } else { 0 };
        let at = self.versions.len() - 1 - back.min(self.versions.len() - 1);
        let until = self.versions.get(at + 1).map_or(self.now, |(until, ..)| *until);
        let (_, revision, records, leases) = &self.versions[at];
        let (revision, records) = (*revision, records.clone());
        let mut rows = Vec::new();
        if let Request::Overview { of, .. } = request {
            rows = overview(*of, &records, leases);
            if rows.is_empty() && matches!(of, Overview::Lease(_)) {
                let reason = "LEASE_NOT_FOUND".into();
                return Answer::Rejected { revision, reason };
            }
        }
        let records: Vec<Record> = match request {
            Request::Get { key, .. } => {
                let found: Vec<Record> = records.into_iter().filter(|record| record.key == *key).collect();
                if found.is_empty() {
                    // Some versions of the API say at which revision, some do not.
                    return if self.rng.random_bool(0.5) {
                        Answer::Rejected {
                            revision,
                            reason: "INSTANCE_NOT_FOUND".into(),
                        }
                    } else {
                        Answer::Failed {
                            reason: "INSTANCE_NOT_FOUND".into(),
                        }
                    };
                }
                found
            }
            Request::List { selector, .. } => records.into_iter().filter(|it| selects(selector, &it.key)).collect(),
            _ => Vec::new(),
        };
        let age_ns = stale.then(|| self.now - until.min(self.now));
        Answer::Done {
            revision,
            term: 1,
            reply: Reply::Read {
                stale,
                age_ns,
                records,
                rows,
                partial: false,
            },
        }
    }

    fn answer(&mut self) {
        let done = self.pending.iter().position(|it| it.answer.is_some() && !it.given_up);
        let Some(at) = done else { return };
        let mut pending = self.pending.remove(at);
        pending.call.ended = self.now;
        pending.call.answer = pending.answer.unwrap();
        self.history.calls.push(pending.call);
    }

    /// A client gives up; the call may arrive all the same, and perhaps the client tries again.
    fn give_up(&mut self) {
        let Some(at) = (0..self.pending.len()).find(|at| !self.pending[*at].given_up) else {
            return;
        };
        let mut call = self.pending[at].call.clone();
        call.ended = self.now;
        if call.request.is_read() {
            call.answer = Answer::Failed { reason: "LOST".into() };
            self.pending.remove(at);
        } else if self.pending[at].answer.is_some() {
            self.pending.remove(at);
        } else if self.rng.random_bool(0.2) {
            // Its node says that it did nothing.
            call.answer = Answer::Failed {
                reason: "NO_LEADER".into(),
            };
            self.pending.remove(at);
        } else {
            self.pending[at].given_up = true;
        }
        self.history.calls.push(call.clone());
        let repeatable = !matches!(call.request, Request::Update { .. } | Request::Renew { .. });
        if repeatable && self.rng.random_bool(0.5) {
            self.begin(call.id, call.attempt + 1, call.client, call.request);
        }
    }

    fn watch(&mut self) {
        let selector = self.selector();
        if self.watching.len() == WATCHES_MAX {
            let oldest = self.watching.pop_front().unwrap();
            self.history.watches.push(oldest.stream);
        }
        let (watcher, id) = (self.id(), self.id());
        self.open(watcher, id, &selector, Start::Snapshot);
    }

    fn open(&mut self, watcher: u64, id: u64, selector: &Selector, start: Start) {
        let position = match start {
            Start::After(revision) => revision,
            Start::Snapshot | Start::Now => 0,
        };
        let stream = WatchStream {
            id,
            watcher,
            node: Some("n1".into()),
            opened: self.now,
            selector: selector.clone(),
            start,
            max_age_ns: None,
            slow: false,
            steps: Vec::new(),
            ended: None,
        };
        let mut watching = Watching {
            stream,
            position,
            view: BTreeMap::new(),
        };
        if start == Start::Snapshot {
            self.snapshot(&mut watching, None);
        } else {
            // It had this view.
            let at = self
                .versions
                .iter()
                .rposition(|(_, revision, ..)| *revision <= position)
                .unwrap();
            let had = self.versions[at].2.iter().filter(|it| selects(selector, &it.key));
            watching.view = had.map(|record| (record.key.clone(), record.mod_revision)).collect();
        }
        self.watching.push_back(watching);
    }

    fn snapshot(&self, watching: &mut Watching, reset: Option<String>) {
        let (_, revision, records, _) = self.versions.last().unwrap();
        let selected = records.iter().filter(|it| selects(&watching.stream.selector, &it.key));
        let changes: Vec<Change> = selected.map(|record| put(record, record.mod_revision)).collect();
        watching.position = *revision;
        watching.view = changes
            .iter()
            .map(|change| (change.key.clone(), change.revision))
            .collect();
        watching.stream.steps.push(Step {
            at: self.now,
            kind: StepKind::Snapshot,
            revision: *revision,
            age_ns: Some(0),
            reset,
            changes,
        });
    }

    /// The next watcher gets what there is; or ends, and begins again elsewhere.
    fn step(&mut self) {
        let Some(mut watching) = self.watching.pop_front() else {
            return;
        };
        let (chance, through): (u32, i64) = (self.rng.random_range(0..20), self.through(watching.position));
        if chance == 0 {
            let (watcher, selector) = (watching.stream.watcher, watching.stream.selector.clone());
            let start = Start::After(watching.position);
            self.history.watches.push(watching.stream);
            let id = self.id();
            return self.open(watcher, id, &selector, start);
        }
        if chance == 1 {
            self.snapshot(&mut watching, Some("LAGGED".into()));
        } else {
            self.deliver(&mut watching, through, chance == 2);
        }
        self.watching.push_back(watching);
    }

    /// Where a step leads: the present, or somewhere before.
    fn through(&mut self, position: i64) -> i64 {
        let least = position.min(self.revision);
        self.rng.random_range(least..=self.revision)
    }

    fn deliver(&self, watching: &mut Watching, through: i64, after_install: bool) {
        if through < watching.position {
            return;
        }
        let mut last: BTreeMap<&str, &Told> = BTreeMap::new();
        let from = self.told.partition_point(|it| it.revision <= watching.position);
        let to = self.told.partition_point(|it| it.revision <= through);
        for told in self.told[from..to]
            .iter()
            .filter(|it| selects(&watching.stream.selector, &it.key))
        {
            last.insert(&told.key, told);
        }
        let mut changes: Vec<Change> = Vec::new();
        for told in last.values() {
            let revision = if after_install { through } else { told.revision };
            match &told.put {
                Some(record) => {
                    watching.view.insert(told.key.clone(), record.mod_revision);
                    changes.push(put(record, revision));
                }
                None if watching.view.remove(&told.key).is_some() => changes.push(Change {
                    revision,
                    key: told.key.clone(),
                    put: None,
                    reason: (told.had && !after_install).then(|| told.reason.unwrap().to_owned()),
                }),
                None => {}
            }
        }
        changes.sort_by_key(|change| {
            let parts: Vec<String> = change.key.split('/').map(str::to_owned).collect();
            (change.revision, parts)
        });
        watching.position = through;
        watching.stream.steps.push(Step {
            at: self.now,
            kind: if changes.is_empty() {
                StepKind::Progress
            } else {
                StepKind::Changes
            },
            revision: through,
            age_ns: Some(0),
            reset: None,
            changes,
        });
    }
}

fn put(record: &Record, revision: i64) -> Change {
    Change {
        revision,
        key: record.key.clone(),
        put: Some(record.clone()),
        reason: None,
    }
}

fn selects(selector: &Selector, key: &str) -> bool {
    let service = key.split('/').nth(1).unwrap();
    (selector.services.is_empty() || selector.services.iter().any(|it| it == service))
        && selector
            .prefix
            .as_ref()
            .is_none_or(|prefix| service.starts_with(prefix.as_str()))
}

fn renewed(leases: &[i64], applied: &Applied) -> Answer {
    let mut asked = leases.to_vec();
    asked.sort_unstable();
    asked.dedup();
    let result = |lease: &i64| {
        let at = asked.binary_search(lease).unwrap();
        let (outcome, instances) = match applied.renewals[at] {
            Renewal::Renewed { instances, .. } => (RenewOutcome::Renewed, instances),
            Renewal::NotFound => (RenewOutcome::NotFound, 0),
        };
        Renewed {
            lease: *lease,
            outcome,
            instances,
        }
    };
    Answer::Done {
        revision: applied.revision.as_i64(),
        term: 1,
        reply: Reply::Renewed(leases.iter().map(result).collect()),
    }
}

fn written(applied: &Applied) -> Answer {
    let reply = &applied.replies[0];
    let outcome = match &reply.result {
        Ok(outcome) => outcome,
        Err(rejection) => {
            let revision = match rejection {
                roster::registry::Rejection::RevisionMismatch { current, .. } => current.as_i64(),
                _ => reply.revision.as_i64(),
            };
            return Answer::Rejected {
                revision,
                reason: rejection_name(rejection).into(),
            };
        }
    };
    let told = match outcome {
        Outcome::Registered { instance, .. } | Outcome::Updated { instance, .. } => {
            Reply::Record(Shown::of(instance).record.clone())
        }
        Outcome::BatchRegistered { changed } => Reply::Batch { changed: *changed },
        Outcome::Deregistered { existed } | Outcome::Revoked { existed, .. } => Reply::Gone { existed: *existed },
        Outcome::Granted(lease) => Reply::Lease {
            lease: lease.lease_id.as_i64(),
            ttl_ms: lease.ttl.as_ms(),
        },
    };
    Answer::Done {
        revision: reply.revision.as_i64(),
        term: 1,
        reply: told,
    }
}

/// What the API shows of these, in order. All of them are UP.
fn overview(of: Overview, records: &[Record], leases: &[LeaseInfo]) -> Vec<Row> {
    let parts = |key: &str| -> Vec<String> { key.split('/').map(str::to_owned).collect() };
    let lease = |it: &LeaseInfo| Row::Lease {
        lease: it.lease_id.as_i64(),
        own: it.own,
        ttl_ms: it.ttl.as_ms(),
        remaining_ns: it.remaining.as_nanos().try_into().unwrap(),
        instances: it.instances,
    };
    match of {
        Overview::Leases => leases.iter().map(lease).collect(),
        Overview::Lease(id) => {
            let mut held: Vec<_> = records
                .iter()
                .filter(|it| it.lease == id)
                .map(|it| parts(&it.key))
                .collect();
            held.sort();
            let itself = leases.iter().filter(|it| it.lease_id.as_i64() == id);
            let held = held.into_iter().map(|key| Row::Held(key.join("/")));
            itself.map(lease).chain(held).collect()
        }
        Overview::Services => {
            let mut services: BTreeMap<Vec<String>, (u32, i64)> = BTreeMap::new();
            for record in records {
                let (instances, newest) = services.entry(parts(&record.key)[..2].to_vec()).or_default();
                *instances += 1;
                *newest = record.mod_revision.max(*newest);
            }
            let row = |(name, (instances, mod_revision)): (Vec<String>, _)| Row::Service {
                service: name.join("/"),
                by_status: [0, instances, 0, 0],
                mod_revision,
            };
            services.into_iter().map(row).collect()
        }
        Overview::Namespaces if records.is_empty() => Vec::new(),
        Overview::Namespaces => {
            let services: std::collections::BTreeSet<&str> =
                records.iter().map(|it| it.key.rsplit_once('/').unwrap().0).collect();
            vec![Row::Namespace {
                namespace: "default".into(),
                services: services.len().try_into().unwrap(),
                instances: records.len().try_into().unwrap(),
            }]
        }
    }
}
