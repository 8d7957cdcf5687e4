//! `--match`: an expression that says which packets, compiled into a program that workers run.
//!
//! The words are a subset of pcap-filter(7)'s and mean what they mean there: `and`, `or` (also `&&`, `||`) bind equally, the left
//! first; `not` (`!`) binds more; an address or number alone repeats the words before it (`port 80 or 443`).
//!
//! | word | takes |
//! |---|---|
//! | `host A`, `net P`, `src host A`, `dst net P`, .. | packets from or to an address or a prefix (`10.2.0.0/16`), of ARP too |
//! | `port N`, `portrange N-M`, `tcp dst port N`, .. | TCP, UDP and SCTP packets with a port |
//! | `ip`, `ip6`, `arp`, `rarp`, `tcp`, `udp`, `sctp`, `icmp`, `icmp6`, `igmp`, `esp`, `ah`, `vrrp`, `carp` | by protocol |
//! | `proto N`, `ip proto N`, `ip6 proto N` | by the number, or name, of the protocol |
//! | `less N`, `greater N` | of at most, at least so many bytes |
//!
//! and in traces alone, beside them:
//!
//! | word | takes |
//! |---|---|
//! | `gre`, `ospf` | by protocol (in captures as well) |
//! | `tunnel NAME` | packets that came out of a tunnel or went into it |
//! | `on PORT` | packets that came or left by a port |
//! | `drop`, `drop REASON` | packets that were dropped, or given to the exception thread, for any reason or that one |
//!
//! A trace's packet has several forms: as it came, as it was inside a tunnel, as it left. A word takes it by any of them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use culvert_engine::drops::Reason;
use culvert_engine::fib::{Prefix, PrefixError};
use culvert_engine::trace::{LONGEST, Op, Program, Side, Test};

use crate::Failure;

/// The longest expression, in bytes.
const LONGEST_TEXT: usize = 4096;
/// Parentheses in parentheses, at most.
const DEEPEST: usize = 16;

/// What an expression may ask beside what stands in headers.
pub trait Names {
    /// The number of the tunnel of that name.
    ///
    /// # Errors
    /// There is none, or it cannot be asked for here; in words.
    fn tunnel(&self, name: &str) -> Result<u32, String>;
    /// The number of the port of that name.
    ///
    /// # Errors
    /// As [`Names::tunnel`].
    fn port(&self, name: &str) -> Result<u16, String>;
    /// May it be asked whether packets were dropped?
    ///
    /// # Errors
    /// It may not; in words.
    fn drops(&self) -> Result<(), String>;
}

/// Headers alone can be asked about: what captures take.
pub struct HeadersAlone;

const OF_ONE: &str = "a capture is of one port or tunnel; this is for traces";

impl Names for HeadersAlone {
    fn tunnel(&self, _: &str) -> Result<u32, String> {
        Err(OF_ONE.to_owned())
    }

    fn port(&self, _: &str) -> Result<u16, String> {
        Err(OF_ONE.to_owned())
    }

    fn drops(&self) -> Result<(), String> {
        Err(OF_ONE.to_owned())
    }
}

/// What is wrong with an expression, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterError {
    text: String,
    /// Characters before the place, and of it.
    at: (usize, usize),
    what: String,
}

impl FilterError {
    /// The expression, and below it a mark at the place.
    fn shown(&self) -> [String; 2] {
        let (before, marked) = self.at;
        // One line, whatever was typed.
        let text = self.text.chars().map(|letter| if letter.is_control() { ' ' } else { letter });
        [text.collect(), format!("{}{}", " ".repeat(before), "^".repeat(marked.max(1)))]
    }
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [text, mark] = self.shown();
        write!(f, "{}\n{text}\n{mark}", self.what)
    }
}

impl From<FilterError> for Failure {
    fn from(error: FilterError) -> Failure {
        let [text, mark] = error.shown();
        Failure::reported(
            2,
            [error.what, text, mark].into_iter().map(|line| format!("--match: {line}")).collect(),
        )
    }
}

