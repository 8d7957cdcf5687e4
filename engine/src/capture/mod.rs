//! Capture files, pcap and pcapng: read with every length checked and every fault named by its place in
//! the file, and written with nanosecond time stamps. Nothing here opens a file; the formats work on any
//! [`Read`] and [`Write`].
//!
//! Reading takes these steps:
//! 1. [`Reader::open`] reads the first four bytes, the magic number, and takes the format from it;
//! 2. the format's file header is checked (`pcap` or `pcapng`);
//! 3. [`Reader::next`] reads up to the next packet into one buffer, which every record reuses;
//! 4. the first error is kept, and every later call returns it again.
//!
//! Only Ethernet frames are read. A frame check sequence, where the capturing card kept it, stays part of
//! the data.

mod pcap;
mod pcapng;
#[cfg(test)]
mod tests;

use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::sync::Arc;

use crate::trace::Direction;

/// The longest record read or written, in bytes: what tcpdump and Wireshark take as their largest snapshot
/// length for Ethernet.
pub const MAX_RECORD: usize = 262_144;

/// The longest pcapng block read, in bytes. Blocks are skipped or read field by field, never held whole;
/// the bound tells damage from data.
pub const MAX_BLOCK: u32 = 16 << 20;

/// The most interfaces that one section of a pcapng file may describe, so that a hostile file cannot fill
/// memory with them. The obsolete Packet Block numbers them with 16 bits.
pub const MAX_INTERFACES: usize = 1 << 16;

/// LINKTYPE_ETHERNET of the registry of link types.
const ETHERNET: u16 = 1;

const NANOSECONDS: u64 = 1_000_000_000;

/// What is wrong with a capture.
///
/// Offsets count bytes from the beginning of the input.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CaptureError {
    /// The input holds no byte at all.
    #[error("the capture is empty: a pcap or pcapng file header was expected at byte 0")]
    Empty,
    /// The input ends inside a header, a record or a block.
    #[error(
        "the capture ends at byte {offset}, where {missing} more bytes of {what} were expected; \
         it is whole up to byte {start}: copy it again, or keep that part"
    )]
    Truncated {
        /// Where the input ends.
        offset: u64,
        /// Where the header, record or block that was cut begins.
        start: u64,
        /// The field that was being read.
        what: &'static str,
        /// How many bytes that field still wants.
        missing: u64,
    },
    /// The bytes are no capture that this format allows.
    #[error("the capture is damaged at byte {offset}: {what}")]
    Damaged {
        /// Where the offending field begins.
        offset: u64,
        /// What was found there, and what was expected.
        what: Damage,
    },
    /// The packets are no Ethernet frames.
    #[error(
        "interface {interface} of the capture has link type {found}{}, and only Ethernet (1) is read: capture \
         on one Ethernet interface (not `any`), or put Ethernet headers on with `tcprewrite --dlt=enet`",
        link_type_name(*found)
    )]
    LinkType {
        /// The link type found.
        found: u16,
        /// The interface's number in its pcapng section; 0 in a pcap file.
        interface: u32,
    },
    /// Reading failed.
    #[error("the capture cannot be read at byte {offset}: {source}")]
    Io {
        /// How many bytes had been read.
        offset: u64,
        /// The operating system's reason. Shared, since a reader repeats its error.
        source: Arc<io::Error>,
    },
}

/// What [`CaptureError::Damaged`] found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the message beside each says what its numbers are")]
pub enum Damage {
    #[error("{}", describe_magic(*.0))]
    Magic([u8; 4]),
    #[error("{format} version {major}.{minor}, where {expected} was expected")]
    Version { format: &'static str, major: u16, minor: u16, expected: &'static str },
    #[error("a record of {found} bytes, where at most {MAX_RECORD} were expected")]
    RecordLength { found: u32 },
    #[error("{found} {unit} inside a second, where less than {limit} was expected")]
    Subsecond { found: u32, unit: &'static str, limit: u32 },
    #[error("a time stamp outside the years 1970 to 2554, which nanoseconds in 64 bits can tell")]
    Timestamp,
    #[error("byte-order magic {0:#010x}, where 0x1a2b3c4d was expected in either byte order")]
    ByteOrder(u32),
    #[error(
        "a block of type {kind:#010x} and {found} bytes, where a multiple of 4 from {least} to {MAX_BLOCK} was expected"
    )]
    BlockLength { kind: u32, found: u32, least: u32 },
    #[error("block length {found} at the block's end, where {expected} as at its beginning was expected")]
    TrailingLength { found: u32, expected: u32 },
    #[error("{found} bytes of packet data, where the block has room for {room}")]
    DataLength { found: u32, room: u64 },
    #[error("option {code} of {found} bytes, where {expected} were expected")]
    OptionLength { code: u16, found: u16, expected: u16 },
    #[error("option {code} of {found} bytes, where the block has room for {room}")]
    OptionRoom { code: u16, found: u16, room: u64 },
    #[error("a packet from interface {found}, where the section so far describes {known}")]
    Interface { found: u32, known: usize },
    #[error("an interface beyond the {MAX_INTERFACES} that a section may describe")]
    Interfaces,
}

