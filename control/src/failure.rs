//! How a command fails: an exit code, and lines that say what, why and what to do about it.

use std::io::{self, Write};

use crate::config::{ConfigErrors, Problem};

/// A failed command. Exit codes: 1, it failed; 2, the arguments or the configuration are wrong and nothing was changed;
/// and 0 for one that ended early because nobody reads its output any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    code: u8,
    lines: Vec<String>,
}

impl Failure {
    /// The arguments or the configuration are wrong (exit code 2). `message` is `WHAT: WHY`.
    pub fn usage(message: String) -> Failure {
        Failure { code: 2, lines: vec![message] }
    }

    /// The command failed (exit code 1). `message` is `WHAT: WHY`.
    pub fn failed(message: String) -> Failure {
        Failure { code: 1, lines: vec![message] }
    }

    /// Several things failed (exit code 1), a line each.
    pub fn failed_lines(lines: Vec<String>) -> Failure {
        Failure { code: 1, lines }
    }

    /// The configuration is wrong (exit code 2), a line for each problem.
    pub fn configuration(problems: &[Problem]) -> Failure {
        Failure { code: 2, lines: problems.iter().map(Problem::to_string).collect() }
    }

    /// Nothing is wrong, and there are differences (exit code 3).
    pub fn differs() -> Failure {
        Failure { code: 3, lines: Vec::new() }
    }

    /// What the daemon says went wrong, and the exit code that it gives it; 0 would be none.
    pub(crate) fn reported(code: u8, lines: Vec<String>) -> Failure {
        Failure { code: code.max(1), lines }
    }

    /// The same, `what` (and a colon) before each message.
    #[must_use]
    pub fn about(self, what: &str) -> Failure {
        let lines = self.lines.into_iter().map(|line| format!("{what}: {line}")).collect();
        Failure { lines, ..self }
    }

    /// Standard output takes no more. A reader that has gone away wanted no more, and is no failure.
    pub fn stdout(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure { code: 0, lines: Vec::new() },
            _ => Failure::failed(format!("standard output: {error}")),
        }
    }

    /// What the command line's reader says about wrong arguments (exit code 2).
    pub fn arguments(error: &clap::Error) -> Failure {
        let text = error.render().to_string();
        let text = text.trim_end();
        Failure::usage(format!("arguments: {}", text.strip_prefix("error: ").unwrap_or(text)))
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        self.code
    }

    /// The messages, `WHAT: WHY` each.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// Writes each message as `culvert: WHAT: WHY`.
    ///
    /// # Errors
    /// Those of writing.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        self.lines.iter().try_for_each(|line| writeln!(out, "culvert: {line}"))
    }
}

impl From<ConfigErrors> for Failure {
    fn from(errors: ConfigErrors) -> Failure {
        Failure::configuration(&errors.problems)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;

    fn shown(failure: &Failure) -> String {
        let mut out = Vec::new();
        failure.write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_message_says_who_speaks() {
        let failure = Failure::failed_lines(vec!["a: one".into(), "b: two".into()]);
        assert_eq!((failure.code(), shown(&failure).as_str()), (1, "culvert: a: one\nculvert: b: two\n"));
    }

    #[test]
    fn wrong_arguments_end_with_2() {
        let error = Cli::from_args(["culvert", "replay", "--json"]).unwrap_err();
        let failure = Failure::arguments(&error);
        let text = shown(&failure);
        assert_eq!(failure.code(), 2);
        assert!(
            text.starts_with("culvert: arguments: the following required") && text.contains("--config"),
            "{text}"
        );
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        let gone = Failure::stdout(io::ErrorKind::BrokenPipe.into());
        assert_eq!((gone.code(), shown(&gone).as_str()), (0, ""));
        assert_eq!(Failure::stdout(io::ErrorKind::StorageFull.into()).code(), 1);
    }
}
