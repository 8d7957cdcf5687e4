//! Datagrams of any content from Linux's XFRM, one after the other: each in the input is its length (two bytes, the lower first) and its
//! bytes. Whatever comes of them holds together: no SA goes that had not come, none has a key that its cipher cannot take.
#![no_main]

use std::collections::HashSet;

use culvert::config::Suite;
use culvert::keys::sa::Change;
use culvert::keys::xfrm::Follower;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (mut follower, mut known, mut rest) = (Follower::default(), HashSet::new(), bytes);
    while let Some((length, others)) = rest.split_first_chunk() {
        let (datagram, others) = others.split_at(usize::from(u16::from_le_bytes(*length)).min(others.len()));
        rest = others;
        for change in follower.take(datagram) {
            match change {
                Change::Added(sa) | Change::Found(sa) => {
                    assert_eq!(sa.key.expose().len(), sa.suite.key_len() + Suite::SALT_LEN);
                    assert!(sa.key.expose().iter().any(|byte| *byte != 0));
                    known.insert(sa.id);
                }
                Change::Removed(id) => assert!(known.remove(&id)),
                Change::Moved(id, ends) => assert!(known.contains(&id) && id.at == ends.destination),
                Change::Flushed(_) => known.clear(),
                Change::Unusable { why, .. } => assert!(!why.is_empty()),
                Change::Begins(_) | Change::Synchronised(_) | Change::Cut(_) => {
                    panic!("only a list says that")
                }
            }
        }
    }
});
