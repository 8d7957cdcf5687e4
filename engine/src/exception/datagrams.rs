//! Whose the fragments of UDP datagrams to our addresses are: a tunnel's, to be put together, or the host's, byte for byte.
//! Only the first fragment has the ports, so what comes before it is held, within hard bounds and for a short time.
//!
//! 1. What was held too long goes to the host, which gets everything that is not known to be a tunnel's.
//! 2. The datagram is looked up that the fragment belongs to, or a place for it made, if need be by letting the oldest go.
//! 3. A first fragment says whose the datagram is, and takes along what was held of it.
//! 4. Others go where the first went; before it they are held.
//!
//! A datagram that has been seen whole is forgotten, since its identification may soon be another's.

use std::collections::VecDeque;
use std::time::Duration;

use super::reassembly::{Fragment, Key, Limits, Read, read};

/// Who gets a fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Reassembly: it is a tunnel's.
    Tunnel,
    /// The host stack.
    Host,
}

/// A fragment on its way: whose, the port that it came by, and the frame as it came.
pub type Sorted = (Owner, u32, Vec<u8>);

/// A datagram of which fragments were seen, but not all.
struct Datagram {
    key: Key,
    since: Duration,
    owner: Option<Owner>,
    /// Bytes of payload seen, and how many there are, known from the last fragment.
    seen: usize,
    len: Option<usize>,
    /// What came before the first fragment, with the ports that it came by.
    held: Vec<(u32, Vec<u8>)>,
}

/// The state. Equal calls give equal answers.
pub struct Datagrams {
    limits: Limits,
    /// Oldest first.
    datagrams: VecDeque<Datagram>,
    /// Of held frames.
    bytes: usize,
}

/// A first fragment that is seconds behind the others is not worth the memory, nor the risk that its identification has come
/// to be another datagram's.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of frames held.
const HELD: usize = 256 << 10;

impl Default for Datagrams {
    fn default() -> Datagrams {
        Datagrams::new(Limits { bytes: HELD, timeout: TIMEOUT, ..Limits::default() })
    }
}

impl Datagrams {
    /// Nothing seen. Of the limits, `bytes` counts those of held frames alone, and `fragments` such frames of one datagram.
    #[must_use]
    pub fn new(limits: Limits) -> Datagrams {
        Datagrams { limits, datagrams: VecDeque::new(), bytes: 0 }
    }

    /// When [`Self::expire`] next has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.datagrams.front().map(|oldest| oldest.since.saturating_add(self.limits.timeout))
    }

    /// Step 1.
    pub fn expire(&mut self, now: Duration, out: &mut Vec<Sorted>) {
        while self.deadline().is_some_and(|deadline| deadline <= now) {
            self.let_go(0, Owner::Host, out);
        }
    }

    /// Takes `packet`, the IP packet in `frame`, a fragment of a datagram to an address of ours that came by `port`. `first` is
    /// whose it is if it is a first fragment. What is to go on, the host's at once and a tunnel's to reassembly, is added to
    /// `out`, in order.
    pub fn push(
        &mut self,
        (port, frame): (u32, &[u8]),
        packet: &[u8],
        first: Owner,
        now: Duration,
        out: &mut Vec<Sorted>,
    ) {
        self.expire(now, out);
        let Ok(Read::Fragment(fragment)) = read(packet) else {
            // Reassembly counts what no packet can be made of; the host has its own opinion.
            out.push((first, port, frame.to_vec()));
            return;
        };
        let found = self.datagrams.iter().position(|datagram| datagram.key == fragment.key);
        let index = found.unwrap_or_else(|| self.make_place(fragment.key, now, out));
        let Some(datagram) = self.datagrams.get_mut(index) else {
            out.push((first, port, frame.to_vec()));
            return;
        };
        datagram.note(&fragment);
        if fragment.offset == 0 {
            datagram.owner = Some(first);
            out.push((first, port, frame.to_vec()));
            self.release(index, first, out);
        } else if let Some(owner) = datagram.owner {
            out.push((owner, port, frame.to_vec()));
        } else if datagram.held.len() < self.limits.fragments && self.bytes + frame.len() <= self.limits.bytes
        {
            datagram.held.push((port, frame.to_vec()));
            self.bytes += frame.len();
            return;
        } else {
            out.push((Owner::Host, port, frame.to_vec()));
        }
        if self.datagrams.get(index).is_some_and(Datagram::is_seen) {
            self.datagrams.remove(index);
        }
    }

    /// Step 2, for a datagram of which nothing was seen yet.
    fn make_place(&mut self, key: Key, now: Duration, out: &mut Vec<Sorted>) -> usize {
        let of_source = |datagram: &&Datagram| datagram.key.same_source(&key);
        if self.datagrams.iter().filter(of_source).count() >= self.limits.packets_per_source
            && let Some(oldest) = self.datagrams.iter().position(|datagram| of_source(&datagram))
        {
            self.let_go(oldest, Owner::Host, out);
        }
        if self.datagrams.len() >= self.limits.packets {
            self.let_go(0, Owner::Host, out);
        }
        let new = Datagram { key, since: now, owner: None, seen: 0, len: None, held: Vec::new() };
        self.datagrams.push_back(new);
        self.datagrams.len() - 1
    }

    /// Gives away what is held of a datagram.
    fn release(&mut self, index: usize, owner: Owner, out: &mut Vec<Sorted>) {
        let Some(datagram) = self.datagrams.get_mut(index) else { return };
        for (port, frame) in datagram.held.drain(..) {
            self.bytes = self.bytes.saturating_sub(frame.len());
            out.push((owner, port, frame));
        }
    }

    /// Forgets a datagram.
    fn let_go(&mut self, index: usize, owner: Owner, out: &mut Vec<Sorted>) {
        self.release(index, owner, out);
        self.datagrams.remove(index);
    }
}

