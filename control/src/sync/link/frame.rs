//! What a connection carries inside TLS: messages, each a byte that says its kind, four with the length of what follows (big
//! endian), and that.
//!
//! | kind | what follows |
//! |---|---|
//! | 0, hello | `culvert\n`; the lowest and the highest version spoken in frames (two bytes each, big endian); which router of the pair (1 or 2); for how many milliseconds the other one may be silent (four bytes); the program, its length first (one byte); more, which is skipped |
//! | 1, heartbeat | nothing |
//! | 2, frame | the frame |
//! | 3, bye | why the connection ends, in UTF-8 |
//!
//! Each side says hello first. After that, kinds and lengths that are not in this table end the connection.

use std::io::{self, Read};
use std::time::Duration;

use zeroize::Zeroizing;

use super::{Frame, LONGEST};
use crate::config::Router;
use crate::text::{cut, harmless};

const MAGIC: &[u8] = b"culvert\n";
const HELLO: u8 = 0;
const HEARTBEAT: u8 = 1;
const FRAME: u8 = 2;
const BYE: u8 = 3;
/// Of the kind and the length.
const HEADER: usize = 5;
/// The longest hello and bye, in bytes.
const LONGEST_WORDS: usize = 1024;
/// The longest name of a program: its length is one byte.
const LONGEST_PROGRAM: usize = u8::MAX as usize;

/// Who somebody is and what it speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The lowest and the highest version.
    pub versions: (u16, u16),
    /// Which of the pair.
    pub router: Router,
    /// For how long the other side may be silent, in whole milliseconds.
    pub dead: Duration,
    /// Its program.
    pub program: String,
}

/// What one side says to the other.
#[derive(Debug, PartialEq, Eq)]
pub enum Message {
    /// The first one.
    Hello(Hello),
    /// It is there.
    Heartbeat,
    /// What the link is for.
    Frame(Frame),
    /// The last one, and why.
    Bye(String),
}

impl Message {
    /// As it is sent.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let hello;
        let (kind, body): (u8, &[u8]) = match self {
            Message::Hello(said) => {
                hello = said.to_bytes();
                (HELLO, &hello)
            }
            Message::Heartbeat => (HEARTBEAT, &[]),
            Message::Frame(frame) => (FRAME, frame),
            Message::Bye(why) => (BYE, cut(why, LONGEST_WORDS).as_bytes()),
        };
        let mut bytes = Zeroizing::new(Vec::with_capacity(HEADER + body.len()));
        bytes.push(kind);
        bytes.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend_from_slice(body);
        bytes
    }
}

impl Hello {
    fn to_bytes(&self) -> Vec<u8> {
        let router = match self.router {
            Router::First => 1,
            Router::Second => 2,
        };
        let dead = u32::try_from(self.dead.as_millis()).unwrap_or(u32::MAX);
        let program = cut(&self.program, LONGEST_PROGRAM).as_bytes();
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&self.versions.0.to_be_bytes());
        bytes.extend_from_slice(&self.versions.1.to_be_bytes());
        bytes.push(router);
        bytes.extend_from_slice(&dead.to_be_bytes());
        bytes.push(program.len() as u8); // no more than that
        bytes.extend_from_slice(program);
        bytes
    }

    fn read(bytes: &[u8]) -> Option<Hello> {
        let rest = bytes.strip_prefix(MAGIC)?;
        let (lowest, rest) = rest.split_first_chunk()?;
        let (highest, rest) = rest.split_first_chunk()?;
        let (router, rest) = rest.split_first()?;
        let (dead, rest) = rest.split_first_chunk()?;
        let (length, rest) = rest.split_first()?;
        let program = rest.get(..usize::from(*length))?;
        let versions = (u16::from_be_bytes(*lowest), u16::from_be_bytes(*highest));
        let router = match router {
            1 => Router::First,
            2 => Router::Second,
            _ => return None,
        };
        let program = words(program, LONGEST_PROGRAM);
        let dead = Duration::from_millis(u32::from_be_bytes(*dead).into());
        (versions.0 <= versions.1).then_some(Hello { versions, router, dead, program })
    }
}

