//! What a harm must have shown: a node that goes on as ever while its syncs fail is no node that survived it.

use std::time::Duration;

use super::{Harm, Held};
use crate::{
    history::{Answer, At, Call, Request},
    processes::{gaps::has_renewed, stage::Stage},
};

/// A failed sync must have ended the node by then.
const SYNC_ERROR_MAX: Duration = Duration::from_secs(15);
/// A node looks at the room on its disk every second; what it does about it shows by then.
const NOTICED_WITHIN: Duration = Duration::from_secs(2);
/// What a node says when registrations are refused for want of room …
const NEARLY_FULL: &str = "the disk is nearly full";
/// … what their clients are told …
const REFUSED: &str = "DISK_FULL";
/// … and what a node names as the cause that ends when not even its log can be written.
const OUT_OF_SPACE: &str = "No space left on device";

impl Held {
    /// Every sync failed: the node must have met that, and ended with an error.
    pub(super) fn see_failed_sync(&self, stage: &mut Stage, node: usize) {
        let server = &mut stage.cluster.servers[node];
        let ended = server.wait_ended(SYNC_ERROR_MAX);
        // strace has written what it saw when it is gone.
        server.untrace();
        let (met, name, said) = (server.met_injection(), server.name.clone(), server.last_words());
        stage.cluster.kill(&[node]);
        let told = match (met, ended) {
            (true, None) => format!("{name} goes on after a failed fsync: {said}"),
            (true, Some(status)) if status.success() => {
                format!("{name} ended with {status} after a failed fsync: {said}")
            }
            (true, Some(_)) => return,
            (false, Some(status)) => {
                format!("{name} ended by itself ({status}), though no fsync had failed yet: {said}")
            }
            (false, None) => {
                stage.fault_unmet(&self.fault, "nothing was synced while syncs failed");
                return;
            }
        };
        stage.findings.violation("fsync-error-ends-the-node", told);
    }

    /// Every sync took longer: there must have been some.
    pub(super) fn see_slow_sync(&self, stage: &mut Stage, node: usize) {
        let server = &mut stage.cluster.servers[node];
        server.untrace();
        if !server.met_injection() {
            stage.fault_unmet(&self.fault, "nothing was synced while syncs were slow");
        }
    }

    /// A disk that runs full: the node says so and, where it leads, refuses what makes the state larger, and takes what
    /// makes it smaller. If there is too little room for even that, it ends and names the cause. The cluster goes on.
    pub(super) async fn look_at_full_disk(&self, stage: &mut Stage) {
        let Harm::Full { .. } = self.harm else { return };
        let held = self.begun.elapsed();
        for (&node, logged) in self.nodes.iter().zip(&self.logged) {
            let server = &mut stage.cluster.servers[node];
            let said = server.log_since(*logged);
            match server.ended() {
                Some(status) if status.success() || !said.contains(OUT_OF_SPACE) => {
                    let story = format!(
                        "{} ended with {status} on a full disk, and names no such cause: {said}",
                        server.name
                    );
                    stage.findings.violation("full-disk-is-named", story);
                }
                None if held >= NOTICED_WITHIN && !said.contains(NEARLY_FULL) => {
                    let story = format!(
                        "{} does not notice in {held:?} that its disk is full: {said}",
                        server.name
                    );
                    stage.findings.violation("full-disk-is-noticed", story);
                }
                _ => {}
            }
        }
        if held <= NOTICED_WITHIN || !stage.is_alone(&self.fault) {
            return;
        }
        let leader = stage.cluster.leader().await;
        let still_leads = self.hit_leader && leader.is_some_and(|leader| self.nodes.contains(&leader));
        let noticed = self.from + u64::try_from(NOTICED_WITHIN.as_nanos()).unwrap_or(u64::MAX);
        let (refused, taken) = stage.recorder.with_history(|history| {
            (
                history.calls.iter().any(|call| is_refused(call, self.from)),
                history.calls.iter().any(|call| is_taken(call, noticed, still_leads)),
            )
        });
        if still_leads && !refused {
            let story = format!(
                "{}: the leader's disk is full, and no registration was refused",
                self.harm
            );
            stage.findings.violation("full-disk-refuses-registrations", story);
        }
        if !taken {
            let what = if still_leads { "renewal or removal" } else { "write" };
            let story = format!("{}: no {what} was taken for {:?}", self.harm, held - NOTICED_WITHIN);
            stage.findings.violation("full-disk-keeps-serving", story);
        }
    }
}

fn is_refused(call: &Call, from: At) -> bool {
    call.sent >= from && matches!(&call.answer, Answer::Failed { reason } if reason == REFUSED)
}

/// Whether a write was taken that was sent so late; one that makes nothing larger, if that is what there is room for.
fn is_taken(call: &Call, from: At, smaller: bool) -> bool {
    let renews = matches!(call.request, Request::Renew { .. });
    let shrinks = renews || matches!(call.request, Request::Revoke { .. } | Request::Deregister { .. });
    let reads = call.request.is_read();
    let fits = if smaller { shrinks } else { !reads };
    // A renewal is answered with what became of it, also if nothing did.
    let taken = if renews {
        has_renewed(&call.answer)
    } else {
        matches!(call.answer, Answer::Done { .. })
    };
    fits && taken && call.sent >= from
}
