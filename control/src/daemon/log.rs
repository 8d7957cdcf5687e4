//! The daemon's log: a line for each thing that happened, on standard error, where the service manager takes it.
//!
//! `[log]` in the configuration says from which level on, and in which form ([`line::Form`]); `--log` goes before the level.
//! Of what is said at one place of the program, [`limit::BURST`] lines are written in [`limit::PERIOD`], and then how many were
//! not: something that happens to ten thousand tunnels at once must not bury what else happens.

pub(super) mod limit;
mod line;

use std::fmt::Display;
use std::io::{self, Write};
use std::panic::Location;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{LazyLock, Mutex, OnceLock, PoisonError};
use std::time::{Instant, SystemTime};

use self::limit::{Limits, Verdict};
use self::line::{Form, Line};
use crate::config;
use crate::config::LogLevel as Level;

/// From which level on lines are written.
static LEVEL: AtomicU8 = AtomicU8::new(Level::Info as u8);
/// How lines are written; see [`Form::number`].
static FORM: AtomicU8 = AtomicU8::new(0);
static LIMITS: LazyLock<Mutex<Limits>> = LazyLock::new(Mutex::default);

/// The level that the command line gave, if it did.
static GIVEN: OnceLock<Level> = OnceLock::new();

/// From now on, this level goes before that of `[log]`.
pub(super) fn give_level(level: Level) {
    // It is given once.
    let _ = GIVEN.set(level);
}

/// From now on, the log is as `[log]` says, but for a level that was given.
pub(super) fn configure(log: &config::Log) {
    LEVEL.store(GIVEN.get().copied().unwrap_or(log.level) as u8, Ordering::Relaxed);
    FORM.store(Form::of(log.format, line::is_journal()).number(), Ordering::Relaxed);
}

/// Something does not work, and will not by itself.
#[track_caller]
pub(super) fn error(what: impl Display) {
    say(Level::Error, None, &what, Location::caller());
}

/// Something is not as it was meant to be, and the daemon goes on.
#[track_caller]
pub(super) fn warn(what: impl Display) {
    say(Level::Warn, None, &what, Location::caller());
}

/// Something happened that an operator may want to know of.
#[track_caller]
pub(super) fn info(what: impl Display) {
    say(Level::Info, None, &what, Location::caller());
}

/// Something happened that somebody may want to know who looks for an error.
#[track_caller]
pub(super) fn debug(what: impl Display) {
    say(Level::Debug, None, &what, Location::caller());
}

/// What a line is about: a tunnel or a port, and its name.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    kind: &'static str,
    name: &'a str,
}

/// Lines about the tunnel of this name.
pub(super) fn tunnel(name: &str) -> Subject<'_> {
    Subject { kind: "tunnel", name }
}

/// Lines about the port of this name.
pub(super) fn port(name: &str) -> Subject<'_> {
    Subject { kind: "port", name }
}

impl Subject<'_> {
    /// As [`error`].
    #[track_caller]
    pub(super) fn error(self, what: impl Display) {
        say(Level::Error, Some(self), &what, Location::caller());
    }

    /// As [`warn`].
    #[track_caller]
    pub(super) fn warn(self, what: impl Display) {
        say(Level::Warn, Some(self), &what, Location::caller());
    }

    /// As [`info`].
    #[track_caller]
    pub(super) fn info(self, what: impl Display) {
        say(Level::Info, Some(self), &what, Location::caller());
    }
}

/// Says how many lines were left out where that is known now. To be called once in a while.
pub(super) fn look_after() {
    let left_out = limits().look_after(Instant::now());
    for (level, count, like) in left_out {
        write(level, None, &format_args!("{count} more lines like this were left out: {like}"));
    }
}

fn limits() -> std::sync::MutexGuard<'static, Limits> {
    // A thread that panicked while it counted lines leaves at worst a wrong count.
    LIMITS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn say(level: Level, subject: Option<Subject<'_>>, what: &dyn Display, place: &'static Location<'static>) {
    if level as u8 > LEVEL.load(Ordering::Relaxed) {
        return;
    }
    let verdict = limits().ask((place.file(), place.line()), level, Instant::now(), || what.to_string());
    if verdict == Verdict::Say {
        write(level, subject, what);
    }
}

fn write(level: Level, subject: Option<Subject<'_>>, what: &dyn Display) {
    let message = what.to_string();
    let subject = subject.map(|subject| (subject.kind, subject.name));
    let line = Line { time: SystemTime::now(), level, subject, message: &message };
    let form = Form::numbered(FORM.load(Ordering::Relaxed));
    // Where nobody takes the log, the daemon goes on without.
    let _ = io::stderr().lock().write_all(line.written(form).as_bytes());
}
