//! The classic pcap format: a file header, then records of one link type (draft-ietf-opsawg-pcap). A
//! record's header is followed by its bytes at once, without padding.
//!
//! Reading a record takes these steps:
//! 1. stop where the file ends between two records;
//! 2. read seconds, fraction and both lengths in the file's byte order;
//! 3. check the fraction and the length before anything is allocated for it;
//! 4. read the bytes into the shared buffer.

use std::io::{self, Read, Write};

use super::{
    CaptureError, Damage, ETHERNET, Input, MAX_RECORD, NANOSECONDS, Order, Stamp, damaged, field, invalid,
};

/// Magic number of a file with microsecond time stamps (File Header).
const MICROSECOND_MAGIC: u32 = 0xa1b2_c3d4;
/// Magic number of a file with nanosecond time stamps (File Header).
const NANOSECOND_MAGIC: u32 = 0xa1b2_3c4d;
/// The only version in use (File Header).
const VERSION: (u16, u16) = (2, 4);

/// What a time stamp's second word counts.
#[derive(Debug, Clone, Copy)]
enum Fraction {
    Micro,
    Nano,
}

impl Fraction {
    fn unit(self) -> &'static str {
        match self {
            Self::Micro => "microseconds",
            Self::Nano => "nanoseconds",
        }
    }

    /// How many of the unit make a second.
    fn limit(self) -> u32 {
        match self {
            Self::Micro => 1_000_000,
            Self::Nano => 1_000_000_000,
        }
    }

    fn nanoseconds(self, count: u32) -> u64 {
        match self {
            Self::Micro => u64::from(count).saturating_mul(1000),
            Self::Nano => u64::from(count),
        }
    }
}

/// What the file header says of all records.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    order: Order,
    fraction: Fraction,
}

impl Header {
    /// Reads the rest of a file header whose magic number has been read.
    pub(super) fn read<R: Read>(input: &mut Input<R>, magic: [u8; 4]) -> Result<Self, CaptureError> {
        let (order, fraction) = match (u32::from_le_bytes(magic), u32::from_be_bytes(magic)) {
            (MICROSECOND_MAGIC, _) => (Order::Little, Fraction::Micro),
            (NANOSECOND_MAGIC, _) => (Order::Little, Fraction::Nano),
            (_, MICROSECOND_MAGIC) => (Order::Big, Fraction::Micro),
            (_, NANOSECOND_MAGIC) => (Order::Big, Fraction::Nano),
            _ => return Err(damaged(input.start, Damage::Magic(magic))),
        };
        let at = input.offset;
        let major = input.u16(order, "the pcap file header")?;
        let minor = input.u16(order, "the pcap file header")?;
        if (major, minor) != VERSION {
            return Err(damaged(at, Damage::Version { format: "pcap", major, minor, expected: "2.4" }));
        }
        // Two reserved words, and the snapshot length, which the records need not keep to.
        input.skip(12, "the pcap file header")?;
        let link = input.u32(order, "the link type in the pcap file header")?;
        // The upper half tells about frame check sequences; the type has the lower 16 bits.
        let found = link as u16;
        if found != ETHERNET {
            return Err(CaptureError::LinkType { found, interface: 0 });
        }
        Ok(Self { order, fraction })
    }

    /// Reads the next record's bytes into `data`.
    pub(super) fn next<R: Read>(
        &self,
        input: &mut Input<R>,
        data: &mut Vec<u8>,
    ) -> Result<Option<Stamp>, CaptureError> {
        if input.at_end()? {
            return Ok(None);
        }
        let seconds = input.u32(self.order, "a record's time stamp")?;
        let at = input.offset;
        let count = input.u32(self.order, "a record's time stamp")?;
        let limit = self.fraction.limit();
        if count >= limit {
            return Err(damaged(at, Damage::Subsecond { found: count, unit: self.fraction.unit(), limit }));
        }
        let at = input.offset;
        let length = input.u32(self.order, "a record's length")?;
        let original_len = input.u32(self.order, "a record's original length")?;
        if length as usize > MAX_RECORD {
            return Err(damaged(at, Damage::RecordLength { found: length }));
        }
        input.packet(data, length)?;
        // 32 bits of seconds in nanoseconds, and less than one second more, stay far below 64 bits.
        let time_ns =
            u64::from(seconds).saturating_mul(NANOSECONDS).saturating_add(self.fraction.nanoseconds(count));
        Ok(Some(Stamp { time_ns, original_len }))
    }
}

/// Writes the file header of a nanosecond capture of Ethernet frames.
pub(super) fn write_header(output: &mut impl Write) -> io::Result<()> {
    output.write_all(&NANOSECOND_MAGIC.to_le_bytes())?;
    output.write_all(&VERSION.0.to_le_bytes())?;
    output.write_all(&VERSION.1.to_le_bytes())?;
    output.write_all(&[0; 8])?;
    output.write_all(&field::<u32>(MAX_RECORD)?.to_le_bytes())?;
    output.write_all(&u32::from(ETHERNET).to_le_bytes())
}

/// Writes one record, or nothing where its time does not fit.
pub(super) fn write_record(output: &mut impl Write, time_ns: u64, frame: &[u8]) -> io::Result<()> {
    let seconds = u32::try_from(time_ns / NANOSECONDS)
        .map_err(|_| invalid("a time after 2106, which pcap cannot tell: write pcapng"))?;
    // A remainder of 10^9 fits 32 bits.
    let nanoseconds = (time_ns % NANOSECONDS) as u32;
    let length = field::<u32>(frame.len())?.to_le_bytes();
    output.write_all(&seconds.to_le_bytes())?;
    output.write_all(&nanoseconds.to_le_bytes())?;
    output.write_all(&length)?;
    output.write_all(&length)?;
    output.write_all(frame)
}
