//! Metrics for Prometheus: the text that it reads ([`exposition`]), and an endpoint of this host alone that gives it
//! ([`http`]). What is measured is the daemon's to say (`daemon/metrics.rs`); `culvert metrics` prints the same.

pub(crate) mod exposition;
pub(crate) mod http;

use std::io::{self, Write};

use crate::api::{Command, client};
use crate::{Failure, cli};

/// Runs `culvert metrics`.
///
/// # Errors
/// Code 1 where no daemon answers, or with something else, and where standard output takes no more.
pub fn run(arguments: &cli::Metrics) -> Result<(), Failure> {
    let about = |failure: Failure| failure.about("metrics");
    let result = client::call(&arguments.socket, &Command::Metrics {}).map_err(about)?;
    let Some(text) = result.as_str() else {
        return Err(about(Failure::failed("the daemon's answer: it is no text".to_owned())));
    };
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Failure::stdout)
}
