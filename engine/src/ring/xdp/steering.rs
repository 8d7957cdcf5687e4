//! What the XDP program of a port takes for the engine, kept up to date while packets flow.
//!
//! Each change is worked out against what the maps hold: what is new is added first, what is gone is removed last, so that at
//! no time a packet finds less than is common to before and after.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::XdpError;
use super::bpf::Map;
use super::program::{Encapsulation, Maps, OURS};

/// The UDP ports of RFC 3948 and RFC 8086, which are the engine's from the start.
const PORTS: [(u16, Encapsulation); 2] = [(4500, Encapsulation::Esp), (4754, Encapsulation::Gre)];

/// Destinations that no router forwards, so the kernel's whatever less specific prefix holds them: RFC 6890, RFC 1112, RFC
/// 4291 sections 2.5.2, 2.5.3, 2.5.6 and 2.7.
const NEVER_FORWARDED: [(IpAddr, u8); 7] = [
    (IpAddr::V4(Ipv4Addr::new(0, 0, 0, 0)), 8),
    (IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8),
    (IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)), 4),
    (IpAddr::V4(Ipv4Addr::new(240, 0, 0, 0)), 4),
    (IpAddr::V6(Ipv6Addr::UNSPECIFIED), 127),
    (IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10),
    (IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)), 8),
];

/// Which packets the program redirects to the engine: what is for a local address of a tunnel and is ESP or GRE, bare or in
/// UDP, or an ICMP error about such; and what is for an address that the engine forwards to. All else is the host's: other
/// protocols than IP, tagged frames, groups, fragments of other UDP, IPv6 packets to local addresses with more than four extension
/// headers or other ones than options and fragments. It starts with nothing but the well-known UDP ports, which count for
/// nothing without local addresses.
pub struct Steering {
    maps: Maps,
    local: HashMap<[u8; 16], u32>,
    ports: HashMap<[u8; 2], u32>,
    v4: HashMap<[u8; 8], u32>,
    v6: HashMap<[u8; 20], u32>,
}

impl Steering {
    pub(super) fn new() -> Result<Steering, XdpError> {
        let maps =
            Maps::new().map_err(|source| XdpError::system("making the steering program's maps", source))?;
        let mut steering = Steering {
            maps,
            local: HashMap::new(),
            ports: HashMap::new(),
            v4: HashMap::new(),
            v6: HashMap::new(),
        };
        steering.set_ports(&PORTS)?;
        Ok(steering)
    }

    pub(super) fn maps(&self) -> &Maps {
        &self.maps
    }

    /// Sets the local addresses of tunnels: what is for them and ESP or GRE, bare or in UDP, or an ICMP error about such, is
    /// the engine's, and all else that is for them is the kernel's.
    ///
    /// # Errors
    /// [`XdpError::System`] when a map is full; what has been set until then holds.
    pub fn set_local(&mut self, addresses: &[IpAddr]) -> Result<(), XdpError> {
        let wanted = addresses.iter().map(|address| (mapped(*address), OURS)).collect();
        change(&self.maps.local, &mut self.local, wanted)
    }

    /// Sets the UDP ports on which the engine takes encapsulated packets. Until first set, they are 4500 for ESP (RFC 3948)
    /// and 4754 for GRE (RFC 8086).
    ///
    /// # Errors
    /// [`XdpError::System`] when a map is full; what has been set until then holds.
    pub fn set_ports(&mut self, ports: &[(u16, Encapsulation)]) -> Result<(), XdpError> {
        let wanted = ports.iter().map(|(port, carries)| (port.to_be_bytes(), *carries as u32)).collect();
        change(&self.maps.ports, &mut self.ports, wanted)
    }