impl Datagram {
    /// What a fragment tells of the whole. A first one after another is of a new datagram with the same identification.
    fn note(&mut self, fragment: &Fragment<'_>) {
        if fragment.offset == 0 && self.owner.is_some() {
            (self.seen, self.len) = (0, None);
        }
        self.seen += fragment.payload.len();
        if !fragment.more {
            self.len = Some(fragment.offset + fragment.payload.len());
        }
    }

    /// Has all of it gone where it belongs?
    fn is_seen(&self) -> bool {
        self.owner.is_some() && self.len.is_some_and(|len| self.seen >= len)
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::exception::fragment::{Ids, fragment};
    use crate::exception::samples::{fix_checksum, udp_v4};

    const SECOND: Duration = Duration::from_secs(1);
    const WAN: u32 = 3;

    /// A datagram's fragments, each of at most 576 bytes. The frames are the packets: nothing here reads link headers.
    fn pieces(id: u16, len: usize) -> Vec<Vec<u8>> {
        let mut packet = udp_v4(len);
        packet[4..6].copy_from_slice(&id.to_be_bytes());
        packet[6] = 0;
        fix_checksum(&mut packet);
        fragment(&packet, 576, &mut Ids::new(0)).unwrap()
    }

    /// What comes out for one fragment of a datagram of that owner.
    fn push(state: &mut Datagrams, piece: &[u8], whose: Owner, now: Duration) -> Vec<Sorted> {
        // Of a later fragment, the worker takes the host for the owner.
        let offset = u16::from_be_bytes([piece[6], piece[7]]) & 0x1fff;
        let first = if offset == 0 { whose } else { Owner::Host };
        let mut out = Vec::new();
        state.push((WAN, piece), piece, first, now, &mut out);
        out
    }

    fn all(owner: Owner, pieces: &[Vec<u8>]) -> Vec<Sorted> {
        pieces.iter().map(|piece| (owner, WAN, piece.clone())).collect()
    }

    #[test]
    fn later_fragments_follow_the_first_in_any_order() {
        for whose in [Owner::Tunnel, Owner::Host] {
            for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
                let mut state = Datagrams::default();
                let pieces = pieces(7, 1500);
                let mut out = Vec::new();
                for index in order {
                    out.extend(push(&mut state, &pieces[index], whose, SECOND));
                }
                let first = order.iter().position(|index| *index == 0).unwrap();
                let mut expected = order.map(|index| pieces[index].clone());
                expected[..=first].rotate_right(1);
                assert_eq!(out, all(whose, &expected), "{order:?}");
                assert_eq!((state.deadline(), state.bytes), (None, 0), "forgotten");
            }
        }
    }

    #[test]
    fn an_identification_used_again_is_another_datagrams() {
        let mut state = Datagrams::default();
        let pieces = pieces(7, 1500);
        // Never complete.
        assert_eq!(push(&mut state, &pieces[0], Owner::Tunnel, SECOND), all(Owner::Tunnel, &pieces[..1]));
        for piece in &pieces {
            assert_eq!(push(&mut state, piece, Owner::Host, SECOND), [(Owner::Host, WAN, piece.clone())]);
        }
        assert_eq!(state.deadline(), None);
    }

    #[test]
    fn what_nobody_claims_is_the_hosts_after_a_while() {
        let mut state = Datagrams::default();
        let pieces = pieces(7, 1500);
        for piece in &pieces[1..] {
            assert_eq!(push(&mut state, piece, Owner::Tunnel, SECOND), []);
        }
        let mut out = Vec::new();
        assert_eq!(state.deadline(), Some(SECOND + TIMEOUT));
        state.expire(SECOND + TIMEOUT - Duration::from_nanos(1), &mut out);
        assert_eq!(out, []);
        state.expire(SECOND + TIMEOUT, &mut out);
        assert_eq!(out, all(Owner::Host, &pieces[1..]));
        assert_eq!((state.deadline(), state.bytes), (None, 0));
    }

    /// Nothing is lost at a bound: what is over goes to the host.
    #[test]
    fn bounds_hold_and_lose_nothing() {
        let limits = Limits { packets: 4, packets_per_source: 3, fragments: 2, bytes: 2000, timeout: SECOND };
        let mut state = Datagrams::new(limits);
        let (mut sent, mut seen) = (0, 0);
        for id in 0..50 {
            for piece in &pieces(id, 2800)[1..] {
                seen += push(&mut state, piece, Owner::Tunnel, SECOND).len();
                sent += 1;
                let held: usize = state.datagrams.iter().map(|datagram| datagram.held.len()).sum();
                let bytes =
                    state.datagrams.iter().flat_map(|it| &it.held).map(|(_, frame)| frame.len()).sum();
                assert_eq!((seen + held, state.bytes), (sent, bytes));
                assert!(state.datagrams.len() <= 3 && state.bytes <= 2000);
                assert!(state.datagrams.iter().all(|datagram| datagram.held.len() <= 2));
            }
        }
    }
}
