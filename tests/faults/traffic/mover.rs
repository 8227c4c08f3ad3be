//! A lease that outlives every run: while there is one, the leader stamps, so that the log's index moves on even when
//! nobody writes, and a state hash that is asked for some entries ahead comes soon.

use tokio_util::sync::CancellationToken;

use super::{Options, Target, session::Session};
use crate::{
    history::{Answer, Request},
    recorder::Recorder,
};

/// The client's number in the history.
const NUMBER: u32 = 1_000_001;
/// The longest that there is.
const TTL_MS: u64 = 24 * 3_600 * 1_000;
/// Attempts of the grant.
const TRIES: u32 = 20;

/// Grants it; whether that was acknowledged.
pub async fn grant_mover(target: Target, options: Options, recorder: Recorder) -> bool {
    let mut session = Session::new(NUMBER, target, options, recorder, CancellationToken::new());
    let lease = session.lease_id();
    let mut grant = session.call(Request::Grant { lease, ttl_ms: TTL_MS });
    matches!(session.settle(&mut grant, TRIES).await, Answer::Done { .. })
}
