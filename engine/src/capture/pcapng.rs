//! The pcapng format: sections of blocks, each with its length at both ends (draft-ietf-opsawg-pcapng).
//! Section headers, interface descriptions and the three kinds of packet block are read; all other blocks,
//! and all options but an interface's clock, are skipped.
//!
//! Reading a packet takes these steps, block by block:
//! 1. stop where the file ends between two blocks;
//! 2. read type and length, and check the length before anything inside is believed;
//! 3. a section header starts anew, an interface description is remembered, a packet's bytes are read into
//!    the shared buffer after its length has been checked against the block;
//! 4. step over what is left of the block and check the length at its end;
//! 5. after a packet, turn its time into nanoseconds by the clock of its interface.

use std::io::{self, Read, Write};

use super::{
    CaptureError, Damage, ETHERNET, Input, InterfaceDescription, MAX_BLOCK, MAX_INTERFACES, MAX_RECORD,
    NANOSECONDS, Order, Packet, Stamp, damaged, field,
};
use crate::trace::Direction;

/// Block type of a Section Header Block, the same in both byte orders.
pub(super) const SECTION_HEADER: u32 = 0x0a0d_0d0a;
/// Block type of an Interface Description Block.
const INTERFACE_DESCRIPTION: u32 = 1;
/// Block type of the obsolete Packet Block.
const OBSOLETE_PACKET: u32 = 2;
/// Block type of a Simple Packet Block.
const SIMPLE_PACKET: u32 = 3;
/// Block type of an Enhanced Packet Block.
const ENHANCED_PACKET: u32 = 6;

/// Block type of an Interface Statistics Block.
const INTERFACE_STATISTICS: u32 = 5;

/// Byte-Order Magic (Section Header Block).
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
/// The shortest Section Header Block: type, length, magic, version, section length, length.
const SECTION_HEADER_LEAST: u32 = 28;

const END_OF_OPTIONS: u16 = 0;
/// The option that names the application which wrote a section (Section Header Block, shb_userappl).
const SECTION_APPLICATION: u16 = 4;
/// An interface's name (Interface Description Block, if_name).
const INTERFACE_NAME: u16 = 2;
/// An interface's clock resolution (Interface Description Block, if_tsresol).
const RESOLUTION: u16 = 9;
/// Seconds to add to an interface's time stamps (Interface Description Block, if_tsoffset).
const TIME_OFFSET: u16 = 14;

/// A packet's direction, in its lowest two bits (Enhanced Packet Block, epb_flags).
const PACKET_FLAGS: u16 = 2;
/// Packets from the interface since the capture began, and of these dropped (Interface Statistics Block, isb_ifrecv, isb_ifdrop).
const STATISTICS_RECEIVED: u16 = 4;
const STATISTICS_LOST: u16 = 5;

/// What is written as the name of the application.
const APPLICATION: &str = "Culvert";

/// An interface's clock (if_tsresol and if_tsoffset).
#[derive(Debug, Clone, Copy)]
struct Clock {
    /// Bit 7 clear: 10^-n seconds; set: 2^-n seconds, n in the other bits.
    resolution: u8,
    /// Seconds.
    offset: i64,
}

impl Clock {
    /// Microseconds since the epoch, where no option says otherwise.
    const DEFAULT: Self = Self { resolution: 6, offset: 0 };

    /// Nanoseconds since the epoch, rounded down; `None` where 64 bits do not hold them.
    fn nanoseconds(self, ticks: u64) -> Option<u64> {
        let ticks = u128::from(ticks);
        let exponent = u32::from(self.resolution & 0x7f);
        // 64 bits of ticks times 10^9 stay below 2^94.
        let since = if self.resolution & 0x80 != 0 {
            ticks.checked_mul(u128::from(NANOSECONDS))?.checked_shr(exponent)?
        } else if exponent <= 9 {
            ticks.checked_mul(10u128.checked_pow(9u32.checked_sub(exponent)?)?)?
        } else {
            // A divisor beyond 128 bits is beyond the ticks, too.
            10u128
                .checked_pow(exponent.checked_sub(9)?)
                .and_then(|divisor| ticks.checked_div(divisor))
                .unwrap_or(0)
        };
        let offset = i128::from(self.offset).checked_mul(i128::from(NANOSECONDS))?;
        u64::try_from(i128::try_from(since).ok()?.checked_add(offset)?).ok()
    }
}

/// An interface of the section being read.
#[derive(Debug, Clone, Copy)]
struct Interface {
    link_type: u16,
    /// The most bytes captured of a packet; 0: all.
    snapshot: u32,
    clock: Clock,
}

/// A block's frame.
#[derive(Debug, Clone, Copy)]
struct Block {
    kind: u32,
    length: u32,
    /// The offset of the length at the block's end, where its body ends.
    end: u64,
}

