//! One instance's life in the registry: registered, kept alive, registered again after its lease was lost,
//! deregistered in the end.
//!
//! ```text
//!             register                 renewals
//!  Registering ──────► Held ◄─────────────────────► (time passes)
//!       ▲  ▲            │ │ lease gone, or fewer instances
//!       │  └────────────┘ │ no renewal acknowledged in time
//!       └───── Lost ◄─────┘                    refused for good, from anywhere ──► Ended
//! ```
//!
//! It registers again under the same incarnation, so that of two processes that claim one key the later one wins
//! and the earlier one learns it (`FENCED`).

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::Code;

use super::{
    error::Error,
    handle::Client,
    keep_alive::{End, Observation, Renewals, held_until},
    moment::Moment,
};
use crate::wire::{
    error::{Reason, WriteOutcome},
    span::{span_from_proto, span_to_proto},
    v1::{self, register_request::Hold},
};

/// The longest pause between two rounds of trying to register.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// The TTL that is meant when none is named.
const TTL_DEFAULT: Duration = Duration::from_secs(15);

/// Where a registration stands.
#[derive(Clone, Debug)]
pub enum RegistrationState {
    /// Not registered yet, or not any more; it is being tried.
    Registering {
        /// Why the last attempt failed, if there was one.
        problem: Option<Arc<Error>>,
    },
    /// Registered, and its lease is held.
    Held {
        /// The answer to the Register that made it so.
        response: Arc<v1::RegisterResponse>,
        /// Until when it is held for certain, if nothing else is acknowledged.
        held_until: Moment,
    },
    /// No renewal was acknowledged in time: from now on the lease may end at any moment. It is registered again as
    /// soon as that is possible.
    Lost,
    /// Refused for good, for example since a later life of the instance has taken its place. The last state.
    Ended(Arc<Error>),
}

/// An instance that is registered and kept alive in the background.
///
/// Dropping it stops the renewals; the lease then ends by itself. [`Registration::close`] deregisters at once.
#[derive(Debug)]
pub struct Registration {
    key: v1::InstanceKey,
    desired: watch::Sender<v1::Instance>,
    states: watch::Receiver<RegistrationState>,
    closing: CancellationToken,
    task: AbortOnDropHandle<Result<v1::DeregisterResponse, Error>>,
}

impl Registration {
    /// Begins to register the instance with a lease of its own, and returns at once: it goes on trying for as long
    /// as the cluster is away.
    ///
    /// The instance needs an id. Its incarnation, where 0, becomes the present time. `ttl` is 15 s where `None`.
    #[must_use]
    pub fn begin(client: Client, mut instance: v1::Instance, ttl: Option<Duration>) -> Self {
        if instance.incarnation == 0 {
            instance.incarnation = incarnation_of_now();
        }
        let key = instance.key.clone().unwrap_or_default();
        let (desired, wanted) = watch::channel(instance);
        let (state, states) = watch::channel(RegistrationState::Registering { problem: None });
        let closing = CancellationToken::new();
        let life = Life {
            client,
            ttl: ttl.unwrap_or(TTL_DEFAULT),
            wanted,
            state,
            closing: closing.clone(),
            maybe_registered: false,
        };
        let task = AbortOnDropHandle::new(tokio::spawn(life.run()));
        Self {
            key,
            desired,
            states,
            closing,
            task,
        }
    }

