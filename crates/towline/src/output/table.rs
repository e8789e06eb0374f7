//! Tables for people: a heading, aligned columns, no frame.

use comfy_table::{ContentArrangement, presets};

/// Rows under a heading.
pub struct Table(comfy_table::Table);

impl Table {
    /// A table without rows.
    pub fn new<const N: usize>(heading: [&str; N]) -> Self {
        let mut table = comfy_table::Table::new();
        // Lines are never folded to the terminal's width: a cut id or slug could not be copied.
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(heading);
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        Self(table)
    }

    /// Adds a row. Control characters are replaced, since what is shown was partly written by others.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.0.add_row(cells.map(|cell| printable(&cell)));
    }

    /// The table as text without a final line break.
    pub fn text(&self) -> String {
        let lines: Vec<_> = self.0.lines().map(|line| line.trim_end().to_owned()).collect();
        lines.join("\n")
    }
}

/// The text without characters that move the cursor or change the terminal's state.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_nothing_is_folded() {
        let mut table = Table::new(["SLUG", "STATUS", "REASON"]);
        table.row(["hello".to_owned(), "running".to_owned(), String::new()]);
        table.row(["a-longer-slug".to_owned(), "failed".to_owned(), "x".repeat(100)]);
        let expected = format!(
            "SLUG           STATUS   REASON\nhello          running\na-longer-slug  failed   {}",
            "x".repeat(100)
        );
        assert_eq!(table.text(), expected);
    }

    #[test]
    fn a_name_cannot_drive_the_terminal() {
        let mut table = Table::new(["NAME"]);
        table.row(["a\x1b[2Jb\nc".to_owned()]);
        assert_eq!(table.text(), "NAME\na\u{fffd}[2Jb\u{fffd}c");
    }
}
