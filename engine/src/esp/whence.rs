//! Where the packets of an inbound SA come from, where they come in UDP (RFC 3948): a NAT on the way may give their sender another
//! address or port at any time, and only genuine packets tell which.
//!
//! The worker that the SA's window belongs to writes, when the newest packet so far came from somewhere else than the one before; it
//! alone compares, one number for each packet. Others may read at any time.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::sync::{AtomicU64, fence};

/// Set in the first word of a source that is one of IPv4, and of IPv6.
const V4: u64 = 1 << 63;
const V6: u64 = 1 << 62;

/// An address and a UDP port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Source([u64; 3]);

impl Source {
    #[inline]
    pub(crate) fn v4(address: Ipv4Addr, port: u16) -> Source {
        Source([V4 | u64::from(address.to_bits()) << 16 | u64::from(port), 0, 0])
    }

    #[inline]
    pub(crate) fn v6(address: Ipv6Addr, port: u16) -> Source {
        let bits = address.to_bits();
        Source([V6 | u64::from(port), (bits >> 64) as u64, bits as u64])
    }

    pub(crate) fn of(socket: SocketAddr) -> Source {
        match socket.ip() {
            IpAddr::V4(address) => Source::v4(address, socket.port()),
            IpAddr::V6(address) => Source::v6(address, socket.port()),
        }
    }

    fn socket(self) -> Option<SocketAddr> {
        let [first, high, low] = self.0;
        let address = match first & (V4 | V6) {
            V4 => IpAddr::V4(Ipv4Addr::from_bits((first >> 16) as u32)),
            V6 => IpAddr::V6(Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low))),
            _ => return None,
        };
        Some(SocketAddr::new(address, first as u16))
    }
}

/// See the module page.
#[derive(Debug, Default)]
pub(crate) struct Whence {
    words: [AtomicU64; 3],
    /// Odd while the words change.
    version: AtomicU64,
}

impl Whence {
    /// Is it that one? For the worker that writes.
    #[inline]
    pub(crate) fn is(&self, source: Source) -> bool {
        let [first, high, low] = &self.words;
        let same = first.load(Relaxed) == source.0[0];
        same && (source.0[0] & V4 != 0
            || [high.load(Relaxed), low.load(Relaxed)] == [source.0[1], source.0[2]])
    }

    /// It is that one from now on.
    pub(crate) fn set(&self, source: Source) {
        let version = self.version.load(Relaxed);
        self.version.store(version.wrapping_add(1), Relaxed);
        // Who sees a word sees that they change.
        fence(Release);
        for (word, value) in self.words.iter().zip(source.0) {
            word.store(value, Relaxed);
        }
        self.version.store(version.wrapping_add(2), Release);
    }

    /// The source, and a number that is another one each time that it has changed. `None` before the first, and while it changes.
    pub(crate) fn get(&self) -> Option<(u64, SocketAddr)> {
        let version = self.version.load(Acquire);
        let source = Source(self.words.each_ref().map(|word| word.load(Relaxed)));
        fence(Acquire);
        let whole = version.is_multiple_of(2) && self.version.load(Relaxed) == version;
        source.socket().filter(|_| whole).map(|socket| (version, socket))
    }
}

#[cfg(all(test, culvert_loom))]
mod every_order {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    /// Who reads while it changes sees one or the other, or nothing.
    #[test]
    fn no_half_of_a_source_is_seen() {
        loom::model(|| {
            let [one, other] = [1_u128, u128::MAX].map(|bits| Source::v6(Ipv6Addr::from_bits(bits), 4500));
            let whence = Arc::new(Whence::default());
            whence.set(one);
            let writes = Arc::clone(&whence);
            let writer = thread::spawn(move || writes.set(other));
            if let Some((_, seen)) = whence.get() {
                assert!([one.socket(), other.socket()].contains(&Some(seen)), "{seen}");
            }
            writer.join().expect("no panic");
            assert_eq!(whence.get().map(|(_, seen)| seen), other.socket());
        });
    }
}

#[cfg(all(test, not(culvert_loom)))]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_it_was_set_to() {
        let whence = Whence::default();
        assert_eq!(whence.get(), None);
        let v4 = |last, port| Source::v4(Ipv4Addr::new(192, 0, 2, last), port);
        let v6 = |bits, port| Source::v6(Ipv6Addr::from_bits(bits), port);
        let all = [v4(1, 0), v4(1, 4500), v4(2, 4500), v6(0, 4500), v6(1, 4500), v6(1 << 64, 4500), v6(1, 1)];
        let mut versions = Vec::new();
        for source in all {
            whence.set(source);
            let others = all.iter().filter(|other| whence.is(**other)).count();
            assert_eq!((whence.is(source), others), (true, 1));
            let (version, socket) = whence.get().expect("one");
            assert_eq!(Some(socket), source.socket());
            versions.push(version);
        }
        versions.dedup();
        assert_eq!(versions.len(), all.len());
        assert_eq!(v4(7, 65_535).socket(), "192.0.2.7:65535".parse().ok());
    }
}
