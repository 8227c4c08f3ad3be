//! What was found, as one object, and its table.

use std::{sync::PoisonError, sync::atomic::Ordering, time::Duration};

use comfy_table::{Table, presets::ASCII_MARKDOWN};
use hdrhistogram::Histogram;
use roster::cli::bench::measure::{bytes, rate, signed, time};
use serde_json::{Value, json};

use super::{Filled, Happened, Kind, Load, ScaleArgs, Span};
use crate::problem::Problem;

/// What is measured at both sizes: the words after `roster bench`.
pub(super) const COSTS: [(&str, &[&str]); 4] = [
    ("list, linearizable", &["list", "--consistency", "linearizable"]),
    ("list, stale", &["list", "--consistency", "stale"]),
    ("keep-alive", &["keepalive"]),
    ("register", &["register", "--clients", "16"]),
];
/// What the large size may cost, of what the small one does; and a snapshot, of a p99 without.
const COST_MAX: f64 = 1.5;
const STRETCH_MAX: f64 = 2.0;
/// Calls of each kind that are told one by one: where slow ones come together, they have a cause.
const SLOWEST: usize = 40;

pub(super) struct Found<'a> {
    pub(super) args: &'a ScaleArgs,
    pub(super) load: &'a Load,
    pub(super) happened: Happened,
    pub(super) filled: Filled,
    pub(super) costs: [Value; 2],
    pub(super) empty: Vec<u64>,
    pub(super) sizes: Vec<u64>,
    pub(super) written: u64,
    pub(super) not_found_before: u64,
    pub(super) equal: Result<(), Problem>,
    pub(super) broken: Vec<String>,
}