/// Says what a wrong magic number is likely to be, so that the remedy is plain.
fn describe_magic(magic: [u8; 4]) -> String {
    let found = u32::from_be_bytes(magic);
    match magic {
        [0x1f, 0x8b, ..] => format!("magic number {found:#010x} is gzip: decompress the capture first"),
        [0x28, 0xb5, 0x2f, 0xfd] => {
            format!("magic number {found:#010x} is zstd: decompress the capture first")
        }
        _ => format!(
            "magic number {found:#010x}, where that of pcap (0xa1b2c3d4, 0xa1b23c4d) or pcapng (0x0a0d0d0a) \
             was expected; other formats are converted with `editcap -F pcapng IN OUT`"
        ),
    }
}

/// The names of the link types that captures of routers commonly have (tcpdump.org's registry).
fn link_type_name(found: u16) -> &'static str {
    match found {
        0 => " (BSD loopback)",
        101 => " (raw IP)",
        105 | 127 => " (IEEE 802.11)",
        108 => " (OpenBSD loopback)",
        109 => " (BSD enc)",
        113 | 276 => " (Linux cooked)",
        228 => " (raw IPv4)",
        229 => " (raw IPv6)",
        _ => "",
    }
}

/// The file formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The classic format of libpcap: one interface, 32-bit seconds.
    Pcap,
    /// The block format that Wireshark writes: several interfaces, named, 64-bit time.
    Pcapng,
}

/// One packet of a capture, borrowed from its reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Nanoseconds since 1970-01-01T00:00:00Z. A pcapng Simple Packet Block carries no time and has that
    /// of the record before it, or 0, so that order is kept.
    pub time_ns: u64,
    /// The bytes captured, from the first of the Ethernet header; at most [`MAX_RECORD`].
    pub data: &'a [u8],
    /// The frame's length on the wire, in bytes; more than `data` holds where the capture cut it short.
    pub original_len: u32,
}

/// What a format's reader says of the packet it left in the shared buffer.
#[derive(Debug, Clone, Copy)]
struct Stamp {
    time_ns: u64,
    original_len: u32,
}

/// Reads a capture, record by record.
#[derive(Debug)]
pub struct Reader<R> {
    input: Input<R>,
    state: State,
    data: Vec<u8>,
    failed: Option<CaptureError>,
}

#[derive(Debug)]
enum State {
    Pcap(pcap::Header),
    Pcapng(pcapng::Section),
}

impl<R: Read> Reader<R> {
    /// Reads the file header of a pcap or pcapng capture. Reading is buffered here.
    ///
    /// # Errors
    /// [`CaptureError::Empty`] for no input, [`CaptureError::LinkType`] for a pcap file of other frames than
    /// Ethernet, and the other variants for input that is no capture or cannot be read.
    pub fn open(source: R) -> Result<Self, CaptureError> {
        let mut input = Input::new(source);
        if input.at_end()? {
            return Err(CaptureError::Empty);
        }
        let magic = input.array("the magic number")?;
        let state = if magic == pcapng::SECTION_HEADER.to_be_bytes() {
            State::Pcapng(pcapng::Section::read(&mut input)?)
        } else {
            State::Pcap(pcap::Header::read(&mut input, magic)?)
        };
        Ok(Self { input, state, data: Vec::new(), failed: None })
    }

    /// The format of this capture.
    pub fn format(&self) -> Format {
        match self.state {
            State::Pcap(_) => Format::Pcap,
            State::Pcapng(_) => Format::Pcapng,
        }
    }

    /// The next packet, or `None` where the capture ends as it should.
    ///
    /// # Errors
    /// The fault that stands before the next packet; from then on every call returns that same fault.
    #[allow(
        clippy::should_implement_trait,
        reason = "the record borrows the reader, an Iterator's item cannot"
    )]
    pub fn next(&mut self) -> Result<Option<Record<'_>>, CaptureError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        match self.advance() {
            Ok(stamp) => Ok(stamp.map(|Stamp { time_ns, original_len }| Record {
                time_ns,
                data: &self.data,
                original_len,
            })),
            Err(error) => {
                self.failed = Some(error.clone());
                Err(error)
            }
        }
    }

    fn advance(&mut self) -> Result<Option<Stamp>, CaptureError> {
        match &mut self.state {
            State::Pcap(header) => header.next(&mut self.input, &mut self.data),
            State::Pcapng(section) => section.next(&mut self.input, &mut self.data),
        }
    }
}

