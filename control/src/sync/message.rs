//! What is said on the link, as bytes: a kind, then its fields in their order. Numbers are in network byte order, texts and lists
//! have their length before them; times are milliseconds. What follows the last field is another version's, and refused.

use std::net::IpAddr;
use std::time::Duration;

use zeroize::Zeroizing;

use super::link::Frame;
use crate::carp::Role;
use crate::config::{Direction, Mode, Secret, Suite, UdpEncap};
use crate::keys::associations::shared::{State, Told};
use crate::keys::sa::{Ends, Id, Limits, Origin, Sa};
use crate::text::{cut, harmless};

/// What one router tells the other. Ids are those of SAs.
#[derive(Debug, Clone)]
pub enum Message {
    /// What it is in each group, by the group's name.
    Roles(Vec<(String, Role)>),
    /// It begins to tell of all SAs that it has.
    Begin,
    /// It has told of all.
    Complete,
    /// It has this SA, in the tunnel of that name.
    Sa(String, Box<Told>),
    /// It has that SA no more.
    Removed(Id),
    /// The packets of the SA come from or go to other places.
    Moved(Id, Ends),
    /// The highest number received by the SA.
    Edge(Id, u64),
    /// It asks for so many numbers to send with.
    Ask(Id, u64),
    /// It gives the numbers from the one to the other.
    Give(Id, u64, u64),
    /// What the path of the tunnel of that name takes, in bytes.
    PathMtu(String, u16),
    /// What keeps it from being ready to be master, in words; nothing: it is. From version [`READINESS`] on.
    Missing(Vec<String>),
    /// The time between its advertisements for each group, in 1/256 s, as far as it knows. From version [`INTERVALS`] on.
    Intervals(Vec<(String, u16)>),
    /// Stations that it has found on its links, each said once. From version [`STATIONS`] on.
    Stations(Vec<IpAddr>),
}

/// It is no message of this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// The first version in which [`Message::Missing`] is said: an older partner would not understand it.
pub const READINESS: u16 = 2;

/// The first version in which [`Message::Intervals`] is said.
pub const INTERVALS: u16 = 3;

/// The first version in which [`Message::Stations`] is said.
pub const STATIONS: u16 = 4;

/// The longest text and the longest list.
pub const LONGEST: usize = 1024;
/// How many things that are missing are told of.
const MISSING: usize = 16;

impl Message {
    /// As it is sent.
    #[must_use]
    pub fn encode(&self) -> Frame {
        // So long that keys do not move while it grows.
        let mut out = Writer(Zeroizing::new(Vec::with_capacity(4 * LONGEST)));
        match self {
            Message::Roles(roles) => {
                out.byte(1);
                out.list(roles, LONGEST, |out, (group, role)| {
                    out.bytes(group.as_bytes());
                    out.byte(match role {
                        Role::Init => 0,
                        Role::Backup => 1,
                        Role::Master => 2,
                    });
                });
            }
            Message::Begin => out.byte(2),
            Message::Complete => out.byte(3),
            Message::Sa(tunnel, told) => {
                out.byte(4);
                out.bytes(tunnel.as_bytes());
                out.told(told);
            }
            Message::Removed(id) => {
                out.byte(5);
                out.id(*id);
            }
            Message::Moved(id, ends) => {
                out.byte(6);
                out.id(*id);
                out.ends(*ends);
            }
            Message::Edge(id, edge) => {
                out.byte(7);
                out.id(*id);
                out.long(*edge);
            }
            Message::Ask(id, count) => {
                out.byte(8);
                out.id(*id);
                out.long(*count);
            }
            Message::Give(id, first, last) => {
                out.byte(9);
                out.id(*id);
                out.long(*first);
                out.long(*last);
            }
            Message::PathMtu(tunnel, mtu) => {
                out.byte(10);
                out.bytes(tunnel.as_bytes());
                out.short(usize::from(*mtu));
            }
            Message::Missing(missing) => {
                out.byte(11);
                out.list(missing, MISSING, |out, what| out.words(what));
            }
            Message::Intervals(intervals) => {
                out.byte(12);
                out.list(intervals, LONGEST, |out, (group, interval)| {
                    out.bytes(group.as_bytes());
                    out.short(usize::from(*interval));
                });
            }
            Message::Stations(stations) => {
                out.byte(13);
                out.list(stations, LONGEST, |out, station| out.address(*station));
            }
        }
        out.0
    }

