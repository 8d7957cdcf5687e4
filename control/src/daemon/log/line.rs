//! The forms that a line of the log can have.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};

use crate::config::{LogFormat, LogLevel as Level};

/// A line that is to be written.
pub(super) struct Line<'a> {
    pub(super) time: SystemTime,
    pub(super) level: Level,
    /// What it is about: `("tunnel", "oslo")`.
    pub(super) subject: Option<(&'static str, &'a str)>,
    pub(super) message: &'a str,
}

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    format: LogFormat,
    /// The journal of systemd takes them: it wants to be told the level (sd-daemon(3)) and has the time.
    journal: bool,
}

impl Form {
    /// That of a configuration, into the journal or elsewhere.
    pub(super) fn of(format: LogFormat, journal: bool) -> Form {
        Form { format, journal }
    }

    /// A number for it.
    pub(super) fn number(self) -> u8 {
        self.format as u8 * 2 + u8::from(self.journal)
    }

    /// The form of a number.
    pub(super) fn numbered(number: u8) -> Form {
        let formats = [LogFormat::Text, LogFormat::Logfmt, LogFormat::Json];
        let format = formats.into_iter().find(|format| *format as u8 == number / 2);
        Form { format: format.unwrap_or(LogFormat::Text), journal: number % 2 == 1 }
    }
}

/// Does standard error lead into the journal of systemd? It says so by `JOURNAL_STREAM`, device and inode (systemd.exec(5)).
pub(super) fn is_journal() -> bool {
    let Some(named) = std::env::var_os("JOURNAL_STREAM") else { return false };
    let here = fs::metadata("/dev/stderr").map(|file| format!("{}:{}", file.dev(), file.ino()));
    here.is_ok_and(|here| named.to_str() == Some(&here))
}

impl Line<'_> {
    /// The line, with its end.
    pub(super) fn written(&self, form: Form) -> String {
        let before = if form.journal { format!("<{}>", priority(self.level)) } else { String::new() };
        let body = match form.format {
            LogFormat::Text => self.text(form.journal),
            LogFormat::Logfmt => self.logfmt(),
            LogFormat::Json => self.json(),
        };
        format!("{before}{body}\n")
    }

    /// What is told stays on one line: some of it comes from files and from the system.
    fn text(&self, journal: bool) -> String {
        let subject = self.subject.map(|(kind, name)| format!("{kind} {name:?}: ")).unwrap_or_default();
        let message = self.message.replace(['\n', '\r'], "; ");
        // The journal has the program's name and the level already.
        let who = if journal { String::new() } else { format!("culvert: {}: ", self.level.name()) };
        format!("{who}{subject}{message}")
    }

    fn logfmt(&self) -> String {
        let subject =
            self.subject.map(|(kind, name)| format!(" {kind}={}", quoted(name))).unwrap_or_default();
        let time = timestamp(self.time);
        format!("time={time} level={}{subject} msg={}", self.level.name(), quoted(self.message))
    }

    fn json(&self) -> String {
        let mut line = Map::new();
        line.insert("time".to_owned(), timestamp(self.time).into());
        line.insert("level".to_owned(), self.level.name().into());
        if let Some((kind, name)) = self.subject {
            line.insert(kind.to_owned(), name.into());
        }
        line.insert("msg".to_owned(), self.message.into());
        Value::Object(line).to_string()
    }
}

/// The priorities of syslog(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug => 7,
    }
}

/// A value of key=value, in quotes where it has to be.
fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '=' | '\\');
    if !value.is_empty() && value.chars().all(plain) {
        return value.to_owned();
    }
    Value::from(value).to_string()
}

/// `2026-11-25T19:07:12.345Z` (RFC 3339).
fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", since.subsec_millis())
}

/// The date so many days after 1970-01-01. Years are counted from March on, so that a leap day is the last of its year.
fn date(days: u64) -> (u64, u64, u64) {
    // From 0000-03-01, in eras of 400 years, which are all as long.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Months of 31 and 30 days by turns, five of which have 153 days.
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const FORMATS: [LogFormat; 3] = [LogFormat::Text, LogFormat::Logfmt, LogFormat::Json];

    fn line<'a>(subject: Option<(&'static str, &'a str)>, message: &'a str) -> Line<'a> {
        let time = UNIX_EPOCH + Duration::from_millis(1_764_097_632_045);
        Line { time, level: Level::Warn, subject, message }
    }

    #[test]
    fn lines_are_written_as_they_are_asked_for() {
        let down = line(Some(("tunnel", "oslo")), "down: no SA\nnor \"way\" out");
        let written = FORMATS.map(|format| down.written(Form::of(format, false)));
        assert_eq!(
            written,
            [
                "culvert: warn: tunnel \"oslo\": down: no SA; nor \"way\" out\n",
                "time=2025-11-25T19:07:12.045Z level=warn tunnel=oslo msg=\"down: no SA\\nnor \\\"way\\\" out\"\n",
                "{\"level\":\"warn\",\"msg\":\"down: no SA\\nnor \\\"way\\\" out\",\"time\":\"2025-11-25T19:07:12.045Z\",\"tunnel\":\"oslo\"}\n",
            ]
        );
        assert_eq!(line(None, "up").written(Form::of(LogFormat::Text, true)), "<4>up\n");
        assert_eq!(
            line(None, "up").written(Form::of(LogFormat::Logfmt, true)),
            "<4>time=2025-11-25T19:07:12.045Z level=warn msg=up\n"
        );
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (days, told) in [
            (0, (1970, 1, 1)),
            (59, (1970, 3, 1)),
            (11_016, (2000, 2, 29)),
            (11_017, (2000, 3, 1)),
            (19_782, (2024, 2, 29)),
            (47_540, (2100, 2, 28)),
            (47_541, (2100, 3, 1)),
            (20_453, (2025, 12, 31)),
            (20_454, (2026, 1, 1)),
        ] {
            assert_eq!(date(days), told, "{days}");
        }
    }

    #[test]
    fn a_form_has_a_number() {
        for form in
            FORMATS.into_iter().flat_map(|format| [false, true].map(|journal| Form::of(format, journal)))
        {
            assert_eq!(Form::numbered(form.number()), form);
        }
    }

    proptest! {
        /// Whatever is told, a line stays one line, and what JSON says of it is what was told.
        #[test]
        fn a_line_is_one_line(message in any::<String>(), name in any::<String>()) {
            let line = line(Some(("port", &name)), &message);
            for format in FORMATS {
                let written = line.written(Form::of(format, true));
                prop_assert!(written.ends_with('\n') && written.trim_end_matches('\n').lines().count() <= 1);
            }
            let json: Value = serde_json::from_str(&line.json()).unwrap();
            prop_assert_eq!((&json["msg"], &json["port"]), (&Value::from(message.as_str()), &Value::from(name.as_str())));
        }
    }
}