impl Block {
    /// Checks a block's length. `length_at` is where it was read.
    fn new(start: u64, length_at: u64, kind: u32, length: u32) -> Result<Self, CaptureError> {
        let least = match kind {
            SECTION_HEADER => SECTION_HEADER_LEAST,
            INTERFACE_DESCRIPTION => 20,
            OBSOLETE_PACKET | ENHANCED_PACKET => 32,
            SIMPLE_PACKET => 16,
            _ => 12,
        };
        if length < least || length > MAX_BLOCK || !length.is_multiple_of(4) {
            return Err(damaged(length_at, Damage::BlockLength { kind, found: length, least }));
        }
        Ok(Self { kind, length, end: start.saturating_add(u64::from(length)).saturating_sub(4) })
    }

    /// How many bytes of the body are left.
    fn room<R>(&self, input: &Input<R>) -> u64 {
        self.end.saturating_sub(input.offset)
    }

    /// Steps over what is left of the body and checks the length at the end.
    fn finish<R: Read>(&self, input: &mut Input<R>, order: Order) -> Result<(), CaptureError> {
        input.skip(self.room(input), self.name())?;
        let at = input.offset;
        let found = input.u32(order, "a block's length at its end")?;
        if found != self.length {
            return Err(damaged(at, Damage::TrailingLength { found, expected: self.length }));
        }
        Ok(())
    }

    fn name(&self) -> &'static str {
        match self.kind {
            SECTION_HEADER => "a section header block",
            INTERFACE_DESCRIPTION => "an interface description block",
            OBSOLETE_PACKET => "a packet block",
            SIMPLE_PACKET => "a simple packet block",
            ENHANCED_PACKET => "an enhanced packet block",
            _ => "a block",
        }
    }
}

/// The section being read.
#[derive(Debug)]
pub(super) struct Section {
    order: Order,
    interfaces: Vec<Interface>,
    /// The time of the last packet, which a packet without one takes over.
    time_ns: u64,
}

impl Section {
    /// Reads the first Section Header Block, of which the type has been read.
    pub(super) fn read<R: Read>(input: &mut Input<R>) -> Result<Self, CaptureError> {
        let order = read_section_header(input)?;
        Ok(Self { order, interfaces: Vec::new(), time_ns: 0 })
    }

    /// Reads blocks up to the next packet, and that packet's bytes into `data`.
    pub(super) fn next<R: Read>(
        &mut self,
        input: &mut Input<R>,
        data: &mut Vec<u8>,
    ) -> Result<Option<Stamp>, CaptureError> {
        while !input.at_end()? {
            if let Some(stamp) = self.read_block(input, data)? {
                return Ok(Some(stamp));
            }
        }
        Ok(None)
    }

    fn read_block<R: Read>(
        &mut self,
        input: &mut Input<R>,
        data: &mut Vec<u8>,
    ) -> Result<Option<Stamp>, CaptureError> {
        let kind = input.u32(self.order, "a block's type")?;
        if kind == SECTION_HEADER {
            self.order = read_section_header(input)?;
            self.interfaces.clear();
            return Ok(None);
        }
        let at = input.offset;
        let length = input.u32(self.order, "a block's length")?;
        let block = Block::new(input.start, at, kind, length)?;
        let stamp = match kind {
            INTERFACE_DESCRIPTION => {
                self.read_interface(input, &block)?;
                None
            }
            ENHANCED_PACKET | OBSOLETE_PACKET => Some(self.read_packet(input, &block, data)?),
            SIMPLE_PACKET => Some(self.read_simple(input, &block, data)?),
            _ => None,
        };
        block.finish(input, self.order)?;
        if let Some(stamp) = stamp {
            self.time_ns = stamp.time_ns;
        }
        Ok(stamp)
    }

    fn read_interface<R: Read>(&mut self, input: &mut Input<R>, block: &Block) -> Result<(), CaptureError> {
        if self.interfaces.len() >= MAX_INTERFACES {
            return Err(damaged(input.start, Damage::Interfaces));
        }
        let link_type = input.u16(self.order, block.name())?;
        input.skip(2, block.name())?;
        let snapshot = input.u32(self.order, block.name())?;
        let clock = self.read_clock(input, block)?;
        self.interfaces.push(Interface { link_type, snapshot, clock });
        Ok(())
    }