    /// As it was received.
    ///
    /// # Errors
    /// [`Malformed`]
    pub fn decode(frame: &[u8]) -> Result<Message, Malformed> {
        let mut from = Reader(frame);
        let message = match from.byte()? {
            1 => Message::Roles(from.list(LONGEST, |from| {
                let group = from.text()?;
                let role = match from.byte()? {
                    0 => Role::Init,
                    1 => Role::Backup,
                    2 => Role::Master,
                    _ => return Err(Malformed),
                };
                Ok((group, role))
            })?),
            2 => Message::Begin,
            3 => Message::Complete,
            4 => Message::Sa(from.text()?, Box::new(from.told()?)),
            5 => Message::Removed(from.id()?),
            6 => Message::Moved(from.id()?, from.ends()?),
            7 => Message::Edge(from.id()?, from.long()?),
            8 => Message::Ask(from.id()?, from.long()?),
            9 => Message::Give(from.id()?, from.long()?, from.long()?),
            10 => Message::PathMtu(from.text()?, from.short()?),
            11 => Message::Missing(from.list(MISSING, Reader::words)?),
            12 => Message::Intervals(from.list(LONGEST, |from| Ok((from.text()?, from.short()?)))?),
            13 => Message::Stations(from.list(LONGEST, Reader::address)?),
            _ => return Err(Malformed),
        };
        if from.0.is_empty() { Ok(message) } else { Err(Malformed) }
    }
}

struct Writer(Frame);

impl Writer {
    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    fn short(&mut self, number: usize) {
        self.0.extend_from_slice(&u16::try_from(number).unwrap_or(u16::MAX).to_be_bytes());
    }

    fn long(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_be_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        let bytes = bytes.get(..bytes.len().min(LONGEST)).unwrap_or_default();
        self.short(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    /// Whole characters, as many as there is room for.
    fn words(&mut self, words: &str) {
        self.bytes(cut(words, LONGEST).as_bytes());
    }

    /// How many, and each; no more of them than `most`.
    fn list<T>(&mut self, items: &[T], most: usize, mut each: impl FnMut(&mut Writer, &T)) {
        let items = items.get(..items.len().min(most)).unwrap_or_default();
        self.short(items.len());
        items.iter().for_each(|item| each(self, item));
    }

    /// Present, and what; or absent.
    fn perhaps(&mut self, number: Option<u64>) {
        self.byte(u8::from(number.is_some()));
        number.into_iter().for_each(|number| self.long(number));
    }

    fn address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => self.bytes(&v4.octets()),
            IpAddr::V6(v6) => self.bytes(&v6.octets()),
        }
    }

    fn id(&mut self, id: Id) {
        self.0.extend_from_slice(&id.spi.to_be_bytes());
        self.address(id.at);
    }

    fn ends(&mut self, ends: Ends) {
        self.address(ends.source);
        self.address(ends.destination);
        self.byte(u8::from(ends.udp.is_some()));
        if let Some(udp) = ends.udp {
            self.short(udp.source.into());
            self.short(udp.destination.into());
        }
    }

