//! One long-lived stream to one node, over which requests of many callers travel to the leader.
//!
//! ```text
//! request() ──► jobs (bounded) ──► task ──► stream ──► other node
//!     ▲                             │ pending, by seq
//!     └────────── answer ───────────┘◄── stream ◄──────┘
//! ```
//!
//! A request counts as sent from the moment at which it is handed to an open stream. What waits in the queue when a
//! stream breaks is sent on the next one; when none can be opened, it was certainly not sent.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Extensions, Request, Streaming, metadata::MetadataMap, transport::Channel};

use super::PeerError;
use crate::{
    model::Term,
    wire::internal::{ForwardRequest, ForwardResponse, forward_request, forward_response, peer_client::PeerClient},
};

/// Requests that wait to be sent to one node.
const WAITING_MAX: usize = 4_096;
/// Requests sent to one node and not answered yet.
pub(super) const IN_FLIGHT_MAX: usize = 8_192;
/// Requests that the stream takes before the transport has.
const OUTBOUND_MAX: usize = 64;
/// How long opening the stream may take, connecting included.
const OPEN_MAX: Duration = Duration::from_secs(1);
/// For this long after a stream could not be opened, requests are refused without another try.
const REFUSE_FOR: Duration = Duration::from_millis(20);

/// The caller still waits, and the request is not sent.
const WAITING: u8 = 0;
/// It was handed to a stream.
const SENT: u8 = 1;
/// Its caller left before.
const WITHDRAWN: u8 = 2;

type Answer = Result<forward_response::Response, PeerError>;

#[derive(Debug)]
struct Job {
    term: Term,
    request: forward_request::Request,
    state: Arc<AtomicU8>,
    answer: oneshot::Sender<Answer>,
}

impl Job {
    /// Takes it for sending; not if its caller has left.
    fn claim(&self) -> bool {
        self.state
            .compare_exchange(WAITING, SENT, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    fn refuse(self, error: PeerError) {
        // A caller that left needs no answer.
        let _left = self.answer.send(Err(error));
    }
}

/// A forward stream to one node; cheap to clone. The stream closes when the last clone is gone.
#[derive(Clone, Debug)]
pub struct ForwardConnection {
    jobs: mpsc::Sender<Job>,
    _task: Arc<AbortOnDropHandle<()>>,
}

impl ForwardConnection {
    /// Opens nothing until the first request. `metadata` goes with the stream.
    pub(super) fn new(client: PeerClient<Channel>, metadata: MetadataMap, runtime: &Handle) -> Self {
        let (jobs, waiting) = mpsc::channel(WAITING_MAX);
        let task = runtime.spawn(run(client, metadata, waiting));
        Self {
            jobs,
            _task: Arc::new(AbortOnDropHandle::new(task)),
        }
    }

    /// Sends a request and waits for its answer. It takes its place in the queue during the call, not at the first
    /// poll.
    pub fn request(
        &self,
        term: Term,
        request: forward_request::Request,
        patience: Duration,
    ) -> impl Future<Output = Answer> + Send + use<> {
        let (answer, answered) = oneshot::channel();
        let state = Arc::new(AtomicU8::new(WAITING));
        let job = Job {
            term,
            request,
            state: Arc::clone(&state),
            answer,
        };
        let queued = self.jobs.try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => PeerError::Full,
            mpsc::error::TrySendError::Closed(_) => PeerError::NotSent("the connection is closed".to_owned()),
        });
        async move {
            queued?;
            match tokio::time::timeout(patience, answered).await {
                Ok(Ok(answer)) => answer,
                // The task ended with the connection's last owner, wherever the request was by then.
                Ok(Err(_task_ended)) => Err(given_up(&state, || PeerError::Broken)),
                Err(_elapsed) => Err(given_up(&state, || PeerError::TimedOut)),
            }
        }
    }
}