/// Compiles an expression; an empty one takes everything.
///
/// # Errors
/// What is wrong with it, and where.
pub fn compile(text: &str, names: &dyn Names) -> Result<Program, FilterError> {
    let mut parser = Parser { text, names, rest: Vec::new(), steps: Vec::new(), last: None, depth: 0 };
    if text.len() > LONGEST_TEXT {
        return Err(parser.error(0..0, format!("it is longer than {LONGEST_TEXT} bytes")));
    }
    parser.rest = words(text).map_err(|(at, what)| parser.error(at, what))?;
    parser.rest.reverse();
    if parser.rest.is_empty() {
        return Ok(Program::default());
    }
    parser.expression()?;
    if let Some(word) = parser.rest.last().cloned() {
        return Err(parser.wrong(&word, "`and`, `or` or the end was expected here"));
    }
    let steps = std::mem::take(&mut parser.steps);
    Program::new(steps).ok_or_else(|| parser.error(0..text.len(), too_long()))
}

fn too_long() -> String {
    format!("it asks more than {} questions", LONGEST / 2)
}

/// A word and the bytes that it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Word {
    text: String,
    at: std::ops::Range<usize>,
    quoted: bool,
}

type Fault = (std::ops::Range<usize>, String);

fn words(text: &str) -> Result<Vec<Word>, Fault> {
    let mut words = Vec::new();
    let mut letters = text.char_indices().peekable();
    while let Some((start, letter)) = letters.next() {
        let mut word = |text: &str, end: usize, quoted: bool| {
            words.push(Word { text: text.to_owned(), at: start..end, quoted });
        };
        match letter {
            _ if letter.is_whitespace() => {}
            '(' | ')' | '!' => word(&letter.to_string(), start + 1, false),
            '&' | '|' => match letters.next_if(|(_, next)| *next == letter) {
                Some(_) => word(if letter == '&' { "and" } else { "or" }, start + 2, false),
                None => return Err((start..start + 1, format!("write `{letter}{letter}`"))),
            },
            '"' => match text.get(start + 1..).and_then(|rest| rest.split_once('"')) {
                Some((inside, _)) => {
                    let end = start + 1 + inside.len() + 1;
                    word(inside, end, true);
                    while letters.next_if(|(at, _)| *at < end).is_some() {}
                }
                None => return Err((start..text.len(), "the quotation has no end".to_owned())),
            },
            _ => {
                let mut end = start + letter.len_utf8();
                let in_word = |letter: char| {
                    !letter.is_whitespace() && !matches!(letter, '(' | ')' | '!' | '&' | '|' | '"')
                };
                while let Some((at, next)) = letters.next_if(|(_, next)| in_word(*next)) {
                    end = at + next.len_utf8();
                }
                word(text.get(start..end).unwrap_or_default(), end, false);
            }
        }
    }
    Ok(words)
}

/// What an address or number stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Host,
    Net,
    Port,
    PortRange,
    Proto,
}

impl Kind {
    fn of(word: &str) -> Option<Kind> {
        Some(match word {
            "host" => Kind::Host,
            "net" => Kind::Net,
            "port" => Kind::Port,
            "portrange" => Kind::PortRange,
            "proto" => Kind::Proto,
            _ => return None,
        })
    }
}

/// The words in front of an address or number.
#[derive(Debug, Clone, Copy)]
struct Qualifiers {
    protocol: Option<Protocol>,
    side: Option<Side>,
    kind: Kind,
}

/// A word that stands for a protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    /// One of Ethernet's.
    Link(u16),
    /// One of IP's: over IPv4, over IPv6.
    Ip(bool, bool, u8),
}

impl Protocol {
    fn of(word: &str) -> Option<Protocol> {
        use culvert_engine::wire::{ethernet, protocol};
        Some(match word {
            "ip" => Protocol::Link(ethernet::IPV4),
            "ip6" => Protocol::Link(ethernet::IPV6),
            "arp" => Protocol::Link(ethernet::ARP),
            "rarp" => Protocol::Link(0x8035),
            "tcp" => Protocol::Ip(true, true, protocol::TCP),
            "udp" => Protocol::Ip(true, true, protocol::UDP),
            "sctp" => Protocol::Ip(true, true, protocol::SCTP),
            "icmp" => Protocol::Ip(true, false, protocol::ICMP),
            "icmp6" => Protocol::Ip(false, true, protocol::ICMPV6),
            "igmp" => Protocol::Ip(true, false, 2),
            "gre" => Protocol::Ip(true, true, protocol::GRE),
            "esp" => Protocol::Ip(true, true, protocol::ESP),
            "ah" => Protocol::Ip(true, true, 51),
            "ospf" => Protocol::Ip(true, true, 89),
            "vrrp" | "carp" => Protocol::Ip(true, false, 112),
            _ => return None,
        })
    }

