//! `culvert replay`: capture files through the data path. Every port of the configuration is replaced by a ring pair with
//! files (or nothing) behind it, and one worker turns as it would on a network card.
//!
//! 1. The configuration is loaded and planned, the arguments are held against it, the inputs are opened.
//! 2. Only now are the outputs created: nothing was changed if anything before was wrong.
//! 3. The port whose next frame is the earliest gets its turn, up to the earliest frame of another port, and so on. A turn
//!    takes whole batches, where so many frames in a row come from one port.
//! 4. Outputs are flushed, and the counters printed, as a table or as JSON.
//!
//! A damaged input ends the run where the next frame of that file would have been wanted: what the engine would have done
//! after that cannot be known. What was written until then stays, the counters are printed, and the command fails.
//!
//! The JSON object: `ports` has `rx` and `tx` for each port and for `host`, in frames; `tunnels` has `in_packets`,
//! `in_bytes`, `out_packets`, `out_bytes` (inner bytes) and `mtu` for each tunnel, and where it is protected `sas`: each
//! with `direction`, `spi` (a number), `suite`, `state` (`live` or `exhausted`), and an outbound one with `used` and
//! `remaining` sequence numbers, an inbound one with the `highest` received; `drops` has every reason that occurred, and
//! how often. Ports and tunnels come in the configuration's order.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use culvert_engine::capture::{MAX_RECORD, Writer};
use culvert_engine::counters::WorkerCounters;
use culvert_engine::drops::Reason;
use culvert_engine::ring::capture::{CaptureRx, CaptureTx};
use culvert_engine::ring::{BATCH, HEADROOM, Port, Region};
use culvert_engine::tables::Published;
use culvert_engine::wire::ethernet;
use culvert_engine::worker::Worker;
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::Failure;
use crate::cli::{self, PortFile};
use crate::config::Config;
use crate::plan::{self, Plan};
use crate::report::{self, Counts, Numbers, SaReport};
use crate::table::Table;

/// The name of the port towards the host stack.
const HOST: &str = "host";

/// Slots in each ring. What a receive ring holds fits any transmit ring, which the worker empties after each batch: so no
/// frame is ever lost for want of room.
const SLOTS: u32 = 512;
/// Bytes in each buffer, at least (what netmap gives) and at most.
const SMALLEST_BUFFER: u32 = 2048;
const LARGEST_BUFFER: u32 = 65472;
/// Bytes that a buffer needs beside headroom and the longest IP packet: a link header, and the padding, trailer and ICV of
/// ESP (at most 15 + 2 + 16, RFC 4303 section 2).
const AROUND_PACKET: u32 = ethernet::HEADER_LEN as u32 + 33;

// The longest frame of a capture fits a receive ring, and so does a good number of batches.
const _: () = assert!(MAX_RECORD < ((SMALLEST_BUFFER - HEADROOM) * (SLOTS - 1)) as usize);
const _: () = assert!(SLOTS as usize >= 4 * BATCH);

/// Runs the command.
///
/// # Errors
/// Code 2 where the configuration, a port's name or the choice of files is wrong; nothing has been written then. Code 1
/// where a file cannot be opened, read to its end, or written, and where the system lacks memory or random numbers.
pub fn run(arguments: &cli::Replay) -> Result<(), Failure> {
    let (config, _) = Config::load(&arguments.config)?;
    let plan = plan::replay(&config)?;
    let inputs = assign("--in", &arguments.inputs, &config)?;
    let outputs = assign("--out", &arguments.outputs, &config)?;
    refuse_overwriting(arguments)?;
    let sources = open_inputs(&inputs)?;
    let sinks = create_outputs(&outputs)?;

    let Plan { tables, inbound, counters } = plan;
    let published = tables.publish();
    let mut replay = Replay::new(&config, &published, sources, sinks)?;
    replay.run();
    let mut failures = replay.input_errors(&inputs);
    failures.extend(replay.finish_outputs(&outputs));

    let tables = published.load();
    let tunnels = config.tunnels.iter().zip(tables.tunnels()).zip(inbound.iter().zip(&counters));
    let report = Report {
        ports: replay.ports(&config),
        tunnels: tunnels
            .map(|((config, tunnel), (inbound, counters))| TunnelReport {
                name: &config.name,
                counts: Counts::of(counters),
                mtu: inner_mtu(config, tunnel),
                sas: report::sas(config, tunnel.outbound(), inbound),
            })
            .collect(),
        drops: replay.drops(),
    };
    print(&report, arguments.json)?;
    if failures.is_empty() { Ok(()) } else { Err(Failure::failed_lines(failures)) }
}

