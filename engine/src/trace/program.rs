//! What a tap takes: an expression as a few tests and what joins them, in the order in which they are worked out.
//!
//! It is bounded ([`LONGEST`]), and running it takes a word of bits for a stack: no allocation, no jump, no end but its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::headers::Headers;
use crate::drops::Reason;
use crate::fib::Prefix;
use crate::wire::ethernet;

/// Steps of a program, at most: its tests, and as many words that join them.
pub const LONGEST: usize = 64;

/// Which end of a packet a test asks about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Its source.
    Source,
    /// Its destination.
    Destination,
    /// Either.
    Either,
    /// Both.
    Both,
}

impl Side {
    fn holds<T: Copy>(self, (source, destination): (T, T), test: impl Fn(T) -> bool) -> bool {
        match self {
            Side::Source => test(source),
            Side::Destination => test(destination),
            Side::Either => test(source) || test(destination),
            Side::Both => test(source) && test(destination),
        }
    }
}

/// A question about a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Test {
    /// The EtherType.
    EtherType(u16),
    /// The protocol, over IPv4, over IPv6, or over either.
    Protocol {
        /// Over IPv4?
        v4: bool,
        /// Over IPv6?
        v6: bool,
        /// Its number.
        number: u8,
    },
    /// An address, which is one of the prefix's.
    Net {
        /// Of which end.
        side: Side,
        /// The prefix; a host is one of all its bits.
        prefix: Prefix,
    },
    /// A port.
    Port {
        /// Of which end.
        side: Side,
        /// Of this protocol alone.
        protocol: Option<u8>,
        /// From the first to the last, both included.
        range: (u16, u16),
    },
    /// So many bytes, or more.
    AtLeast(u32),
    /// So many bytes, or fewer.
    AtMost(u32),
    /// It came out of that tunnel, or went into it.
    Tunnel(u32),
    /// It came by that port, or left by it.
    On(u16),
    /// It was dropped: for that reason, or for any.
    Dropped(Option<Reason>),
}

/// A step of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Asks.
    Test(Test),
    /// The last two answers become one: were both yes?
    And,
    /// Was one of them yes?
    Or,
    /// The last answer is turned round.
    Not,
}

/// What is known of a packet. A test about headers holds when it does for one of its forms: as it came, as it was inside a tunnel,
/// as it left.
#[derive(Debug, Clone, Copy, Default)]
pub struct Facts<'a> {
    /// Its forms.
    pub forms: &'a [Headers],
    /// Tunnels that it came out of or went into.
    pub tunnels: &'a [u32],
    /// Ports that it came or left by.
    pub ports: &'a [u16],
    /// What it was dropped for.
    pub dropped: Option<Reason>,
}

/// A program that says yes or no.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Program(Box<[Op]>);

impl Program {
    /// The program of these steps; without any it says yes to everything. `None` where they are too many, or leave more or less
    /// than one answer.
    pub fn new(steps: Vec<Op>) -> Option<Program> {
        if steps.len() > LONGEST {
            return None;
        }
        let mut answers = 0_usize;
        for step in &steps {
            let needed = match step {
                Op::Test(_) => 0,
                Op::Not => 1,
                Op::And | Op::Or => 2,
            };
            answers = answers.checked_sub(needed)? + 1;
        }
        (answers == 1 || steps.is_empty()).then(|| Program(steps.into()))
    }

    /// Its steps.
    pub fn steps(&self) -> &[Op] {
        &self.0
    }

    /// Does it take the packet?
    pub fn takes(&self, facts: &Facts<'_>) -> bool {
        // The last answer is the lowest bit; above all of them stands the yes of an empty program.
        let mut answers = 1_u64;
        for step in &self.0 {
            answers = match step {
                Op::Test(test) => answers << 1 | u64::from(test.holds(facts)),
                Op::Not => answers ^ 1,
                Op::And => answers >> 1 & (answers | !1),
                Op::Or => answers >> 1 | answers & 1,
            };
        }
        answers & 1 == 1
    }
}

impl Test {
    fn holds(&self, facts: &Facts<'_>) -> bool {
        match *self {
            Test::Tunnel(tunnel) => facts.tunnels.contains(&tunnel),
            Test::On(port) => facts.ports.contains(&port),
            Test::Dropped(None) => facts.dropped.is_some(),
            Test::Dropped(reason) => facts.dropped == reason,
            _ => facts.forms.iter().any(|form| self.holds_for(form)),
        }
    }