/// Puts messages together out of whatever pieces they come in.
#[derive(Default)]
pub struct Reader {
    header: [u8; HEADER],
    /// Bytes of the header, then of the body, that are there.
    have: usize,
    /// Made when the header is there, as long as the body is to be.
    body: Option<Frame>,
    greeted: bool,
}

impl Reader {
    /// Reads until there is a message; `None`: `from` has no more now.
    ///
    /// # Errors
    /// `from` has ended ([`io::ErrorKind::UnexpectedEof`]) or fails, or what it gives is no message
    /// ([`io::ErrorKind::InvalidData`]). Nothing can be read after that.
    pub fn read(&mut self, from: &mut impl Read) -> io::Result<Option<Message>> {
        loop {
            if self.have == HEADER && self.body.is_none() {
                self.body = Some(Zeroizing::new(vec![0; self.length()?]));
                self.have = 0;
            }
            let into = match &mut self.body {
                None => self.header.get_mut(self.have..).unwrap_or_default(),
                Some(body) => match body.get_mut(self.have..).unwrap_or_default() {
                    [] => return self.message().map(Some),
                    into => into,
                },
            };
            match from.read(into) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.have += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// How long the body is, if there can be one of that kind and length now.
    fn length(&self) -> io::Result<usize> {
        let [kind, length @ ..] = self.header;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        let most = match kind {
            HELLO if !self.greeted => LONGEST_WORDS,
            BYE => LONGEST_WORDS,
            FRAME if self.greeted => LONGEST,
            HEARTBEAT if self.greeted => 0,
            _ => return Err(invalid(format!("a message of kind {kind} is not for now"))),
        };
        if length > most {
            return Err(invalid(format!("a message of kind {kind} has {length} bytes")));
        }
        Ok(length)
    }

    fn message(&mut self) -> io::Result<Message> {
        let body = self.body.take().unwrap_or_default();
        self.have = 0;
        match self.header[0] {
            HELLO => {
                self.greeted = true;
                Hello::read(&body).map(Message::Hello).ok_or_else(|| invalid("its hello is not one"))
            }
            HEARTBEAT => Ok(Message::Heartbeat),
            FRAME => Ok(Message::Frame(body)),
            _ => Ok(Message::Bye(words(&body, LONGEST_WORDS))),
        }
    }
}

/// What the other side says. Bytes that are no UTF-8 become longer: it is cut again.
fn words(bytes: &[u8], most: usize) -> String {
    cut(&harmless(&String::from_utf8_lossy(bytes)), most).to_owned()
}

fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Gives a stream in pieces, and has nothing between them.
    struct Pieces<'a> {
        rest: &'a [u8],
        lengths: Vec<usize>,
        pause: bool,
    }