/// Writes a capture of Ethernet frames with nanosecond time stamps, little endian on every machine.
///
/// Writing is buffered here: call [`Writer::flush`] at the end, since an error of the write that dropping
/// causes has nowhere to go.
#[derive(Debug)]
pub struct Writer<W: Write> {
    output: BufWriter<W>,
    format: Format,
}

impl<W: Write> Writer<W> {
    /// Begins a pcap file (magic number 0xa1b23c4d).
    ///
    /// # Errors
    /// That of writing.
    pub fn pcap(output: W) -> io::Result<Self> {
        let mut output = BufWriter::new(output);
        pcap::write_header(&mut output)?;
        Ok(Self { output, format: Format::Pcap })
    }

    /// Begins a pcapng file of one section with one interface of this name.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] where the name is longer than an option holds (65535 bytes), with
    /// nothing written; else that of writing.
    pub fn pcapng(output: W, interface_name: &str) -> io::Result<Self> {
        let interface =
            InterfaceDescription { name: interface_name, link: LinkType::Ethernet, snap: MAX_RECORD as u32 };
        // Checked before the first byte goes out.
        field::<u16>(interface_name.len())?;
        let mut output = BufWriter::new(output);
        pcapng::write_section(&mut output)?;
        pcapng::write_interface(&mut output, &interface)?;
        Ok(Self { output, format: Format::Pcapng })
    }

    /// The format being written.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Appends a frame, from the first byte of its Ethernet header, seen `time_ns` nanoseconds after
    /// 1970-01-01T00:00:00Z.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for a frame longer than [`MAX_RECORD`], and in a pcap file for a time
    /// after the year 2106 (its seconds have 32 bits): nothing is written then, and the writer stays usable.
    /// Else that of writing.
    pub fn write(&mut self, time_ns: u64, frame: &[u8]) -> io::Result<()> {
        if frame.len() > MAX_RECORD {
            return Err(invalid("a frame longer than a capture's largest record, 262144 bytes"));
        }
        match self.format {
            Format::Pcap => pcap::write_record(&mut self.output, time_ns, frame),
            Format::Pcapng => {
                let original_len = field(frame.len())?;
                let packet = Packet { interface: 0, time_ns, direction: None, data: frame, original_len };
                pcapng::write_packet(&mut self.output, &packet)
            }
        }
    }

    /// Passes everything written so far to the output, and flushes that.
    ///
    /// # Errors
    /// That of writing.
    pub fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

/// What the packets of an interface begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkType {
    /// An Ethernet header (LINKTYPE_ETHERNET).
    Ethernet,
    /// The IPv4 or IPv6 header (LINKTYPE_RAW).
    Ip,
}

impl LinkType {
    /// The number in the registry of link types.
    pub const fn number(self) -> u16 {
        match self {
            LinkType::Ethernet => ETHERNET,
            LinkType::Ip => 101,
        }
    }
}

/// An interface that packets are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InterfaceDescription<'a> {
    /// Its name.
    pub name: &'a str,
    /// What its packets begin with.
    pub link: LinkType,
    /// The most bytes that are kept of each.
    pub snap: u32,
}

/// A packet to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// The number of its interface.
    pub interface: u32,
    /// Nanoseconds since 1970-01-01T00:00:00Z.
    pub time_ns: u64,
    /// Which way it went, where that is known.
    pub direction: Option<Direction>,
    /// The bytes kept, its first.
    pub data: &'a [u8],
    /// Its length in bytes.
    pub original_len: u32,
}

/// Writes a pcapng capture of several interfaces, as it happens: each call writes whole blocks, without a buffer in between, so that
/// what was written is a capture at any time.
#[derive(Debug)]
pub struct LiveWriter<W> {
    output: W,
}