    fn holds_for(&self, form: &Headers) -> bool {
        match *self {
            Test::EtherType(ethertype) => form.ethertype == ethertype,
            Test::Protocol { v4, v6, number } => match form.ethertype {
                ethernet::IPV4 => v4 && form.protocol == Some(number),
                ethernet::IPV6 => {
                    v6 && (form.protocol == Some(number) || form.behind_fragment == Some(number))
                }
                _ => false,
            },
            Test::Net { side, prefix } => {
                form.ends.is_some_and(|ends| side.holds(ends, |address| covers(&prefix, address)))
            }
            Test::Port { side, protocol, range: (first, last) } => {
                (protocol.is_none() || form.protocol == protocol)
                    && form
                        .ports
                        .is_some_and(|ports| side.holds(ports, |port| (first..=last).contains(&port)))
            }
            Test::AtLeast(bytes) => form.len >= bytes,
            Test::AtMost(bytes) => form.len <= bytes,
            Test::Tunnel(_) | Test::On(_) | Test::Dropped(_) => false,
        }
    }
}

fn covers(prefix: &Prefix, address: IpAddr) -> bool {
    let len = u32::from(prefix.prefix_len());
    match (prefix.addr(), address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            let differ = Ipv4Addr::to_bits(network) ^ Ipv4Addr::to_bits(address);
            differ.checked_shr(32 - len).unwrap_or(0) == 0
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            let differ = Ipv6Addr::to_bits(network) ^ Ipv6Addr::to_bits(address);
            differ.checked_shr(128 - len).unwrap_or(0) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const YES: Op = Op::Test(Test::AtLeast(0));
    const NO: Op = Op::Test(Test::AtLeast(u32::MAX));

    fn says(steps: &[Op]) -> bool {
        let form = [Headers { len: 100, ..Headers::default() }];
        let facts = Facts { forms: &form, ..Facts::default() };
        Program::new(steps.to_vec()).expect("a program").takes(&facts)
    }

    #[test]
    fn words_join_answers() {
        assert!(says(&[]));
        for (a, b) in [(true, true), (true, false), (false, true), (false, false)] {
            let op = |yes| if yes { YES } else { NO };
            assert_eq!(says(&[op(a), op(b), Op::And]), a && b);
            assert_eq!(says(&[op(a), op(b), Op::Or]), a || b);
            assert_eq!(says(&[op(a), Op::Not]), !a);
            assert_eq!(says(&[op(a), op(b), Op::Not, Op::And]), a && !b);
        }
    }

    #[test]
    fn what_leaves_no_answer_is_no_program() {
        for steps in [vec![Op::And], vec![YES, Op::Or], vec![Op::Not], vec![YES, YES], vec![YES; LONGEST + 1]]
        {
            assert_eq!(Program::new(steps), None);
        }
    }

    #[test]
    fn a_prefix_covers_what_begins_as_it_does() {
        for (prefix, inside, outside) in [
            ("10.2.0.0/16", "10.2.255.1", "10.3.0.0"),
            ("0.0.0.0/0", "255.0.0.1", "::1"),
            ("10.2.0.1/32", "10.2.0.1", "10.2.0.2"),
            ("2001:db8::/32", "2001:db8:1::", "2001:db9::"),
            ("::/0", "ff02::1", "10.2.0.1"),
            ("2001:db8::1/128", "2001:db8::1", "2001:db8::"),
        ] {
            let prefix: Prefix = prefix.parse().expect("a prefix");
            assert!(covers(&prefix, inside.parse().expect("an address")), "{prefix} {inside}");
            assert!(!covers(&prefix, outside.parse().expect("an address")), "{prefix} {outside}");
        }
    }

    proptest! {
        /// As worked out by a stack of answers.
        #[test]
        fn a_program_says_what_its_steps_say(choices in proptest::collection::vec(0..5_u8, 1..LONGEST / 2)) {
            let (mut steps, mut stack): (Vec<Op>, Vec<bool>) = (Vec::new(), Vec::new());
            let mut put = |choice: u8, stack: &mut Vec<bool>| {
                let (step, answer) = match (choice, stack.as_slice()) {
                    (2, [.., a]) => (Op::Not, !a),
                    (3, [.., a, b]) => (Op::And, *a && *b),
                    (4, [.., a, b]) => (Op::Or, *a || *b),
                    (choice, _) if choice % 2 == 1 => (YES, true),
                    _ => (NO, false),
                };
                let taken = match step { Op::Test(_) => 0, Op::Not => 1, Op::And | Op::Or => 2 };
                stack.truncate(stack.len() - taken);
                stack.push(answer);
                steps.push(step);
            };
            for choice in choices {
                put(choice, &mut stack);
            }
            while stack.len() > 1 {
                put(3 + (stack.len() % 2) as u8, &mut stack);
            }
            prop_assert_eq!(says(&steps), stack[0]);
        }
    }
}