    /// The same, but returns when the instance is registered, or when the first call has failed.
    ///
    /// # Errors
    /// As [`Client::register`].
    pub async fn start(
        client: Client,
        instance: v1::Instance,
        ttl: Option<Duration>,
    ) -> Result<(Self, Arc<v1::RegisterResponse>), Error> {
        let mut registration = Self::begin(client, instance, ttl);
        loop {
            let state = registration.state();
            match state {
                RegistrationState::Held { response, .. } => return Ok((registration, response)),
                RegistrationState::Ended(error) | RegistrationState::Registering { problem: Some(error) } => {
                    let error = Error::clone(&error);
                    // It may have been applied after all; what is known of it decides whether that is undone.
                    if let Err(left) = registration.close().await {
                        tracing::debug!(error = %left, "a register that failed could not be undone");
                    }
                    return Err(error);
                }
                RegistrationState::Registering { problem: None } | RegistrationState::Lost => {}
            }
            registration.changed().await;
        }
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> &v1::InstanceKey {
        &self.key
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> RegistrationState {
        let state = self.states.borrow().clone();
        match state {
            // Whoever was stopped learns the truth before the background task does.
            RegistrationState::Held { held_until, .. } if held_until.has_passed() => RegistrationState::Lost,
            state => state,
        }
    }

    /// Whether it is registered for certain, at this moment.
    #[must_use]
    pub fn is_held(&self) -> bool {
        matches!(self.state(), RegistrationState::Held { .. })
    }

    /// Waits until the state has changed since it was last waited for. After the last state it waits for ever.
    pub async fn changed(&mut self) -> RegistrationState {
        if self.states.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.states.borrow_and_update();
        self.state()
    }

    /// Changes what is registered: status, weight, tags. The key and the incarnation stay. A change that the cluster
    /// refuses ends the registration.
    pub fn update(&self, change: impl FnOnce(&mut v1::Instance)) {
        self.desired.send_if_modified(|instance| {
            let before = instance.clone();
            change(instance);
            instance.key.clone_from(&before.key);
            instance.incarnation = before.incarnation;
            *instance != before
        });
    }

    /// Deregisters it and ends. What was certainly never registered needs no call.
    ///
    /// # Errors
    /// When no node did it in time; the lease then ends by itself.
    pub async fn close(self) -> Result<v1::DeregisterResponse, Error> {
        self.closing.cancel();
        match self.task.await {
            Ok(result) => result,
            // The runtime is going down and took the task with it.
            Err(_) => Ok(v1::DeregisterResponse::default()),
        }
    }
}

/// The number of a life that begins now: nanoseconds since 1970, so that a later one is greater.
fn incarnation_of_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// The background task.
struct Life {
    client: Client,
    ttl: Duration,
    wanted: watch::Receiver<v1::Instance>,
    state: watch::Sender<RegistrationState>,
    closing: CancellationToken,
    /// Whether some Register of this life may have taken effect.
    maybe_registered: bool,
}

/// A Register that was answered.
struct Registered {
    response: Arc<v1::RegisterResponse>,
    lease_id: i64,
    ttl: Duration,
    sent_at: Moment,
}

/// Why one holding of the lease ended.
enum HeldEnd {
    Wanted,
    Again,
    Lost,
    Refused(Error),
    Closing,
}

impl Life {
    async fn run(mut self) -> Result<v1::DeregisterResponse, Error> {
        let closing = self.closing.clone();
        let mut held: Option<Moment> = None;
        loop {
            let registered = tokio::select! {
                () = closing.cancelled() => break,
                registered = self.register(held.take()) => registered,
            };
            let registered = match registered {
                Ok(registered) => registered,
                Err(error) => {
                    self.end(error);
                    closing.cancelled().await;
                    break;
                }
            };
            match self.hold(&registered, &closing).await {
                HeldEnd::Wanted => held = Some(self.held_until().unwrap_or_else(|| self.client.now())),
                HeldEnd::Again => self.publish(RegistrationState::Registering { problem: None }),
                HeldEnd::Lost => self.publish(RegistrationState::Lost),
                HeldEnd::Refused(error) => {
                    self.end(error);
                    closing.cancelled().await;
                    break;
                }
                HeldEnd::Closing => break,
            }
        }
        self.deregister().await
    }

    /// Registers what is wanted, however long it takes. While an earlier lease is still held, its end is watched.
    async fn register(&mut self, held: Option<Moment>) -> Result<Registered, Error> {
        let longest_pause = PAUSE_MAX.min(self.ttl / 4);
        let mut pauses = self.client.pauses(longest_pause);
        let mut held = held;
        loop {
            let instance = self.wanted.borrow_and_update().clone();
            let request = v1::RegisterRequest {
                instance: Some(instance),
                hold: Some(Hold::OwnLease(v1::OwnLease {
                    ttl: Some(span_to_proto(self.ttl)),
                })),
                expected_mod_revision: None,
            };
            let was_registered = std::mem::replace(&mut self.maybe_registered, true);
            let client = self.client.clone();
            let answer = with_deadline(held, client.register_timed(request), || {
                self.publish(RegistrationState::Lost);
            })
            .await;
            let error = match answer {
                Ok(answered) => return self.registered(answered.response, answered.sent_at),
                Err(error) => error,
            };
            if error.outcome() == Some(WriteOutcome::NotApplied) {
                self.maybe_registered = was_registered;
            }
            if is_final(&error) {
                return Err(error);
            }
            if held.is_none_or(Moment::has_passed) {
                held = None;
                self.publish(RegistrationState::Registering {
                    problem: Some(Arc::new(error)),
                });
            }
            tokio::time::sleep(pauses.next().unwrap_or(longest_pause)).await;
        }
    }

    fn registered(&self, response: v1::RegisterResponse, sent_at: Moment) -> Result<Registered, Error> {
        let endpoint = || self.client.endpoint(self.client.nodes().current()).to_string();
        let Some(instance) = &response.instance else {
            return Err(Error::Incomplete {
                endpoint: endpoint(),
                missing: "the instance",
            });
        };
        let ttl = instance.ttl.and_then(span_from_proto).unwrap_or(self.ttl);
        let lease_id = instance.lease_id;
        let response = Arc::new(response);
        self.publish(RegistrationState::Held {
            response: Arc::clone(&response),
            held_until: held_until(sent_at, ttl),
        });
        Ok(Registered {
            response,
            lease_id,
            ttl,
            sent_at,
        })
    }

    /// Renews the lease until it is lost, something else is wanted, or all is over.
    async fn hold(&mut self, registered: &Registered, closing: &CancellationToken) -> HeldEnd {
        let client = self.client.clone();
        let mut renewals = Renewals::new(client, registered.lease_id, registered.ttl, registered.sent_at).expecting(1);
        let state = self.state.clone();
        let renewing = renewals.run(|observation| match observation {
            Observation::Renewed(_, held_until) => {
                let response = Arc::clone(&registered.response);
                // Not a change of state that anyone waits for, but what `state()` shows.
                state.send_if_modified(|state| {
                    *state = RegistrationState::Held { response, held_until };
                    false
                });
            }
            Observation::Hop(error) => tracing::debug!(%error, "a renewal goes to another node"),
        });
        let end = tokio::select! {
            () = closing.cancelled() => return HeldEnd::Closing,
            changed = self.wanted.changed() => match changed {
                Ok(()) => return HeldEnd::Wanted,
                // The handle is gone, and this task with it.
                Err(_) => return HeldEnd::Closing,
            },
            end = renewing => end,
        };
        match end {
            End::Gone | End::Fewer => HeldEnd::Again,
            End::Overdue => HeldEnd::Lost,
            End::Refused(error) => HeldEnd::Refused(error),
        }
    }

    async fn deregister(&self) -> Result<v1::DeregisterResponse, Error> {
        if !self.maybe_registered {
            return Ok(v1::DeregisterResponse::default());
        }
        let (key, incarnation) = {
            let instance = self.wanted.borrow();
            (instance.key.clone(), instance.incarnation)
        };
        let request = v1::DeregisterRequest {
            key,
            incarnation,
            ..Default::default()
        };
        match self.client.deregister(request).await {
            // A later life stands there: nothing of this one is left.
            Err(error) if error.reason() == Some(Reason::Fenced) => Ok(v1::DeregisterResponse::default()),
            result => result,
        }
    }

    fn held_until(&self) -> Option<Moment> {
        match *self.state.borrow() {
            RegistrationState::Held { held_until, .. } => Some(held_until),
            _ => None,
        }
    }

    fn end(&self, error: Error) {
        self.publish(RegistrationState::Ended(Arc::new(error)));
    }

    fn publish(&self, state: RegistrationState) {
        self.state.send_replace(state);
    }
}

/// The call's answer; when the deadline passes meanwhile, `passed` is called, and the call goes on.
async fn with_deadline<T>(deadline: Option<Moment>, call: impl Future<Output = T>, passed: impl FnOnce()) -> T {
    let Some(deadline) = deadline else {
        return call.await;
    };
    tokio::pin!(call);
    tokio::select! {
        answer = &mut call => answer,
        () = tokio::time::sleep(deadline.remaining()) => {
            passed();
            call.await
        }
    }
}

/// Whether trying the same again can't help.
fn is_final(error: &Error) -> bool {
    matches!(
        error.code(),
        Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::Unauthenticated
            | Code::PermissionDenied
            | Code::Unimplemented
    ) || matches!(error, Error::Incomplete { .. })
}
