//! The state machine's answers, as a leader sends them to the follower that forwarded the question.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    DecodeError,
    field::{Fields, Path},
    instance::{encoded, instance_from_bytes, key_to_proto},
    internal,
    log::unset,
    v1,
};
use crate::{
    model::{Incarnation, Instance, InstanceKey, LeaseId, LeaseInfo, LogIndex, Revision, Ttl},
    registry::{Outcome, Registered, Rejection, Renewal, Reply},
};

/// An answer to a command, and the log index at which it was applied.
#[must_use]
pub fn reply_to_proto(index: LogIndex, reply: &Reply) -> internal::CommandReply {
    use internal::command_reply::Result as Sent;
    let result = match &reply.result {
        Ok(Outcome::Registered { instance, how }) => Sent::Registered(internal::Registered {
            instance: encoded(instance),
            outcome: registered_to_proto(*how).into(),
        }),
        Ok(Outcome::BatchRegistered { changed }) => {
            Sent::BatchRegistered(internal::BatchRegistered { changed: *changed })
        }
        Ok(Outcome::Updated { instance, changed }) => Sent::Updated(internal::Updated {
            instance: encoded(instance),
            changed: *changed,
        }),
        Ok(Outcome::Deregistered { existed }) => Sent::Deregistered(internal::Deregistered { existed: *existed }),
        Ok(Outcome::Granted(lease)) => Sent::Granted(internal::Granted {
            lease_id: lease.lease_id.0,
            ttl_ms: lease.ttl.as_ms(),
            remaining_ms: u64::try_from(lease.remaining.as_millis()).unwrap_or(u64::MAX),
            instances: lease.instances,
            own: lease.own,
        }),
        Ok(Outcome::Revoked { existed, removed }) => Sent::Revoked(internal::Revoked {
            existed: *existed,
            removed: *removed,
        }),
        Err(rejection) => Sent::Rejection(rejection_to_proto(rejection)),
    };
    internal::CommandReply {
        revision: reply.revision.0,
        log_index: index.0,
        result: Some(result),
    }
}

/// Reads an answer to a command.
///
/// # Errors
/// It breaks the rules of the model.
pub fn reply_from_proto(reply: internal::CommandReply) -> Result<(LogIndex, Reply), DecodeError> {
    use internal::command_reply::Result as Sent;
    let outcome = match reply.result.ok_or_else(|| unset("result"))? {
        Sent::Registered(registered) => Ok(Outcome::Registered {
            how: registered_from_proto(registered.outcome)?,
            instance: record(&registered.instance)?,
        }),
        Sent::BatchRegistered(batch) => Ok(Outcome::BatchRegistered { changed: batch.changed }),
        Sent::Updated(updated) => Ok(Outcome::Updated {
            instance: record(&updated.instance)?,
            changed: updated.changed,
        }),
        Sent::Deregistered(deregistered) => Ok(Outcome::Deregistered {
            existed: deregistered.existed,
        }),
        Sent::Granted(granted) => Ok(Outcome::Granted(LeaseInfo {
            lease_id: LeaseId(granted.lease_id),
            ttl: ttl(granted.ttl_ms)?,
            remaining: Duration::from_millis(granted.remaining_ms),
            instances: granted.instances,
            own: granted.own,
        })),
        Sent::Revoked(revoked) => Ok(Outcome::Revoked {
            existed: revoked.existed,
            removed: revoked.removed,
        }),
        Sent::Rejection(rejection) => Err(rejection_from_proto(rejection)?),
    };
    let revision = Revision(reply.revision);
    Ok((
        LogIndex(reply.log_index),
        Reply {
            revision,
            result: outcome,
        },
    ))
}

/// What a Register did, as the API carries it.
#[must_use]
pub fn registered_to_proto(how: Registered) -> v1::register_response::Outcome {
    match how {
        Registered::Created => v1::register_response::Outcome::Created,
        Registered::Changed => v1::register_response::Outcome::Changed,
        Registered::Unchanged => v1::register_response::Outcome::Unchanged,
        Registered::TookOver => v1::register_response::Outcome::TookOver,
    }
}

fn registered_from_proto(outcome: i32) -> Result<Registered, DecodeError> {
    match v1::register_response::Outcome::try_from(outcome) {
        Ok(v1::register_response::Outcome::Created) => Ok(Registered::Created),
        Ok(v1::register_response::Outcome::Changed) => Ok(Registered::Changed),
        Ok(v1::register_response::Outcome::Unchanged) => Ok(Registered::Unchanged),
        Ok(v1::register_response::Outcome::TookOver) => Ok(Registered::TookOver),
        Ok(v1::register_response::Outcome::Unspecified) | Err(_) => Err(unset("registered.outcome")),
    }
}

