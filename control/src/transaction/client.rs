//! The commands that change a running configuration: they read the configuration's files, as whoever calls them may, send them
//! to the daemon, and print what it says.

use std::io::{self, Write};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

use super::diff::Changes;
use crate::api::{Command, client};
use crate::config::Config;
use crate::report::IkeReport;
use crate::{Failure, cli};

/// How long strongSwan may take to list a connection.
const STRONGSWAN: Duration = Duration::from_secs(5);

/// `culvert apply`.
///
/// # Errors
/// Code 2, the configuration is wrong or takes a restart; code 1, the daemon cannot do it, or has taken it back. Nothing is changed
/// then.
pub fn apply(arguments: &cli::Apply) -> Result<(), Failure> {
    let files = files(&arguments.file)?;
    let confirm = arguments.confirm.map(|time| time.as_secs());
    let command = Command::Apply { length: files.len() as u64, confirm, watch: arguments.watch.clone() };
    let result =
        client::call_with(&arguments.socket, &command, &files).map_err(|failure| failure.about("apply"))?;
    print(&result, arguments.json)?;
    if arguments.json {
        return Ok(());
    }
    let list = |key| {
        let list = result.get(key).and_then(Value::as_array).into_iter().flatten();
        let list: Vec<&str> = list.filter_map(Value::as_str).collect();
        (!list.is_empty()).then(|| list.join(", "))
    };
    if let Some(silent) = list("silent") {
        write(&format!("not watched, as it was silent before: {silent}\n"))?;
    }
    match (result.get("confirm_within").and_then(Value::as_u64), list("watched")) {
        (Some(seconds), None) => {
            write(&format!("taken back in {seconds} s, unless `culvert confirm` comes first\n"))
        }
        (Some(seconds), Some(watched)) => write(&format!(
            "taken back in {seconds} s, unless `culvert confirm` comes first, and at once if it stops answering: {watched}\n"
        )),
        (None, Some(watched)) => write(&format!("it stays; still answering: {watched}\n")),
        (None, None) => Ok(()),
    }
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
    let result =
        client::call(&arguments.socket, &Command::Confirm).map_err(|failure| failure.about("confirm"))?;
    if arguments.json { write(&format!("{result}\n")) } else { write("confirmed\n") }
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
    let name = arguments.name.clone();
    let (command, done) = match arguments.action {
        cli::TunnelAction::Up => (Command::Tunnel { name, up: true }, "is switched on"),
        cli::TunnelAction::Down => (Command::Tunnel { name, up: false }, "is switched off"),
        cli::TunnelAction::Rekey => (Command::Rekey { name }, "gets new keys"),
        cli::TunnelAction::ShowIke => return show_ike(arguments),
    };
    let result = client::call(&arguments.socket, &command).map_err(|failure| failure.about("tunnel"))?;
    if arguments.json {
        return write(&format!("{result}\n"));
    }
    write(&format!("tunnel {} {done}\n", arguments.name))
}

/// `culvert tunnel show-ike`: asks until strongSwan has answered as well, or it is clear that it does not.
fn show_ike(arguments: &cli::Tunnel) -> Result<(), Failure> {
    let command = Command::ShowIke { name: arguments.name.clone() };
    let end = Instant::now() + STRONGSWAN;
    let (result, report) = loop {
        let result = client::call(&arguments.socket, &command).map_err(|failure| failure.about("tunnel"))?;
        let report = IkeReport::deserialize(&result)
            .map_err(|error| Failure::failed(format!("the daemon's answer: {error}")))?;
        if !report.waiting || Instant::now() >= end {
            break (result, report);
        }
        thread::sleep(Duration::from_millis(100));
    };
    if arguments.json {
        return write(&format!("{result}\n"));
    }
    let version = report.strongswan.as_deref().unwrap_or("which is not there");
    let mut text = format!("# what strongSwan was told\n{}", report.generated);
    report.credentials.iter().for_each(|credential| text += &format!("# {credential}\n"));
    text += &match &report.loaded {
        Some(loaded) => format!("\n# what strongSwan {version} has\n{loaded}\n"),
        None => format!("\n# strongSwan {version} has not answered\n"),
    };
    for difference in &report.differences {
        text += &format!("differs: {difference}\n");
    }
    if report.loaded.is_some() && report.differences.is_empty() {
        text += "no difference\n";
    }
    write(&text)
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
