//! Longest-prefix match: which next hop a packet to an address takes. A table is built once from all routes
//! and never changed afterwards; the control plane publishes a new one whole.
//!
//! A lookup walks a multi-bit trie, one octet of the address a step:
//! 1. the first octet names one of the 256 nodes that stand at the front of the array: together they are a
//!    root of 16 bits;
//! 2. the next octet picks an entry of that node;
//! 3. an entry that is a leaf is the answer; one that names a child node leads to step 2 with the next octet.
//!
//! Every shorter prefix is pushed down into the entries below it when the table is built, so the walk never
//! has to remember a best match so far. IPv4 takes one to three loads, IPv6 /64 up to seven.

use std::error::Error;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An IP network: an address and how many of its leading bits count. The other bits are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    // In this order, so that the derived order has every prefix before the longer ones nested in it.
    len: u8,
    addr: IpAddr,
}

impl Prefix {
    /// The prefix of `len` bits that starts at `addr`.
    ///
    /// # Errors
    /// `len` is more than the address has bits, or `addr` has bits set behind the first `len`.
    pub fn new(addr: IpAddr, len: u8) -> Result<Self, PrefixError> {
        if len > host_len(addr) {
            return Err(PrefixError::Length { addr, len });
        }
        let network = network(addr, len);
        if network != addr {
            return Err(PrefixError::HostBits { addr, len, network });
        }
        Ok(Self { addr, len })
    }

    /// The network's first address.
    #[must_use]
    pub fn addr(&self) -> IpAddr {
        self.addr
    }

    /// How many leading bits count: 0 to 32 for IPv4, 0 to 128 for IPv6.
    #[must_use]
    pub fn prefix_len(&self) -> u8 {
        self.len
    }
}

/// A single address: /32 or /128.
impl From<IpAddr> for Prefix {
    fn from(addr: IpAddr) -> Self {
        Self { addr, len: host_len(addr) }
    }
}

/// Reads `10.2.0.0/16`, `2001:db8::/32`, or a bare address, which stands for itself alone.
impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let (addr, len) = match text.split_once('/') {
            Some((addr, len)) => (addr, Some(len)),
            None => (text, None),
        };
        let addr: IpAddr = addr.parse().map_err(|_| PrefixError::Syntax(text.into()))?;
        match len {
            None => Ok(addr.into()),
            Some(len) => Self::new(addr, parse_len(len).ok_or_else(|| PrefixError::Syntax(text.into()))?),
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

/// Decimal digits alone: the standard parser would also take `+8` and `008`.
fn parse_len(text: &str) -> Option<u8> {
    let plain = text == "0" || !text.starts_with(['0', '+']);
    text.parse().ok().filter(|_| plain)
}

fn host_len(addr: IpAddr) -> u8 {
    match addr {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// `addr` with all bits behind the first `len` cleared.
fn network(addr: IpAddr, len: u8) -> IpAddr {
    let host_bits = u32::from(host_len(addr).saturating_sub(len));
    match addr {
        IpAddr::V4(addr) => {
            let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
            Ipv4Addr::from_bits(addr.to_bits() & mask).into()
        }
        IpAddr::V6(addr) => {
            let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
            Ipv6Addr::from_bits(addr.to_bits() & mask).into()
        }
    }
}

/// Why an address and a length, or a text, are not a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrefixError {
    /// The text is not `ADDRESS/LENGTH` nor an address.
    Syntax(Box<str>),
    /// The length is more than the address has bits.
    Length {
        /// The address as given.
        addr: IpAddr,
        /// The length as given, in bits.
        len: u8,
    },
    /// Bits behind the prefix length are set.
    HostBits {
        /// The address as given.
        addr: IpAddr,
        /// The length as given, in bits.
        len: u8,
        /// The address with those bits cleared.
        network: IpAddr,
    },
}

impl fmt::Display for PrefixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(text) => {
                write!(f, "`{text}` is not a prefix: write ADDRESS/LENGTH, such as 10.2.0.0/16")
            }
            Self::Length { addr, len } => {
                write!(f, "{addr}/{len}: the length is 0 to {}", host_len(*addr))
            }
            Self::HostBits { addr, len, network } => {
                write!(f, "{addr}/{len} has bits set behind its length: write {network}/{len}")
            }
        }
    }
}

impl Error for PrefixError {}