/// Files by the number of their port; `host` follows the last one of the configuration.
type ByPort<'a> = HashMap<usize, &'a PortFile>;

fn assign<'a>(option: &str, files: &'a [PortFile], config: &Config) -> Result<ByPort<'a>, Failure> {
    let number = |name: &str| match name {
        HOST => Some(config.ports.len()),
        _ => config.ports.iter().position(|port| port.name == name),
    };
    let mut by_port = ByPort::new();
    for file in files {
        let Some(port) = number(&file.port) else {
            let names: Vec<&str> = config.ports.iter().map(|port| port.name.as_str()).chain([HOST]).collect();
            return Err(Failure::usage(format!(
                "replay: {option} {}: the configuration has no such port; it has {}",
                file.port,
                names.join(", ")
            )));
        };
        by_port.insert(port, file);
    }
    Ok(by_port)
}

/// A file by what it is, however it was named. Devices and pipes may be used twice, so they are not told apart.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(path).ok()?;
    metadata.is_file().then(|| (metadata.dev(), metadata.ino()))
}

/// The place of a file that may not be there yet.
fn place(path: &Path) -> Option<PathBuf> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Some(fs::canonicalize(folder).ok()?.join(path.file_name()?))
}

/// No output may be the configuration, an input, or another output.
fn refuse_overwriting(arguments: &cli::Replay) -> Result<(), Failure> {
    let same = |one: &Path, other: &Path| match (identity(one), identity(other)) {
        (Some(one), Some(other)) => one == other,
        (None, None) => {
            !one.exists() && !other.exists() && place(one).is_some() && place(one) == place(other)
        }
        _ => false,
    };
    let read = arguments.inputs.iter().map(|input| &input.file).chain([&arguments.config]);
    let read: Vec<&PathBuf> = read.collect();
    for (index, output) in arguments.outputs.iter().enumerate() {
        let mut others =
            read.iter().copied().chain(arguments.outputs.iter().take(index).map(|other| &other.file));
        if others.any(|other| same(&output.file, other)) {
            return Err(Failure::usage(format!(
                "replay: --out {}={}: that file is used already; write to another one",
                output.port,
                output.file.display()
            )));
        }
    }
    Ok(())
}

fn about(file: &PortFile, why: impl std::fmt::Display) -> String {
    format!("replay: {}: {why}", file.file.display())
}

fn open_inputs(inputs: &ByPort<'_>) -> Result<HashMap<usize, CaptureRx>, Failure> {
    let open = |(port, input): (&usize, &&PortFile)| {
        let file = File::open(&input.file).map_err(|error| {
            Failure::failed(about(
                input,
                format_args!("cannot be opened: {error}; correct the name or its mode"),
            ))
        })?;
        let source = CaptureRx::new(Box::new(file)).map_err(|error| Failure::failed(about(input, error)))?;
        Ok((*port, source))
    };
    inputs.iter().map(open).collect()
}

/// Opens all outputs before it empties any, so that what was there stays where one of them cannot be had.
fn create_outputs(outputs: &ByPort<'_>) -> Result<HashMap<usize, CaptureTx>, Failure> {
    let cannot = |output: &PortFile, error: io::Error| {
        Failure::failed(about(output, format_args!("cannot be written: {error}; choose another place")))
    };
    let mut files = Vec::with_capacity(outputs.len());
    for (port, output) in outputs {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&output.file);
        files.push((*port, *output, file.map_err(|error| cannot(output, error))?));
    }
    let mut sinks = HashMap::new();
    for (port, output, file) in files {
        let sink = begin(output, file).map_err(|error| cannot(output, error))?;
        sinks.insert(port, CaptureTx::new(sink));
    }
    Ok(sinks)
}

fn begin(output: &PortFile, file: File) -> io::Result<Writer<Box<dyn Write + Send>>> {
    if file.metadata()?.is_file() {
        file.set_len(0)?;
    }
    let pcapng = output.file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("pcapng"));
    let file: Box<dyn Write + Send> = Box::new(file);
    if pcapng { Writer::pcapng(file, &output.port) } else { Writer::pcap(file) }
}

/// A worker between capture files.
struct Replay {
    worker: Worker,
    /// The ports that receive anything, in the configuration's order.
    receiving: Vec<usize>,
    /// The number of the host's port, which is that of the configuration's ports.
    host: usize,
}

