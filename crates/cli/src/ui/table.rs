//! Tables: columns two spaces apart, no lines.

use comfy_table::CellAlignment;
use comfy_table::presets::NOTHING;

/// Rows of text under headings.
#[derive(Debug)]
pub(crate) struct Table(comfy_table::Table);

impl Table {
    /// A table with these headings. Columns whose heading begins with `>` are
    /// aligned to the right.
    pub(crate) fn new<const N: usize>(headings: [&str; N]) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_style(NOTHING);
        table.set_header(headings.map(|heading| heading.trim_start_matches('>')));
        for (column, heading) in table.column_iter_mut().zip(headings) {
            column.set_padding((0, 2));
            if heading.starts_with('>') {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        Self(table)
    }

    /// Adds a row.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.0.add_row(cells);
    }

    /// The table as text, with a line end after each row.
    pub(crate) fn render(&self) -> String {
        self.0.trim_fmt() + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(["NAME", ">MIB", "STATE"]);
        table.row(["p".into(), "512".into(), "running".into()]);
        table.row(["├─ p-1".into(), "64".into(), String::new()]);
        table.row(["│  └─ p-1-1".into(), "-".into(), "ended  oddly".into()]);
        assert_eq!(
            table.render(),
            "NAME         MIB  STATE\n\
             p            512  running\n\
             ├─ p-1        64\n\
             │  └─ p-1-1    -  ended  oddly\n"
        );
    }

    #[test]
    fn a_wide_character_takes_two_places() {
        let mut table = Table::new(["IMAGE", ">MIB"]);
        table.row(["鯨鯨鯨".into(), "1".into()]);
        assert_eq!(table.render(), "IMAGE   MIB\n鯨鯨鯨    1\n");
    }
}