impl<W: Write> LiveWriter<W> {
    /// Begins a capture with these interfaces, numbered from 0.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for a name longer than 65535 bytes; else that of writing.
    pub fn new(mut output: W, interfaces: &[InterfaceDescription<'_>]) -> io::Result<Self> {
        pcapng::write_section(&mut output)?;
        interfaces.iter().try_for_each(|interface| pcapng::write_interface(&mut output, interface))?;
        Ok(Self { output })
    }

    /// Appends a packet.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for one of more than [`MAX_RECORD`] bytes, with nothing written; else that of writing.
    pub fn write(&mut self, packet: &Packet<'_>) -> io::Result<()> {
        if packet.data.len() > MAX_RECORD {
            return Err(invalid("a packet longer than a capture's largest record, 262144 bytes"));
        }
        pcapng::write_packet(&mut self.output, packet)
    }

    /// Appends what is known about an interface at that time: packets received, and how many of these were lost to the capture.
    ///
    /// # Errors
    /// That of writing.
    pub fn statistics(&mut self, interface: u32, time_ns: u64, received: u64, lost: u64) -> io::Result<()> {
        pcapng::write_statistics(&mut self.output, interface, time_ns, (received, lost))
    }

    /// Where it is written to.
    pub fn get_mut(&mut self) -> &mut W {
        &mut self.output
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

/// A length that fits its field, which every caller has checked against [`MAX_RECORD`] or less.
fn field<T: TryFrom<usize>>(length: usize) -> io::Result<T> {
    T::try_from(length).map_err(|_| invalid("a length that does not fit the capture format"))
}

/// The byte order of a file or section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Little,
    Big,
}

impl Order {
    fn u16(self, bytes: [u8; 2]) -> u16 {
        match self {
            Self::Little => u16::from_le_bytes(bytes),
            Self::Big => u16::from_be_bytes(bytes),
        }
    }

    fn u32(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        }
    }

    fn i64(self, bytes: [u8; 8]) -> i64 {
        match self {
            Self::Little => i64::from_le_bytes(bytes),
            Self::Big => i64::from_be_bytes(bytes),
        }
    }
}

/// Buffered input that knows where it stands, so that an error can say so.
#[derive(Debug)]
struct Input<R> {
    reader: BufReader<R>,
    /// Bytes consumed.
    offset: u64,
    /// Where the header, record or block being read begins.
    start: u64,
}

impl<R: Read> Input<R> {
    fn new(source: R) -> Self {
        Self { reader: BufReader::with_capacity(64 << 10, source), offset: 0, start: 0 }
    }

    /// Whether the input ends here. What is read next counts as a new record.
    fn at_end(&mut self) -> Result<bool, CaptureError> {
        self.start = self.offset;
        Ok(self.available()? == 0)
    }

    /// Bytes that can be had without another read, 0 at the end of the input.
    fn available(&mut self) -> Result<usize, CaptureError> {
        loop {
            match self.reader.fill_buf() {
                Ok(buffer) => return Ok(buffer.len()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(CaptureError::Io { offset: self.offset, source: Arc::new(error) }),
            }
        }
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], CaptureError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes, what)?;
        Ok(bytes)
    }

    fn u16(&mut self, order: Order, what: &'static str) -> Result<u16, CaptureError> {
        Ok(order.u16(self.array(what)?))
    }

    fn u32(&mut self, order: Order, what: &'static str) -> Result<u32, CaptureError> {
        Ok(order.u32(self.array(what)?))
    }

    fn fill(&mut self, mut rest: &mut [u8], what: &'static str) -> Result<(), CaptureError> {
        while !rest.is_empty() {
            match self.reader.read(rest) {
                Ok(0) => return Err(self.truncated(what, rest.len() as u64)),
                Ok(count) => {
                    self.offset = self.offset.saturating_add(count as u64);
                    rest = rest.get_mut(count..).unwrap_or_default();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(CaptureError::Io { offset: self.offset, source: Arc::new(error) }),
            }
        }
        Ok(())
    }

    /// Reads a packet's bytes into the buffer all records share. A record cut short leaves the caller's
    /// buffer grown by at most [`MAX_RECORD`], which the caller has checked `length` against.
    fn packet(&mut self, data: &mut Vec<u8>, length: u32) -> Result<(), CaptureError> {
        data.resize(length as usize, 0);
        self.fill(data, "packet data")
    }

    /// Steps over `count` bytes without holding them.
    fn skip(&mut self, mut count: u64, what: &'static str) -> Result<(), CaptureError> {
        while count > 0 {
            let step = (self.available()? as u64).min(count);
            if step == 0 {
                return Err(self.truncated(what, count));
            }
            self.reader.consume(step as usize);
            self.offset = self.offset.saturating_add(step);
            count -= step;
        }
        Ok(())
    }

    fn truncated(&self, what: &'static str, missing: u64) -> CaptureError {
        CaptureError::Truncated { offset: self.offset, start: self.start, what, missing }
    }
}

fn damaged(offset: u64, what: Damage) -> CaptureError {
    CaptureError::Damaged { offset, what }
}
