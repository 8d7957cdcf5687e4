//! `culvert trace`: the next packets, stage by stage, as the daemon's workers noted them.

pub(crate) mod report;
mod text;

use std::io::{self, Write};

use self::report::WayReport;
use crate::api::client::Stream;
use crate::api::{Command, Line};
use crate::{Failure, cli};

/// Runs the command.
///
/// # Errors
/// Code 2 for an expression that is none; code 1 where no daemon answers, or it ends, and where standard output takes no more.
pub fn run(arguments: &cli::Trace) -> Result<(), Failure> {
    let about = |failure: Failure| failure.about("trace");
    let cli::Trace { count, matching, json, socket } = arguments;
    let command = Command::Trace { matching: matching.clone(), count: *count };
    let mut stream = Stream::open(socket, &command).map_err(about)?;
    let mut number = 0;
    loop {
        let text = match stream.next(None).map_err(about)? {
            Some(Line::Record(record)) => {
                number += 1;
                if *json {
                    record.to_string() + "\n"
                } else {
                    let way: WayReport = serde_json::from_value(record)
                        .map_err(|error| about(Failure::failed(format!("the daemon's record: {error}"))))?;
                    let before = if number > 1 { "\n" } else { "" };
                    format!("{before}{}", text::packet(number, &way))
                }
            }
            Some(Line::Lost(lost)) if *json => format!("{{\"lost\":{lost}}}\n"),
            Some(Line::Lost(lost)) => format!("\n{lost} packets more came than could be told\n"),
            Some(Line::End(_)) if number >= *count => return Ok(()),
            Some(Line::End(why)) => return Err(about(Failure::failed(why))),
            None => continue,
        };
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Failure::stdout)?;
    }
}