fn rejection_to_proto(rejection: &Rejection) -> internal::Rejection {
    use internal::rejection::Rejection as Sent;
    let sent = match rejection {
        Rejection::InstanceNotFound(key) => Sent::InstanceNotFound(key_to_proto(key)),
        Rejection::LeaseNotFound(id) => Sent::LeaseNotFound(id.0),
        Rejection::LeaseExists { lease_id, ttl } => Sent::LeaseExists(internal::LeaseExists {
            lease_id: lease_id.0,
            ttl_ms: ttl.as_ms(),
        }),
        Rejection::RevisionMismatch { key, current } => Sent::RevisionMismatch(internal::RevisionMismatch {
            key: Some(key_to_proto(key)),
            current: current.0,
        }),
        Rejection::Fenced { key, current } => Sent::Fenced(internal::Fenced {
            key: Some(key_to_proto(key)),
            current: current.0,
        }),
        Rejection::TooManyInstances { subject, limit } => Sent::TooManyInstances(internal::LimitReached {
            subject: subject.clone(),
            limit: *limit,
        }),
        Rejection::TooManyLeases { limit } => Sent::TooManyLeases(internal::LimitReached {
            subject: String::new(),
            limit: *limit,
        }),
        Rejection::InvalidField { path, problem } => Sent::InvalidField(internal::InvalidField {
            path: path.clone(),
            problem: problem.clone(),
        }),
    };
    internal::Rejection { rejection: Some(sent) }
}

fn rejection_from_proto(rejection: internal::Rejection) -> Result<Rejection, DecodeError> {
    use internal::rejection::Rejection as Sent;
    Ok(match rejection.rejection.ok_or_else(|| unset("rejection"))? {
        Sent::InstanceNotFound(instance) => Rejection::InstanceNotFound(key(Some(instance))?),
        Sent::LeaseNotFound(id) => Rejection::LeaseNotFound(LeaseId(id)),
        Sent::LeaseExists(lease) => Rejection::LeaseExists {
            lease_id: LeaseId(lease.lease_id),
            ttl: ttl(lease.ttl_ms)?,
        },
        Sent::RevisionMismatch(mismatch) => Rejection::RevisionMismatch {
            key: key(mismatch.key)?,
            current: Revision(mismatch.current),
        },
        Sent::Fenced(fenced) => Rejection::Fenced {
            key: key(fenced.key)?,
            current: Incarnation(fenced.current),
        },
        Sent::TooManyInstances(reached) => Rejection::TooManyInstances {
            subject: reached.subject,
            limit: reached.limit,
        },
        Sent::TooManyLeases(reached) => Rejection::TooManyLeases { limit: reached.limit },
        Sent::InvalidField(field) => Rejection::InvalidField {
            path: field.path,
            problem: field.problem,
        },
    })
}

/// What became of the renewals, in the order asked, and the registry's revision after them.
#[must_use]
pub fn renewals_to_proto(renewals: &[Renewal], revision: Revision) -> internal::RenewalReplies {
    let replies = renewals
        .iter()
        .map(|renewal| match renewal {
            Renewal::Renewed { ttl, instances } => internal::RenewalReply {
                ttl_ms: ttl.as_ms(),
                instances: *instances,
            },
            Renewal::NotFound => internal::RenewalReply {
                ttl_ms: 0,
                instances: 0,
            },
        })
        .collect();
    internal::RenewalReplies {
        replies,
        revision: revision.0,
    }
}

/// Reads what became of the renewals.
///
/// # Errors
/// A span that is no TTL.
pub fn renewals_from_proto(replies: &internal::RenewalReplies) -> Result<(Vec<Renewal>, Revision), DecodeError> {
    let renewals = replies
        .replies
        .iter()
        .map(|reply| match reply.ttl_ms {
            0 => Ok(Renewal::NotFound),
            ms => Ok(Renewal::Renewed {
                ttl: ttl(ms)?,
                instances: reply.instances,
            }),
        })
        .collect::<Result<_, DecodeError>>()?;
    Ok((renewals, Revision(replies.revision)))
}

fn record(instance: &Bytes) -> Result<Arc<Instance>, DecodeError> {
    instance_from_bytes(instance).map(Arc::new)
}

fn key(key: Option<v1::InstanceKey>) -> Result<InstanceKey, DecodeError> {
    Ok(Fields::check(|fields| fields.key(&Path::Root.field("key"), key))?)
}

fn ttl(ms: u64) -> Result<Ttl, DecodeError> {
    Ok(Fields::check(|fields| {
        fields.accept(&Path::Root.field("ttl_ms"), Ttl::from_ms(ms))
    })?)
}
