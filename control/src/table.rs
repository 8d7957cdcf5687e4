//! Tables of text for people: columns as wide as what stands in them, the first ones to the left, numbers to the right.

/// Rows under a heading.
#[derive(Debug, Clone)]
pub struct Table {
    rows: Vec<Vec<String>>,
    left: usize,
}

impl Table {
    /// A table with these column headings, the first `left` of which are of text and stand to the left.
    pub fn new<const N: usize>(left: usize, headings: [&str; N]) -> Table {
        Table { rows: vec![headings.map(str::to_owned).to_vec()], left }
    }

    /// Adds a row; cells that are not given stay empty.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Is there nothing but the heading?
    pub fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }

    /// The lines, without spaces at their ends.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        self.rows.iter().map(move |row| {
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
                if column < self.left { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_cells() {
        let mut table = Table::new(1, ["port", "in", "out"]);
        assert!(table.is_empty());
        table.row(["wan".into(), "7".into(), "12345".into()]);
        table.row(["a-long-name".into(), "1234".into()]);
        let lines: Vec<String> = table.lines().collect();
        assert_eq!(lines, ["port           in    out", "wan             7  12345", "a-long-name  1234"]);
    }
}
