//! Messages of any content from a FreeBSD kernel, one after the other: each in the input is its length (two bytes, the lower first) and
//! its bytes; a length of 65,535 stands for messages that were lost. Whatever comes of them holds together: no SA goes that had not
//! come, none has a key that its cipher cannot take.
#![no_main]

use std::collections::HashSet;
use std::io;
use std::time::{Duration, Instant};

use culvert::config::Suite;
use culvert::keys::pfkey::{KeySocket, PfKeySource};
use culvert::keys::sa::Change;
use libfuzzer_sys::fuzz_target;

/// Where a message has its process, and what stands for ours.
const PID: std::ops::Range<usize> = 12..16;
const OURS: [u8; 4] = [0xff; 4];

/// What is still to be received.
struct Input<'a>(&'a [u8]);

impl KeySocket for Input<'_> {
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        assert_eq!(message.len() % 8, 0);
        Ok(())
    }

    fn receive(&mut self, buffer: &mut [u8], _: Duration) -> io::Result<usize> {
        let (length, others) = self.0.split_first_chunk().ok_or(io::ErrorKind::WouldBlock)?;
        let length = u16::from_le_bytes(*length);
        if length == u16::MAX {
            self.0 = others;
            return Err(io::Error::other("lost"));
        }
        let (message, others) = others.split_at(usize::from(length).min(others.len()).min(buffer.len()));
        self.0 = others;
        buffer[..message.len()].copy_from_slice(message);
        if message.get(PID) == Some(&OURS) {
            buffer[PID].copy_from_slice(&std::process::id().to_ne_bytes());
        }
        Ok(message.len())
    }

    fn make_room(&mut self) {}
}

fuzz_target!(|bytes: &[u8]| {
    let mut now = Instant::now();
    let mut source = PfKeySource::new(Input(bytes), now).unwrap();
    let mut known = HashSet::new();
    // Each message takes two bytes of the input at least.
    for _ in 0..=bytes.len() / 2 {
        for change in source.step(|| now) {
            match change {
                Change::Added(sa) | Change::Found(sa) => {
                    assert_eq!(sa.key.expose().len(), sa.suite.key_len() + Suite::SALT_LEN);
                    known.insert(sa.id);
                }
                Change::Removed(id) => assert!(known.remove(&id)),
                Change::Moved(id, ends) => assert!(known.contains(&id) && id.at == ends.destination),
                Change::Flushed(_) => known.clear(),
                Change::Unusable { why, .. } => assert!(!why.is_empty()),
                Change::Begins(_) | Change::Synchronised(_) | Change::Cut(_) => {}
            }
        }
        now += Duration::from_millis(300);
    }
});
