//! Who leads in which term, as one value to wait on.

use std::sync::Arc;

use openraft::async_runtime::watch::WatchReceiver as _;
use tokio::sync::watch;

use super::{Core, Role, Timings, codec, failover::Heard, progress::Progress, status::role_of};
use crate::{
    model::{LeaseTime, Member, NodeId, Term},
    peer::Peers,
};

/// A leader that was not heard of for so many of the longest election timeouts is no leader any more.
const SILENT_AFTER_ELECTIONS: u32 = 2;

/// What a node knows of the leadership.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// Its term.
    pub term: Term,
    /// Who leads in that term; `None` = nobody that it knows of.
    pub leader: Option<NodeId>,
    /// That node, as the configuration has it. Here, for every answer names it.
    pub leading: Option<Arc<Member>>,
    /// There while this node leads and has applied its term's own first record: only then may anything be stamped.
    pub lead: Option<Lead>,
}

/// One term of this node's own leadership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lead {
    /// Which.
    pub term: Term,
    /// The state machine's clock when the term's own first record was applied.
    pub base: LeaseTime,
}

/// Follows openraft and apply, and keeps the peers' addresses with the configuration. Ends when openraft does; then
/// nobody leads.
pub(super) async fn follow(
    core: Core,
    progress: Arc<Progress>,
    peers: std::sync::Arc<Peers>,
    leadership: watch::Sender<Leadership>,
    fatal: watch::Sender<Option<String>>,
    (heard, timings): (Arc<Heard>, Timings),
) {
    // openraft goes on naming a leader that fell silent until another one is elected. Whoever waits for a leader, or
    // would send it something, must not take the dead one for alive.
    let silence = timings.election_max * SILENT_AFTER_ELECTIONS;
    let alive = |term: Term, leader: NodeId| heard.within(term.0, leader.0, silence);
    let mut ticks = tokio::time::interval(timings.heartbeat);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut server = core.server_metrics();
    let mut all = core.metrics();
    let mut opened = progress.opened();
    let mut members = Vec::new();
    // The metrics that say it all change with every turn of the core; they are looked at only when those change that
    // concern the leadership. Those are set a moment earlier: so the next change of the others is awaited, too.
    let mut look_again = true;
    loop {
        look(&mut all, &opened, &leadership, &peers, &mut members, &alive);
        tokio::select! {
            changed = server.changed() => match changed {
                Ok(()) => look_again = true,
                Err(_core_gone) => break,
            },
            _ = ticks.tick() => {}
            // What openraft says may stay as it was: after a restart it names the leader whom this node last voted for.
            () = heard.news() => {}
            changed = opened.changed() => if changed.is_err() { break },
            changed = all.changed(), if look_again => match changed {
                Ok(()) => look_again = false,
                Err(_core_gone) => break,
            },
        }
    }
    // The core's last word; a core that panicked said none.
    let failed = match &all.borrow_watched().running_state {
        Err(openraft::errors::Fatal::Stopped) => None,
        Err(failed) => Some(failed.to_string()),
        Ok(()) => Some("its core ended without a word".to_owned()),
    };
    if let Some(failed) = failed {
        tracing::error!(error = failed, "raft has failed");
        fatal.send_replace(Some(failed));
    }
    leadership.send_modify(|leadership| {
        leadership.leader = None;
        leadership.leading = None;
        leadership.lead = None;
    });
}

fn look(
    all: &mut openraft::type_config::alias::WatchReceiverOf<super::types::TypeConfig, super::Metrics>,
    opened: &watch::Receiver<Option<(Term, LeaseTime)>>,
    leadership: &watch::Sender<Leadership>,
    peers: &Peers,
    members: &mut Vec<Member>,
    alive: &impl Fn(Term, NodeId) -> bool,
) {
    let (now, configured) = {
        let metrics = all.borrow_and_update();
        let term = Term(metrics.current_term);
        let leads = role_of(&metrics) == Role::Leader;
        let own = opened.borrow().filter(|(opened, _)| leads && *opened == term);
        // Plant: a leader of a later term never begins to propose.
        planted!("later-leader-proposes-nothing", let own = own.filter(|(term, _)| term.0 < 3));
        let configured = codec::members_of(metrics.membership_config.membership());
        let leader = metrics
            .current_leader
            .map(NodeId)
            .filter(|leader| leads || alive(term, *leader));
        let leading = configured.iter().find(|member| Some(member.node_id) == leader);
        let now = Leadership {
            term,
            leader,
            leading: leading.cloned().map(Arc::new),
            lead: own.map(|(term, base)| Lead { term, base }),
        };
        (now, configured)
    };
    leadership.send_if_modified(|known| {
        let modified = *known != now;
        *known = now;
        modified
    });
    if !configured.is_empty() && *members != configured {
        peers.set(&configured);
        *members = configured;
    }
}