    /// Reads an interface's options up to their end, and takes the clock from them.
    fn read_clock<R: Read>(&self, input: &mut Input<R>, block: &Block) -> Result<Clock, CaptureError> {
        let mut clock = Clock::DEFAULT;
        while block.room(input) >= 4 {
            let at = input.offset;
            let code = input.u16(self.order, "an interface's option")?;
            let found = input.u16(self.order, "an interface's option")?;
            if code == END_OF_OPTIONS {
                break;
            }
            let (room, padded) = (block.room(input), u64::from(found).next_multiple_of(4));
            if padded > room {
                return Err(damaged(at, Damage::OptionRoom { code, found, room }));
            }
            let expected = match code {
                RESOLUTION => 1,
                TIME_OFFSET => 8,
                _ => found,
            };
            if found != expected {
                return Err(damaged(at, Damage::OptionLength { code, found, expected }));
            }
            match code {
                RESOLUTION => {
                    let [resolution, ..] = input.array::<4>("an interface's clock resolution")?;
                    clock.resolution = resolution;
                }
                TIME_OFFSET => clock.offset = self.order.i64(input.array("an interface's clock offset")?),
                _ => input.skip(padded, "an interface's option")?,
            }
        }
        Ok(clock)
    }

    /// Reads an Enhanced Packet Block, or the obsolete Packet Block, which differs in its first word alone:
    /// 16 bits of interface and 16 of drops instead of 32 of interface.
    fn read_packet<R: Read>(
        &self,
        input: &mut Input<R>,
        block: &Block,
        data: &mut Vec<u8>,
    ) -> Result<Stamp, CaptureError> {
        let at = input.offset;
        let number = if block.kind == OBSOLETE_PACKET {
            let number = u32::from(input.u16(self.order, block.name())?);
            input.skip(2, block.name())?;
            number
        } else {
            input.u32(self.order, block.name())?
        };
        let interface = self.interface(number, at)?;
        let time_at = input.offset;
        let high = input.u32(self.order, "a packet's time stamp")?;
        let low = input.u32(self.order, "a packet's time stamp")?;
        let ticks = (u64::from(high) << 32) | u64::from(low);
        let time_ns =
            interface.clock.nanoseconds(ticks).ok_or_else(|| damaged(time_at, Damage::Timestamp))?;
        let at = input.offset;
        let length = input.u32(self.order, "a packet's length")?;
        let original_len = input.u32(self.order, "a packet's original length")?;
        read_data(input, block, at, length, data)?;
        Ok(Stamp { time_ns, original_len })
    }

    /// Reads a Simple Packet Block: from the section's first interface, without a time, as long as the
    /// original or that interface's snapshot length.
    fn read_simple<R: Read>(
        &self,
        input: &mut Input<R>,
        block: &Block,
        data: &mut Vec<u8>,
    ) -> Result<Stamp, CaptureError> {
        let at = input.offset;
        let interface = self.interface(0, input.start)?;
        let original_len = input.u32(self.order, "a packet's original length")?;
        let length = match interface.snapshot {
            0 => original_len,
            snapshot => original_len.min(snapshot),
        };
        read_data(input, block, at, length, data)?;
        Ok(Stamp { time_ns: self.time_ns, original_len })
    }

    /// The interface a packet came from, which must be Ethernet. `at` is where the block names it.
    fn interface(&self, number: u32, at: u64) -> Result<&Interface, CaptureError> {
        let unknown = || damaged(at, Damage::Interface { found: number, known: self.interfaces.len() });
        let interface = self.interfaces.get(number as usize).ok_or_else(unknown)?;
        if interface.link_type != ETHERNET {
            return Err(CaptureError::LinkType { found: interface.link_type, interface: number });
        }
        Ok(interface)
    }
}

/// Reads a Section Header Block after its type, and says the section's byte order.
fn read_section_header<R: Read>(input: &mut Input<R>) -> Result<Order, CaptureError> {
    const WHAT: &str = "a section header block";
    let length_at = input.offset;
    let length = input.array(WHAT)?;
    let magic_at = input.offset;
    let magic = input.array(WHAT)?;
    let order = match (u32::from_le_bytes(magic), u32::from_be_bytes(magic)) {
        (BYTE_ORDER_MAGIC, _) => Order::Little,
        (_, BYTE_ORDER_MAGIC) => Order::Big,
        (_, found) => return Err(damaged(magic_at, Damage::ByteOrder(found))),
    };
    let block = Block::new(input.start, length_at, SECTION_HEADER, order.u32(length))?;
    let version_at = input.offset;
    let major = input.u16(order, WHAT)?;
    let minor = input.u16(order, WHAT)?;
    // Some writers say 1.2, which readers take as 1.0 (Section Header Block, Minor Version).
    if major != 1 || (minor != 0 && minor != 2) {
        return Err(damaged(version_at, Damage::Version { format: "pcapng", major, minor, expected: "1.0" }));
    }
    // The section's length is only a help for skipping it, and may be left unsaid.
    block.finish(input, order)?;
    Ok(order)
}

