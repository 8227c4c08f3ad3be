//! One client: its chance, the node that it asks, and its calls, each attempt of which is recorded.

use std::time::Duration;

use rand::{Rng as _, RngCore as _, SeedableRng as _, rngs::StdRng};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::{
    Options, Target, content,
    content::Looks,
    link::Link,
    send::{Sent, send},
    verdict::GIVEN_UP,
};
use crate::{
    history::{Answer, At, Call, Event, Hold, Key, Mark, Reply, Request, asked},
    recorder::Recorder,
};

/// The pause after an attempt that failed.
const RETRY_PAUSE: std::ops::Range<Duration> = Duration::from_millis(5)..Duration::from_millis(80);
/// How many calls of a hundred are given [`PATIENT`]: then a node's own limit of 5 s is what ends them.
const PATIENT_OF_100: u32 = 12;
/// What such a call is given.
const PATIENT: std::ops::Range<Duration> = Duration::from_secs(6)..Duration::from_secs(8);
/// How far the numbers of two clients' chance lie apart.
const SEED_STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// One logical call: its attempts share all of it.
#[derive(Clone, Debug)]
pub(super) struct Logical {
    id: u64,
    attempts: u32,
    pub(super) request: Request,
    /// Of what it registers.
    pub(super) looks: Looks,
    /// Of a list; 0 = the server's choice.
    pub(super) page_size: i32,
}

impl Logical {
    /// What it asks for besides its request.
    fn asked(&self) -> u64 {
        let instance = |key: &str, incarnation, mark: &str| {
            content::parts_of_instance(&self.looks.instance(key, incarnation, mark))
        };
        match &self.request {
            Request::Register {
                key, incarnation, mark, ..
            } => asked([instance(key, *incarnation, mark)]),
            Request::BatchRegister {
                keys,
                incarnation,
                mark,
                ..
            } => asked(keys.iter().map(|key| instance(key, *incarnation, mark))),
            Request::Update {
                key, incarnation, mark, ..
            } => asked([content::parts_of_update(&self.looks.update(key, *incarnation, mark))]),
            _ => 0,
        }
    }
}

/// One client.
pub(super) struct Session {
    pub(super) number: u32,
    pub(super) options: Options,
    pub(super) recorder: Recorder,
    pub(super) stop: CancellationToken,
    pub(super) rng: StdRng,
    pub(super) target: Target,
    /// The highest revision that it was told.
    pub(super) seen: i64,
    /// The cluster's id, once it was told.
    pub(super) cluster_id: String,
    links: Vec<Link>,
    at: usize,
    marks: u64,
}

impl Session {
    pub(super) fn new(
        number: u32,
        target: Target,
        options: Options,
        recorder: Recorder,
        stop: CancellationToken,
    ) -> Self {
        let mut rng = StdRng::seed_from_u64(options.seed ^ (u64::from(number) + 1).wrapping_mul(SEED_STEP));
        let links = Link::all(&target);
        let at = rng.random_range(0..links.len());
        Self {
            number,
            options,
            recorder,
            stop,
            rng,
            target,
            seen: 0,
            cluster_id: String::new(),
            links,
            at,
            marks: 0,
        }
    }

    /// Another part of the same client, for its stream: with connections and a chance of its own. It makes no marks.
    pub(super) fn fork(&mut self) -> Self {
        let mut rng = StdRng::seed_from_u64(self.rng.next_u64());
        let at = rng.random_range(0..self.links.len());
        Self {
            number: self.number,
            options: self.options.clone(),
            recorder: self.recorder.clone(),
            stop: self.stop.clone(),
            rng,
            target: self.target.clone(),
            seen: self.seen,
            cluster_id: self.cluster_id.clone(),
            links: Link::all(&self.target),
            at,
            marks: 0,
        }
    }

    /// Whether it goes on.
    pub(super) fn goes_on(&self) -> bool {
        !self.stop.is_cancelled()
    }

    /// A pause between calls; shorter when it is told to stop.
    pub(super) async fn think(&mut self) {
        let pause = self.rng.random_range(self.options.think.clone());
        self.rest(pause).await;
    }

