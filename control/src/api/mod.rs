//! The local API as both of its ends speak it: one JSON object a line. `docs/api.md` is its manual.
//!
//! A request is a version, a command's name and the command's arguments: `{"version":1,"command":"show","what":"ports"}`. The
//! [`Reply`] to it is `{"ok":true,"result":..}` or `{"ok":false,"error":"..","code":1}`. A command that streams is answered by
//! `{"ok":true,"stream":true}`, and [`Line`]s follow, until one of the two ends has enough.
//!
//! A new command is a variant of [`Command`], an arm of `Daemon::execute` (`daemon/commands.rs`) and a section of
//! `docs/api.md`; the command line sends it with [`client::call`] or [`client::Stream::open`].

pub(crate) mod client;
#[cfg(test)]
mod schema;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::Failure;
use crate::carp::Role;
use crate::daemon::What;

/// The version of requests and replies.
pub const VERSION: u64 = 1;

/// What the daemon can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Command {
    /// State, once.
    Show {
        /// Of what.
        what: What,
    },
    /// A configuration is put to work. Its files follow the request's line.
    Apply {
        /// Bytes that follow.
        length: u64,
        /// Take it back after so many seconds, unless it is confirmed.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        confirm: Option<u64>,
        /// Take it back at once when one of these, having answered before, stops answering. Without `confirm`: watched for
        /// 10 seconds, after which it stays, and the reply comes.
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        watch: Vec<IpAddr>,
    },
    /// What an apply would change. The configuration's files follow the request's line.
    Diff {
        /// Bytes that follow.
        length: u64,
    },
    /// What was applied is to stay.
    Confirm,
    /// What ran before is to run.
    Rollback,
    /// A tunnel is switched on or off by hand.
    Tunnel {
        /// Its name.
        name: String,
        /// On?
        up: bool,
    },
    /// A tunnel gets new keys.
    Rekey {
        /// Its name.
        name: String,
    },
    /// What this router is now in a group of routers that share an address.
    CarpNotify {
        /// The group: `VHID@IF`.
        group: String,
        /// What it is.
        role: Role,
    },
    /// Whether this router is ready to be master.
    CarpReady {},
    /// This router lets the other one of its pair be master.
    CarpYield {
        /// Also where the other one cannot go on with what is there.
        #[serde(default)]
        force: bool,
    },
    /// It may be master again.
    CarpResume {},
    /// What strongSwan was told of a tunnel, beside what it has.
    ShowIke {
        /// Its name.
        name: String,
    },
    /// State, again and again: a stream.
    Watch {
        /// Of what, all in one record.
        what: Vec<What>,
        /// From one record to the next, in milliseconds.
        #[serde(default = "second")]
        every: u64,
    },
    /// What is measured, in Prometheus' text format.
    Metrics {},
    /// What befalls the next packets: a stream.
    Trace {
        /// Which packets: an expression. Empty: all.
        #[serde(rename = "match", default)]
        matching: String,
        /// How many.
        #[serde(default = "ten")]
        count: u64,
    },
    /// Packets: a stream.
    Capture(CaptureOf),
    /// What would become of a packet.
    Explain(Question),
}

fn second() -> u64 {
    1000
}

fn ten() -> u64 {
    10
}

/// A packet that somebody asks about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// Its destination.
    pub address: IpAddr,
    /// Its source.
    #[serde(default)]
    pub from: Option<IpAddr>,
    /// IPv4's protocol, IPv6's next header.
    #[serde(default)]
    pub protocol: Option<u8>,
    /// Its source port.
    #[serde(default)]
    pub source_port: Option<u16>,
    /// Its destination port.
    #[serde(default)]
    pub port: Option<u16>,
}

