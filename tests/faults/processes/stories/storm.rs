//! Very many leases that end together.

use std::{io, time::Duration};

use futures_util::{StreamExt as _, stream};
use roster::wire::v1::{GetLeaseRequest, GrantLeaseRequest, RenewRequest, leases_client::LeasesClient, renew_result};
use tokio::time::Instant;
use tonic::{Code, transport::Channel};

use super::saw;
use crate::{
    history::{Answer, Call, Event, RenewOutcome, Renewed, Reply, Request},
    processes::stage::{OWN_CLIENT, Stage},
    recorder::Recorder,
};

/// How many.
const LEASES: i64 = 100_000;
const TTL_MS: u64 = 12_000;
const TTL: Duration = Duration::from_millis(TTL_MS);
/// Their ids; callers' own begin at 2^62.
const FIRST: i64 = (1 << 62) + 2_000_000_000;
/// Grants under way at one time.
const AT_ONCE: usize = 256;
/// Ids in one renewal.
const RENEWED_AT_ONCE: usize = 10_000;
/// Granted before the clock is looked at again.
const BATCH: usize = 1_000;
/// No more are granted after this.
const GRANT_MAX: Duration = Duration::from_secs(60);
const CALL_MAX: Duration = Duration::from_secs(10);
/// What is promised: a second, and then 20,000 a second; and as much again for a loaded machine.
const GONE_WITHIN: Duration = Duration::from_secs(1 + 5 + 10);

/// Half of them make a storm.
const LEASES_MIN: usize = 50_000;

/// Whether a lease is there, as far as it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looked {
    There,
    Gone,
    NotTold,
}

/// Grants them, renews them all at one moment, sees that they live, and waits until the last has ended. The other
/// clients' leases are renewed meanwhile, which is what the checkers look at.
pub(crate) async fn expiry_storm(stage: &mut Stage) -> io::Result<()> {
    let leader = stage.cluster.wait_leader(Duration::from_secs(20)).await.unwrap_or(0);
    let client = LeasesClient::new(stage.cluster.channel(leader));
    let Some(ids) = grant_all(stage, &client).await else {
        return Ok(());
    };
    let from = stage.recorder.now();
    let renewing = Instant::now();
    let alive = renew(&client, &stage.recorder, &ids).await;
    let renewed = Instant::now();
    // A sample of them: the first and the last are not the same to the state machine.
    let mut left: Vec<i64> = ids.iter().copied().step_by(9_973).chain(ids.last().copied()).collect();
    let mut missing = 0;
    for &id in &left {
        missing += usize::from(look(client.clone(), id).await != Looked::There);
    }
    if renewing.elapsed() >= TTL {
        // The first may have ended before the last was renewed: they don't end together.
        let why = format!("{} leases were not renewed within one TTL", ids.len());
        stage.findings.lack("expiry_storm", 1, &why);
        return Ok(());
    }
    if alive < ids.len() || missing > 0 {
        let story = format!(
            "of {} leases that were granted and kept alive, {alive} were there to be renewed, and of a sample of {} then \
             {missing} were not found",
            ids.len(),
            left.len()
        );
        stage.findings.violation("many-leases-live", story);
    }
    let fault = stage.fault("expiry_storm", &[], false, from, "expiry_storm".to_owned());
    stage.wait(TTL.saturating_sub(renewed.elapsed())).await;
    while !left.is_empty() && renewed.elapsed() < TTL + GONE_WITHIN {
        let mut still = Vec::new();
        for id in left {
            if look(client.clone(), id).await != Looked::Gone {
                still.push(id);
            }
        }
        left = still;
        stage.wait(Duration::from_millis(20)).await;
    }
    let late = renewed.elapsed().saturating_sub(TTL);
    stage.fault_over(fault);
    if left.is_empty() {
        saw(&format!("all gone {:.2} s after their TTL", late.as_secs_f64()));
    } else {
        let story = format!("{} of the sample still live {late:?} after their TTL", left.len());
        stage.findings.violation("many-leases-end", story);
    }
    Ok(())
}