impl Replay {
    fn new(
        config: &Config,
        tables: &Published,
        mut sources: HashMap<usize, CaptureRx>,
        mut sinks: HashMap<usize, CaptureTx>,
    ) -> Result<Replay, Failure> {
        let failed = |error: culvert_engine::ring::RegionError| Failure::failed(format!("replay: {error}"));
        let host = config.ports.len();
        let mut receiving: Vec<usize> = sources.keys().copied().collect();
        receiving.sort_unstable();
        let region = Region::new(2 * (host + 1), SLOTS, buffer_size(config), 0, true).map_err(failed)?;
        let mut queues = Vec::with_capacity(host + 1);
        for port in 0..=host {
            let source = sources.remove(&port).unwrap_or_else(CaptureRx::nothing);
            let sink = sinks.remove(&port).unwrap_or_else(CaptureTx::discard);
            queues.extend(Port::capture(&region, source, sink).map_err(failed)?.queues);
        }
        let host_queue = queues.pop();
        Ok(Replay { worker: Worker::new(0, tables, queues, host_queue), receiving, host })
    }

    fn run(&mut self) {
        while !self.damaged()
            && let Some((port, horizon)) = self.next()
        {
            self.turn(port, horizon);
        }
    }

    fn source(&mut self, port: usize) -> Option<&mut CaptureRx> {
        self.worker.receive_queue(port)?.capture_mut()
    }

    fn damaged(&mut self) -> bool {
        let Replay { worker, receiving, .. } = self;
        let mut sources = receiving.iter().filter_map(|port| {
            worker
                .receive_queue(*port)
                .and_then(|queue| queue.capture_mut())
                .map(|source| source.error().is_some())
        });
        sources.any(|damaged| damaged)
    }

    /// The port whose next frame is the earliest, the first in the configuration's order where several are, and the time
    /// up to which its frames come before all others'.
    fn next(&mut self) -> Option<(usize, u64)> {
        let Replay { worker, receiving, .. } = self;
        let mut heads: Vec<(u64, usize)> = Vec::with_capacity(receiving.len());
        for port in receiving.iter() {
            let source = worker.receive_queue(*port).and_then(|queue| queue.capture_mut());
            heads.extend(source.and_then(|source| source.peek()).map(|time| (time, *port)));
        }
        heads.sort_unstable_by_key(|head| Reverse(*head));
        let (_, port) = heads.pop()?;
        let horizon = match heads.pop() {
            // Frames of the same time come in the order of the ports.
            Some((time, other)) if other < port => time.saturating_sub(1),
            Some((time, _)) => time,
            None => u64::MAX,
        };
        Some((port, horizon))
    }

    /// Everything from `port` that is not later than `horizon`.
    fn turn(&mut self, port: usize, horizon: u64) {
        if let Some(source) = self.source(port) {
            source.set_horizon(horizon);
        }
        loop {
            self.worker.turn(port);
            let Some(queue) = self.worker.receive_queue(port) else { return };
            let left_in_ring = queue.ring.available() > 0;
            let next = queue.capture_mut().and_then(|source| source.peek());
            if !left_in_ring && next.is_none_or(|time| time > horizon) {
                return;
            }
        }
    }

    /// What ended inputs early.
    fn input_errors(&mut self, inputs: &ByPort<'_>) -> Vec<String> {
        let mut lines = Vec::new();
        for port in self.receiving.clone() {
            let error = self.source(port).and_then(|source| source.error().cloned());
            lines.extend(inputs.get(&port).zip(error).map(|(input, error)| about(input, error)));
        }
        lines
    }

    /// Writes out what is buffered; returns what went wrong then or before.
    fn finish_outputs(&mut self, outputs: &ByPort<'_>) -> Vec<String> {
        let mut lines = Vec::new();
        for port in 0..=self.host {
            let sink = self.worker.transmit_queue(port).and_then(|queue| queue.capture_mut());
            let error = sink.and_then(|sink| sink.finish().err());
            lines.extend(outputs.get(&port).zip(error).map(|(output, error)| {
                about(output, format_args!("writing failed, the file is incomplete: {error}"))
            }));
        }
        lines
    }

    fn ports<'c>(&self, config: &'c Config) -> Vec<(&'c str, PortReport)> {
        let counters = self.worker.counters();
        let names = config.ports.iter().map(|port| port.name.as_str()).chain([HOST]);
        names.enumerate().map(|(port, name)| (name, PortReport::of(counters, port))).collect()
    }

    fn drops(&self) -> Vec<(&'static str, u64)> {
        let counters = self.worker.counters();
        let counted = Reason::ALL.iter().map(|reason| (reason.name(), counters.dropped(*reason)));
        counted.filter(|(_, count)| *count > 0).collect()
    }
}

