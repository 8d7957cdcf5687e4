//! The commands that change a running configuration: they read the configuration's files, as whoever calls them may, send them
//! to the daemon, and print what it says.

use std::io::{self, Write};
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

use super::diff::Changes;
use crate::api::{Command, client};
use crate::config::Config;
use crate::{Failure, cli};

/// `culvert apply`.
///
/// # Errors
/// Code 2, the configuration is wrong or takes a restart; code 1, the daemon cannot do it. Nothing was changed then.
pub fn apply(arguments: &cli::Apply) -> Result<(), Failure> {
    let files = files(&arguments.file)?;
    let confirm = arguments.confirm.map(|time| time.as_secs());
    let command = Command::Apply { length: files.len() as u64, confirm };
    let result =
        client::call_with(&arguments.socket, &command, &files).map_err(|failure| failure.about("apply"))?;
    print(&result, arguments.json)?;
    if let (false, Some(seconds)) = (arguments.json, result.get("confirm_within").and_then(Value::as_u64)) {
        write(&format!("taken back in {seconds} s, unless `culvert confirm` comes first\n"))?;
    }
    Ok(())
}

/// `culvert diff`.
///
/// # Errors
/// Code 3 where there are differences; else as [`apply`].
pub fn diff(arguments: &cli::Diff) -> Result<(), Failure> {
    let files = files(&arguments.file)?;
    let command = Command::Diff { length: files.len() as u64 };
    let result =
        client::call_with(&arguments.socket, &command, &files).map_err(|failure| failure.about("diff"))?;
    print(&result, arguments.json)?;
    if result.get("changed") == Some(&Value::Bool(false)) { Ok(()) } else { Err(Failure::differs()) }
}

/// `culvert confirm`.
///
/// # Errors
/// Code 1: nothing waits to be confirmed, or the daemon does not answer.
pub fn confirm(arguments: &cli::Confirm) -> Result<(), Failure> {
    client::call(&arguments.socket, &Command::Confirm).map_err(|failure| failure.about("confirm"))?;
    write("confirmed\n")
}

/// `culvert rollback`.
///
/// # Errors
/// Code 1: there is nothing to go back to, or the daemon does not answer.
pub fn rollback(arguments: &cli::Rollback) -> Result<(), Failure> {
    let result =
        client::call(&arguments.socket, &Command::Rollback).map_err(|failure| failure.about("rollback"))?;
    print(&result, arguments.json)
}

/// `culvert tunnel`.
///
/// # Errors
/// Code 2: there is no such tunnel; code 1: the daemon cannot do it.
pub fn tunnel(arguments: &cli::Tunnel) -> Result<(), Failure> {
    let up = arguments.action == cli::TunnelAction::Up;
    let command = Command::Tunnel { name: arguments.name.clone(), up };
    client::call(&arguments.socket, &command).map_err(|failure| failure.about("tunnel"))?;
    write(&format!("tunnel {} is switched {}\n", arguments.name, if up { "on" } else { "off" }))
}

/// The configuration's files, which are read here: what is wrong with them is told before anybody is asked.
fn files(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let (_, _, sources) = Config::load_with_sources(path)?;
    sources.to_bytes().map_err(|why| Failure::usage(format!("{}: {why}", path.display())))
}

fn print(result: &Value, json: bool) -> Result<(), Failure> {
    if json {
        return write(&format!("{result}\n"));
    }
    let changes = Changes::deserialize(result)
        .map_err(|error| Failure::failed(format!("the daemon's answer: {error}")))?;
    write(&changes.describe())
}

fn write(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Failure::stdout)
}
