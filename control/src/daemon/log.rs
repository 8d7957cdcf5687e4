//! The daemon's log: a line for each thing that happened, on standard error, where the service manager takes it.

use std::fmt::Display;
use std::io::{self, Write};

/// Something does not work, and will not by itself.
pub(super) fn error(what: impl Display) {
    line("error", what);
}

/// Something is not as it was meant to be, and the daemon goes on.
pub(super) fn warn(what: impl Display) {
    line("warn", what);
}

/// Something happened that an operator may want to know of.
pub(super) fn info(what: impl Display) {
    line("info", what);
}

/// What is told stays on one line: some of it comes from files and from the system.
fn line(level: &str, what: impl Display) {
    let text = what.to_string().replace(['\n', '\r'], "; ");
    // Where nobody takes the log, the daemon goes on without.
    let _ = writeln!(io::stderr().lock(), "culvert: {level}: {text}");
}
