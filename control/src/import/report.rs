//! What the import has to say beside the configuration: what it carried over, what not, and what is risky about it. Values are
//! not repeated, but for names, addresses and numbers that have been understood as such: CARP's passwords stand among them.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};

use super::shell::Variable;
use crate::config::{Position, Problem};

/// A variable, and where it was set.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) variable: String,
    pub(super) at: Position,
}

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Place", 3)?;
        object.serialize_field("variable", &self.variable)?;
        object.serialize_field("file", &self.at.file().to_string_lossy())?;
        object.serialize_field("line", &self.at.line())?;
        object.end()
    }
}

/// Something that the configuration has now.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Carried {
    /// What it is there: `port NAME`, `tunnel NAME`, a route of it.
    pub(super) what: String,
    /// What it comes from.
    pub(super) from: Vec<Place>,
}

/// Collects what there is to say.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) carried: Vec<Carried>,
    pub(super) left: Vec<Problem>,
    pub(super) risks: Vec<Problem>,
    /// Variables whose doubts have been told.
    doubted: BTreeSet<String>,
}

impl Notes {
    /// Something has no counterpart, or cannot be understood.
    pub(super) fn left(
        &mut self,
        what: impl Into<String>,
        why: impl Into<String>,
        remedy: impl Into<String>,
        at: &Position,
    ) {
        self.left.push(Problem {
            what: what.into(),
            why: why.into(),
            remedy: remedy.into(),
            at: Some(at.clone()),
        });
    }

    /// Something will hardly do what is meant.
    pub(super) fn risk(
        &mut self,
        what: impl Into<String>,
        why: impl Into<String>,
        remedy: impl Into<String>,
        at: &Position,
    ) {
        self.risks.push(Problem {
            what: what.into(),
            why: why.into(),
            remedy: remedy.into(),
            at: Some(at.clone()),
        });
    }

    /// A file that rc does not read for interfaces speaks of them.
    pub(super) fn elsewhere(&mut self, file: &Path, why: &str) {
        let remedy = "name it to `culvert import` behind the others, if that is meant".to_owned();
        self.left.push(Problem { what: file.display().to_string(), why: why.to_owned(), remedy, at: None });
    }

    /// A variable was used: tells, once, that it may have another value.
    pub(super) fn doubt(&mut self, name: &str, variable: &Variable) {
        let Some(doubt) = &variable.doubt else { return };
        if self.doubted.insert(name.to_owned()) {
            let why = format!("its value depends on {} at {}, and nothing is run here", doubt.why, doubt.at);
            let remedy = "write the value out, or look whether what was made of it is right";
            self.left(name, why, remedy, &variable.at);
        }
    }
}
