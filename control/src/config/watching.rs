//! `[log]` and `[metrics]`: how those who look after the daemon are told of it.

use std::net::SocketAddr;

use super::model::{Log, LogFormat, LogLevel, Metrics};
use super::reader::Table;
use super::report::{Fault, Position, Report};
use super::sections::Draft;
use super::values::{self, quoted};

/// Reads `[log]`.
pub(super) fn read_log(mut table: Table<'_>, draft: &mut Draft, report: &mut Report) {
    refuse_second(&table, draft.config.log.at.as_ref(), report);
    let level = table
        .text("level", report, |text| values::word(text, &LogLevel::ALL.map(|level| (level.name(), level))));
    let format = table.text("format", report, |text| {
        values::word(text, &LogFormat::ALL.map(|format| (format.name(), format)))
    });
    let default = Log::default();
    draft.config.log = Log {
        level: level.unwrap_or(default.level),
        format: format.unwrap_or(default.format),
        at: Some(table.at.clone()),
    };
    table.finish(report);
}

/// Reads `[metrics]`.
pub(super) fn read_metrics(mut table: Table<'_>, draft: &mut Draft, report: &mut Report) {
    refuse_second(&table, draft.config.metrics.at.as_ref(), report);
    table.require("listen", "say where: listen = \"127.0.0.1:9178\"", report);
    let listen = table.text("listen", report, loopback);
    draft.config.metrics = Metrics { listen, at: Some(table.at.clone()) };
    table.finish(report);
}

/// Notes that a table of which there can be one is there twice.
pub(super) fn refuse_second(table: &Table<'_>, first: Option<&Position>, report: &mut Report) {
    if let Some(first) = first {
        let why = format!("there is one at {first} already");
        report.error(
            table.what.clone(),
            &table.at,
            Fault::new(why, format!("put all of it into one [{}]", table.what)),
        );
    }
}

/// An address and port that only this host reaches.
fn loopback(text: &str) -> Result<SocketAddr, Fault> {
    const REMEDY: &str = "give an address of this host alone and a port: 127.0.0.1:9178 or [::1]:9178";
    let address: SocketAddr = text
        .parse()
        .map_err(|_| Fault::new(format!("{} is no IP address with a port", quoted(text)), REMEDY))?;
    if !address.ip().is_loopback() {
        return Err(Fault::new(format!("{address} can be reached from elsewhere"), REMEDY));
    }
    if address.port() == 0 {
        return Err(Fault::new("port 0 is any port", REMEDY));
    }
    Ok(address)
}
