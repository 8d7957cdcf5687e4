//! Tables of text for people: columns as wide as what stands in them, the first ones to the left, numbers to the right.

use anstyle::Style;

use crate::text;

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

    /// Does it fit on a terminal?
    pub fn fits(&self) -> bool {
        self.lines().all(|line| line.chars().count() <= text::COLUMNS)
    }

    /// The lines, without spaces at their ends.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.painted(|_, _| Style::new())
    }

    /// The lines, each cell in the style that `style` gives for its column's heading and itself; `None`: for the heading.
    pub fn painted(&self, style: impl Fn(&str, Option<&str>) -> Style) -> impl Iterator<Item = String> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cells = |column: usize| self.rows.iter().filter_map(move |row| row.get(column));
        let width = |column: usize| cells(column).map(|cell| cell.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        self.rows.iter().enumerate().map(move |(number, row)| {
            let mut line = String::new();
            // Spaces are owed until there is something behind them.
            let mut owed = 0;
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let room = width - cell.chars().count();
                let (before, behind) = if column < self.left { (0, room) } else { (room, 0) };
                owed += before;
                if !cell.is_empty() {
                    let heading =
                        self.rows.first().and_then(|row| row.get(column)).map_or("", String::as_str);
                    let style = style(heading, (number > 0).then_some(cell));
                    line += &format!("{:owed$}{style}{cell}{style:#}", "");
                    owed = 0;
                }
                owed += behind + 2;
            }
            line
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

    #[test]
    fn colours_take_no_room() {
        let mut table = Table::new(2, ["port", "state", "in"]);
        table.row(["wan".into(), "up".into(), "7".into()]);
        table.row(["lan".into(), "departed".into(), "12".into()]);
        let lines: Vec<String> = table.painted(crate::text::style).collect();
        let plain: Vec<String> = table.lines().collect();
        for (line, plain) in lines.iter().zip(&plain) {
            let bare: String = line
                .split('\x1b')
                .enumerate()
                .map(|(n, part)| if n == 0 { part } else { &part[part.find('m').unwrap() + 1..] })
                .collect();
            assert_eq!(&bare, plain);
        }
        assert_eq!(lines[1], "wan   \x1b[32mup\x1b[0m         7");
        assert_eq!(lines[0], "\x1b[1mport\x1b[0m  \x1b[1mstate\x1b[0m     \x1b[1min\x1b[0m");
    }
}
