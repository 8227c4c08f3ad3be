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

/// Grants them, renews them all at one moment, and waits until the last has ended. The other clients' leases are
/// renewed meanwhile, which is what the checkers look at.
pub(crate) async fn expiry_storm(stage: &mut Stage) -> io::Result<()> {
    let leader = stage.cluster.wait_leader(Duration::from_secs(20)).await.unwrap_or(0);
    let client = LeasesClient::new(stage.cluster.channel(leader));
    let ids = grant_all(stage, &client).await;
    let from = stage.recorder.now();
    renew(&client, &stage.recorder, &ids).await;
    let renewed = Instant::now();
    let fault = stage.fault("expiry_storm", &[], false, from, "expiry_storm".to_owned());
    stage.wait(TTL).await;
    // A sample of them: the first and the last are not the same to the state machine.
    let mut left: Vec<i64> = ids.iter().copied().step_by(9_973).chain(ids.last().copied()).collect();
    while !left.is_empty() && renewed.elapsed() < TTL + GONE_WITHIN {
        let mut still = Vec::new();
        for id in left {
            if lives(client.clone(), id).await {
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

/// Grants as many as come about in a minute; none of them ends meanwhile.
async fn grant_all(stage: &mut Stage, client: &LeasesClient<Channel>) -> Vec<i64> {
    let (began, mut renewed) = (Instant::now(), Instant::now());
    let mut ids = Vec::new();
    for first in (FIRST..FIRST + LEASES).step_by(BATCH) {
        if began.elapsed() > GRANT_MAX {
            // A slow machine makes a smaller storm.
            break;
        }
        let batch = (first..FIRST + LEASES).take(BATCH);
        let recorder = stage.recorder.clone();
        let grants = batch.clone().map(|id| grant(client.clone(), recorder.clone(), id));
        stream::iter(grants).buffer_unordered(AT_ONCE).collect::<()>().await;
        ids.extend(batch);
        if renewed.elapsed() > TTL / 3 {
            renew(client, &stage.recorder, &ids).await;
            renewed = Instant::now();
        }
        stage.wait(Duration::ZERO).await;
    }
    saw(&format!(
        "{} leases granted in {:.1} s",
        ids.len(),
        began.elapsed().as_secs_f64()
    ));
    ids
}

async fn grant(mut client: LeasesClient<Channel>, recorder: Recorder, lease: i64) {
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
    record(&recorder, sent, request, answer);
}

async fn renew(client: &LeasesClient<Channel>, recorder: &Recorder, ids: &[i64]) {
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
                let renewed = answer.results.iter().map(|result| Renewed {
                    lease: result.lease_id,
                    outcome: match result.outcome() {
                        renew_result::Outcome::Renewed => RenewOutcome::Renewed,
                        renew_result::Outcome::NotFound => RenewOutcome::NotFound,
                        _ => RenewOutcome::Unconfirmed,
                    },
                    instances: 0,
                });
                Answer::Done {
                    revision: header.revision,
                    term: header.term,
                    reply: Reply::Renewed(renewed.collect()),
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
}

async fn lives(mut client: LeasesClient<Channel>, lease_id: i64) -> bool {
    let mut asked = tonic::Request::new(GetLeaseRequest {
        lease_id,
        ..GetLeaseRequest::default()
    });
    asked.set_timeout(CALL_MAX);
    !client
        .get_lease(asked)
        .await
        .is_err_and(|status| status.code() == Code::NotFound)
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