    /// Sets the prefixes (address, length in bits) of destinations that the engine forwards (`true`), or that are the
    /// kernel's within a shorter prefix which the engine forwards (`false`). The longest that holds a packet's destination
    /// decides; without one, the packet is the kernel's. Bits of the address behind the prefix do not count; of a prefix
    /// named twice, the last counts. Multicast, loopback and link-local destinations are the kernel's unless a prefix of
    /// theirs is named.
    ///
    /// # Errors
    /// [`XdpError::Prefix`] for a length that the address has not, and nothing is changed; [`XdpError::System`] when a map is
    /// full; what has been set until then holds.
    pub fn set_prefixes(&mut self, prefixes: &[(IpAddr, u8, bool)]) -> Result<(), XdpError> {
        let (mut v4, mut v6) = (HashMap::new(), HashMap::new());
        let never = NEVER_FORWARDED.iter().map(|(address, length)| (*address, *length, false));
        for (address, length, ours) in never.chain(prefixes.iter().copied()) {
            let value = if ours { OURS } else { 0 };
            let fits = match address {
                IpAddr::V4(address) => prefix_v4(address, length).map(|key| v4.insert(key, value)).is_some(),
                IpAddr::V6(address) => prefix_v6(address, length).map(|key| v6.insert(key, value)).is_some(),
            };
            if !fits {
                return Err(XdpError::Prefix { address, length });
            }
        }
        change(&self.maps.v4, &mut self.v4, v4)?;
        change(&self.maps.v6, &mut self.v6, v6)
    }
}

/// An address as [`Maps::local`] has it.
fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// A key of the kernel's prefix maps: the length in bits in the machine's byte order, then the address.
fn prefix_v4(address: Ipv4Addr, length: u8) -> Option<[u8; 8]> {
    let behind = 32u32.checked_sub(u32::from(length))?;
    let bits = address.to_bits() & u32::MAX.checked_shl(behind).unwrap_or(0);
    let ([a, b, c, d], [e, f, g, h]) = (u32::from(length).to_ne_bytes(), bits.to_be_bytes());
    Some([a, b, c, d, e, f, g, h])
}

fn prefix_v6(address: Ipv6Addr, length: u8) -> Option<[u8; 20]> {
    let behind = 128u32.checked_sub(u32::from(length))?;
    let bits = address.to_bits() & u128::MAX.checked_shl(behind).unwrap_or(0);
    let mut key = [0; 20];
    let bytes = u32::from(length).to_ne_bytes().into_iter().chain(bits.to_be_bytes());
    for (to, from) in key.iter_mut().zip(bytes) {
        *to = from;
    }
    Some(key)
}

/// Makes a map hold what is wanted, and notes each step in `held` when it has been taken.
fn change<const K: usize>(
    map: &Map<K>,
    held: &mut HashMap<[u8; K], u32>,
    wanted: HashMap<[u8; K], u32>,
) -> Result<(), XdpError>
where
    [u8; K]: Hash + Eq,
{
    let full = |source: io::Error| XdpError::system("changing what the steering program takes", source);
    for (key, value) in &wanted {
        if held.get(key) != Some(value) {
            map.set(*key, *value).map_err(full)?;
            held.insert(*key, *value);
        }
    }
    let gone: HashSet<[u8; K]> = held.keys().filter(|key| !wanted.contains_key(*key)).copied().collect();
    for key in gone {
        map.remove(key).map_err(full)?;
        held.remove(&key);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_length_and_the_address_without_host_bits() {
        let key = prefix_v4(Ipv4Addr::new(10, 1, 2, 255), 20).expect("a prefix");
        assert_eq!(key[..4], 20u32.to_ne_bytes());
        assert_eq!(key[4..], [10, 1, 0, 0]);
        assert_eq!(prefix_v4(Ipv4Addr::new(10, 1, 2, 3), 0).expect("a prefix")[4..], [0; 4]);
        assert_eq!(prefix_v4(Ipv4Addr::new(10, 1, 2, 3), 32).expect("a prefix")[4..], [10, 1, 2, 3]);
        assert_eq!(prefix_v4(Ipv4Addr::UNSPECIFIED, 33), None);
        let address: Ipv6Addr = "2001:db8:ffff::1".parse().expect("an address");
        let key = prefix_v6(address, 36).expect("a prefix");
        assert_eq!(key[..4], 36u32.to_ne_bytes());
        assert_eq!(key[4..12], [0x20, 0x01, 0x0d, 0xb8, 0xf0, 0, 0, 0]);
        assert_eq!(prefix_v6(address, 0).expect("a prefix")[4..], [0; 16]);
        assert_eq!(prefix_v6(address, 129), None);
    }
}