    impl Read for Pieces<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.pause = !self.pause;
            if self.pause || self.rest.is_empty() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let length = self.lengths.pop().unwrap_or(1).min(into.len()).min(self.rest.len());
            let (piece, rest) = self.rest.split_at(length);
            into[..length].copy_from_slice(piece);
            self.rest = rest;
            Ok(length)
        }
    }

    fn hello() -> Hello {
        Hello {
            versions: (1, 7),
            router: Router::Second,
            dead: Duration::from_millis(3000),
            program: "culvert 0.1.0".into(),
        }
    }

    fn stream(frames: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = Message::Hello(hello()).to_bytes().to_vec();
        for frame in frames {
            bytes.extend_from_slice(&Message::Heartbeat.to_bytes());
            bytes.extend_from_slice(&Message::Frame(Zeroizing::new(frame.clone())).to_bytes());
        }
        bytes.extend_from_slice(&Message::Bye("ends".into()).to_bytes());
        bytes
    }

    fn understood(stream: &[u8]) -> Message {
        let (mut reader, mut from, mut last) = (Reader::default(), stream, None);
        while let Ok(Some(message)) = reader.read(&mut from) {
            last = Some(message);
        }
        last.unwrap()
    }

    /// What is no UTF-8, or too long, is shorter when it has been understood; said again it is understood the same.
    #[test]
    fn words_come_back_as_they_were_understood() {
        let no_utf8 = [&[BYE, 0, 0, 4, 0][..], &[0x98; LONGEST_WORDS]].concat();
        let long = Message::Hello(Hello { program: "é".repeat(200), ..hello() }).to_bytes();
        for (stream, wanted) in [
            (&no_utf8, Message::Bye("\u{fffd}".repeat(LONGEST_WORDS / 3))),
            (&*long, Message::Hello(Hello { program: "é".repeat(LONGEST_PROGRAM / 2), ..hello() })),
        ] {
            assert_eq!(understood(stream), wanted);
            assert_eq!(understood(&wanted.to_bytes()), wanted);
        }
    }

    proptest! {
        /// However a stream is cut, it says the same.
        #[test]
        fn pieces(
            frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..99), 0..5),
            lengths in proptest::collection::vec(1_usize..40, 0..99),
        ) {
            let bytes = stream(&frames);
            let mut pieces = Pieces { rest: &bytes, lengths, pause: false };
            let (mut reader, mut said) = (Reader::default(), Vec::new());
            while !pieces.rest.is_empty() {
                said.extend(reader.read(&mut pieces).unwrap());
            }
            let mut wanted = vec![Message::Hello(hello())];
            for frame in frames {
                wanted.extend([Message::Heartbeat, Message::Frame(Zeroizing::new(frame))]);
            }
            wanted.push(Message::Bye("ends".into()));
            prop_assert_eq!(said, wanted);
        }

        /// Whatever comes, it is read or refused.
        #[test]
        fn anything(mut bytes: Vec<u8>, at in 0_usize..40, greeted: bool) {
            let mut whole = if greeted { stream(&[vec![1, 2]]) } else { Vec::new() };
            let at = at.min(whole.len());
            whole.splice(at..at, bytes.drain(..));
            let (mut reader, mut from) = (Reader::default(), whole.as_slice());
            while let Ok(Some(_)) = reader.read(&mut from) {}
        }
    }

    #[test]
    fn refused() {
        let refuse = |bytes: &[u8]| {
            let error = Reader::default().read(&mut &*bytes).unwrap_err();
            (error.kind(), error.to_string())
        };
        let header = |kind: u8, length: u32| [[kind].as_slice(), &length.to_be_bytes()].concat();
        for (bytes, why) in [
            (header(FRAME, 1), "kind 2"),
            (header(HEARTBEAT, 0), "kind 1"),
            (header(9, 0), "kind 9"),
            (header(HELLO, 1025), "1025"),
            (header(BYE, u32::MAX), "4294967295"),
            (b"GET / HTTP/1.1".to_vec(), "kind 71"),
            ([header(HELLO, 3), b"abc".to_vec()].concat(), "hello"),
        ] {
            let (kind, said) = refuse(&bytes);
            assert!(kind == io::ErrorKind::InvalidData && said.contains(why), "{said}");
        }
        assert_eq!(refuse(&header(HELLO, 9)).0, io::ErrorKind::UnexpectedEof);
        // Two hellos, a heartbeat with something in it, a frame that is too long.
        let greeting = Message::Hello(hello()).to_bytes();
        let long = u32::try_from(LONGEST).unwrap() + 1;
        for second in [header(HELLO, 0), header(HEARTBEAT, 1), header(FRAME, long)] {
            let bytes = [greeting.as_slice(), &second].concat();
            let (mut reader, mut from) = (Reader::default(), bytes.as_slice());
            assert_eq!(reader.read(&mut from).unwrap(), Some(Message::Hello(hello())));
            assert_eq!(reader.read(&mut from).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }

    /// A later program may say more in its hello.
    #[test]
    fn longer_hello() {
        let mut bytes = Message::Hello(hello()).to_bytes();
        bytes.extend_from_slice(b"more");
        let length = u32::try_from(bytes.len() - HEADER).unwrap();
        bytes[1..HEADER].copy_from_slice(&length.to_be_bytes());
        assert_eq!(Reader::default().read(&mut bytes.as_slice()).unwrap(), Some(Message::Hello(hello())));
        let mut wrong = hello();
        wrong.versions = (3, 2);
        assert!(Reader::default().read(&mut Message::Hello(wrong).to_bytes().as_slice()).is_err());
    }
}
