//! Tables that a person reads at three in the morning: plain columns, no frames.

use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table, presets};

use crate::human;
use crate::output::{Output, Tone};

/// The space between two columns.
const GAP: u16 = 2;

/// A column: its title, how it is aligned, and how willingly it is left out.
#[derive(Clone, Copy)]
pub(crate) struct Column {
    title: &'static str,
    number: bool,
    spare: u8,
}

impl Column {
    /// Lets the column be left out where the terminal is too narrow, the highest `order` first.
    pub(crate) const fn spare(mut self, order: u8) -> Self {
        self.spare = order;
        self
    }
}

/// A column of text.
pub(crate) const fn text(title: &'static str) -> Column {
    Column { title, number: false, spare: 0 }
}

/// A column of numbers, which stand at the right.
pub(crate) const fn number(title: &'static str) -> Column {
    Column { title, number: true, spare: 0 }
}

/// A value and how it is meant.
pub(crate) struct Value {
    text: String,
    tone: Option<Tone>,
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self { text, tone: None }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self { text: text.to_owned(), tone: None }
    }
}

impl Value {
    /// Makes a value with a meaning.
    pub(crate) fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: text.into(), tone: Some(tone) }
    }

    /// Makes the value of something that is not there.
    pub(crate) fn none() -> Self {
        Self::toned("-", Tone::Faint)
    }
}

/// Prints a table; as wide as its contents where standard output is no terminal. Values beyond the last
/// column are left out.
pub(crate) fn print(output: &Output, columns: &[Column], rows: impl IntoIterator<Item = Vec<Value>>) {
    let rows: Vec<Vec<Value>> = rows.into_iter().collect();
    let mut table = Table::new();
    // A terminal that says it has no columns does not know its width.
    let width = table.width().filter(|width| *width >= 20);
    table.load_style(presets::NOTHING).set_content_arrangement(match width {
        Some(_) => ContentArrangement::Dynamic,
        None => ContentArrangement::Disabled,
    });
    let shown = fitting(columns, &rows, width);
    table.set_header(shown.iter().map(|&position| {
        let cell = Cell::new(columns[position].title);
        if output.colours() { cell.add_attribute(Attribute::Bold) } else { cell }
    }));
    for row in &rows {
        table
            .add_row(shown.iter().filter_map(|&position| row.get(position)).map(|value| cell(output, value)));
    }
    for (place, &position) in shown.iter().enumerate() {
        if let Some(column) = table.column_mut(place) {
            column.set_padding((0, GAP));
            if columns[position].number {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    for line in table.lines() {
        output.line(line.trim_end());
    }
}

/// Returns the positions of the columns that fit into `width`; all where it is unknown.
fn fitting(columns: &[Column], rows: &[Vec<Value>], width: Option<u16>) -> Vec<usize> {
    let mut shown: Vec<usize> = (0..columns.len()).collect();
    let Some(width) = width else { return shown };
    let widths: Vec<usize> = (0..columns.len()).map(|position| widest(columns, rows, position)).collect();
    loop {
        let needed: usize = shown.iter().map(|&position| widths[position] + usize::from(GAP)).sum();
        if needed <= usize::from(width) {
            return shown;
        }
        let sparest = shown.iter().copied().filter(|&position| columns[position].spare > 0);
        let Some(left_out) = sparest.max_by_key(|&position| columns[position].spare) else { return shown };
        shown.retain(|&position| position != left_out);
    }
}

fn widest(columns: &[Column], rows: &[Vec<Value>], position: usize) -> usize {
    let values = rows.iter().filter_map(|row| row.get(position));
    let values = values.map(|value| human::visible(&value.text).chars().count());
    values.max().unwrap_or(0).max(columns[position].title.len())
}

fn cell(output: &Output, value: &Value) -> Cell {
    let cell = Cell::new(human::visible(&value.text));
    match value.tone {
        Some(tone) if output.colours() => match tone {
            Tone::Good => cell.fg(Color::Green),
            Tone::Notice => cell.fg(Color::Yellow),
            Tone::Bad => cell.fg(Color::Red),
            Tone::Faint => cell.add_attribute(Attribute::Dim),
            Tone::Strong => cell.add_attribute(Attribute::Bold),
        },
        _ => cell,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_terminal_leaves_out_what_matters_least() {
        let columns = [text("ID"), text("TIME").spare(1), number("ROWS").spare(2), text("NAME")];
        let rows = [vec!["12345678".into(), "2026-01-02".into(), "12".into(), "app".into()]];
        assert_eq!(fitting(&columns, &rows, None), [0, 1, 2, 3]);
        assert_eq!(fitting(&columns, &rows, Some(80)), [0, 1, 2, 3]);
        assert_eq!(fitting(&columns, &rows, Some(30)), [0, 1, 3]);
        assert_eq!(fitting(&columns, &rows, Some(20)), [0, 3]);
        assert_eq!(fitting(&columns, &rows, Some(1)), [0, 3]);
    }
}
