//! Sealing (RFC 4303 section 3.3):
//! 1. the SA gives a sequence number, and the IV that belongs to it (section 3.3.3, RFC 4106 section 3.1);
//! 2. padding, pad length and next header are written behind the payload (section 2.4);
//! 3. the cipher encrypts payload and trailer and writes the ICV behind them (section 3.3.2.2).

use super::cipher::SealJob;
use super::sa::OutboundSa;
use super::{HEADER_LEN, ICV_LEN, IV_LEN, TRAILER_LEN};
use crate::wire::{EspHeader, Malformed, esp};

/// Bytes that ESP puts behind a payload padded with `pad_len` octets: padding, trailer, ICV.
#[inline]
pub const fn tail_len(pad_len: u8) -> usize {
    pad_len as usize + TRAILER_LEN + ICV_LEN
}

/// Steps 1 and 2 for a packet that was laid out as ESP header, IV, payload, and [`tail_len`] bytes of room; `sequence` was
/// taken from `sa`.
///
/// # Errors
/// [`Malformed::Truncated`] when the packet has no room for header, IV and tail.
#[inline(always)]
pub fn prepare(
    packet: &mut [u8],
    sa: &OutboundSa,
    sequence: u64,
    pad_len: u8,
    next_header: u8,
) -> Result<(), Malformed> {
    let (header, rest) = packet.split_first_chunk_mut::<HEADER_LEN>().ok_or(Malformed::Truncated)?;
    EspHeader { spi: sa.spi(), sequence: sequence as u32 }.emit(header);
    let (iv, rest) = rest.split_first_chunk_mut::<IV_LEN>().ok_or(Malformed::Truncated)?;
    *iv = sa.iv(sequence);
    let payload_len = rest.len().checked_sub(tail_len(pad_len)).ok_or(Malformed::Truncated)?;
    let tail = rest.get_mut(payload_len..).ok_or(Malformed::Truncated)?;
    esp::write_trailer(tail, pad_len, next_header)
}

/// Step 3 as a job for the cipher, on a packet that [`prepare`] has made ready.
///
/// # Errors
/// [`Malformed::Truncated`] when it is no such packet.
#[inline]
pub fn job<'a>(packet: &'a mut [u8], sa: &'a OutboundSa, sequence: u64) -> Result<SealJob<'a>, Malformed> {
    let data = packet.get_mut(HEADER_LEN + IV_LEN..).ok_or(Malformed::Truncated)?;
    Ok(SealJob { key: sa.key(), iv: sa.iv(sequence), aad: sa.aad(sequence), data })
}