/// Room for the longest packet of any port, with everything the engine puts around it.
fn buffer_size(config: &Config) -> u32 {
    let longest = config.ports.iter().map(|port| u32::from(port.mtu())).max().unwrap_or(0);
    let size = (HEADROOM + AROUND_PACKET + longest).next_multiple_of(64);
    size.clamp(SMALLEST_BUFFER, LARGEST_BUFFER)
}

/// A tunnel's MTU as its hosts know it: of an Ethernet tunnel without the frame's header.
pub(crate) fn inner_mtu(config: &crate::config::Tunnel, tunnel: &culvert_engine::tunnel::Tunnel) -> usize {
    tunnel.mtu().saturating_sub(inner_link_header(config))
}

/// Bytes of the link header that a tunnel carries with each packet.
pub(crate) fn inner_link_header(config: &crate::config::Tunnel) -> usize {
    if config.bridge.is_some() { ethernet::HEADER_LEN } else { 0 }
}

/// What the run counted and where it left its SAs.
struct Report<'a> {
    ports: Vec<(&'a str, PortReport)>,
    tunnels: Vec<TunnelReport<'a>>,
    drops: Vec<(&'static str, u64)>,
}

#[derive(serde::Serialize)]
struct PortReport {
    rx: u64,
    tx: u64,
}

impl PortReport {
    fn of(counters: &WorkerCounters, port: usize) -> PortReport {
        let counters = counters.port(port);
        PortReport {
            rx: counters.map_or(0, |counters| counters.rx.get()),
            tx: counters.map_or(0, |counters| counters.tx.get()),
        }
    }
}

#[derive(serde::Serialize)]
struct TunnelReport<'a> {
    #[serde(skip)]
    name: &'a str,
    #[serde(flatten)]
    counts: Counts,
    mtu: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    sas: Option<Vec<SaReport>>,
}

/// An object whose fields come in the order of the list.
struct Fields<I>(I);

impl<K: Serialize, V: Serialize, I: Iterator<Item = (K, V)> + Clone> Serialize for Fields<I> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(None)?;
        for (name, value) in self.0.clone() {
            object.serialize_entry(&name, &value)?;
        }
        object.end()
    }
}

impl Serialize for Report<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(Some(3))?;
        object.serialize_entry("ports", &Fields(self.ports.iter().map(|(name, port)| (*name, port))))?;
        object
            .serialize_entry("tunnels", &Fields(self.tunnels.iter().map(|tunnel| (tunnel.name, tunnel))))?;
        object.serialize_entry("drops", &Fields(self.drops.iter().map(|(name, count)| (*name, *count))))?;
        object.end()
    }
}

fn print(report: &Report<'_>, json: bool) -> Result<(), Failure> {
    let text = if json {
        let text =
            serde_json::to_string(report).map_err(|error| Failure::failed(format!("replay: {error}")))?;
        text + "\n"
    } else {
        tables(report)
    };
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Failure::stdout)
}

fn tables(report: &Report<'_>) -> String {
    let mut ports = Table::new(1, ["port", "received", "sent"]);
    for (name, port) in &report.ports {
        ports.row([(*name).to_owned(), port.rx.to_string(), port.tx.to_string()]);
    }
    let mut tunnels = Table::new(1, ["tunnel", "in packets", "in bytes", "out packets", "out bytes", "mtu"]);
    let mut sas = Table::new(4, ["tunnel", "SA", "suite", "state", "last number", "remaining"]);
    for tunnel in &report.tunnels {
        let Counts { in_packets, in_bytes, out_packets, out_bytes } = tunnel.counts;
        let numbers = [in_packets, in_bytes, out_packets, out_bytes].map(|number| number.to_string());
        tunnels.row([tunnel.name.to_owned()].into_iter().chain(numbers).chain([tunnel.mtu.to_string()]));
        for sa in tunnel.sas.iter().flatten() {
            let (last, remaining) = match sa.numbers {
                Numbers::Out { used, remaining } => (used, Some(remaining)),
                Numbers::In { highest } => (highest, None),
            };
            let name = format!("{} {:#010x}", sa.direction, sa.spi);
            let cells = [tunnel.name.to_owned(), name, sa.suite.clone(), sa.state.clone(), last.to_string()];
            sas.row(cells.into_iter().chain(remaining.map(|number| number.to_string())));
        }
    }
    let mut drops = Table::new(1, ["dropped", "packets"]);
    for (reason, count) in &report.drops {
        drops.row([(*reason).to_owned(), count.to_string()]);
    }
    let filled = [ports, tunnels, sas, drops].into_iter().filter(|table| !table.is_empty());
    let blocks: Vec<String> = filled.map(|table| table.lines().map(|line| line + "\n").collect()).collect();
    blocks.join("\n")
}