/// What to say of a request whose caller stops waiting: if it was not sent by now, it never will be.
fn given_up(state: &AtomicU8, if_sent: impl FnOnce() -> PeerError) -> PeerError {
    match state.compare_exchange(WAITING, WITHDRAWN, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => PeerError::NotSent("no connection in time".to_owned()),
        Err(_) => if_sent(),
    }
}

async fn run(client: PeerClient<Channel>, metadata: MetadataMap, mut jobs: mpsc::Receiver<Job>) {
    let mut head = None;
    let mut seq = 0;
    let mut failed: Option<(Instant, PeerError)> = None;
    loop {
        let job = match head.take() {
            Some(job) => job,
            None => match jobs.recv().await {
                Some(job) => job,
                None => return,
            },
        };
        if let Some((at, error)) = &failed
            && at.elapsed() < REFUSE_FOR
        {
            job.refuse(error.clone());
            continue;
        }
        match open(client.clone(), &metadata).await {
            Ok((outbound, inbound)) => {
                failed = None;
                head = serve(job, &mut jobs, &mut seq, outbound, inbound).await;
            }
            Err(error) => {
                job.refuse(error.clone());
                while let Ok(job) = jobs.try_recv() {
                    job.refuse(error.clone());
                }
                failed = Some((Instant::now(), error));
            }
        }
    }
}

type Opened = (mpsc::Sender<ForwardRequest>, Streaming<ForwardResponse>);

/// Opens a stream. Nothing is sent on it before the other node has taken it, so that whatever goes wrong here leaves
/// every request unsent.
async fn open(mut client: PeerClient<Channel>, metadata: &MetadataMap) -> Result<Opened, PeerError> {
    let (outbound, requests) = mpsc::channel(OUTBOUND_MAX);
    let request = Request::from_parts(metadata.clone(), Extensions::default(), ReceiverStream::new(requests));
    match tokio::time::timeout(OPEN_MAX, client.forward(request)).await {
        Ok(Ok(response)) => Ok((outbound, response.into_inner())),
        Ok(Err(status)) => Err(PeerError::NotSent(status.message().to_owned())),
        Err(_elapsed) => Err(PeerError::NotSent("no answer while connecting".to_owned())),
    }
}

/// Uses a stream until it breaks; returns the job that was next, if one was taken from the queue and not sent.
async fn serve(
    first: Job,
    jobs: &mut mpsc::Receiver<Job>,
    seq: &mut u64,
    outbound: mpsc::Sender<ForwardRequest>,
    mut inbound: Streaming<ForwardResponse>,
) -> Option<Job> {
    let mut head = Some(first);
    let mut pending: BTreeMap<u64, oneshot::Sender<Answer>> = BTreeMap::new();
    loop {
        if pending.len() >= IN_FLIGHT_MAX {
            pending.retain(|_, answer| !answer.is_closed());
        }
        let room = pending.len() < IN_FLIGHT_MAX;
        tokio::select! {
            answered = inbound.message() => match answered {
                Ok(Some(ForwardResponse { seq, response })) => {
                    if let Some(answer) = pending.remove(&seq) {
                        // An answer of a kind that this version does not know leaves the outcome unknown.
                        let _left = answer.send(response.ok_or(PeerError::Broken));
                    }
                }
                Ok(None) | Err(_) => break,
            },
            slot = outbound.reserve(), if head.is_some() && room => {
                let Ok(slot) = slot else { break };
                if let Some(job) = head.take().filter(Job::claim) {
                    *seq += 1;
                    let Job { term, request, answer, .. } = job;
                    pending.insert(*seq, answer);
                    slot.send(ForwardRequest { seq: *seq, term: term.0, request: Some(request) });
                }
            }
            job = jobs.recv(), if head.is_none() => match job {
                Some(job) => head = Some(job),
                // The owner is gone, and with it everyone who waits.
                None => break,
            },
        }
    }
    for answer in pending.into_values() {
        let _left = answer.send(Err(PeerError::Broken));
    }
    head
}
