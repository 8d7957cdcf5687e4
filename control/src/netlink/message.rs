//! Messages of any of netlink's protocols (RFC 3549, linux/netlink.h). A message is:
//! 1. a netlink header, that says how long the message is and what it is about;
//! 2. a header of fixed length for that kind;
//! 3. attributes, each with its length and its kind.
//!
//! Attributes that are not known, and those whose length is not what it should be, are stepped over one by one, so that
//! a newer kernel's additions cost nothing but themselves.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::datagram::{Damaged, split_all};

// Messages that are about the conversation itself, and flags.
pub(crate) const NLMSG_ERROR: u16 = 2;
pub(crate) const NLMSG_DONE: u16 = 3;
pub(crate) const NLMSG_OVERRUN: u16 = 4;
pub(crate) const NLM_F_REQUEST: u16 = 0x01;
pub(crate) const NLM_F_ACK: u16 = 0x04;
pub(crate) const NLM_F_DUMP_INTR: u16 = 0x10;
pub(crate) const NLM_F_REPLACE: u16 = 0x100;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
pub(crate) const NLM_F_CREATE: u16 = 0x400;

/// Bytes of a netlink header.
const HEADER_LEN: usize = 16;

/// A message, its own header not yet read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) payload: &'a [u8],
}

/// The messages of a datagram, in order; damage ends it.
pub(crate) fn messages(datagram: &[u8]) -> impl Iterator<Item = Result<Message<'_>, Damaged>> {
    split_all(datagram, split_message)
}

fn split_message<'a>(rest: &mut &'a [u8]) -> Result<Message<'a>, Damaged> {
    let (header, _) = rest.split_first_chunk::<HEADER_LEN>().ok_or(Damaged)?;
    let &[l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] = header;
    let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
    let payload = rest.get(HEADER_LEN..length).ok_or(Damaged)?;
    *rest = rest.get(align(length)..).unwrap_or_default();
    Ok(Message {
        kind: u16::from_ne_bytes([k0, k1]),
        flags: u16::from_ne_bytes([f0, f1]),
        sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
        payload,
    })
}

/// Messages and attributes begin at multiples of four bytes.
pub(crate) fn align(length: usize) -> usize {
    length.saturating_add(3) & !3
}

/// The errno value of an error message, as a positive number; 0 acknowledges.
pub(crate) fn error_code(payload: &[u8]) -> Result<i32, Damaged> {
    Ok(i32::from_ne_bytes(*payload.first_chunk().ok_or(Damaged)?).wrapping_neg())
}

/// Attributes, without the flags in the upper bits of their kind (nested, byte order). What does not hold together ends them.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (&[l0, l1, k0, k1], _) = rest.split_first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = rest.get(4..length)?;
        rest = rest.get(align(length)..).unwrap_or_default();
        Some((u16::from_ne_bytes([k0, k1]) & 0x3fff, value))
    })
}

pub(crate) fn u32_of(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_ne_bytes)
}

/// An address, by its length.
pub(crate) fn address_of(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => value.try_into().ok().map(|bytes: [u8; 4]| Ipv4Addr::from(bytes).into()),
        16 => value.try_into().ok().map(|bytes: [u8; 16]| Ipv6Addr::from(bytes).into()),
        _ => None,
    }
}

/// A request: a netlink header and what follows it.
pub(crate) fn request(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let length = HEADER_LEN.saturating_add(payload.len()) as u32;
    let mut message = Vec::with_capacity(length as usize);
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    // The port: the kernel knows who asks.
    message.extend(0_u32.to_ne_bytes());
    message.extend(payload);
    message
}