    /// A pause; shorter when it is told to stop.
    pub(super) async fn rest(&self, pause: Duration) {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.stop.cancelled() => {}
        }
    }

    /// The node that it asks: its name, and the way to it.
    pub(super) fn node(&self) -> (String, Channel) {
        let link = &self.links[self.at];
        (link.name.clone(), link.channel.clone())
    }

    /// Asks another node from now on, if there is one.
    pub(super) fn hop(&mut self) {
        let nodes = self.links.len();
        if nodes > 1 {
            self.at = (self.at + self.rng.random_range(1..nodes)) % nodes;
        }
    }

    /// Asks this node from now on.
    pub(super) fn ask(&mut self, node: usize) {
        self.at = node;
    }

    /// Leaves the connection that its streams used: some servers and proxies tell connections apart.
    pub(super) fn reconnect(&mut self) {
        self.links[self.at].reconnect();
    }

    /// A deadline for one call.
    pub(super) fn deadline(&mut self) -> Duration {
        if self.rng.random_ratio(PATIENT_OF_100, 100) {
            return self.rng.random_range(PATIENT);
        }
        self.rng.random_range(self.options.deadline.clone())
    }

    /// A TTL in whole milliseconds.
    pub(super) fn ttl_ms(&mut self) -> u64 {
        let ttl = self.rng.random_range(self.options.ttl.clone());
        u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)
    }

    /// A life that begins now: later than all that began before, of every client.
    pub(super) fn incarnation(&self) -> i64 {
        i64::try_from(self.recorder.next_id()).unwrap_or(i64::MAX)
    }

    /// What makes one logical call recognisable.
    pub(super) fn mark(&mut self) -> Mark {
        self.marks += 1;
        format!("{}-{}", self.number, self.marks)
    }

    /// A call that was not made yet.
    pub(super) fn call(&mut self, request: Request) -> Logical {
        Logical {
            id: self.recorder.next_id(),
            attempts: 0,
            request,
            looks: Looks::by_chance(&mut self.rng),
            page_size: 0,
        }
    }

    /// A Register with a mark of its own.
    pub(super) fn register(&mut self, key: &str, incarnation: i64, hold: Hold, expected: Option<i64>) -> Logical {
        let mark = self.mark();
        self.call(Request::Register {
            key: key.to_owned(),
            incarnation,
            hold,
            mark,
            expected,
        })
    }

    /// A BatchRegister with a mark of its own.
    pub(super) fn batch(&mut self, keys: Vec<Key>, incarnation: i64, hold: Hold) -> Logical {
        let mark = self.mark();
        self.call(Request::BatchRegister {
            keys,
            incarnation,
            hold,
            mark,
        })
    }

    /// An Update with a mark of its own.
    pub(super) fn update(&mut self, key: &str, incarnation: i64, expected: Option<i64>) -> Logical {
        let mark = self.mark();
        self.call(Request::Update {
            key: key.to_owned(),
            incarnation,
            mark,
            expected,
        })
    }

    /// One attempt, recorded. After a failure another node is asked next, mostly.
    pub(super) async fn attempt(&mut self, call: &mut Logical) -> Answer {
        let (node, channel) = self.node();
        let limit = self.deadline();
        let open = self.begin(call, Some(node));
        let Sent { answer, cluster_id } = send(channel, call, limit).await;
        open.end(answer.clone());
        self.note(&answer, cluster_id);
        if matches!(answer, Answer::Failed { .. } | Answer::Unknown { .. }) {
            // A cluster that is away is not to be asked a thousand times a second.
            let pause = self.rng.random_range(RETRY_PAUSE);
            self.rest(pause).await;
        }
        answer
    }

    /// Attempts on one node after another until the outcome is known, `tries` at the most. For calls that may be
    /// repeated blindly, and for reads.
    pub(super) async fn settle(&mut self, call: &mut Logical, tries: u32) -> Answer {
        let mut answer = self.attempt(call).await;
        for _ in 1..tries {
            if matches!(answer, Answer::Done { .. } | Answer::Rejected { .. }) || !self.goes_on() {
                break;
            }
            self.hop();
            answer = self.attempt(call).await;
        }
        answer
    }

    /// A call that has begun. However it ends, dropped or not, it is recorded.
    pub(super) fn begin(&self, call: &mut Logical, node: Option<String>) -> OpenCall {
        self.begin_at(call, node, self.recorder.now())
    }

    /// A call that may have begun at that moment already.
    pub(super) fn begin_at(&self, call: &mut Logical, node: Option<String>, sent: At) -> OpenCall {
        let attempt = call.attempts;
        call.attempts += 1;
        OpenCall {
            recorder: self.recorder.clone(),
            call: Some(Call {
                id: call.id,
                attempt,
                client: self.number,
                node,
                sent,
                ended: sent,
                asked: call.asked(),
                request: call.request.clone(),
                answer: Answer::Unknown {
                    reason: GIVEN_UP.to_owned(),
                },
            }),
        }
    }

    fn note(&mut self, answer: &Answer, cluster_id: Option<String>) {
        if let Some(cluster_id) = cluster_id {
            self.cluster_id = cluster_id;
        }
        match answer {
            Answer::Done { revision, .. } | Answer::Rejected { revision, .. } => self.seen = self.seen.max(*revision),
            Answer::Failed { .. } | Answer::Unknown { .. } => {
                if self.rng.random_bool(0.8) {
                    self.hop();
                }
            }
        }
        // All nodes are asked, whether they fail or not.
        if self.rng.random_bool(0.05) {
            self.hop();
        }
    }

    /// A lease's id that nobody else has.
    pub(super) fn lease_id(&self) -> i64 {
        content::lease_id(self.recorder.next_id())
    }
}

/// A call under way. Recorded when it ends, or when it is dropped: then its outcome is unknown.
pub(super) struct OpenCall {
    recorder: Recorder,
    call: Option<Call>,
}

impl OpenCall {
    /// The answer was read, or given up.
    pub(super) fn end(mut self, answer: Answer) {
        if let Some(call) = &mut self.call {
            call.answer = answer;
        }
    }

    /// When it was sent.
    pub(super) fn sent(&self) -> At {
        self.call.as_ref().map_or(0, |call| call.sent)
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        if let Some(mut call) = self.call.take() {
            call.ended = self.recorder.now();
            let is_read = call.request.is_read();
            if let (true, Answer::Unknown { reason }) = (is_read, &mut call.answer) {
                let reason = std::mem::take(reason);
                call.answer = Answer::Failed { reason };
            }
            self.recorder.record(Event::Call(call));
        }
    }
}

/// The record that an answer brought, if it is one.
pub(super) fn record_of(answer: &Answer) -> Option<&crate::history::Record> {
    match answer {
        Answer::Done {
            reply: Reply::Record(record),
            ..
        } => Some(record),
        Answer::Done {
            reply: Reply::Read { records, .. },
            ..
        } => records.first(),
        _ => None,
    }
}

/// Whether the state machine refused it for that reason.
pub(super) fn is_rejected(answer: &Answer, name: &str) -> bool {
    matches!(answer, Answer::Rejected { reason, .. } if reason == name)
}