    fn test(self) -> Test {
        match self {
            Protocol::Link(ethertype) => Test::EtherType(ethertype),
            Protocol::Ip(v4, v6, number) => Test::Protocol { v4, v6, number },
        }
    }
}

struct Parser<'t> {
    text: &'t str,
    names: &'t dyn Names,
    /// The next word last.
    rest: Vec<Word>,
    steps: Vec<Op>,
    /// What an address or number alone repeats.
    last: Option<Qualifiers>,
    depth: usize,
}

impl Parser<'_> {
    /// An error about these bytes.
    fn error(&self, at: std::ops::Range<usize>, what: String) -> FilterError {
        let letters =
            |range: std::ops::Range<usize>| self.text.get(range).map_or(0, |text| text.chars().count());
        FilterError { text: self.text.to_owned(), at: (letters(0..at.start), letters(at)), what }
    }

    fn wrong(&self, word: &Word, what: &str) -> FilterError {
        self.error(word.at.clone(), format!("{:?}: {what}", word.text))
    }

    fn at_end(&self, what: &str) -> FilterError {
        self.error(self.text.len()..self.text.len(), what.to_owned())
    }

    fn peek(&self) -> Option<&str> {
        self.rest.last().filter(|word| !word.quoted).map(|word| word.text.as_str())
    }

    fn take_if(&mut self, word: &str) -> bool {
        let found = self.peek() == Some(word);
        if found {
            self.rest.pop();
        }
        found
    }

    /// The next word, which has to be there.
    fn word(&mut self, wanted: &str) -> Result<Word, FilterError> {
        self.rest.pop().ok_or_else(|| self.at_end(&format!("{wanted} was expected at the end")))
    }

    fn push(&mut self, step: Op, at: std::ops::Range<usize>) -> Result<(), FilterError> {
        if self.steps.len() >= LONGEST {
            return Err(self.error(at, too_long()));
        }
        self.steps.push(step);
        Ok(())
    }

    /// Terms joined by words that bind equally.
    fn expression(&mut self) -> Result<(), FilterError> {
        self.term()?;
        loop {
            let at = self.rest.last().map_or(0..0, |word| word.at.clone());
            let step = if self.take_if("and") {
                Op::And
            } else if self.take_if("or") {
                Op::Or
            } else {
                return Ok(());
            };
            self.term()?;
            self.push(step, at)?;
        }
    }

    fn term(&mut self) -> Result<(), FilterError> {
        let mut negated = false;
        let start = self.rest.last().map_or(0..0, |word| word.at.clone());
        while self.take_if("not") || self.take_if("!") {
            negated = !negated;
        }
        if self.peek() == Some("(") {
            let open = self.word("(")?;
            self.depth += 1;
            if self.depth > DEEPEST {
                return Err(self.wrong(&open, "too many parentheses in one another"));
            }
            self.expression()?;
            self.depth -= 1;
            if !self.take_if(")") {
                return Err(self.wrong(&open, "it is never closed"));
            }
            // What stood in parentheses is not repeated outside.
            self.last = None;
        } else {
            self.primitive()?;
        }
        if negated {
            self.push(Op::Not, start)?;
        }
        Ok(())
    }

    fn primitive(&mut self) -> Result<(), FilterError> {
        let word = self.word("a question")?;
        let at = word.at.clone();
        let test = if word.quoted {
            return Err(self.wrong(&word, "no word of an expression"));
        } else if let Some(test) = self.of_our_own(&word)? {
            self.last = None;
            test
        } else if let Some(protocol) = Protocol::of(&word.text) {
            self.behind_protocol(protocol, &word)?
        } else if matches!(word.text.as_str(), "src" | "dst") || Kind::of(&word.text).is_some() {
            self.rest.push(word);
            self.qualified(None)?
        } else {
            let is_id =
                word.text.starts_with(|letter: char| letter.is_ascii_digit()) || word.text.contains(':');
            match self.last {
                Some(last) if is_id => self.test(last, &word)?,
                None if IpAddr::from_str(&word.text).is_ok() => {
                    let host = Qualifiers { protocol: None, side: None, kind: Kind::Host };
                    self.last = Some(host);
                    self.test(host, &word)?
                }
                _ => {
                    return Err(
                        self.wrong(&word, "no word of an expression; `host`, `net`, `port`, `tcp`, .. are")
                    );
                }
            }
        };
        self.push(Op::Test(test), at)
    }

    /// What pcap-filter does not have, and its lengths.
    fn of_our_own(&mut self, word: &Word) -> Result<Option<Test>, FilterError> {
        Ok(Some(match word.text.as_str() {
            "tunnel" => {
                let name = self.word("a tunnel's name")?;
                let number = self.names.tunnel(&name.text);
                Test::Tunnel(number.map_err(|why| self.error(word.at.start..name.at.end, why))?)
            }
            "on" => {
                let name = self.word("a port's name")?;
                let number = self.names.port(&name.text);
                Test::On(number.map_err(|why| self.error(word.at.start..name.at.end, why))?)
            }
            "drop" => {
                self.names.drops().map_err(|why| self.error(word.at.clone(), why))?;
                match self.peek() {
                    None | Some("and" | "or" | ")") => Test::Dropped(None),
                    Some(_) => {
                        let name = self.word("a reason")?;
                        let reason = Reason::ALL.iter().find(|reason| reason.name() == name.text);
                        let unknown =
                            || self.wrong(&name, &format!("no reason of drops; {}", like(&name.text)));
                        Test::Dropped(Some(*reason.ok_or_else(unknown)?))
                    }
                }
            }
            "less" => Test::AtMost(self.number("a number of bytes", u32::MAX)?),
            "greater" => Test::AtLeast(self.number("a number of bytes", u32::MAX)?),
            _ => return Ok(None),
        }))
    }

    /// A protocol alone, or one that other words narrow.
    fn behind_protocol(&mut self, protocol: Protocol, word: &Word) -> Result<Test, FilterError> {
        let narrowed =
            self.peek().is_some_and(|next| matches!(next, "src" | "dst") || Kind::of(next).is_some());
        if narrowed {
            return self.qualified(Some((protocol, word)));
        }
        self.last = None;
        Ok(protocol.test())
    }

    /// `[src|dst|src or dst|src and dst] [host|net|port|portrange|proto] ID`.
    fn qualified(&mut self, protocol: Option<(Protocol, &Word)>) -> Result<Test, FilterError> {
        let side = self.side();
        let word = self.word("`host`, `net` or `port`")?;
        let (kind, id) = match Kind::of(&word.text) {
            Some(kind) => (kind, self.word("an address or number")?),
            // `src 10.1.0.5`
            None => (Kind::Host, word),
        };
        if let Some((protocol, word)) = protocol {
            let fits = match (kind, protocol) {
                (Kind::Host | Kind::Net, Protocol::Link(_)) => false,
                (Kind::Proto, Protocol::Link(ethertype)) => {
                    Protocol::of("arp") != Some(Protocol::Link(ethertype))
                }
                (Kind::Port | Kind::PortRange, Protocol::Ip(v4, v6, number)) => v4 && v6 && has_ports(number),
                _ => false,
            };
            if !fits {
                let what = "it does not go together with what follows; join two questions by `and`";
                return Err(self.wrong(word, what));
            }
        }
        if kind == Kind::Proto && side.is_some() {
            return Err(self.wrong(&id, "a protocol has no source or destination"));
        }
        let qualifiers = Qualifiers { protocol: protocol.map(|(protocol, _)| protocol), side, kind };
        self.last = Some(qualifiers);
        self.test(qualifiers, &id)
    }

    fn side(&mut self) -> Option<Side> {
        let first = if self.take_if("src") {
            Side::Source
        } else if self.take_if("dst") {
            Side::Destination
        } else {
            return None;
        };
        let other = if first == Side::Source { "dst" } else { "src" };
        let [.., after, joint] = self.rest.as_slice() else { return Some(first) };
        let both = match joint.text.as_str() {
            "and" => Side::Both,
            "or" => Side::Either,
            _ => return Some(first),
        };
        if after.text != other || joint.quoted || after.quoted {
            return Some(first);
        }
        self.rest.truncate(self.rest.len() - 2);
        Some(both)
    }

    fn test(&self, Qualifiers { protocol, side, kind }: Qualifiers, id: &Word) -> Result<Test, FilterError> {
        let side = side.unwrap_or(Side::Either);
        let port_protocol = match protocol {
            Some(Protocol::Ip(_, _, number)) => Some(number),
            _ => None,
        };
        let port = |text: &str| {
            text.parse::<u16>().map_err(|_| self.wrong(id, "no port; give a number from 0 to 65535"))
        };
        Ok(match kind {
            Kind::Host => match id.text.parse::<IpAddr>() {
                Ok(address) => Test::Net { side, prefix: address.into() },
                Err(_) if id.text.contains('/') => {
                    return Err(self.wrong(id, "that is a network; write `net`"));
                }
                Err(_) => return Err(self.wrong(id, "no IP address (names are not looked up)")),
            },
            Kind::Net => match id.text.parse::<Prefix>() {
                Ok(prefix) if id.text.contains('/') => Test::Net { side, prefix },
                Err(PrefixError::HostBits { network, len, .. }) => {
                    let what = format!("it has bits set behind its length; {network}/{len} was meant?");
                    return Err(self.wrong(id, &what));
                }
                _ => return Err(self.wrong(id, "no network; write it as 10.2.0.0/16 or 2001:db8::/32")),
            },
            Kind::Port => {
                let port = port(&id.text)?;
                Test::Port { side, protocol: port_protocol, range: (port, port) }
            }
            Kind::PortRange => {
                let range = id.text.split_once('-');
                let (first, last) = range.ok_or_else(|| self.wrong(id, "no range; write it as 1000-2000"))?;
                // As pcap-filter does: either end may be the first.
                let (first, last) = (port(first)?, port(last)?);
                Test::Port { side, protocol: port_protocol, range: (first.min(last), first.max(last)) }
            }
            Kind::Proto => {
                let (v4, v6) = match protocol {
                    Some(protocol) => {
                        (protocol == Protocol::Link(0x0800), protocol == Protocol::Link(0x86dd))
                    }
                    None => (true, true),
                };
                let named = || match Protocol::of(id.text.strip_prefix('\\').unwrap_or(&id.text)) {
                    Some(Protocol::Ip(_, _, number)) => Some(number),
                    _ => None,
                };
                let number = id.text.parse::<u8>().ok().or_else(named);
                let number =
                    number.ok_or_else(|| self.wrong(id, "no protocol of IP; give a number from 0 to 255"))?;
                Test::Protocol { v4, v6, number }
            }
        })
    }

    fn number(&mut self, wanted: &str, most: u32) -> Result<u32, FilterError> {
        let word = self.word(wanted)?;
        let number = word.text.parse().ok().filter(|number| *number <= most);
        number.ok_or_else(|| self.wrong(&word, &format!("{wanted} was expected here")))
    }
}

fn has_ports(number: u8) -> bool {
    use culvert_engine::wire::protocol::{SCTP, TCP, UDP};
    matches!(number, TCP | UDP | SCTP)
}

/// Reasons that have something in common with what was typed.
fn like(typed: &str) -> String {
    let parts = || typed.split('-').filter(|part| part.len() > 1);
    let near = Reason::ALL.iter().map(|reason| reason.name());
    let near: Vec<&str> = near.filter(|name| parts().any(|part| name.contains(part))).take(4).collect();
    match near.as_slice() {
        [] => "README.md lists them".to_owned(),
        near => format!("there is {}", near.join(", ")),
    }
}

#[cfg(test)]
mod tests;
