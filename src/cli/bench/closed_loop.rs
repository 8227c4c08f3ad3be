//! The closed loop of a workload: all its clients, from the warm-up to the end of the measured span.

use tokio::task::JoinSet;

use super::{
    super::failure::Failure,
    measure::{Caller, Live, Schedule, Tally, client},
    options::SpanArgs,
    run::{Around, Bench, Ran},
};

/// What clients came to.
pub(super) struct Looped<C> {
    pub(super) callers: Vec<C>,
    pub(super) tally: Tally,
    pub(super) around: Around,
}

/// Lets clients call for a span.
///
/// # Errors
/// As [`Bench::conduct`].
pub(super) async fn closed_loop<C: Caller>(
    bench: &mut Bench<'_>,
    what: &str,
    span: SpanArgs,
    callers: Vec<C>,
) -> Result<Looped<C>, Failure> {
    let live = Live::of_tasks(callers.len());
    let schedule = Schedule::begin(span.warmup(), span.measured());
    let mut tasks = JoinSet::new();
    for (caller, live) in callers.into_iter().zip(&live) {
        tasks.spawn(client(caller, schedule.clone(), live.clone()));
    }
    let Ran { tasks, around } = bench.conduct(what, &schedule, &live, tasks).await?;
    let mut callers = Vec::with_capacity(tasks.len());
    let mut tally = Tally::new();
    for called in tasks {
        callers.push(called.caller);
        tally.merge(called.measured);
    }
    Ok(Looped { callers, tally, around })
}
