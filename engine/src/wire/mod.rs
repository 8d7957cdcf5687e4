//! The headers Culvert reads and writes, as they lie on the wire: one file a protocol, no state, no I/O.
//!
//! The contract of every file:
//! 1. A *view* (`Ipv4`, `Gre`, ...) is made by `parse`, which checks every length and every fixed field once
//!    and keeps references to fixed-size arrays. After that no accessor can fail or panic, and each is a plain
//!    load.
//! 2. A *header* (`Ipv4Header`, `GreHeader`, ...) is a plain value whose `emit` writes it out, checksum included.
//! 3. Free functions rewrite a field of a packet in place and keep its checksum right.
//! 4. Numbers are in host order on our side and in network order in the bytes; lengths and offsets are in bytes.
//! 5. Nothing allocates, and no input makes anything panic: what is wrong with the bytes is a [`Malformed`].

pub mod arp;
pub mod checksum;
pub mod ecn;
pub mod esp;
pub mod ethernet;
pub mod gre;
pub mod icmpv4;
pub mod icmpv6;
pub mod ipv4;
pub mod ipv6;
pub mod nd;
pub mod protocol;
pub mod tcp;
pub mod udp;

pub use arp::{Arp, ArpMessage};
pub use checksum::Sum;
pub use ecn::Ecn;
pub use esp::{Esp, EspHeader};
pub use ethernet::{Ethernet, EthernetHeader, MacAddr};
pub use gre::{Gre, GreHeader};
pub use icmpv4::{Icmpv4, Icmpv4Message};
pub use icmpv6::{Icmpv6, Icmpv6Message};
pub use ipv4::{Ipv4, Ipv4Header};
pub use ipv6::{Ipv6, Ipv6Header, Upper};
pub use nd::{Nd, NdMessage};
pub use tcp::Tcp;
pub use udp::{Udp, UdpHeader};

/// What is wrong with bytes that do not hold what they were taken for, or with room too small for what is
/// written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Fewer bytes than the header, and what it announces, need.
    #[error("shorter than its header")]
    Truncated,
    /// Not the version of the protocol.
    #[error("wrong version")]
    Version,
    /// A length field that contradicts the header or the bytes present.
    #[error("length field contradicts the packet")]
    Length,
    /// The checksum does not match.
    #[error("wrong checksum")]
    Checksum,
    /// A flag bit that must be zero is set.
    #[error("reserved flag set")]
    Flags,
    /// IPv6 extension headers too many or in a forbidden order.
    #[error("extension headers too many or misplaced")]
    Extensions,
    /// ESP padding longer than the plaintext, or not 1, 2, 3 and so on.
    #[error("wrong padding")]
    Padding,
    /// ARP for other hardware or another protocol than Ethernet and IPv4.
    #[error("not Ethernet and IPv4")]
    AddressFormat,
}
