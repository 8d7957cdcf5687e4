//! `culvert capture`: packets of a port or tunnel of the running daemon, written as pcapng by whoever asks.
//!
//! The file is opened with the rights of the command, and holds whole blocks at any time: a capture that is interrupted, or whose
//! daemon ends, is complete up to there. The last blocks say how many packets came and how many the capture was too slow for.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use culvert_engine::capture::{self, InterfaceDescription, LinkType, LiveWriter};
use culvert_engine::trace;
use data_encoding::BASE64;
use nix::sys::signal::{SigSet, Signal};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::api::client::Stream;
use crate::api::{CaptureOf, Command, Line};
use crate::trace::report::{CaptureStart, Direction, Link, PacketReport};
use crate::{Failure, cli};

/// How long to wait for a packet before what has come is written, and interruptions are looked for.
const QUIET: Duration = Duration::from_millis(50);
/// Bytes that are written at once.
const CHUNK: usize = 64 << 10;

/// Runs the command.
///
/// # Errors
/// Code 2 where the daemon knows no such port or tunnel, or the expression is none; code 1 where no daemon answers or it ends, or
/// the file cannot be written.
pub fn run(arguments: &cli::Capture) -> Result<(), Failure> {
    let about = |failure: Failure| failure.about("capture");
    let interrupted =
        interruption().map_err(|error| Failure::failed(format!("capture: signals: {error}")))?;
    let command = Command::Capture(CaptureOf {
        target: arguments.target.clone(),
        decrypted: arguments.decrypted,
        matching: arguments.matching.clone(),
        count: arguments.count,
        seconds: arguments.seconds,
        snap: arguments.snap,
    });
    // Asked first: an answer that is an error leaves a file as it was.
    let mut stream = Stream::open(&arguments.socket, &command).map_err(about)?;
    let start: CaptureStart = loop {
        match stream.next(None).map_err(about)? {
            Some(Line::Record(record)) => break read(record).map_err(about)?,
            Some(Line::End(why)) => return Err(about(Failure::failed(why))),
            Some(Line::Lost(_)) | None => {}
        }
    };
    let mut recording = Recording::start(arguments, &start)?;
    let end = loop {
        if interrupted.load(Ordering::Relaxed) {
            break None;
        }
        match stream.next(Some(QUIET)).map_err(about)? {
            Some(Line::Record(record)) => {
                if !recording.write(&read(record).map_err(about)?)? {
                    break None;
                }
            }
            Some(Line::Lost(lost)) => recording.lost += lost,
            Some(Line::End(why)) => break Some(why),
            None => recording.flush()?,
        }
    };
    recording.end(arguments.json)?;
    match end {
        Some(why) if why.starts_with("the daemon") => Err(about(Failure::failed(why))),
        _ => Ok(()),
    }
}

fn read<T: DeserializeOwned>(record: Value) -> Result<T, Failure> {
    serde_json::from_value(record).map_err(|error| Failure::failed(format!("the daemon's record: {error}")))
}

/// Set when the command is interrupted.
fn interruption() -> io::Result<Arc<AtomicBool>> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    signals.thread_block()?;
    let interrupted = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&interrupted);
    let wait = move || {
        let _ = signals.wait();
        set.store(true, Ordering::Relaxed);
    };
    thread::Builder::new().name("signals".to_owned()).spawn(wait)?;
    Ok(interrupted)
}

/// A capture being written.
struct Recording {
    writer: LiveWriter<Vec<u8>>,
    output: Output,
    snap: u32,
    interfaces: u32,
    /// Bytes written and kept to be, and the most that there may be.
    length: u64,
    most: u64,
    /// By interface.
    packets: Vec<u64>,
    lost: u64,
    last: u64,
}

enum Output {
    Stdout,
    File(File, String),
}