/// Reads packet data after checking its length, which was read at `at`.
fn read_data<R: Read>(
    input: &mut Input<R>,
    block: &Block,
    at: u64,
    length: u32,
    data: &mut Vec<u8>,
) -> Result<(), CaptureError> {
    if length as usize > MAX_RECORD {
        return Err(damaged(at, Damage::RecordLength { found: length }));
    }
    // The room is a multiple of 4, as the block is, so data that fits has its padding, too.
    let room = block.room(input);
    if u64::from(length) > room {
        return Err(damaged(at, Damage::DataLength { found: length, room }));
    }
    input.packet(data, length)
}

/// Writes a section header.
pub(super) fn write_section(output: &mut impl Write) -> io::Result<()> {
    let mut body = Vec::new();
    body.write_all(&BYTE_ORDER_MAGIC.to_le_bytes())?;
    body.write_all(&1u16.to_le_bytes())?;
    body.write_all(&0u16.to_le_bytes())?;
    // -1: the section's length is not said.
    body.write_all(&(-1i64).to_le_bytes())?;
    write_option(&mut body, SECTION_APPLICATION, APPLICATION.as_bytes())?;
    write_option(&mut body, END_OF_OPTIONS, &[])?;
    write_block(output, SECTION_HEADER, &[&body])
}

/// Writes the description of an interface with a nanosecond clock.
pub(super) fn write_interface(
    output: &mut impl Write,
    interface: &InterfaceDescription<'_>,
) -> io::Result<()> {
    let mut body = Vec::new();
    body.write_all(&interface.link.number().to_le_bytes())?;
    body.write_all(&[0; 2])?;
    body.write_all(&interface.snap.to_le_bytes())?;
    write_option(&mut body, INTERFACE_NAME, interface.name.as_bytes())?;
    write_option(&mut body, RESOLUTION, &[9])?;
    write_option(&mut body, END_OF_OPTIONS, &[])?;
    write_block(output, INTERFACE_DESCRIPTION, &[&body])
}

/// Writes an Enhanced Packet Block.
pub(super) fn write_packet(output: &mut impl Write, packet: &Packet<'_>) -> io::Result<()> {
    let interface = packet.interface.to_le_bytes();
    let length = field::<u32>(packet.data.len())?.to_le_bytes();
    let original = packet.original_len.to_le_bytes();
    let (high, low) = ((packet.time_ns >> 32) as u32, packet.time_ns as u32);
    let mut options = Vec::new();
    if let Some(direction) = packet.direction {
        let flags: u32 = match direction {
            Direction::In => 1,
            Direction::Out => 2,
        };
        write_option(&mut options, PACKET_FLAGS, &flags.to_le_bytes())?;
        write_option(&mut options, END_OF_OPTIONS, &[])?;
    }
    let parts = [
        &interface[..],
        &high.to_le_bytes(),
        &low.to_le_bytes(),
        &length,
        &original,
        packet.data,
        padding(packet.data.len()),
        &options,
    ];
    write_block(output, ENHANCED_PACKET, &parts)
}

/// Writes an Interface Statistics Block: packets that the interface gave, and of these such as were lost.
pub(super) fn write_statistics(
    output: &mut impl Write,
    interface: u32,
    time_ns: u64,
    (received, lost): (u64, u64),
) -> io::Result<()> {
    let mut body = Vec::new();
    body.write_all(&interface.to_le_bytes())?;
    body.write_all(&((time_ns >> 32) as u32).to_le_bytes())?;
    body.write_all(&(time_ns as u32).to_le_bytes())?;
    write_option(&mut body, STATISTICS_RECEIVED, &received.to_le_bytes())?;
    write_option(&mut body, STATISTICS_LOST, &lost.to_le_bytes())?;
    write_option(&mut body, END_OF_OPTIONS, &[])?;
    write_block(output, INTERFACE_STATISTICS, &[&body])
}

fn write_option(output: &mut impl Write, code: u16, value: &[u8]) -> io::Result<()> {
    output.write_all(&code.to_le_bytes())?;
    output.write_all(&field::<u16>(value.len())?.to_le_bytes())?;
    output.write_all(value)?;
    output.write_all(padding(value.len()))
}

/// Writes a block of these parts, whose lengths add up to a multiple of 4.
fn write_block(output: &mut impl Write, kind: u32, parts: &[&[u8]]) -> io::Result<()> {
    let body: usize = parts.iter().map(|part| part.len()).sum();
    let length = field::<u32>(body.saturating_add(12))?.to_le_bytes();
    output.write_all(&kind.to_le_bytes())?;
    output.write_all(&length)?;
    for part in parts {
        output.write_all(part)?;
    }
    output.write_all(&length)
}

/// The bytes that bring a length to a multiple of 4.
fn padding(length: usize) -> &'static [u8] {
    match length % 4 {
        0 => &[],
        1 => &[0; 3],
        2 => &[0; 2],
        _ => &[0; 1],
    }
}
