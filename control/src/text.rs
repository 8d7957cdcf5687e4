//! Numbers and states as people read them, in a few characters.

use std::io::IsTerminal;

use anstyle::{AnsiColor, Style};

/// A time in seconds: `45s`, `12m05s`, `3h07m`, `12d04h`, in 6 characters up to 999 days.
pub fn age(seconds: f64) -> String {
    // Negative and what is no number become 0.
    let seconds = seconds as u64;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m{:02}s", seconds % 60),
        3600..86_400 => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

/// A number with three digits and the letter of its thousands: `0`, `999`, `1.23k`, `45.6M`, in 5 characters.
pub fn short(number: f64) -> String {
    // The sum of nothing is -0.
    let mut number = if number > 0.0 { number } else { 0.0 };
    for letter in ["", "k", "M", "G", "T", "P", "E"] {
        // What would be rounded up to 1000 has the next letter.
        if number < 999.5 {
            return match number {
                _ if letter.is_empty() => format!("{number:.0}"),
                0.0..9.995 => format!("{number:.2}{letter}"),
                9.995..99.95 => format!("{number:.1}{letter}"),
                _ => format!("{number:.0}{letter}"),
            };
        }
        number /= 1000.0;
    }
    "lots".to_owned()
}

/// What people read is no wider than that.
pub const COLUMNS: usize = 80;

/// The text in lines of at most `width` characters, but for words that are longer.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut().filter(|line| line.chars().count() + 1 + word.chars().count() <= width) {
            Some(line) => *line += &format!(" {word}"),
            None => lines.push(word.to_owned()),
        }
    }
    lines
}

/// What somebody else says, for logs and terminals: without what would move a cursor or change a colour.
pub fn harmless(text: &str) -> String {
    text.chars().filter(|char| !char.is_control()).collect()
}

/// The first `most` bytes, or as many fewer as make whole characters.
pub fn cut(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or_default()
}

/// Are colours wanted on standard output? On a terminal that has them, unless `NO_COLOR` says otherwise (no-color.org).
pub fn colours() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    std::io::stdout().is_terminal() && !set("NO_COLOR") && !dumb
}

/// The colour of a state.
pub fn state(state: &str) -> Option<AnsiColor> {
    match state.split([':', ' ']).next() {
        _ if state.contains("kept") => Some(AnsiColor::Yellow),
        Some("up" | "attached" | "live") => Some(AnsiColor::Green),
        Some("down" | "departed" | "exhausted") => Some(AnsiColor::Red),
        _ => None,
    }
}

/// The style of a cell under this heading, or of the heading itself where the cell is none.
pub fn style(heading: &str, cell: Option<&str>) -> Style {
    let Some(cell) = cell else { return Style::new().bold() };
    let colour = matches!(heading, "state" | "health").then(|| state(cell)).flatten();
    Style::new().fg_color(colour.map(Into::into))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ages_have_two_units() {
        let ages = [-1.0, 0.9, 59.0, 60.0, 3599.9, 3600.0, 86_399.0, 86_400.0, 5e6, f64::NAN].map(age);
        assert_eq!(ages, ["0s", "0s", "59s", "1m00s", "59m59s", "1h00m", "23h59m", "1d00h", "57d20h", "0s"]);
    }

    #[test]
    fn numbers_have_three_digits() {
        let shown =
            [-0.0, 0.4, 999.4, 999.6, 1234.0, 9_996.0, 12_345.0, 999_499.0, 999_500.0, 1e19].map(short);
        assert_eq!(shown, ["0", "0", "999", "1.00k", "1.23k", "10.0k", "12.3k", "999k", "1.00M", "10.0E"]);
    }

    proptest! {
        #[test]
        fn they_stay_short_and_near(number in 0.0..1e20_f64) {
            let text = short(number);
            prop_assert!(text.len() <= 5, "{}", text);
            let (digits, letter) = text.split_at(text.trim_end_matches(char::is_alphabetic).len());
            let thousands = ["", "k", "M", "G", "T", "P", "E"].iter().position(|known| *known == letter);
            let told = digits.parse::<f64>().unwrap() * 1000_f64.powi(thousands.unwrap() as i32);
            prop_assert!((told - number).abs() <= number * 0.0051 + 0.5, "{} {}", text, number);
        }
    }

    #[test]
    fn only_states_are_coloured() {
        assert_eq!(style("tunnel", Some("down")), Style::new());
        assert_eq!(style("state", Some("down: no SA")).get_fg_color(), Some(AnsiColor::Red.into()));
        assert_eq!(style("state", Some("up (way kept)")).get_fg_color(), Some(AnsiColor::Yellow.into()));
        assert_eq!(style("health", Some("attached")).get_fg_color(), Some(AnsiColor::Green.into()));
    }
}
