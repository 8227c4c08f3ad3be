//! Aligned columns without borders and without trailing spaces.

use comfy_table::{ColumnConstraint, ContentArrangement, Width, presets};

/// Spaces between two columns.
const GAP: u16 = 2;

/// Rows under headings.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with these headings, which are written in capitals.
    pub(super) fn new(headings: impl IntoIterator<Item = &'static str>) -> Self {
        Self {
            headings: headings.into_iter().collect(),
            rows: Vec::new(),
        }
    }

    /// One more row, one cell for each heading.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| plain(&cell)).collect());
    }

    /// The lines, the headings first.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut table = blank();
        table.set_header(self.headings.clone());
        table.add_rows(
            self.rows
                .iter()
                .map(|row| row.iter().map(String::as_str).collect::<Vec<_>>()),
        );
        finished(table)
    }
}

/// Columns of lines that come one after another: each is as wide as it ever was, so that later lines align with
/// earlier ones as well as they can.
#[derive(Clone, Debug, Default)]
pub(super) struct Columns {
    widths: Vec<u16>,
}

impl Columns {
    /// The lines of some rows.
    pub(super) fn lines(&mut self, rows: &[Vec<String>]) -> Vec<String> {
        let mut table = blank();
        table.add_rows(
            rows.iter()
                .map(|row| row.iter().map(|cell| plain(cell)).collect::<Vec<_>>()),
        );
        let widths = table.column_max_content_widths();
        self.widths.resize(self.widths.len().max(widths.len()), 0);
        for (known, now) in self.widths.iter_mut().zip(widths) {
            *known = now.max(*known);
        }
        let constraints: Vec<_> = self
            .widths
            .iter()
            .map(|&width| ColumnConstraint::LowerBoundary(Width::Fixed(width.saturating_add(GAP))))
            .collect();
        table.set_constraints(constraints);
        finished(table)
    }
}

fn blank() -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table
}

fn finished(mut table: comfy_table::Table) -> Vec<String> {
    for column in table.column_iter_mut() {
        column.set_padding((0, GAP));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect()
}

/// A text that neither breaks the line nor commands the terminal.
fn plain(text: &str) -> String {
    if text.contains(char::is_control) {
        text.chars()
            .flat_map(|c| {
                let escaped = c.is_control();
                escaped
                    .then(|| c.escape_default())
                    .into_iter()
                    .flatten()
                    .chain((!escaped).then_some(c))
            })
            .collect()
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &[&str]) -> Vec<String> {
        cells.iter().map(|&cell| cell.to_owned()).collect()
    }

    #[test]
    fn columns_align_and_lines_have_no_trailing_spaces() {
        let mut table = Table::new(["SERVICE", "ID", "ZONE"]);
        table.row(row(&["web", "10.0.0.7:8080", "zürich"]));
        table.row(row(&["long-service", "1", ""]));
        assert_eq!(
            table.lines(),
            [
                "SERVICE       ID             ZONE",
                "web           10.0.0.7:8080  zürich",
                "long-service  1",
            ]
        );
    }

    #[test]
    fn wide_characters_count_as_they_are_shown() {
        let mut table = Table::new(["ZONE", "ID"]);
        table.row(row(&["東京", "1"]));
        table.row(row(&["zone", "2"]));
        assert_eq!(table.lines(), ["ZONE  ID", "東京  1", "zone  2"]);
    }

    #[test]
    fn what_would_command_a_terminal_is_shown_instead() {
        let mut table = Table::new(["TEXT"]);
        table.row(row(&["a\nb\x1b[31m"]));
        assert_eq!(table.lines(), ["TEXT", "a\\nb\\u{1b}[31m"]);
    }

    #[test]
    fn a_table_without_rows_is_its_headings() {
        assert_eq!(Table::new(["A", "B"]).lines(), ["A  B"]);
    }

    #[test]
    fn later_lines_align_with_earlier_ones() {
        let mut columns = Columns::default();
        assert_eq!(columns.lines(&[row(&["+", "long-name", "UP"])]), ["+  long-name  UP"]);
        assert_eq!(columns.lines(&[row(&["-", "x", "UP"])]), ["-  x          UP"]);
    }
}
