//! Bytes of any content inside TLS, in pieces of any length, from whoever could prove to be the partner: messages or an error, the
//! same however the bytes are cut, and nothing is kept beyond the longest message.
#![no_main]

use std::io::{self, Read};

use culvert::sync::link::LONGEST;
use culvert::sync::link::frame::{Message, Reader};
use libfuzzer_sys::fuzz_target;

/// Gives `length` bytes at a time, and has nothing between.
struct Pieces<'a> {
    rest: &'a [u8],
    length: usize,
    pause: bool,
}

impl Read for Pieces<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.pause = !self.pause;
        if self.pause {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let most = self.length.min(into.len());
        self.rest.read(into.get_mut(..most).unwrap_or_default())
    }
}

/// All messages, and what the end was.
fn all(mut from: impl Read) -> (Vec<Message>, io::ErrorKind) {
    let (mut reader, mut messages) = (Reader::default(), Vec::new());
    loop {
        match reader.read(&mut from) {
            Ok(message) => messages.extend(message),
            Err(error) => return (messages, error.kind()),
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((length, rest)) = bytes.split_first() else { return };
    let whole = all(rest);
    let pieces = Pieces { rest, length: usize::from(*length).max(1), pause: false };
    assert_eq!(all(pieces), whole);
    for message in whole.0 {
        if let Message::Frame(frame) = &message {
            assert!(frame.len() <= LONGEST);
        }
        // What was read is the same when it is written and read again, after a hello where there has to be one.
        let mut stream = Vec::new();
        if !matches!(message, Message::Hello(_)) {
            stream.extend_from_slice(HELLO);
        }
        stream.extend_from_slice(&message.to_bytes());
        assert_eq!(all(stream.as_slice()).0.pop(), Some(message));
    }
});

const HELLO: &[u8] = b"\0\0\0\0\x12culvert\n\0\x01\0\x01\x01\0\0\x0b\xb8\0";
