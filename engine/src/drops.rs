//! Why packets are dropped: one name and one counter each. The names are fixed (others' scripts read them).

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// The reason of a drop.
        // As wide as what else says where a packet goes next, so that a verdict travels in two registers.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            /// Every reason, in the order of their numbers.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)*];

            /// The name in reports, kebab-case.
            pub const fn name(self) -> &'static str {
                match self { $(Reason::$variant => $name,)* }
            }
        }
    };
}

reasons! {
    /// Shorter than an Ethernet header, or a tag without its end.
    EthernetMalformed = "ethernet-malformed",
    /// A unicast frame for another station.
    NotOurs = "not-ours",
    /// A slot that contradicts its ring (a fault of the port, not of a packet).
    SlotBroken = "slot-broken",
    /// A frame in several buffers that the engine would have to process.
    MultiSlot = "multi-slot",
    /// An IP or UDP header that contradicts itself or the frame.
    IpMalformed = "ip-malformed",
    /// An IP fragment of a tunnel packet.
    Fragment = "fragment",
    /// A fragment for which reassembly had no room, or whose packet was not complete in time.
    FragmentLimit = "fragment-limit",
    /// A fragment of a packet whose fragments overlap (RFC 5722 section 4).
    FragmentOverlap = "fragment-overlap",
    /// A fragment that was there already.
    FragmentDuplicate = "fragment-duplicate",
    /// TTL or hop limit used up (RFC 1812 section 5.3.1, RFC 8200 section 3).
    TtlExceeded = "ttl-exceeded",
    /// From a link-local address, which is never forwarded (RFC 4291 section 2.5.6, RFC 3927 section 2.7).
    LinkLocal = "link-local",
    /// No route to the destination.
    NoRoute = "no-route",
    /// The link-layer address of the next hop is not known.
    NoNeighbour = "no-neighbour",
    /// Longer than the way out allows.
    TooBig = "too-big",
    /// For the far or near end of a tunnel, and about to enter or just out of one.
    Nested = "nested",
    /// An ESP packet of an SA that is not here (RFC 4303 section 3.4.2).
    EspUnknownSpi = "esp-unknown-spi",
    /// Too short or misaligned, bad padding, or contents that the SA is not for.
    EspMalformed = "esp-malformed",
    /// Seen before, or left of the window (RFC 4303 section 3.4.3).
    EspReplay = "esp-replay",
    /// The ICV is wrong (RFC 4303 section 3.4.4).
    EspAuth = "esp-auth",
    /// A dummy packet: genuine, and meant to be thrown away (RFC 4303 section 2.6).
    EspDummy = "esp-dummy",
    /// A NAT keepalive: one byte 0xFF (RFC 3948 section 2.3).
    NatKeepalive = "nat-keepalive",
    /// For a tunnel whose address the other router of a pair holds now.
    Backup = "backup",
    /// A protected tunnel without an SA to send with.
    NoSa = "no-sa",
    /// The SA has no sequence number or IV left.
    SaExhausted = "sa-exhausted",
    /// A GRE header that RFC 2784 section 2 says to discard.
    GreMalformed = "gre-malformed",
    /// No such tunnel, or a payload that it does not carry.
    GreUnknown = "gre-unknown",
    /// The key is not the tunnel's (RFC 2890 section 2.1).
    GreKey = "gre-key",
    /// The checksum is missing or wrong (RFC 2784 section 2.2).
    GreChecksum = "gre-checksum",
    /// The checksum of GRE in UDP is wrong, or missing over IPv6 (RFC 8086 section 6.2).
    UdpChecksum = "udp-checksum",
    /// The sequence number is missing or not new (RFC 2890 section 2.2).
    GreSequence = "gre-sequence",
    /// A protected tunnel's packet that came unprotected.
    CleartextForProtected = "cleartext-for-protected",
    /// ESP between a tunnel's ends that the host sent: its kernel may hold the same SA.
    EspFromHost = "esp-from-host",
    /// Congestion was marked on the outer header of a packet that cannot carry the mark (RFC 6040 section 4.2).
    Ecn = "ecn",
    /// An ARP message that RFC 826 or RFC 5227 does not know.
    ArpMalformed = "arp-malformed",
    /// A neighbour solicitation or advertisement that RFC 4861 section 7.1 says to discard.
    NdMalformed = "nd-malformed",
    /// The ring towards the worker that the packet belongs to is full, or the queue of those that any worker may seal or open.
    HandoverFull = "handover-full",
    /// With a worker that did not give it back in time.
    HandoverLate = "handover-late",
    /// The transmit ring is full.
    TxFull = "tx-full",
    /// Not for us to forward, and there is no host to give it to.
    NoHost = "no-host",
}

impl Reason {
    /// How many there are.
    pub const COUNT: usize = Reason::ALL.len();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kebab_case_and_distinct() {
        let mut names: Vec<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        assert!(names.iter().all(|n| n.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Reason::COUNT);
    }

    #[test]
    fn numbers_are_positions() {
        for (position, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, position);
        }
    }
}
