//! Shell completion: `culvert completions SHELL` prints a script by which the shell asks `culvert` itself what can stand at a
//! place, and live names come from the daemon. Whoever may not ask it, or has none, gets no names and no word about it.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::CommandFactory;
use clap_complete::engine::CompletionCandidate;
use clap_complete::env::{CompleteEnv, Shells};
use clap_complete::{ArgValueCandidates, Shell};

use super::Cli;
use crate::api::{Command, client};
use crate::daemon::{self, What};

/// The environment variable by which a script says that it asks, and for which shell.
const ASKS: &str = "COMPLETE";
/// How long the daemon may take: somebody waits at a prompt.
const PATIENCE: Duration = Duration::from_millis(500);

/// Answers a completion script, where one asks. False: nobody does.
///
/// # Errors
/// Those of writing to standard output.
pub fn answer(arguments: &[OsString]) -> Result<bool, clap::Error> {
    let here = std::env::current_dir().ok();
    CompleteEnv::with_factory(Cli::command).var(ASKS).try_complete(arguments, here.as_deref())
}

/// Writes the completion script for `shell`.
///
/// # Errors
/// Whatever writing to `out` gives.
pub fn write_script(shell: Shell, out: &mut dyn Write) -> io::Result<()> {
    let shells = Shells::builtins();
    let Some(completer) = shells.completer(&shell.to_string()) else {
        return Err(io::ErrorKind::Unsupported.into());
    };
    completer.write_registration(ASKS, "culvert", "culvert", "culvert", out)
}

/// The ports and tunnels of the running daemon.
pub(super) fn ports_and_tunnels() -> ArgValueCandidates {
    ArgValueCandidates::new(|| names(&[What::Ports, What::Tunnels]))
}

/// The tunnels of the running daemon.
pub(super) fn tunnels() -> ArgValueCandidates {
    ArgValueCandidates::new(|| names(&[What::Tunnels]))
}

fn names(what: &[What]) -> Vec<CompletionCandidate> {
    let socket = socket(std::env::args_os());
    what.iter().flat_map(|what| live(&socket, *what)).collect()
}

/// The names of what there is, as `show` has them.
fn live(socket: &Path, what: What) -> Vec<CompletionCandidate> {
    let Ok(shown) = client::call_within(socket, &Command::Show { what }, PATIENCE) else { return Vec::new() };
    let Some(all) = shown.get(what.name()).and_then(serde_json::Value::as_object) else { return Vec::new() };
    let kind = what.name().trim_end_matches('s');
    all.keys().map(|name| CompletionCandidate::new(name).help(Some(kind.into()))).collect()
}

/// The socket that is named on the line that is being completed, or the usual one.
fn socket(words: impl IntoIterator<Item = OsString>) -> PathBuf {
    let mut words = words.into_iter();
    let mut socket = None;
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("--socket") => socket = words.next(),
            Some(word) => socket = word.strip_prefix("--socket=").map(OsString::from).or(socket),
            None => {}
        }
    }
    socket.map_or_else(|| daemon::SOCKET.into(), PathBuf::from)
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    /// What can stand in place of the last word.
    fn candidates(line: &str) -> Vec<String> {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let last = words.len() - 1;
        let found =
            clap_complete::engine::complete(&mut Cli::command(), words, last, None).expect("an answer");
        found.iter().map(|candidate| candidate.get_value().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn every_command_and_value_is_offered() {
        let commands = candidates("culvert ");
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            assert!(commands.iter().any(|word| word == command.get_name()), "{}", command.get_name());
        }
        assert_eq!(candidates("culvert show tun"), ["tunnels"]);
        assert!(candidates("culvert run --log ").contains(&"debug".to_owned()));
        // Of a daemon that is not there, nothing is known, and nothing is said.
        assert!(candidates("culvert capture os").is_empty());
    }

    #[test]
    fn every_shell_has_a_script_that_asks_this_program() {
        for shell in Shell::value_variants() {
            let mut script = Vec::new();
            write_script(*shell, &mut script).unwrap();
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains(ASKS) && script.contains("culvert"), "{shell}: {script}");
        }
    }

    #[test]
    fn the_socket_is_that_of_the_line() {
        let of = |line: &str| socket(line.split(' ').map(OsString::from));
        assert_eq!(of("culvert -- culvert capture "), Path::new(daemon::SOCKET));
        assert_eq!(of("culvert -- culvert capture --socket /run/c.sock "), Path::new("/run/c.sock"));
        assert_eq!(of("culvert -- culvert capture --socket=/run/d.sock "), Path::new("/run/d.sock"));
        assert_eq!(of("culvert -- culvert capture --socket"), Path::new(daemon::SOCKET));
    }
}
