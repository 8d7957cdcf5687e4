//! `culvert import`: from FreeBSD's `rc.conf` to a configuration, and a report of what it could not carry over and of what is
//! risky about the result. Nothing is run and nothing is changed.
//!
//! 1. The files are found and read in rc's order, as sh(1) would read them (`files`, `shell`, `text`).
//! 2. Variables become interfaces and routes (`variables`, `ifconfig`).
//! 3. Those become ports, tunnels and routes (`translate`), written as TOML (`write`) that `culvert check` accepts.
//!
//! The configuration goes to standard output, the report to standard error. With `--json`, standard output is one object:
//! `configuration`, the text; `files`, those that were read, in order; `carried`, a list of objects with `what` the configuration
//! has now and `from`, the variables (`variable`, `file`, `line`) that rc.conf need not have any more; `left` and `risks`, lists of
//! objects with `what`, `why`, `file`, `line` and `remedy`.

mod files;
mod ifconfig;
mod report;
mod shell;
mod text;
mod translate;
mod variables;
mod write;

#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use self::files::Files;
use self::report::{Carried, Notes};
use crate::config::Problem;
use crate::{Failure, cli};

/// What an import comes to.
#[derive(Debug, Serialize)]
pub struct Imported {
    /// The configuration, as TOML.
    pub configuration: String,
    files: Vec<String>,
    carried: Vec<Carried>,
    /// What was not carried over.
    pub left: Vec<Problem>,
    /// What is risky.
    pub risks: Vec<Problem>,
    #[serde(skip)]
    tunnels: usize,
}

/// Runs the command.
///
/// # Errors
/// Code 2 where a file cannot be read, with the line; code 1 where there is no tunnel, and where the output takes no more.
pub fn run(arguments: &cli::Import) -> Result<(), Failure> {
    let imported = import(&arguments.paths)?;
    let output = if arguments.json {
        serde_json::to_string(&imported).map_err(|error| Failure::failed(format!("import: {error}")))? + "\n"
    } else {
        // Where nobody takes the report, the configuration is still wanted.
        let _ = io::stderr().lock().write_all(imported.report().as_bytes());
        imported.configuration.clone()
    };
    if imported.tunnels == 0 {
        let why = "no gre interface was carried over; name rc.conf and rc.conf.d, or the root of the system";
        return Err(Failure::failed(format!("import: {why}")));
    }
    let mut stdout = io::stdout().lock();
    stdout.write_all(output.as_bytes()).and_then(|()| stdout.flush()).map_err(Failure::stdout)
}

/// Reads the files that `paths` stand for, one after the other, and makes a configuration of them.
///
/// # Errors
/// Code 2 where a file cannot be read.
pub fn import(paths: &[PathBuf]) -> Result<Imported, Failure> {
    let mut files = Files::default();
    paths.iter().try_for_each(|path| files.read(path))?;
    let mut notes = Notes::default();
    let draft = translate::translate(&files.shell, &mut notes);
    let defaults = |at: &Path| at.parent().is_some_and(|folder| folder.ends_with("defaults"));
    for command in files.shell.commands().iter().filter(|command| !defaults(command.at.file())) {
        let remedy = "look whether it sets something about interfaces or routes";
        notes.left(command.name, "nothing is run here", remedy, &command.at);
    }
    for file in &files.elsewhere {
        let why = "it speaks of interfaces or routes, but rc reads it for its own service alone";
        notes.elsewhere(file, why);
    }
    let read: Vec<String> = files.read.iter().map(|file| file.display().to_string()).collect();
    let Notes { carried, mut left, mut risks, .. } = notes;
    let place = |problem: &Problem| problem.at.as_ref().map(|at| (at.order(), at.line()));
    left.sort_by_key(place);
    risks.sort_by_key(place);
    Ok(Imported {
        configuration: write::toml(&draft, &read),
        files: read,
        carried,
        left,
        risks,
        tunnels: draft.tunnels.iter().filter(|tunnel| tunnel.inside.is_none()).count(),
    })
}

impl Imported {
    /// The report as text: a line for each thing.
    fn report(&self) -> String {
        let mut lines = Vec::new();
        for carried in &self.carried {
            let from = carried.from.iter().map(|place| format!("{} ({})", place.variable, place.at));
            lines.push(format!(
                "carried over: {}: from {}",
                carried.what,
                from.collect::<Vec<_>>().join(", ")
            ));
        }
        lines.extend(self.left.iter().map(|left| format!("left out: {left}")));
        lines.extend(self.risks.iter().map(|risk| format!("risk: {risk}")));
        lines.push(format!(
            "{} tunnels, {} left out, {} risky",
            self.tunnels,
            self.left.len(),
            self.risks.len()
        ));
        lines.iter().map(|line| format!("culvert: {line}\n")).collect()
    }
}
