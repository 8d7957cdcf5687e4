//! Explicit congestion notification: the low two bits of the IPv4 TOS and the IPv6 traffic class octet (RFC
//! 3168 §5). What a tunnel does with the inner and the outer mark (RFC 6040) is the tunnel's business, not
//! this file's.

/// The ECN field's mask within the TOS or traffic class octet.
const MASK: u8 = 0b11;

/// The four codepoints (RFC 3168 §5, figure 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ecn {
    /// The endpoints do not use ECN.
    NotEct = 0b00,
    /// ECN-capable transport, codepoint 1.
    Ect1 = 0b01,
    /// ECN-capable transport, codepoint 0.
    Ect0 = 0b10,
    /// Congestion experienced.
    Ce = 0b11,
}

impl Ecn {
    /// The mark within a TOS or traffic class octet.
    #[inline]
    #[must_use]
    pub const fn of(traffic_class: u8) -> Self {
        match traffic_class & MASK {
            0b00 => Self::NotEct,
            0b01 => Self::Ect1,
            0b10 => Self::Ect0,
            _ => Self::Ce,
        }
    }

    /// A TOS or traffic class octet with this mark in place of its own; the DSCP bits stay.
    #[inline]
    #[must_use]
    pub const fn mark(self, traffic_class: u8) -> u8 {
        traffic_class & !MASK | self as u8
    }
}

#[cfg(test)]
mod tests {
    use super::Ecn;

    #[test]
    fn codepoints_are_those_of_rfc3168() {
        assert_eq!(
            [Ecn::of(0), Ecn::of(1), Ecn::of(2), Ecn::of(3)],
            [Ecn::NotEct, Ecn::Ect1, Ecn::Ect0, Ecn::Ce]
        );
    }

    #[test]
    fn marking_keeps_the_dscp() {
        for octet in 0..=u8::MAX {
            for mark in [Ecn::NotEct, Ecn::Ect1, Ecn::Ect0, Ecn::Ce] {
                assert_eq!(Ecn::of(mark.mark(octet)), mark);
                assert_eq!(mark.mark(octet) >> 2, octet >> 2);
            }
        }
    }
}
