//! `culvert carp`.

use crate::api::{Command, client};
use crate::carp::Role;
use crate::{Failure, cli};

/// Runs the command.
///
/// # Errors
/// Code 2: there is no such group; code 1: the daemon does not answer.
pub fn run(arguments: &cli::Carp) -> Result<(), Failure> {
    let cli::CarpAction::Notify(arguments) = &arguments.action;
    let role = match arguments.role.to_ascii_lowercase().as_str() {
        "master" => Role::Master,
        "backup" => Role::Backup,
        _ => Role::Init,
    };
    let command = Command::CarpNotify { group: arguments.group.clone(), role };
    client::call(&arguments.socket, &command).map(drop).map_err(|failure| failure.about("carp"))
}