/// Why routes do not make a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FibError {
    /// Two routes have the same prefix.
    Duplicate {
        /// The prefix that both have.
        prefix: Prefix,
        /// The next hop of the route that came first.
        first: u32,
        /// The next hop of the one that came later.
        second: u32,
    },
    /// A next-hop index of 2^31 or more.
    NextHop {
        /// The route's prefix.
        prefix: Prefix,
        /// The index as given.
        next_hop: u32,
    },
    /// More trie nodes than 31 bits can number (2 TiB of them).
    TooLarge,
}

impl fmt::Display for FibError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Duplicate { prefix, first, second } => {
                write!(f, "two routes for {prefix}: next hops {first} and {second}")
            }
            Self::NextHop { prefix, next_hop } => {
                write!(f, "route {prefix}: next hop {next_hop} is not below {CHILD}")
            }
            Self::TooLarge => write!(f, "too many routes for one table"),
        }
    }
}

impl Error for FibError {}

/// The forwarding table of both families.
#[derive(Clone, Debug, Default)]
pub struct Fib {
    v4: Trie,
    v6: Trie,
}

impl Fib {
    /// Builds the table of these routes: prefix and next-hop index (below 2^31).
    ///
    /// # Errors
    /// Two routes have one prefix, or a next-hop index is too large.
    pub fn build(routes: impl IntoIterator<Item = (Prefix, u32)>) -> Result<Self, FibError> {
        let mut routes: Vec<(Prefix, u32)> = routes.into_iter().collect();
        // Shorter prefixes first, as `Trie::insert` wants it; stable, so that of two equal ones the earlier
        // stays first.
        routes.sort_by_key(|(prefix, _)| *prefix);
        refuse_bad(&routes)?;

        let mut fib = Self::default();
        for (prefix, next_hop) in routes {
            match prefix.addr {
                IpAddr::V4(addr) => fib.v4.insert(&addr.octets(), prefix.len, next_hop),
                IpAddr::V6(addr) => fib.v6.insert(&addr.octets(), prefix.len, next_hop),
            }
            .ok_or(FibError::TooLarge)?;
        }
        fib.v4.nodes.shrink_to_fit();
        fib.v6.nodes.shrink_to_fit();
        Ok(fib)
    }

    /// The next hop of the longest prefix that `addr` is in; `None` without any.
    #[inline]
    #[must_use]
    pub fn lookup_v4(&self, addr: Ipv4Addr) -> Option<u32> {
        self.v4.lookup(addr.octets())
    }

    /// The next hop of the longest prefix that `addr` is in; `None` without any.
    #[inline]
    #[must_use]
    pub fn lookup_v6(&self, addr: Ipv6Addr) -> Option<u32> {
        self.v6.lookup(addr.octets())
    }
}

/// `routes` are sorted, so that equal prefixes stand side by side.
fn refuse_bad(routes: &[(Prefix, u32)]) -> Result<(), FibError> {
    for &(prefix, next_hop) in routes {
        if next_hop >= CHILD {
            return Err(FibError::NextHop { prefix, next_hop });
        }
    }
    for pair in routes.windows(2) {
        if let [(prefix, first), (other, second)] = *pair
            && prefix == other
        {
            return Err(FibError::Duplicate { prefix, first, second });
        }
    }
    Ok(())
}

/// An entry with this bit set names a child node in the other 31; without it, it is a leaf and holds the next
/// hop.
const CHILD: u32 = 1 << 31;

/// No route: a child that does not exist. The walk ends on it by itself, at the check whether the node
/// exists, so that "no route" costs no comparison of its own.
const NONE: u32 = u32::MAX;

/// Entries of one node, one for each value of an octet: 1 KiB, and an index by `u8` needs no bounds check.
type Node = [u32; 256];

/// The nodes of one family; the first 256 are the root (by first octet), the others follow as they were made.
/// A family without routes has no nodes at all.
#[derive(Clone, Debug, Default)]
struct Trie {
    nodes: Vec<Node>,
}

impl Trie {
    #[inline(always)]
    fn lookup<const N: usize>(&self, octets: [u8; N]) -> Option<u32> {
        let (&first, rest) = octets.split_first()?;
        let mut entry = CHILD | u32::from(first);
        for &octet in rest {
            if entry & CHILD == 0 {
                break;
            }
            entry = *self.entry(entry, octet)?;
        }
        (entry & CHILD == 0).then_some(entry)
    }

    /// The entry for `octet` in the node that `parent`, an entry with `CHILD` set, names.
    #[inline]
    fn entry(&self, parent: u32, octet: u8) -> Option<&u32> {
        self.nodes.get((parent & !CHILD) as usize)?.get(usize::from(octet))
    }

