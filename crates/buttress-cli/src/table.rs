//! Tables that fit 80 columns.

use crate::text::{cut, escaped, width};

/// How wide a table is at most.
pub(crate) const WIDTH: usize = 80;
const GAP: usize = 2;
/// How narrow a column of text becomes at most.
const NARROWEST: usize = 8;

/// A table: the columns of text become narrower until it fits.
#[derive(Debug)]
pub(crate) struct Table {
    heads: Vec<(&'static str, Side)>,
    rows: Vec<Vec<String>>,
}

/// On which side of its column a cell stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Text from outside, which may be cut.
    Text,
    /// Short words, never cut.
    Left,
    /// Numbers, never cut.
    Right,
}

// ===== impl Table =====

impl Table {
    pub(crate) fn new(heads: impl IntoIterator<Item = (&'static str, Side)>) -> Self {
        Self { heads: heads.into_iter().collect(), rows: Vec::new() }
    }

    /// Adds a row; control characters are escaped.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| escaped(&cell)).collect());
    }

    /// Draws it, behind `indent` spaces.
    pub(crate) fn render(&self, indent: usize) -> String {
        let widths = self.widths(indent);
        let heads: Vec<String> = self.heads.iter().map(|(head, _)| (*head).to_owned()).collect();
        let mut text = String::new();
        for row in std::iter::once(&heads).chain(&self.rows) {
            let mut line = " ".repeat(indent);
            for (place, cell) in row.iter().enumerate() {
                let Some((room, (_, side))) = widths.get(place).zip(self.heads.get(place)) else {
                    break;
                };
                let cell = cut(cell, *room);
                let padding = " ".repeat(room - width(&cell));
                match side {
                    Side::Right => line.extend([padding.as_str(), cell.as_str()]),
                    Side::Text | Side::Left => line.extend([cell.as_str(), padding.as_str()]),
                }
                line.push_str(&" ".repeat(GAP));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// Takes room from the widest column of text until the table fits.
    fn widths(&self, indent: usize) -> Vec<usize> {
        let mut widths: Vec<usize> = self.heads.iter().map(|(head, _)| width(head)).collect();
        for row in &self.rows {
            for (known, cell) in widths.iter_mut().zip(row) {
                *known = width(cell).max(*known);
            }
        }
        let gaps = GAP * widths.len().saturating_sub(1);
        loop {
            let taken = indent + gaps + widths.iter().sum::<usize>();
            let over = taken.saturating_sub(WIDTH);
            let texts = self.heads.iter().enumerate().filter(|(_, (_, side))| *side == Side::Text);
            let widest = texts.map(|(place, _)| place).max_by_key(|place| widths[*place]);
            let Some(widest) = widest.filter(|place| over > 0 && widths[*place] > NARROWEST) else {
                return widths;
            };
            widths[widest] -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_right_and_text_is_cut_to_fit() {
        let mut table =
            Table::new([("AGENT", Side::Text), ("KIND", Side::Text), ("CALLS", Side::Right)]);
        table.row(["a\u{1b}[2J".to_owned(), "short".to_owned(), "7".to_owned()]);
        table.row(["x".repeat(200), "y".repeat(60), "12345".to_owned()]);
        let text = table.render(2);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines.iter().all(|line| width(line) <= WIDTH), "{text}");
        assert!(lines[0].starts_with("  AGENT ") && lines[0].ends_with("  CALLS"), "{text}");
        assert!(lines[1].starts_with("  a\\u{1b}[2J ") && lines[1].ends_with("      7"), "{text}");
        assert!(lines[2].contains("x..  y") && lines[2].ends_with("..  12345"), "{text}");
    }

    #[test]
    fn a_table_without_rows_is_its_head() {
        assert_eq!(Table::new([("A", Side::Left), ("B", Side::Right)]).render(0), "A  B\n");
    }
}
