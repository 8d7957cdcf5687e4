//! What an operator touches: the configuration, the command line and what its commands do. Packets are the engine's.
//!
//! [`run`] reads the arguments and starts one command, each of which is a module of its own. A command prints its result
//! on standard output and returns a [`Failure`] for what went wrong, with the exit code that goes with it.
#![forbid(unsafe_code)]

pub mod api;
pub mod bench;
pub mod capture;
pub mod carp;
pub mod check;
pub mod cli;
pub mod config;
pub mod daemon;
mod datagram;
pub mod demo;
pub mod explain;
mod failure;
pub mod filter;
pub mod import;
pub mod interface;
pub mod keys;
pub mod lab;
pub mod metrics;
pub mod nesting;
#[cfg(target_os = "linux")]
mod netlink;
pub mod plan;
pub mod replay;
pub mod report;
pub mod routes;
mod socket;
pub mod sync;
pub mod table;
pub mod text;
pub mod trace;
pub mod transaction;

use std::ffi::OsString;
use std::io;

pub use failure::Failure;

use cli::{Action, Cli};

/// Runs the command that the arguments ask for; the first is the program's name.
///
/// # Errors
/// What went wrong, ready to be shown.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Result<(), Failure> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    match cli::complete::answer(&arguments) {
        Ok(true) => return Ok(()),
        Ok(false) => {}
        Err(error) => return Err(Failure::arguments(&error)),
    }
    let cli = match Cli::from_args(arguments) {
        Ok(cli) => cli,
        // `--help` and `--version` are asked for, and go to standard output.
        Err(answer) if !answer.use_stderr() => return answer.print().map_err(Failure::stdout),
        Err(error) => return Err(Failure::arguments(&error)),
    };
    match &cli.action {
        Action::Demo(arguments) => demo::run(arguments),
        Action::Bench(arguments) => bench::run(arguments),
        Action::Replay(arguments) => replay::run(arguments),
        Action::Check(arguments) => check::run(arguments),
        Action::Import(arguments) => import::run(arguments),
        Action::Run(arguments) => daemon::run(arguments),
        Action::Apply(arguments) => transaction::client::apply(arguments),
        Action::Confirm(arguments) => transaction::client::confirm(arguments),
        Action::Rollback(arguments) => transaction::client::rollback(arguments),
        Action::Diff(arguments) => transaction::client::diff(arguments),
        Action::CarpHooks => carp::hooks::helper::run(),
        Action::CarpGuard(arguments) => carp::guard::run(arguments),
        Action::Carp(arguments) => carp::client::run(arguments),
        Action::Tunnel(arguments) => transaction::client::tunnel(arguments),
        Action::Metrics(arguments) => metrics::run(arguments),
        Action::Top(arguments) => daemon::top(arguments),
        Action::Show(arguments) => daemon::show(arguments),
        Action::Trace(arguments) => trace::run(arguments),
        Action::Capture(arguments) => capture::run(arguments),
        Action::Explain(arguments) => explain::run(arguments),
        Action::Completions(arguments) => {
            cli::complete::write_script(arguments.shell, &mut io::stdout().lock()).map_err(Failure::stdout)
        }
        Action::Man => cli::write_man(&mut io::stdout().lock()).map_err(Failure::stdout),
    }
}
