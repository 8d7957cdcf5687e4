//! The command line: what may be typed, in types, with help, completions and the manual page generated from them. It
//! only reads arguments; what the commands do is elsewhere.

pub mod complete;
mod guide;

use std::collections::HashSet;
use std::ffi::OsString;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Args, Command, CommandFactory, Parser, Subcommand, ValueEnum, value_parser};
use clap_complete::Shell;
use clap_mangen::roff::{Roff, roman};

use crate::carp::guard::CarpGuard;
use crate::config::{LogLevel, Suite};
use crate::daemon;
use crate::keys::vici;

/// GRE over ESP for routers, on netmap rings
#[derive(Debug, Parser)]
#[command(name = "culvert", version, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

const EXIT_CODES: &str = "Exit codes: 0 done; 1 it failed; 2 the arguments or the configuration are wrong (nothing was changed); 3 `diff` found differences.";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Show two routers in one process that send real traffic through GRE and ESP, every packet compared
    Demo(Demo),
    /// Measure the data path in memory, beside the bare cipher, every packet verified
    Bench(Bench),
    /// Run capture files through the data path
    Replay(Replay),
    /// Say everything that is wrong or risky in a configuration; changes nothing
    Check(Check),
    /// Run the daemon in the foreground; it prints `ready` when packets pass
    Run(Run),
    /// Put a configuration to work in the running daemon, without touching tunnels that stay as they are
    Apply(Apply),
    /// Keep what was applied with --confirm
    Confirm(Confirm),
    /// Go back to the configuration that ran before
    Rollback(Rollback),
    /// Say what an apply would change; changes nothing
    Diff(Diff),
    /// Switch a tunnel on or off, ask for new keys, or show what strongSwan has of it
    Tunnel(Tunnel),
    /// Tell the daemon what this router is in a group of routers that share an address
    Carp(Carp),
    /// Run hooks for the daemon at the other end of standard input, which starts this
    #[command(hide = true)]
    CarpHooks,
    /// Demote this router when the daemon at the other end of standard input, which starts this, is gone
    #[command(hide = true)]
    CarpGuard(CarpGuard),
    /// Show what the daemon is doing
    Show(Show),
    /// Watch tunnels, workers and drops on the terminal, live
    Top(Top),
    /// Print what the daemon measures, as Prometheus reads it
    Metrics(Metrics),
    /// Say what becomes of a packet to an address, and why
    Explain(Explain),
    /// Show what befalls the next packets, stage by stage
    Trace(Trace),
    /// Write packets of a port or tunnel to a pcapng file
    Capture(Capture),
    /// Make a configuration of FreeBSD's rc.conf, and say what could not be carried over
    Import(Import),
    /// Print the completion script for a shell
    Completions(Completions),
    /// Print the manual page (roff) of all commands
    Man,
}

/// Arguments of `culvert demo`.
#[derive(Args, Debug)]
pub struct Demo {
    /// How long to run, in seconds
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = seconds())]
    pub seconds: u64,
}

/// Arguments of `culvert bench`.
#[derive(Args, Debug)]
pub struct Bench {
    /// What to measure, separated by commas: plain GRE, GRE in ESP
    #[arg(long, value_name = "MODE,..", value_delimiter = ',', default_value = "gre,esp")]
    pub mode: Vec<BenchMode>,
    /// Cipher suites for ESP, separated by commas
    #[arg(long, value_name = "SUITE,..", value_delimiter = ',', default_value = "aes128gcm16", value_parser = suites())]
    pub suite: Vec<Suite>,
    /// Lengths of the inner IP packets in bytes (28 to 9000), or imix (64, 570 and 1400 bytes as 7:4:1)
    #[arg(
        long,
        value_name = "BYTES,..",
        value_delimiter = ',',
        default_value = "64,512,1400,imix",
        value_parser = packet_size
    )]
    pub size: Vec<PacketSize>,
    /// Worker threads, each on a core of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u16).range(1..=256))]
    pub workers: u16,
    /// SAs that each tunnel has in each direction: one for each worker if not given, and a receive queue for each; with 1, all
    /// packets come by one queue, and the workers share the cipher's work
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(1..=256))]
    pub sas: Option<u16>,
    /// Tunnels that the traffic is spread over
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u32).range(1..=100_000))]
    pub tunnels: u32,
    /// How long each measurement takes, in seconds
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = seconds())]
    pub seconds: u64,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// What `culvert bench` measures.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum BenchMode {
    /// Plain GRE.
    Gre,
    /// GRE in ESP.
    Esp,
}