fn us(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

fn figures(times: &Histogram<u64>) -> Value {
    let at = |quantile| (!times.is_empty()).then(|| times.value_at_quantile(quantile));
    json!({ "count": times.len(), "p50_us": at(0.5), "p99_us": at(0.99), "max_us": times.max() })
}

/// Calls, and for each the snapshot during which it began, if there was one: on which node, and how far it had come.
fn slowest(calls: Vec<Span>, snapshots: &[(usize, Span)]) -> Value {
    let each = calls.into_iter().map(|call| {
        let during = snapshots
            .iter()
            .find(|(_, span)| (span.from..span.to).contains(&call.from));
        json!({
            "took_us": us(call.length()),
            "snapshot": during.map(|(at, span)| json!({
                "node": at + 1, "begun_before_us": us(call.from - span.from), "took_us": us(span.length()),
            })),
        })
    });
    each.collect()
}

pub(super) fn result(found: Found<'_>) -> Result<Value, Problem> {
    let Found {
        args,
        load,
        happened,
        mut broken,
        ..
    } = found;
    let spans: Vec<Span> = happened.snapshots.iter().map(|(_, span)| *span).collect();
    let mut calls = json!({});
    for kind in Kind::ALL {
        let (during, besides) = load.samples.apart(kind, &spans);
        calls[kind.name()] = json!({
            "during_snapshots": figures(&during),
            "otherwise": figures(&besides),
            "slowest": slowest(load.samples.slowest(kind, SLOWEST), &happened.snapshots),
        });
    }
    let not_found = load.not_found.load(Ordering::Relaxed);
    let expired = load.expired.load(Ordering::Relaxed);
    if not_found + expired > 0 {
        broken.push(format!(
            "{not_found} renewals found no lease ({} before the load), {expired} instances expired",
            found.not_found_before
        ));
    }
    if let Err(Problem(problem)) = found.equal {
        broken.push(problem);
    }
    match happened.away {
        None => broken.push("no snapshot was built while a follower was away: --minutes was too short".into()),
        Some(_) if !happened.caught_up_by_snapshot => broken.push("the follower caught up without a snapshot".into()),
        Some(_) => {}
    }
    let writes = load.samples.count(Kind::Write) as u64;
    let grown: Vec<u64> = found
        .sizes
        .iter()
        .zip(&found.empty)
        .map(|(now, then)| now.saturating_sub(*then))
        .collect();
    let failed = load.failed.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(json!({
        "instances": args.instances,
        "leases": args.leases,
        "minutes": args.minutes,
        "fill": {
            "instances_per_second": found.filled.instances as f64 / found.filled.took.as_secs_f64(),
            "written_bytes_per_instance": found.filled.bytes as f64 / found.filled.instances as f64,
        },
        "costs_small": found.costs[0],
        "costs_large": found.costs[1],
        "calls": calls,
        "failed": &*failed,
        "false_expiries": not_found + expired,
        "snapshots": happened.snapshots.iter().map(|(at, span)| json!({ "node": at + 1, "took_us": us(span.length()) })).collect::<Vec<_>>(),
        "follower": happened.away.map(|(dead, catching_up)| json!({
            "away_us": us(dead), "caught_up_after_us": us(catching_up), "by_snapshot": happened.caught_up_by_snapshot,
        })),
        "resident_bytes": found.sizes,
        "resident_bytes_per_instance": grown.iter().map(|grown| *grown as f64 / args.instances as f64).collect::<Vec<_>>(),
        "written_bytes": found.written,
        "writes": writes,
        "broken": broken,
    }))
}

fn number(value: &Value, path: &str) -> Option<f64> {
    value.pointer(path)?.as_f64()
}

fn micros(value: f64) -> String {
    if value < 1_000.0 {
        format!("{value:.1} µs")
    } else {
        time(value as u64)
    }
}

pub(super) fn print(result: &Value) {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header(["", "small", "large", "ratio", "target", "met"]);
    for (name, _) in COSTS {
        let of = |size: &str, path: &str| number(&result[size][name], path);
        for (figure, path) in [
            ("server CPU each", "/server/cpu_us_per_operation"),
            ("p50", "/p50_us"),
            ("rate", "/per_second"),
        ] {
            let (Some(small), Some(large)) = (of("costs_small", path), of("costs_large", path)) else {
                continue;
            };
            let ratio = large / small;
            let text = |value| {
                if figure == "rate" {
                    format!("{}/s", rate(value))
                } else {
                    micros(value)
                }
            };
            let judged = figure == "server CPU each";
            table.add_row([
                format!("{name}: {figure}"),
                text(small),
                text(large),
                format!("{ratio:.2} ×"),
                if judged {
                    format!("≤ {COST_MAX} ×")
                } else {
                    String::new()
                },
                verdict(judged, ratio <= COST_MAX),
            ]);
        }
    }
    println!("{table}\n");

    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header([
        "under load",
        "calls",
        "p50",
        "p99",
        "p99 during snapshots",
        "ratio",
        "target",
        "met",
    ]);
    for kind in Kind::ALL {
        let calls = &result["calls"][kind.name()];
        let of = |path: &str| number(calls, path);
        let (p99, during) = (of("/otherwise/p99_us"), of("/during_snapshots/p99_us"));
        let ratio = p99.zip(during).map(|(p99, during)| during / p99);
        let text = |value: Option<f64>| value.map_or("-".into(), micros);
        table.add_row([
            kind.name().into(),
            format!(
                "{:.0}",
                of("/otherwise/count").unwrap_or_default() + of("/during_snapshots/count").unwrap_or_default()
            ),
            text(of("/otherwise/p50_us")),
            text(p99),
            text(during),
            ratio.map_or("-".into(), |ratio| format!("{ratio:.2} ×")),
            format!("≤ {STRETCH_MAX} ×"),
            verdict(ratio.is_some(), ratio.is_some_and(|ratio| ratio <= STRETCH_MAX)),
        ]);
    }
    println!("{table}\n");

    let size = |value: Option<f64>| value.map_or("-".into(), |value| bytes(value.round() as i64));
    let list = |field: &str| -> String {
        let each = result[field].as_array().into_iter().flatten();
        each.map(|value| size(value.as_f64())).collect::<Vec<_>>().join(", ")
    };
    let (instances, leases) = (&result["instances"], &result["leases"]);
    println!(
        "{instances} instances on {leases} leases, {} minutes of load",
        result["minutes"]
    );
    let per_second = number(result, "/fill/instances_per_second").unwrap_or_default();
    println!(
        "filled at {}/s, {} written on all nodes for each instance",
        rate(per_second),
        size(number(result, "/fill/written_bytes_per_instance"))
    );
    println!(
        "memory of the nodes: {}; for each instance {}",
        list("resident_bytes"),
        list("resident_bytes_per_instance")
    );
    let (written, writes) = (
        result["written_bytes"].as_u64().unwrap_or_default(),
        result["writes"].as_u64().unwrap_or_default(),
    );
    println!(
        "under load {} written on all nodes, with snapshots and renewals; {writes} writes of callers",
        bytes(signed(written))
    );
    for snapshot in result["snapshots"].as_array().into_iter().flatten() {
        println!(
            "a snapshot of node {} took {}",
            snapshot["node"],
            time(snapshot["took_us"].as_u64().unwrap_or_default())
        );
    }
    if let Some(follower) = result["follower"].as_object() {
        let of = |field: &str| time(follower[field].as_u64().unwrap_or_default());
        println!(
            "a follower was dead for {}, and caught up in {}, by snapshot: {}",
            of("away_us"),
            of("caught_up_after_us"),
            follower["by_snapshot"]
        );
    }
    println!("false expiries: {}", result["false_expiries"]);
    println!("calls that failed: {}", result["failed"]);
    for broken in result["broken"].as_array().into_iter().flatten() {
        println!("BROKEN: {}", broken.as_str().unwrap_or_default());
    }
}

fn verdict(judged: bool, met: bool) -> String {
    match (judged, met) {
        (false, _) => "",
        (true, true) => "yes",
        (true, false) => "NO",
    }
    .into()
}