/// What is captured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CaptureOf {
    /// A port or a tunnel; `port:NAME` and `tunnel:NAME` tell one from the other.
    pub target: String,
    /// What is inside a tunnel, in place of what is around it.
    #[serde(default)]
    pub decrypted: bool,
    /// Which of its packets: an expression. Empty: all.
    #[serde(rename = "match", default)]
    pub matching: String,
    /// How many packets, at most.
    #[serde(default)]
    pub count: Option<u64>,
    /// How long, at most.
    #[serde(default)]
    pub seconds: Option<u64>,
    /// How many bytes of each packet, at most.
    #[serde(default)]
    pub snap: Option<u32>,
}

impl Command {
    /// How many bytes follow the request's line; `None` for a command that nothing comes with.
    #[must_use]
    pub fn body(&self) -> Option<u64> {
        match self {
            Command::Apply { length, .. } | Command::Diff { length } => Some(*length),
            _ => None,
        }
    }

    /// The command of a request.
    ///
    /// # Errors
    /// The line is no request of this version; code 2.
    pub fn read(line: &[u8]) -> Result<Command, Failure> {
        let wrong = |why: &dyn std::fmt::Display| Failure::usage(format!("request: {why}"));
        let mut request: Map<String, Value> = serde_json::from_slice(line).map_err(|error| wrong(&error))?;
        match request.remove("version") {
            Some(version) if version == VERSION => {}
            Some(version) => {
                return Err(wrong(&format_args!("version {version} is not spoken here; {VERSION} is")));
            }
            None => return Err(wrong(&"missing field `version`")),
        }
        Command::deserialize(Value::Object(request)).map_err(|error| wrong(&error))
    }

    /// The request, a line with its end.
    ///
    /// # Panics
    /// Never: what a command consists of can be written as JSON.
    pub fn to_line(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Request<'a> {
            version: u64,
            #[serde(flatten)]
            command: &'a Command,
        }
        line(&Request { version: VERSION, command: self })
    }
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Reply {
    ok: bool,
    /// What a command gives; absent: nothing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    result: Option<Value>,
    /// [`Line`]s follow.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    stream: bool,
    /// What went wrong, `WHAT: WHY`, several each on a line of its own.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    error: Option<String>,
    /// The exit code that goes with it: 1, it failed; 2, what was asked for is wrong, and nothing was changed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    code: Option<u8>,
}

impl Reply {
    /// Records follow.
    pub(crate) const STREAM: Reply = Reply { ok: true, result: None, stream: true, error: None, code: None };

    /// What the daemon made of the request: a result, or `None` where a stream follows.
    fn into_outcome(self) -> Result<Option<Value>, Failure> {
        match self {
            Reply { ok: true, stream: true, .. } => Ok(None),
            Reply { ok: true, result, .. } => Ok(Some(result.unwrap_or_default())),
            Reply { error, code, .. } => {
                let lines = error.as_deref().unwrap_or("the daemon: it gives no reason").lines();
                Err(Failure::reported(code.unwrap_or(1), lines.map(str::to_owned).collect()))
            }
        }
    }
}

impl From<Result<Value, Failure>> for Reply {
    fn from(answer: Result<Value, Failure>) -> Reply {
        let (result, failure) = match answer {
            Ok(result) => (Some(result), None),
            Err(failure) => (None, Some(failure)),
        };
        let error = failure.as_ref().map(|failure| failure.lines().join("\n"));
        Reply {
            ok: result.is_some(),
            result,
            stream: false,
            error,
            code: failure.map(|failure| failure.code()),
        }
    }
}

/// What a stream consists of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub(crate) enum Line {
    /// What the command is about.
    Record(Value),
    /// As many records would stand here, if the client had not been too slow.
    Lost(u64),
    /// Nothing follows, and why.
    End(String),
}

/// Anything as a line with its end.
pub(crate) fn line(of: &impl Serialize) -> Vec<u8> {
    // Names are strings and numbers are finite, or become null: there is nothing that JSON cannot say.
    let mut line = serde_json::to_vec(of).unwrap_or_default();
    line.push(b'\n');
    line
}
