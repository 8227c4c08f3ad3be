//! The table: what each did, their ratio, and what Roster is held to.

use comfy_table::{Table, presets::ASCII_MARKDOWN};
use serde_json::Value;

use super::{
    Results,
    plan::{Beside, Figure, Goal, ROWS, Row, Unit},
};

/// A figure's values over the rounds.
struct Values(Vec<f64>);

impl Values {
    fn of(results: Option<&Vec<Value>>, path: &str) -> Self {
        let each = results.into_iter().flatten();
        let mut values: Vec<f64> = each.filter_map(|result| number(result.pointer(path)?)).collect();
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    fn median(&self) -> Option<f64> {
        let (low, high) = (
            self.0.get(self.0.len().checked_sub(1)? / 2)?,
            self.0.get(self.0.len() / 2)?,
        );
        Some((low + high) / 2.0)
    }

    /// The median, and from where to where it goes.
    fn text(&self, unit: Unit) -> String {
        let (Some(median), Some(low), Some(high)) = (self.median(), self.0.first(), self.0.last()) else {
            return "-".into();
        };
        if self.0.len() == 1 || low == high {
            return unit.text(median);
        }
        format!("{} ({}–{})", unit.text(median), unit.text(*low), unit.text(*high))
    }
}

/// A number, or the mean of a list of them.
fn number(value: &Value) -> Option<f64> {
    match value.as_array() {
        Some(list) if !list.is_empty() => {
            let numbers: Option<Vec<f64>> = list.iter().map(Value::as_f64).collect();
            numbers.map(|numbers| numbers.iter().sum::<f64>() / numbers.len() as f64)
        }
        _ => value.as_f64(),
    }
}

impl Unit {
    fn text(self, value: f64) -> String {
        let signed = |value: f64| value.round() as i64;
        match self {
            Self::PerSecond => format!("{}/s", roster::cli::bench::measure::rate(value)),
            Self::Us if value < 1_000.0 => format!("{value:.0} µs"),
            Self::Us => roster::cli::bench::measure::time(signed(value).unsigned_abs()),
            Self::Bytes => roster::cli::bench::measure::bytes(signed(value)),
            Self::Count => format!("{value:.0}"),
        }
    }
}

impl Goal {
    fn text(self, unit: Unit) -> String {
        match self {
            Self::AtLeast(factor) => format!("≥ {factor} ×"),
            Self::AtMost(factor) => format!("≤ {factor:.2} ×"),
            Self::Within(most) => format!("≤ {}", unit.text(most)),
            Self::None => String::new(),
        }
    }

    fn is_met(self, roster: f64, ratio: Option<f64>) -> Option<bool> {
        match self {
            Self::AtLeast(factor) => ratio.map(|ratio| ratio >= factor),
            Self::AtMost(factor) => ratio.map(|ratio| ratio <= factor),
            Self::Within(most) => Some(roster <= most),
            Self::None => None,
        }
    }
}

/// Everything that was measured.
pub(super) fn table(results: &Results) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header(["workload", "figure", "Roster", "etcd", "ratio", "target", "met"]);
    for row in ROWS {
        for (at, figure) in row.figures.iter().enumerate() {
            if let Some(cells) = cells(results, row, figure, at == 0) {
                table.add_row(cells);
            }
        }
    }
    table
}

fn cells(results: &Results, row: &Row, figure: &Figure, first: bool) -> Option<[String; 7]> {
    let ours = Values::of(results.get(&(row.id, "Roster")), figure.roster);
    let roster = ours.median()?;
    let other = match row.beside {
        Beside::Etcd(_) => results.get(&(row.id, "etcd")),
        Beside::EtcdOf(id) => results.get(&(id, "etcd")),
        Beside::RosterOf(id) => results.get(&(id, "Roster")),
        Beside::Nothing => None,
    };
    let theirs = Values::of(other, figure.other);
    let ratio = theirs
        .median()
        .filter(|median| *median > 0.0)
        .map(|median| roster / median);
    let met = figure.goal.is_met(roster, ratio);
    Some([
        if first { row.what.into() } else { String::new() },
        figure.name.into(),
        ours.text(figure.unit),
        theirs.text(figure.unit),
        ratio.map_or_else(|| "-".into(), |ratio| format!("{ratio:.2} ×")),
        figure.goal.text(figure.unit),
        met.map_or("", |met| if met { "yes" } else { "NO" }).into(),
    ])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_has_medians_their_ratio_and_a_verdict() {
        let result = |rate: f64| json!({ "per_second": rate, "p99_us": 2_000 });
        let mut results = Results::new();
        results.insert(("register-1", "Roster"), vec![result(900.0), result(1_100.0)]);
        results.insert(("register-1", "etcd"), vec![result(250.0)]);
        let row = &ROWS[0];
        let rate = cells(&results, row, &row.figures[0], true).expect("measured");
        assert_eq!(rate[2], "1000/s (900/s–1100/s)");
        assert_eq!((rate[4].as_str(), rate[6].as_str()), ("4.00 ×", "yes"));
        let p99 = cells(&results, row, &row.figures[1], false).expect("measured");
        assert_eq!((p99[4].as_str(), p99[6].as_str()), ("1.00 ×", "NO"));
        assert!(cells(&results, row, &row.figures[2], false).is_none(), "not measured");
    }

    #[test]
    fn a_list_counts_with_its_mean_and_what_is_not_compared_may_still_be_met() {
        assert_eq!(number(&json!([1, 2, 6])), Some(3.0));
        assert_eq!(number(&json!(null)), None);
        assert_eq!(Goal::Within(5.0).is_met(5.0, None), Some(true));
        assert_eq!(Goal::AtLeast(2.0).is_met(5.0, None), None);
    }
}
