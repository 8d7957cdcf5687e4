//! `culvert carp`.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::api::{Command, client};
use crate::carp::Role;
use crate::{Failure, cli};

/// How often it is asked whether the router is ready.
const ASK: Duration = Duration::from_millis(200);

/// Runs the command.
///
/// # Errors
/// Code 2: there is no such group; code 1: the daemon does not answer, or the router is not ready.
pub fn run(arguments: &cli::Carp) -> Result<(), Failure> {
    let outcome = match &arguments.action {
        cli::CarpAction::Notify(arguments) => notify(arguments),
        cli::CarpAction::Ready(arguments) => ready(arguments),
        cli::CarpAction::Yield(arguments) => hand_over(arguments),
        cli::CarpAction::Resume(arguments) => {
            client::call(&arguments.socket, &Command::CarpResume {}).map(drop)
        }
    };
    outcome.map_err(|failure| failure.about("carp"))
}

fn notify(arguments: &cli::CarpNotify) -> Result<(), Failure> {
    let role = match arguments.role.to_ascii_lowercase().as_str() {
        "master" => Role::Master,
        "backup" => Role::Backup,
        _ => Role::Init,
    };
    let command = Command::CarpNotify { group: arguments.group.clone(), role };
    client::call(&arguments.socket, &command).map(drop)
}

/// Asks until the router is ready, as long as there is time. A daemon that does not run yet may do so then.
fn ready(arguments: &cli::CarpReady) -> Result<(), Failure> {
    let end = Instant::now() + arguments.wait.unwrap_or_default();
    loop {
        let outcome =
            client::call(&arguments.socket, &Command::CarpReady {}).and_then(|answer| is_ready(&answer));
        if outcome.is_ok() || Instant::now() >= end {
            return outcome;
        }
        thread::sleep(ASK);
    }
}

/// Says it, and looks until the other router has taken over, as long as there is time.
fn hand_over(arguments: &cli::CarpYield) -> Result<(), Failure> {
    let end = Instant::now() + if arguments.no_wait { Duration::ZERO } else { arguments.wait };
    loop {
        let answer = client::call(&arguments.socket, &Command::CarpYield { force: arguments.force })?;
        let left = not_handed_over(&answer);
        if !left.is_empty() && Instant::now() < end {
            thread::sleep(ASK);
            continue;
        }
        if arguments.json {
            println!("{answer}");
        }
        return match left.is_empty() || arguments.no_wait {
            true => Ok(()),
            false => Err(Failure::failed(format!("not handed over yet: {}", left.join("; ")))),
        };
    }
}

fn not_handed_over(answer: &Value) -> Vec<String> {
    let groups = answer["groups"].as_object().into_iter().flatten();
    let left = |(name, group): (&String, &Value)| match (group["role"].as_str(), group["carried"].as_bool()) {
        (Some("master"), _) => Some(format!("this router is still master for {name}")),
        (_, Some(true)) if group["partner_is_master"] != true => {
            Some(format!("the other router is not master for {name}, and this one carries it on"))
        }
        (_, Some(true)) => Some(format!("what is still under way to {name} is carried")),
        _ => None,
    };
    groups.filter_map(left).collect()
}

fn is_ready(answer: &Value) -> Result<(), Failure> {
    if answer["ready"] == true {
        return Ok(());
    }
    let missing = answer["missing"].as_array().into_iter().flatten().filter_map(Value::as_str);
    Err(Failure::failed(format!("not ready: {}", missing.collect::<Vec<_>>().join("; "))))
}
