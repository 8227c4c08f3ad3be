//! The end of a history: after healing, every node is asked for everything.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Options, Target, session::Session};
use crate::{
    history::{Answer, Request, Selector},
    recorder::Recorder,
};

/// The client's number in the history.
const NUMBER: u32 = 1_000_000;
/// How long a healed cluster may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// The pause between attempts.
const PAUSE: Duration = Duration::from_millis(200);

/// A linearizable list of everything from every node, recorded. The names of the nodes that did not answer one within
/// a minute: after healing there is none.
pub async fn final_reads(target: Target, options: Options, recorder: Recorder) -> Vec<String> {
    let mut session = Session::new(NUMBER, target.clone(), options, recorder, CancellationToken::new());
    let mut silent = Vec::new();
    for (node, (name, _)) in target.nodes.iter().enumerate() {
        let mut list = session.call(Request::List {
            selector: Selector::default(),
            stale: false,
            max_age_ns: None,
            min_revision: 0,
        });
        let until = Instant::now() + PATIENCE;
        loop {
            session.ask(node);
            if matches!(session.attempt(&mut list).await, Answer::Done { .. }) {
                break;
            }
            if Instant::now() >= until {
                silent.push(name.clone());
                break;
            }
            session.rest(PAUSE).await;
        }
    }
    silent
}