/// Grants as many as come about in a minute; none of them ends meanwhile. Returns those that were acknowledged; `None`:
/// they make no storm, which was counted.
async fn grant_all(stage: &mut Stage, client: &LeasesClient<Channel>) -> Option<Vec<i64>> {
    let (began, mut renewed) = (Instant::now(), Instant::now());
    let (mut ids, mut asked) = (Vec::new(), 0);
    for first in (FIRST..FIRST + LEASES).step_by(BATCH) {
        if began.elapsed() > GRANT_MAX {
            // A slow machine makes a smaller storm.
            break;
        }
        let batch = (first..FIRST + LEASES).take(BATCH);
        let recorder = stage.recorder.clone();
        let grants = batch.map(|id| grant(client.clone(), recorder.clone(), id));
        let granted: Vec<Option<i64>> = stream::iter(grants).buffer_unordered(AT_ONCE).collect().await;
        asked += granted.len();
        ids.extend(granted.into_iter().flatten());
        if renewed.elapsed() > TTL / 3 {
            renew(client, &stage.recorder, &ids).await;
            renewed = Instant::now();
        }
        stage.wait(Duration::ZERO).await;
    }
    saw(&format!(
        "{} leases granted in {:.1} s, {} were not",
        ids.len(),
        began.elapsed().as_secs_f64(),
        asked - ids.len()
    ));
    if 2 * ids.len() < asked {
        let story = format!(
            "of {asked} grants on a cluster that nothing harmed {} were acknowledged",
            ids.len()
        );
        stage.findings.violation("many-leases-are-granted", story);
        return None;
    }
    if ids.len() < LEASES_MIN {
        let why = format!("only {} leases could be granted within {GRANT_MAX:?}", ids.len());
        stage.findings.lack("expiry_storm", 1, &why);
        return None;
    }
    Some(ids)
}

/// Returns the lease if it was granted.
async fn grant(mut client: LeasesClient<Channel>, recorder: Recorder, lease: i64) -> Option<i64> {
    let ttl_ms = TTL_MS;
    let request = Request::Grant { lease, ttl_ms };
    let mut asked = tonic::Request::new(GrantLeaseRequest {
        lease_id: lease,
        ttl: prost_types::Duration::try_from(TTL).ok(),
    });
    asked.set_timeout(CALL_MAX);
    let sent = recorder.now();
    let answer = match client.grant_lease(asked).await {
        Ok(granted) => {
            let header = granted.into_inner().header.unwrap_or_default();
            Answer::Done {
                revision: header.revision,
                term: header.term,
                reply: Reply::Lease { lease, ttl_ms },
            }
        }
        Err(status) => unknown(&status),
    };
    let granted = matches!(answer, Answer::Done { .. });
    record(&recorder, sent, request, answer);
    granted.then_some(lease)
}

/// Returns how many were renewed.
async fn renew(client: &LeasesClient<Channel>, recorder: &Recorder, ids: &[i64]) -> usize {
    let mut alive = 0;
    for leases in ids.chunks(RENEWED_AT_ONCE) {
        let mut asked = tonic::Request::new(RenewRequest {
            lease_ids: leases.to_vec(),
            ..RenewRequest::default()
        });
        asked.set_timeout(CALL_MAX);
        let sent = recorder.now();
        let answer = match client.clone().renew(asked).await {
            Ok(answer) => {
                let answer = answer.into_inner();
                let header = answer.header.unwrap_or_default();
                let renewed: Vec<Renewed> = answer
                    .results
                    .iter()
                    .map(|result| Renewed {
                        lease: result.lease_id,
                        outcome: match result.outcome() {
                            renew_result::Outcome::Renewed => RenewOutcome::Renewed,
                            renew_result::Outcome::NotFound => RenewOutcome::NotFound,
                            _ => RenewOutcome::Unconfirmed,
                        },
                        instances: 0,
                    })
                    .collect();
                alive += renewed
                    .iter()
                    .filter(|one| one.outcome == RenewOutcome::Renewed)
                    .count();
                Answer::Done {
                    revision: header.revision,
                    term: header.term,
                    reply: Reply::Renewed(renewed),
                }
            }
            Err(status) => unknown(&status),
        };
        let request = Request::Renew {
            leases: leases.to_vec(),
            stream: false,
        };
        record(recorder, sent, request, answer);
    }
    alive
}

async fn look(mut client: LeasesClient<Channel>, lease_id: i64) -> Looked {
    let mut asked = tonic::Request::new(GetLeaseRequest {
        lease_id,
        ..GetLeaseRequest::default()
    });
    asked.set_timeout(CALL_MAX);
    match client.get_lease(asked).await {
        Ok(_) => Looked::There,
        Err(status) if status.code() == Code::NotFound => Looked::Gone,
        Err(_) => Looked::NotTold,
    }
}

fn unknown(status: &tonic::Status) -> Answer {
    Answer::Unknown {
        reason: status.message().to_owned(),
    }
}

fn record(recorder: &Recorder, sent: u64, request: Request, answer: Answer) {
    recorder.record(Event::Call(Call {
        id: recorder.next_id(),
        attempt: 0,
        client: OWN_CLIENT,
        node: None,
        sent,
        ended: recorder.now(),
        request,
        asked: 0,
        answer,
    }));
}