/// Length of the inner IP packets of a measurement.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PacketSize {
    /// All of this many bytes, 28 to 9000.
    Bytes(u16),
    /// 64, 570 and 1400 bytes as 7:4:1.
    Imix,
}

/// Arguments of `culvert replay`.
#[derive(Args, Debug)]
pub struct Replay {
    /// Configuration file
    #[arg(short, long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub config: PathBuf,
    /// Frames that a port receives: its name and a pcap or pcapng file
    #[arg(long = "in", value_name = "PORT=FILE", required = true, num_args = 1.., value_parser = port_file)]
    pub inputs: Vec<PortFile>,
    /// Where to write the frames that a port sends; the port `host` takes what goes to the host stack
    #[arg(long = "out", value_name = "PORT=FILE", num_args = 1.., value_parser = port_file)]
    pub outputs: Vec<PortFile>,
    /// Print the counters as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// A port and the capture file that stands in for it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PortFile {
    /// The port's name; whether the configuration has it is not known here.
    pub port: String,
    /// The capture file.
    pub file: PathBuf,
}

/// Arguments of `culvert check`.
#[derive(Args, Debug)]
pub struct Check {
    /// Configuration file
    #[arg(short, long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub config: PathBuf,
    /// Take this host's routes, addresses and neighbours into account, as `run` would now
    #[arg(long)]
    pub live: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `culvert run`.
#[derive(Args, Debug)]
pub struct Run {
    /// Configuration file
    #[arg(short, long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub config: PathBuf,
    /// UNIX socket to listen on
    #[arg(long, value_name = "PATH", default_value = daemon::SOCKET, value_hint = clap::ValueHint::FilePath)]
    pub socket: PathBuf,
    /// Write log lines from this level on, whatever the configuration says
    #[arg(long, value_name = "LEVEL", value_parser = log_levels())]
    pub log: Option<LogLevel>,
    /// UNIX socket at which strongSwan's daemon takes requests (VICI)
    #[arg(long, value_name = "PATH", default_value = vici::SOCKET, value_hint = clap::ValueHint::FilePath)]
    pub vici: PathBuf,
    /// Folder that keeps what was applied, across restarts: /var/db/culvert, or beside another socket than the usual one
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub state: Option<PathBuf>,
    /// Become this user, with the capabilities that are needed (Linux), before a device is opened
    #[arg(long, value_name = "NAME", conflicts_with = "unlimited", value_hint = clap::ValueHint::Username)]
    pub user: Option<String>,
    /// Keep all privileges, and let debuggers in: to find out whether a limit is in the way
    #[arg(long)]
    pub unlimited: bool,
}

/// Arguments of `culvert apply`.
#[derive(Args, Debug)]
pub struct Apply {
    /// Configuration file
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub file: PathBuf,
    /// Go back to what ran before after this time (such as 60s, 5m), unless `culvert confirm` comes first
    #[arg(long, value_name = "TIME", value_parser = window)]
    pub confirm: Option<Duration>,
    /// Go back at once when one of these addresses, which has to answer pings before, stops answering; without --confirm, they
    /// are watched for 10 seconds, and then it stays
    #[arg(long, value_name = "ADDRESS,..", value_delimiter = ',')]
    pub watch: Vec<IpAddr>,
    /// UNIX socket that the daemon listens on
    #[arg(long, value_name = "PATH", default_value = daemon::SOCKET, value_hint = clap::ValueHint::FilePath)]
    pub socket: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `culvert confirm`.
#[derive(Args, Debug)]
pub struct Confirm {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// UNIX socket that the daemon listens on
    #[arg(long, value_name = "PATH", default_value = daemon::SOCKET, value_hint = clap::ValueHint::FilePath)]
    pub socket: PathBuf,
}

/// Arguments of `culvert rollback`.
#[derive(Args, Debug)]
pub struct Rollback {
    /// UNIX socket that the daemon listens on
    #[arg(long, value_name = "PATH", default_value = daemon::SOCKET, value_hint = clap::ValueHint::FilePath)]
    pub socket: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `culvert diff`.
#[derive(Args, Debug)]
#[command(after_help = "Exit codes: 0 nothing would change; 3 something would; 1 and 2 as everywhere.")]
pub struct Diff {
    /// Configuration file
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub file: PathBuf,
    /// UNIX socket that the daemon listens on
    #[arg(long, value_name = "PATH", default_value = daemon::SOCKET, value_hint = clap::ValueHint::FilePath)]
    pub socket: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `culvert tunnel`.
#[derive(Args, Debug)]
pub struct Tunnel {
    /// What to do with it
    #[arg(value_name = "ACTION")]
    pub action: TunnelAction,
    /// The tunnel's name
    #[arg(value_name = "NAME", add = complete::tunnels())]
    pub name: String,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// UNIX socket that the daemon listens on
    #[arg(long, value_name = "PATH", default_value = daemon::SOCKET, value_hint = clap::ValueHint::FilePath)]
    pub socket: PathBuf,
}

/// What is done with a tunnel by hand.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum TunnelAction {
    /// Let packets in and out, whatever the configuration says
    Up,
    /// Let no packet in or out, until it is taken up or the daemon is started again
    Down,
    /// Negotiate new keys now; fixed keys are changed by an apply
    Rekey,
    /// Show what strongSwan was told of it, what it has loaded, and how the two differ
    ShowIke,
}

/// Arguments of `culvert carp`.
#[derive(Args, Debug)]
pub struct Carp {
    /// What to do
    #[command(subcommand)]
    pub action: CarpAction,
}

/// What is done about addresses that routers share.
#[derive(Debug, Subcommand)]
pub enum CarpAction {
    /// Say what this router is now: for up and down scripts of ucarp, and notify scripts of keepalived
    Notify(CarpNotify),
    /// Say whether this router is ready to be master, for scripts that start ucarp and checks of keepalived: 0 yes, 1 no
    Ready(CarpReady),
    /// Hand over to the other router, and carry what still comes until it is master; this one stays backup until `carp resume`
    Yield(CarpYield),
    /// Let this router be master again after `carp yield`
    Resume(CarpResume),
}

/// Arguments of `culvert carp yield`.
#[derive(Args, Debug)]
pub struct CarpYield {
    /// Hand over also where the other router cannot go on with the SAs that are there
    #[arg(long)]
    pub force: bool,
    /// Wait until the other router is master, at most so long (such as 60s, 5m)
    #[arg(long, value_name = "TIME", value_parser = window, default_value = "30s")]
    pub wait: Duration,
    /// Do not wait; asked again, the command says how far it is
    #[arg(long, conflicts_with = "wait")]
    pub no_wait: bool,
    /// Print what has become of it as JSON
    #[arg(long)]
    pub json: bool,
    /// UNIX socket that the daemon listens on
    #[arg(long, value_name = "PATH", default_value = daemon::SOCKET, value_hint = clap::ValueHint::FilePath)]
    pub socket: PathBuf,
}

/// Arguments of `culvert carp resume`.
#[derive(Args, Debug)]
pub struct CarpResume {
    /// UNIX socket that the daemon listens on
    #[arg(long, value_name = "PATH", default_value = daemon::SOCKET, value_hint = clap::ValueHint::FilePath)]
    pub socket: PathBuf,
}

/// Arguments of `culvert carp ready`.
#[derive(Args, Debug)]
pub struct CarpReady {
    /// Wait for it, at most so long (such as 60s, 5m)
    #[arg(long, value_name = "TIME", value_parser = window)]
    pub wait: Option<Duration>,
    /// UNIX socket that the daemon listens on
    #[arg(long, value_name = "PATH", default_value = daemon::SOCKET, value_hint = clap::ValueHint::FilePath)]
    pub socket: PathBuf,
}

/// Arguments of `culvert carp notify`.
#[derive(Args, Debug)]
pub struct CarpNotify {
    /// The group, VHID@IF: that of local = "carp:VHID@IF"
    #[arg(value_name = "VHID@IF")]
    pub group: String,
    /// What this router is in it; keepalived's `fault` is init
    #[arg(value_name = "ROLE", value_parser = ["master", "backup", "init"], ignore_case = true)]
    pub role: String,
    /// UNIX socket that the daemon listens on
    #[arg(long, value_name = "PATH", default_value = daemon::SOCKET, value_hint = clap::ValueHint::FilePath)]
    pub socket: PathBuf,
}

/// Arguments of `culvert show`.
#[derive(Args, Debug)]
pub struct Show {
    /// What to show
    #[arg(value_name = "WHAT")]
    pub what: daemon::What,
    /// UNIX socket that the daemon listens on
    #[arg(long, value_name = "PATH", default_value = daemon::SOCKET, value_hint = clap::ValueHint::FilePath)]
    pub socket: PathBuf,
    /// Show it again every so many seconds, until interrupted; with --json, one object a line
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1", value_parser = value_parser!(u32).range(1..=3600))]
    pub watch: Option<u32>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `culvert explain`.
#[derive(Args, Debug)]
pub struct Explain {
    /// Where the packet is going
    #[arg(value_name = "ADDRESS")]
    pub address: IpAddr,
    /// Where it comes from: where there are several ways, its flow chooses
    #[arg(long, value_name = "ADDRESS")]
    pub from: Option<IpAddr>,
    /// Its protocol: tcp, udp, sctp, icmp, icmp6, or a number
    #[arg(long, value_name = "PROTOCOL", value_parser = ip_protocol)]
    pub protocol: Option<u8>,
    /// Its destination port
    #[arg(long, value_name = "N")]
    pub port: Option<u16>,
    /// Its source port
    #[arg(long, value_name = "N")]
    pub source_port: Option<u16>,
    /// Ask a configuration file, as far as that tells, and no daemon
    #[arg(short, long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// UNIX socket that the daemon listens on
    #[arg(long, value_name = "PATH", default_value = daemon::SOCKET, value_hint = clap::ValueHint::FilePath)]
    pub socket: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

fn ip_protocol(text: &str) -> Result<u8, String> {
    let named = match text {
        "icmp" => Some(1),
        "tcp" => Some(6),
        "udp" => Some(17),
        "icmp6" => Some(58),
        "sctp" => Some(132),
        _ => text.parse().ok(),
    };
    named.ok_or_else(|| "give tcp, udp, sctp, icmp, icmp6, or a number from 0 to 255".to_owned())
}

/// Arguments of `culvert trace`.
#[derive(Args, Debug)]
pub struct Trace {
    /// How many packets
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = value_parser!(u64).range(1..))]
    pub count: u64,
    /// Which packets: words of pcap-filter(7), `tunnel NAME`, `on PORT`, `drop [REASON]`; and, or, not
    #[arg(long = "match", value_name = "EXPR", default_value = "", hide_default_value = true)]
    pub matching: String,
    /// UNIX socket that the daemon listens on
    #[arg(long, value_name = "PATH", default_value = daemon::SOCKET, value_hint = clap::ValueHint::FilePath)]
    pub socket: PathBuf,
    /// Print one JSON object a line, for each packet
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `culvert capture`.
#[derive(Args, Debug)]
pub struct Capture {
    /// The port or tunnel; port:NAME and tunnel:NAME tell one from the other
    #[arg(value_name = "PORT|TUNNEL", add = complete::ports_and_tunnels())]
    pub target: String,
    /// The file to write; - is standard output
    #[arg(short, long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub write: PathBuf,
    /// Of a tunnel: the packets inside it, in place of those around them
    #[arg(long)]
    pub decrypted: bool,
    /// Which packets: words of pcap-filter(7); and, or, not
    #[arg(long = "match", value_name = "EXPR", default_value = "", hide_default_value = true)]
    pub matching: String,
    /// End after so many packets
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// End after so many seconds
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..))]
    pub seconds: Option<u64>,
    /// End before the file is longer than so many bytes
    #[arg(long, value_name = "N", default_value_t = 1 << 30)]
    pub bytes: u64,
    /// Keep the first so many bytes of each packet
    #[arg(long, value_name = "BYTES", value_parser = value_parser!(u32).range(1..=65_535))]
    pub snap: Option<u32>,
    /// UNIX socket that the daemon listens on
    #[arg(long, value_name = "PATH", default_value = daemon::SOCKET, value_hint = clap::ValueHint::FilePath)]
    pub socket: PathBuf,
    /// Say at the end what was captured as one JSON object (on standard error, as the text)
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `culvert import`.
#[derive(Args, Debug)]
pub struct Import {
    /// rc.conf and files beside it, in the order of reading; or the folder of rc.conf, or the root of a system, read as rc does
    #[arg(value_name = "PATH", required = true, value_hint = clap::ValueHint::AnyPath)]
    pub paths: Vec<PathBuf>,
    /// Print the configuration and the report as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `culvert top`.
#[derive(Args, Debug)]
pub struct Top {
    /// UNIX socket that the daemon listens on
    #[arg(long, value_name = "PATH", default_value = daemon::SOCKET, value_hint = clap::ValueHint::FilePath)]
    pub socket: PathBuf,
    /// From one look to the next
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = value_parser!(u32).range(1..=60))]
    pub every: u32,
}

/// Arguments of `culvert metrics`.
#[derive(Args, Debug)]
pub struct Metrics {
    /// UNIX socket that the daemon listens on
    #[arg(long, value_name = "PATH", default_value = daemon::SOCKET, value_hint = clap::ValueHint::FilePath)]
    pub socket: PathBuf,
}

/// Arguments of `culvert completions`.
#[derive(Args, Debug)]
pub struct Completions {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

impl Cli {
    /// Reads arguments, the first of which is the program's name.
    ///
    /// # Errors
    /// What clap says about wrong arguments (`clap::Error::exit` prints it and ends with code 2), and likewise its
    /// answers to `--help` and `--version`, which end with code 0.
    pub fn from_args<I, T>(arguments: I) -> Result<Self, clap::Error>
    where
        I: IntoIterator<Item = T>,
        T: Into<OsString> + Clone,
    {
        let cli = Self::try_parse_from(arguments)?;
        if let Action::Replay(replay) = &cli.action {
            refuse_twice("--in", &replay.inputs)?;
            refuse_twice("--out", &replay.outputs)?;
            refuse_host_input(&replay.inputs)?;
        }
        Ok(cli)
    }
}

fn refuse_twice(option: &str, files: &[PortFile]) -> Result<(), clap::Error> {
    let mut seen = HashSet::new();
    match files.iter().find(|file| !seen.insert(file.port.as_str())) {
        Some(twice) => Err(usage(format!("{option} names port '{}' twice; give it one file", twice.port))),
        None => Ok(()),
    }
}

fn refuse_host_input(inputs: &[PortFile]) -> Result<(), clap::Error> {
    if inputs.iter().any(|input| input.port == "host") {
        return Err(usage(
            "--in cannot name 'host': that port only takes frames; use it with --out".to_owned(),
        ));
    }
    Ok(())
}

fn usage(message: String) -> clap::Error {
    let mut command = Cli::command();
    command.build();
    let replay = command.find_subcommand_mut("replay");
    match replay {
        Some(replay) => replay.error(ErrorKind::ValueValidation, message),
        None => command.error(ErrorKind::ValueValidation, message),
    }
}

/// How long something may wait to be confirmed.
fn window(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = match unit {
        "s" | "" => 1,
        "m" => 60,
        "h" => 3600,
        _ => 0,
    };
    let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    let seconds = seconds.filter(|seconds| (1..=86_400).contains(seconds));
    seconds.map(Duration::from_secs).ok_or_else(|| "give 1s to 24h, such as 60s or 5m".to_owned())
}

fn seconds() -> impl TypedValueParser<Value = u64> {
    value_parser!(u64).range(1..=86_400)
}

fn suites() -> impl TypedValueParser<Value = Suite> {
    let names = PossibleValuesParser::new(Suite::ALL.map(Suite::name));
    names.try_map(|name| Suite::from_name(&name).ok_or("no such suite"))
}

fn log_levels() -> impl TypedValueParser<Value = LogLevel> {
    let names = PossibleValuesParser::new(LogLevel::ALL.map(LogLevel::name));
    names.try_map(|name| LogLevel::ALL.into_iter().find(|level| level.name() == name).ok_or("no such level"))
}

fn packet_size(text: &str) -> Result<PacketSize, String> {
    if text == "imix" {
        return Ok(PacketSize::Imix);
    }
    let bytes = text.parse().ok().filter(|bytes| (28..=9000).contains(bytes));
    bytes.map(PacketSize::Bytes).ok_or_else(|| "give 28 to 9000 bytes, or imix".to_owned())
}

fn port_file(text: &str) -> Result<PortFile, String> {
    match text.split_once('=') {
        Some((port, file)) if !port.is_empty() && !file.is_empty() => {
            Ok(PortFile { port: port.to_owned(), file: file.into() })
        }
        _ => Err("write the port's name, '=' and a file, such as wan=wan.pcap".to_owned()),
    }
}

/// Writes the manual page of the whole program, in roff: what stands at the top of the command line, then one section
/// for each command, and how two routers share their addresses.
///
/// # Errors
/// Whatever writing to `out` gives.
pub fn write_man(out: &mut dyn Write) -> io::Result<()> {
    let mut command = Cli::command().disable_help_subcommand(true).after_help("");
    command.build();
    // An empty date would move the fields behind it one place to the left.
    let page = clap_mangen::Man::new(command.clone()).section("8").date(" ").manual("Culvert");
    let mut roff = Vec::new();
    page.render_title(&mut roff)?;
    page.render_name_section(&mut roff)?;
    page.render_synopsis_section(&mut roff)?;
    page.render_description_section(&mut roff)?;
    page.render_options_section(&mut roff)?;
    for subcommand in command.get_subcommands() {
        write_heading(&format!("CULVERT {}", subcommand.get_name().to_uppercase()), "", &mut roff)?;
        write_man_section(subcommand, &mut roff)?;
    }
    guide::write(&mut roff)?;
    write_heading("EXIT STATUS", EXIT_CODES, &mut roff)?;
    out.write_all(without_repeated_preamble(&String::from_utf8_lossy(&roff)).as_bytes())
}

fn write_heading(title: &str, text: &str, out: &mut Vec<u8>) -> io::Result<()> {
    let mut heading = Roff::new();
    heading.control("SH", [title]);
    if !text.is_empty() {
        heading.text([roman(text)]);
    }
    heading.to_writer(out)
}

/// A command's description, synopsis and options, one level below its heading.
fn write_man_section(command: &Command, out: &mut Vec<u8>) -> io::Result<()> {
    let page = clap_mangen::Man::new(command.clone());
    let mut body = Vec::new();
    page.render_description_section(&mut body)?;
    page.render_synopsis_section(&mut body)?;
    page.render_options_section(&mut body)?;
    out.extend_from_slice(String::from_utf8_lossy(&body).replace("\n.SH ", "\n.SS ").as_bytes());
    Ok(())
}

/// Every part of the page comes with the same two lines that define the apostrophe: the first ones are enough.
fn without_repeated_preamble(roff: &str) -> String {
    let defines = |line: &&str| line.starts_with(".ie \\n(.g .ds Aq") || line.starts_with(".el .ds Aq");
    let preamble = roff.lines().take(2).filter(defines);
    let rest = roff.lines().filter(|line| !defines(line));
    preamble.chain(rest).flat_map(|line| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::from_args(line.split_whitespace())
    }

    fn refusal(line: &str) -> String {
        let error = parse(line).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
        error.to_string()
    }

    #[test]
    fn the_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn bench_takes_lists() {
        let cli =
            parse("culvert bench --mode esp --suite aes256gcm16,chacha20poly1305 --size 28,imix,9000 --json")
                .unwrap();
        let Action::Bench(bench) = cli.action else { panic!("another command") };
        assert_eq!(bench.mode, [BenchMode::Esp]);
        assert_eq!(bench.suite, [Suite::Aes256Gcm16, Suite::ChaCha20Poly1305]);
        assert_eq!(bench.size, [PacketSize::Bytes(28), PacketSize::Imix, PacketSize::Bytes(9000)]);
        assert!(bench.json && bench.workers == 1 && bench.tunnels == 1);
    }

    #[test]
    fn bench_has_defaults() {
        let Action::Bench(bench) = parse("culvert bench").unwrap().action else { panic!("another command") };
        assert_eq!(bench.mode, [BenchMode::Gre, BenchMode::Esp]);
        assert_eq!(bench.suite, [Suite::Aes128Gcm16]);
        assert_eq!(bench.size.last(), Some(&PacketSize::Imix));
        assert_eq!(bench.size.len(), 4);
    }

    #[test]
    fn replay_takes_files_in_one_go_or_one_by_one() {
        let line =
            "culvert replay -c r.toml --in wan=w.pcap lan=l=1.pcap --out wan=wo.pcap --out host=h.pcap";
        let Action::Replay(replay) = parse(line).unwrap().action else { panic!("another command") };
        let pair = |port: &str, file: &str| PortFile { port: port.into(), file: file.into() };
        assert_eq!(replay.inputs, [pair("wan", "w.pcap"), pair("lan", "l=1.pcap")]);
        assert_eq!(replay.outputs, [pair("wan", "wo.pcap"), pair("host", "h.pcap")]);
        assert_eq!(replay.config, PathBuf::from("r.toml"));
    }

    #[test]
    fn wrong_arguments_are_told_what_to_do() {
        for (line, says) in [
            ("culvert replay -c f --in wan", "such as wan=wan.pcap"),
            ("culvert replay -c f --in =x", "such as wan=wan.pcap"),
            ("culvert replay -c f", "--in <PORT=FILE>"),
            ("culvert replay --in a=b", "--config <FILE>"),
            ("culvert replay -c f --in a=b --in a=c", "--in names port 'a' twice"),
            ("culvert replay -c f --in a=b --out c=d c=e", "--out names port 'c' twice"),
            ("culvert replay -c f --in host=b", "use it with --out"),
            ("culvert bench --size 27", "give 28 to 9000 bytes, or imix"),
            ("culvert bench --size 9001", "give 28 to 9000 bytes, or imix"),
            ("culvert bench --suite aes", "aes128gcm16"),
            ("culvert bench --mode gree", "gre"),
            ("culvert bench --workers 0", "1..=256"),
            ("culvert demo --seconds 0", "1..=86400"),
            ("culvert demmo", "demo"),
            ("culvert", "Usage"),
            ("culvert run", "--config <FILE>"),
            ("culvert show keys", "neighbours"),
            ("culvert completions ksh", "zsh"),
        ] {
            let message = refusal(line);
            assert!(message.contains(says), "{line}: {message}");
        }
    }

    #[test]
    fn the_manual_has_every_command_and_option() {
        let mut page = Vec::new();
        write_man(&mut page).unwrap();
        let page = String::from_utf8(page).unwrap();
        assert_eq!(page.matches("\n.TH ").count(), 1);
        assert_eq!(page.matches(".ds Aq").count(), 2);
        for command in Cli::command().get_subcommands() {
            assert!(
                page.contains(&format!("CULVERT {}", command.get_name().to_uppercase())),
                "{}",
                command.get_name()
            );
            for argument in command.get_arguments().filter_map(|argument| argument.get_long()) {
                assert!(page.contains(&format!("\\-\\-{}", argument.replace('-', "\\-"))), "{argument}");
            }
        }
        assert!(page.contains("EXIT STATUS"));
    }

    #[test]
    fn a_closed_pipe_is_an_error() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        assert!(complete::write_script(Shell::Bash, &mut Closed).is_err());
        assert!(write_man(&mut Closed).is_err());
    }
}