    fn entry_mut(&mut self, parent: u32, octet: u8) -> Option<&mut u32> {
        self.nodes.get_mut((parent & !CHILD) as usize)?.get_mut(usize::from(octet))
    }

    /// Adds a route. Routes come in order of prefix length: then everything that this one covers is still a
    /// leaf of a shorter prefix, or `NONE`, and may be overwritten. `None`: no more nodes can be numbered.
    fn insert(&mut self, octets: &[u8], len: u8, next_hop: u32) -> Option<()> {
        if self.nodes.is_empty() {
            self.nodes.resize(256, [NONE; 256]);
        }
        let (&first, rest) = octets.split_first()?;
        if len <= 8 {
            let covered = self.nodes.iter_mut().skip(usize::from(first)).take(1 << (8 - len));
            covered.for_each(|node| node.fill(next_hop));
            return Some(());
        }
        let mut parent = CHILD | u32::from(first);
        let mut left = len - 8;
        for &octet in rest {
            if left <= 8 {
                let node = self.nodes.get_mut((parent & !CHILD) as usize)?;
                let covered = node.iter_mut().skip(usize::from(octet)).take(1 << (8 - left));
                covered.for_each(|entry| *entry = next_hop);
                break;
            }
            parent = self.child(parent, octet)?;
            left -= 8;
        }
        Some(())
    }

