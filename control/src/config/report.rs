//! What is wrong or risky in a configuration, told so that somebody can act on it: what it is about, why it is refused,
//! where it stands and what to write instead. Problems are collected while reading and sorted by file and line at the end.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};

use super::model::Config;

/// A line in a configuration file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Position {
    file: Arc<Path>,
    line: u32,
    order: u32,
}

impl Position {
    /// Line `line` (from 1) of the file that was read as number `order`.
    pub(crate) fn new(file: Arc<Path>, order: u32, line: u32) -> Self {
        Self { file, line, order }
    }

    /// No place: of what was not read from a file, and of what is compared whatever its place.
    pub(crate) fn nowhere() -> Self {
        Self { file: Path::new("").into(), line: 0, order: 0 }
    }

    /// The file's place among all that were read.
    pub(crate) fn order(&self) -> u32 {
        self.order
    }

    /// The file, as it was named.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The line, counted from 1.
    #[must_use]
    pub fn line(&self) -> u32 {
        self.line
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// Why a value was refused and what to do about it, before anybody has said where it stands.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) why: String,
    pub(super) remedy: String,
}

impl Fault {
    pub(super) fn new(why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { why: why.into(), remedy: remedy.into() }
    }
}

/// One thing that is wrong. `Display` gives `WHAT: WHY (FILE:LINE); REMEDY`; serialized it is an object with the fields
/// `what`, `why`, `file`, `line` and `remedy`, `file` and `line` being null where there is none.
#[derive(Clone, Debug)]
pub struct Problem {
    /// What it is about: a file, an entry, a key.
    pub what: String,
    /// Why that cannot be.
    pub why: String,
    /// What to do about it.
    pub remedy: String,
    /// Where it stands, if in a file that could be read.
    pub at: Option<Position>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)?;
        if let Some(at) = &self.at {
            write!(f, " ({at})")?;
        }
        write!(f, "; {}", self.remedy)
    }
}

impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Problem", 5)?;
        object.serialize_field("what", &self.what)?;
        object.serialize_field("why", &self.why)?;
        object.serialize_field("file", &self.at.as_ref().map(|at| at.file().to_string_lossy()))?;
        object.serialize_field("line", &self.at.as_ref().map(Position::line))?;
        object.serialize_field("remedy", &self.remedy)?;
        object.end()
    }
}

/// Something that can be put to work but will hardly do what was meant. Shown and serialized like a [`Problem`].
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct Warning(pub Problem);

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a configuration was refused. `Display` gives one line a problem.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", lines(problems))]
pub struct ConfigErrors {
    /// Everything that is wrong, by file and line; never empty.
    pub problems: Vec<Problem>,
    /// What is risky beside that, by file and line.
    pub warnings: Vec<Warning>,
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}

/// Collects problems and warnings while a configuration is read.
#[derive(Debug, Default)]
pub(super) struct Report {
    problems: Vec<Problem>,
    warnings: Vec<Warning>,
}

impl Report {
    /// Notes that the entry or key `what` is wrong.
    pub(super) fn error(&mut self, what: impl Into<String>, at: &Position, fault: Fault) {
        let Fault { why, remedy } = fault;
        self.problems.push(Problem { what: what.into(), why, remedy, at: Some(at.clone()) });
    }

    /// Notes that a file cannot be used; `at` is the line that names it, if any.
    pub(super) fn file_error(&mut self, file: PathBuf, at: Option<&Position>, fault: Fault) {
        let Fault { why, remedy } = fault;
        self.problems.push(Problem { what: file.display().to_string(), why, remedy, at: at.cloned() });
    }

    /// Notes that the entry or key `what` is risky.
    pub(super) fn warning(&mut self, what: impl Into<String>, at: &Position, fault: Fault) {
        let Fault { why, remedy } = fault;
        self.warnings.push(Warning(Problem { what: what.into(), why, remedy, at: Some(at.clone()) }));
    }

    /// The configuration, if nothing was wrong.
    pub(super) fn finish(mut self, config: Config) -> Result<(Config, Vec<Warning>), ConfigErrors> {
        self.problems.sort_by_key(place);
        self.warnings.sort_by_key(|warning| place(&warning.0));
        if self.problems.is_empty() {
            return Ok((config, self.warnings));
        }
        Err(ConfigErrors { problems: self.problems, warnings: self.warnings })
    }
}

fn place(problem: &Problem) -> (u32, u32) {
    problem.at.as_ref().map_or((0, 0), |at| (at.order, at.line))
}