impl Output {
    fn open(path: &Path) -> Result<Output, Failure> {
        if path == Path::new("-") {
            return Ok(Output::Stdout);
        }
        // What is captured is nobody else's business.
        let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path);
        let name = path.display().to_string();
        match file {
            Ok(file) => Ok(Output::File(file, name)),
            Err(error) => Err(Failure::failed(format!("{name}: {error}"))),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match self {
            Output::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(Failure::stdout)
            }
            Output::File(file, name) => {
                file.write_all(bytes).map_err(|error| Failure::failed(format!("{name}: {error}")))
            }
        }
    }
}

impl Recording {
    fn start(arguments: &cli::Capture, start: &CaptureStart) -> Result<Recording, Failure> {
        let link = match start.link {
            Link::Ethernet => LinkType::Ethernet,
            Link::Ip => LinkType::Ip,
        };
        let interfaces: Vec<_> = start
            .interfaces
            .iter()
            .map(|name| InterfaceDescription { name, link, snap: start.snap })
            .collect();
        let writer = LiveWriter::new(Vec::new(), &interfaces).map_err(broken)?;
        let output = Output::open(&arguments.write)?;
        let count = start.interfaces.len();
        let mut recording = Recording {
            writer,
            output,
            snap: start.snap,
            interfaces: count as u32,
            length: 0,
            most: arguments.bytes,
            packets: vec![0; count],
            lost: 0,
            last: 0,
        };
        // Whoever reads along knows at once what it is.
        recording.flush()?;
        Ok(recording)
    }

    /// Takes a packet. False where it would have been too many bytes, and was not taken.
    fn write(&mut self, packet: &PacketReport) -> Result<bool, Failure> {
        let data = BASE64.decode(packet.data.as_bytes());
        let data = data.map_err(|error| Failure::failed(format!("the daemon's record: {error}")))?;
        if packet.interface >= self.interfaces || data.len() > self.snap as usize {
            return Err(Failure::failed("the daemon's record: it does not fit its start".to_owned()));
        }
        let before = self.writer.get_mut().len();
        let written = self.writer.write(&capture::Packet {
            interface: packet.interface,
            time_ns: packet.time,
            direction: Some(match packet.direction {
                Direction::In => trace::Direction::In,
                Direction::Out => trace::Direction::Out,
            }),
            data: &data,
            original_len: packet.length,
        });
        written.map_err(broken)?;
        let pending = self.writer.get_mut();
        if self.length + pending.len() as u64 > self.most {
            pending.truncate(before);
            return Ok(false);
        }
        if pending.len() >= CHUNK {
            self.flush()?;
        }
        self.last = packet.time;
        if let Some(packets) = self.packets.get_mut(packet.interface as usize) {
            *packets += 1;
        }
        Ok(true)
    }

    fn flush(&mut self) -> Result<(), Failure> {
        let pending = self.writer.get_mut();
        if !pending.is_empty() {
            self.output.write(pending)?;
            self.length += pending.len() as u64;
            pending.clear();
        }
        Ok(())
    }

    /// The last blocks, and a word about all.
    fn end(mut self, json: bool) -> Result<(), Failure> {
        let (packets, lost) = (self.packets.iter().sum::<u64>(), self.lost);
        for (interface, count) in (0..).zip(std::mem::take(&mut self.packets)) {
            // Nobody knows by which interface the lost ones would have been: the first has them all.
            let lost = if interface == 0 { lost } else { 0 };
            if count > 0 || lost > 0 {
                self.writer.statistics(interface, self.last, count + lost, lost).map_err(broken)?;
            }
        }
        self.flush()?;
        // Standard output may be the capture.
        let text = if json {
            format!("{}\n", json!({"packets": packets, "lost": lost, "bytes": self.length}))
        } else {
            format!("{packets} packets captured, {lost} lost, {} bytes written\n", self.length)
        };
        io::stderr().lock().write_all(text.as_bytes()).map_err(Failure::stdout)
    }
}

fn broken(error: io::Error) -> Failure {
    Failure::failed(format!("capture: {error}"))
}