    fn time(&mut self, time: Duration) {
        self.long(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    }

    fn told(&mut self, told: &Told) {
        let Told { sa, age, state } = told;
        self.id(sa.id);
        self.ends(sa.ends);
        self.byte(match sa.mode {
            Mode::Transport => 0,
            Mode::Tunnel => 1,
        });
        self.byte(match sa.suite {
            Suite::Aes128Gcm16 => 0,
            Suite::Aes256Gcm16 => 1,
            Suite::ChaCha20Poly1305 => 2,
        });
        self.byte(u8::from(sa.esn));
        self.bytes(sa.key.expose());
        self.perhaps(sa.limits.life.map(|life| u64::try_from(life.as_millis()).unwrap_or(u64::MAX)));
        // When to replace it is for the strongSwan that has negotiated it.
        for limit in [sa.limits.rekey_bytes, sa.limits.rekey_packets, sa.limits.bytes, sa.limits.packets] {
            self.perhaps(limit);
        }
        self.time(*age);
        match state {
            State::In(edge) => {
                self.byte(0);
                self.long(*edge);
            }
            State::Out(from) => {
                self.byte(1);
                self.perhaps(*from);
            }
        }
    }
}

struct Reader<'f>(&'f [u8]);

impl<'f> Reader<'f> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (array, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*array)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// What [`Writer::list`] writes.
    fn list<T>(
        &mut self,
        most: usize,
        mut each: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let count = usize::from(self.short()?);
        if count > most {
            return Err(Malformed);
        }
        (0..count).map(|_| each(self)).collect()
    }

    fn flag(&mut self) -> Result<bool, Malformed> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }

    fn short(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    fn long(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    fn bytes(&mut self) -> Result<&'f [u8], Malformed> {
        let length = usize::from(self.short()?);
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        if length <= LONGEST { Ok(bytes) } else { Err(Malformed) }
    }

    fn text(&mut self) -> Result<String, Malformed> {
        let bytes = self.bytes()?;
        str::from_utf8(bytes).map(str::to_owned).map_err(|_| Malformed)
    }

    /// A text that goes to logs and terminals.
    fn words(&mut self) -> Result<String, Malformed> {
        self.text().map(|text| harmless(&text))
    }

    fn perhaps(&mut self) -> Result<Option<u64>, Malformed> {
        if self.flag()? { self.long().map(Some) } else { Ok(None) }
    }

    fn address(&mut self) -> Result<IpAddr, Malformed> {
        let bytes = self.bytes()?;
        let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
        v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).map_err(|_| Malformed)
    }

    fn id(&mut self) -> Result<Id, Malformed> {
        Ok(Id { spi: u32::from_be_bytes(self.array()?), at: self.address()? })
    }

    fn ends(&mut self) -> Result<Ends, Malformed> {
        let (source, destination) = (self.address()?, self.address()?);
        let udp = match self.flag()? {
            true => Some(UdpEncap { source: self.short()?, destination: self.short()? }),
            false => None,
        };
        Ok(Ends { source, destination, udp })
    }

    fn told(&mut self) -> Result<Told, Malformed> {
        let (id, ends) = (self.id()?, self.ends()?);
        let mode = match self.byte()? {
            0 => Mode::Transport,
            1 => Mode::Tunnel,
            _ => return Err(Malformed),
        };
        let suite = match self.byte()? {
            0 => Suite::Aes128Gcm16,
            1 => Suite::Aes256Gcm16,
            2 => Suite::ChaCha20Poly1305,
            _ => return Err(Malformed),
        };
        let esn = self.flag()?;
        let key = Secret::new(Zeroizing::new(self.bytes()?.to_vec()));
        let limits = Limits {
            life: self.perhaps()?.map(|life| Limits::lasting(life.div_ceil(1000))),
            rekey: None,
            rekey_bytes: self.perhaps()?,
            rekey_packets: self.perhaps()?,
            bytes: self.perhaps()?,
            packets: self.perhaps()?,
        };
        let age = Duration::from_millis(self.long()?);
        let (direction, state) = match self.flag()? {
            false => (Direction::In, State::In(self.long()?)),
            true => (Direction::Out, State::Out(self.perhaps()?)),
        };
        let sa = Sa {
            id,
            origin: Origin::Partner,
            direction: Some(direction),
            ends,
            // The receiver's own.
            reqid: 0,
            mode,
            suite,
            key,
            window: 0,
            esn,
            // The far end has its half: it has been in use.
            ready: true,
            limits,
        };
        Ok(Told { sa, age, state })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn told(state: State, udp: bool) -> Told {
        let (direction, address) = match state {
            State::In(_) => (Direction::In, "192.0.2.1"),
            State::Out(_) => (Direction::Out, "2001:db8::1"),
        };
        let address: IpAddr = address.parse().expect("an address");
        let udp = udp.then_some(UdpEncap { source: 4500, destination: 1025 });
        let life = Some(Duration::from_secs(3600));
        Told {
            sa: Sa {
                id: Id { spi: 0xc0de_0001, at: address },
                origin: Origin::Partner,
                direction: Some(direction),
                ends: Ends { source: address, destination: address, udp },
                reqid: 0,
                mode: Mode::Tunnel,
                suite: Suite::Aes256Gcm16,
                key: Secret::new(Zeroizing::new((0..36).collect())),
                window: 0,
                esn: true,
                ready: true,
                limits: Limits { life, rekey_packets: Some(7), bytes: Some(8), ..Limits::default() },
            },
            age: Duration::from_millis(1500),
            state,
        }
    }

    fn all() -> Vec<Message> {
        let id = told(State::In(1), false).sa.id;
        let ends = told(State::In(1), true).sa.ends;
        vec![
            Message::Roles(vec![("1@wan".to_owned(), Role::Master), ("2@lan".to_owned(), Role::Backup)]),
            Message::Begin,
            Message::Complete,
            Message::Sa("oslo".to_owned(), Box::new(told(State::In(77), false))),
            Message::Sa("oslo".to_owned(), Box::new(told(State::Out(Some(1 << 40)), true))),
            Message::Sa("bergen".to_owned(), Box::new(told(State::Out(None), false))),
            Message::Removed(id),
            Message::Moved(id, ends),
            Message::Edge(id, u64::MAX),
            Message::Ask(id, 1),
            Message::Give(id, 1, 2),
            Message::PathMtu("oslo".to_owned(), 1400),
            Message::Missing(Vec::new()),
            Message::Missing(vec!["port \"wan\" is down".to_owned(), "é".to_owned()]),
            Message::Intervals(vec![("2@vmx0".to_owned(), 356), ("3@vmx0".to_owned(), 256)]),
            Message::Stations(vec![ends.source, [10, 1, 0, 4].into()]),
        ]
    }

    /// What is sent is what arrives; cut off anywhere, or with more behind it, it is refused.
    #[test]
    fn what_is_said_is_heard() {
        for message in all() {
            let frame = message.encode();
            let heard = Message::decode(&frame).expect("a message");
            assert_eq!(format!("{heard:?}"), format!("{message:?}"));
            if let (Message::Sa(_, said), Message::Sa(_, heard)) = (&message, &heard) {
                assert_eq!(said.sa.key.expose(), heard.sa.key.expose());
            }
            for length in 0..frame.len() {
                assert!(Message::decode(&frame[..length]).is_err(), "{message:?}, {length} bytes of it");
            }
            assert!(Message::decode(&[&frame[..], &[0]].concat()).is_err());
        }
    }

    /// More than there is room for is cut between characters, and nothing of it moves a terminal's cursor.
    #[test]
    fn words_are_bounded_and_harmless() {
        let long = Message::Missing(vec!["é".repeat(LONGEST); MISSING + 1]).encode();
        let Ok(Message::Missing(heard)) = Message::decode(&long) else { panic!("not heard") };
        assert_eq!(heard, vec!["é".repeat(LONGEST / 2); MISSING]);
        assert!(long.len() < super::super::link::LONGEST);
        let moved = Message::Missing(vec!["\x1b[2Jgone\n".to_owned()]).encode();
        let Ok(Message::Missing(heard)) = Message::decode(&moved) else { panic!("not heard") };
        assert_eq!(heard, ["[2Jgone"]);
        assert!(Message::decode(&[11, 0, MISSING as u8 + 1]).is_err());
    }

    proptest! {
        /// The partner is authentic, and may be of another age or ill.
        #[test]
        fn any_bytes_are_taken(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Message::decode(&bytes);
        }
    }
}