    /// The child node at `octet`, made where there is none, with the route that held there so far in all its
    /// entries.
    fn child(&mut self, parent: u32, octet: u8) -> Option<u32> {
        let pushed = *self.entry(parent, octet)?;
        if pushed & CHILD != 0 && pushed != NONE {
            return Some(pushed);
        }
        let made = u32::try_from(self.nodes.len()).ok().filter(|&number| number < NONE & !CHILD)? | CHILD;
        self.nodes.push([pushed; 256]);
        *self.entry_mut(parent, octet)? = made;
        Some(made)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn fib(routes: &[(&str, u32)]) -> Fib {
        Fib::build(routes.iter().map(|&(text, next_hop)| (prefix(text), next_hop))).unwrap()
    }

    fn v4(fib: &Fib, addr: &str) -> Option<u32> {
        fib.lookup_v4(addr.parse().unwrap())
    }

    fn v6(fib: &Fib, addr: &str) -> Option<u32> {
        fib.lookup_v6(addr.parse().unwrap())
    }

    #[test]
    fn a_prefix_is_read_and_written() {
        for text in ["0.0.0.0/0", "10.2.0.0/16", "192.0.2.1/32", "::/0", "2001:db8::/32", "::1/128"] {
            assert_eq!(prefix(text).to_string(), text);
        }
        assert_eq!(prefix("192.0.2.1"), prefix("192.0.2.1/32"));
        assert_eq!(prefix("2001:db8::1"), prefix("2001:db8::1/128"));
        assert_eq!(prefix("10.2.0.0/16").addr(), IpAddr::from([10, 2, 0, 0]));
        assert_eq!(prefix("10.2.0.0/16").prefix_len(), 16);
    }

    #[test]
    fn a_prefix_with_host_bits_is_refused_with_the_network_that_was_meant() {
        let error = "10.2.3.4/16".parse::<Prefix>().unwrap_err();
        assert_eq!(error.to_string(), "10.2.3.4/16 has bits set behind its length: write 10.2.0.0/16");
        assert!(matches!("0.0.0.1/0".parse::<Prefix>(), Err(PrefixError::HostBits { .. })));
        assert!(matches!("192.0.2.1/31".parse::<Prefix>(), Err(PrefixError::HostBits { .. })));
        assert!(matches!("2001:db8::1/127".parse::<Prefix>(), Err(PrefixError::HostBits { .. })));
        assert!(matches!("::1/0".parse::<Prefix>(), Err(PrefixError::HostBits { .. })));
    }

    #[test]
    fn a_length_beyond_the_address_is_refused() {
        assert!(matches!("10.0.0.0/33".parse::<Prefix>(), Err(PrefixError::Length { len: 33, .. })));
        assert!(matches!("::/129".parse::<Prefix>(), Err(PrefixError::Length { len: 129, .. })));
        let error = Prefix::new(IpAddr::from([10, 0, 0, 0]), 255).unwrap_err();
        assert_eq!(error.to_string(), "10.0.0.0/255: the length is 0 to 32");
    }

    #[test]
    fn a_text_that_is_no_prefix_is_refused() {
        for text in
            ["", "/", "/8", "10.0.0.0/", "10.0.0.0/+8", "10.0.0.0/08", "10.0.0.0/8/8", "10.0.0.0/256", "10/8"]
        {
            assert!(matches!(text.parse::<Prefix>(), Err(PrefixError::Syntax(_))), "{text}");
        }
        for text in [" 10.0.0.0/8", "10.0.0.0/8 ", "10.0.0.0/ 8", "10.0.0.0/-1", "fe80::%em0/64", "lan"] {
            assert!(matches!(text.parse::<Prefix>(), Err(PrefixError::Syntax(_))), "{text}");
        }
    }

    #[test]
    fn the_longest_prefix_wins() {
        let fib = fib(&[
            ("10.2.3.4/32", 32),
            ("0.0.0.0/0", 0),
            ("10.2.3.0/24", 24),
            ("10.0.0.0/8", 8),
            ("10.2.0.0/16", 16),
            ("10.2.2.0/23", 23),
        ]);
        assert_eq!(v4(&fib, "10.2.3.4"), Some(32));
        assert_eq!(v4(&fib, "10.2.3.5"), Some(24));
        assert_eq!(v4(&fib, "10.2.2.255"), Some(23));
        assert_eq!(v4(&fib, "10.2.4.0"), Some(16));
        assert_eq!(v4(&fib, "10.3.0.0"), Some(8));
        assert_eq!(v4(&fib, "11.0.0.0"), Some(0));
    }

    #[test]
    fn the_edges_of_a_prefix_are_in_it_and_their_neighbours_are_not() {
        let fib = fib(&[("172.16.0.0/12", 1), ("192.0.2.128/25", 2), ("2001:db8::/33", 3)]);
        assert_eq!([v4(&fib, "172.15.255.255"), v4(&fib, "172.16.0.0")], [None, Some(1)]);
        assert_eq!([v4(&fib, "172.31.255.255"), v4(&fib, "172.32.0.0")], [Some(1), None]);
        assert_eq!([v4(&fib, "192.0.2.127"), v4(&fib, "192.0.2.128")], [None, Some(2)]);
        assert_eq!([v4(&fib, "192.0.2.255"), v4(&fib, "192.0.3.0")], [Some(2), None]);
        assert_eq!([v6(&fib, "2001:db7:ffff::"), v6(&fib, "2001:db8::")], [None, Some(3)]);
        assert_eq!(
            [v6(&fib, "2001:db8:7fff:ffff:ffff:ffff:ffff:ffff"), v6(&fib, "2001:db8:8000::")],
            [Some(3), None]
        );
    }

    #[test]
    fn the_first_and_the_last_address_have_routes_of_their_own() {
        let last = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        let fib = fib(&[("0.0.0.0/32", 1), ("255.255.255.255/32", 2), ("::/128", 3), (last, 4)]);
        assert_eq!([v4(&fib, "0.0.0.0"), v4(&fib, "0.0.0.1")], [Some(1), None]);
        assert_eq!([v4(&fib, "255.255.255.255"), v4(&fib, "255.255.255.254")], [Some(2), None]);
        assert_eq!([v6(&fib, "::"), v6(&fib, "::1")], [Some(3), None]);
        assert_eq!([v6(&fib, last), v6(&fib, "ffff::")], [Some(4), None]);
    }

    #[test]
    fn a_default_route_reaches_everything_of_its_family_alone() {
        let fib = fib(&[("0.0.0.0/0", 7)]);
        assert_eq!([v4(&fib, "0.0.0.0"), v4(&fib, "255.255.255.255")], [Some(7), Some(7)]);
        assert_eq!([v6(&fib, "::"), v6(&fib, "ffff::")], [None, None]);
    }

    #[test]
    fn a_family_without_routes_costs_no_memory() {
        let fib = fib(&[("10.0.0.0/8", 7)]);
        assert_eq!(fib.v6.nodes.capacity(), 0);
        assert_eq!(v4(&Fib::default(), "10.0.0.1"), None);
        assert_eq!(v6(&Fib::default(), "2001:db8::1"), None);
    }

    #[test]
    fn every_next_hop_below_2_to_31_is_given_back() {
        for next_hop in [0, 1, CHILD - 2, CHILD - 1] {
            let fib = fib(&[("10.0.0.0/8", next_hop), ("192.0.2.1", next_hop)]);
            assert_eq!(v4(&fib, "10.1.2.3"), Some(next_hop));
            assert_eq!(v4(&fib, "192.0.2.1"), Some(next_hop));
        }
        for next_hop in [CHILD, u32::MAX] {
            let prefix = prefix("10.0.0.0/8");
            assert_eq!(Fib::build([(prefix, next_hop)]).unwrap_err(), FibError::NextHop { prefix, next_hop });
        }
    }

    #[test]
    fn a_duplicate_is_reported_with_both_next_hops() {
        let routes = [("10.0.0.0/8", 3), ("::/0", 0), ("10.0.0.0/8", 1)];
        let error = Fib::build(routes.map(|(text, next_hop)| (prefix(text), next_hop))).unwrap_err();
        assert_eq!(error, FibError::Duplicate { prefix: prefix("10.0.0.0/8"), first: 3, second: 1 });
        assert_eq!(error.to_string(), "two routes for 10.0.0.0/8: next hops 3 and 1");
        assert!(Fib::build([(prefix("::/0"), 0), (prefix("0.0.0.0/0"), 0)]).is_ok());
    }

    /// Both families as left-aligned 128 bits.
    fn bits(addr: IpAddr) -> u128 {
        match addr {
            IpAddr::V4(addr) => u128::from(addr.to_bits()) << 96,
            IpAddr::V6(addr) => addr.to_bits(),
        }
    }

    /// What the table must say: the longest of all prefixes whose bits agree with the address.
    fn scan(routes: &BTreeMap<Prefix, u32>, addr: IpAddr) -> Option<u32> {
        let covers = |prefix: &Prefix| {
            let differing = bits(addr) ^ bits(prefix.addr);
            prefix.addr.is_ipv4() == addr.is_ipv4() && differing.leading_zeros() >= u32::from(prefix.len)
        };
        routes
            .iter()
            .filter(|(prefix, _)| covers(prefix))
            .max_by_key(|(prefix, _)| prefix.len)
            .map(|(_, &hop)| hop)
    }

    /// Few octet values, so that prefixes nest and lookups hit.
    fn octet() -> impl Strategy<Value = u8> {
        prop_oneof![4 => prop::sample::select(vec![0, 1, 127, 128, 255]), 1 => any::<u8>()]
    }

    fn any_addr() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            prop::array::uniform4(octet()).prop_map(IpAddr::from),
            prop::array::uniform16(octet()).prop_map(IpAddr::from),
        ]
    }

    fn any_prefix() -> impl Strategy<Value = Prefix> {
        (any_addr(), 0..=128_u8).prop_map(|(addr, len)| {
            let len = len % (host_len(addr) + 1);
            Prefix::new(network(addr, len), len).unwrap()
        })
    }

    /// The addresses around both ends of a prefix.
    fn edges(prefix: &Prefix) -> Vec<IpAddr> {
        let unit = if prefix.addr.is_ipv4() { 1 << 96 } else { 1 };
        let first = bits(prefix.addr);
        let last = first | u128::MAX.checked_shr(u32::from(prefix.len)).unwrap_or(0);
        [first, first.wrapping_sub(unit), last, last.wrapping_add(unit)]
            .map(|bits| match prefix.addr {
                IpAddr::V4(_) => Ipv4Addr::from_bits((bits >> 96) as u32).into(),
                IpAddr::V6(_) => Ipv6Addr::from_bits(bits).into(),
            })
            .into()
    }

    proptest! {
        #[test]
        fn the_table_agrees_with_a_linear_scan(
            routes in prop::collection::btree_map(any_prefix(), 0..CHILD, 0..60),
            // The order in which routes come must not matter.
            seed in any::<u64>(),
            others in prop::collection::vec(any_addr(), 100),
        ) {
            let mut shuffled: Vec<(Prefix, u32)> = routes.iter().map(|(&prefix, &hop)| (prefix, hop)).collect();
            shuffled.sort_by_key(|(_, hop)| u64::from(*hop).wrapping_mul(seed | 1));
            let fib = Fib::build(shuffled).unwrap();
            for addr in routes.keys().flat_map(edges).chain(others) {
                let found = match addr {
                    IpAddr::V4(addr) => fib.lookup_v4(addr),
                    IpAddr::V6(addr) => fib.lookup_v6(addr),
                };
                prop_assert_eq!(found, scan(&routes, addr), "{}", addr);
            }
        }

        #[test]
        fn a_prefix_survives_being_written_and_read(prefix in any_prefix()) {
            prop_assert_eq!(prefix.to_string().parse::<Prefix>(), Ok(prefix));
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = text.parse::<Prefix>();
        }
    }
}
