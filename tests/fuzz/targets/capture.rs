//! Capture files of any content: what is read stays within its bounds, an error is final, and packets
//! written again in either format are read back equal.
#![no_main]

use culvert_engine::capture::{MAX_RECORD, Reader, Writer};
use libfuzzer_sys::fuzz_target;

/// Time and bytes: what both formats carry over. A record's original length is not written.
type Packet = (u64, Vec<u8>);

fuzz_target!(|bytes: &[u8]| {
    let packets = read(bytes);
    let mut file = Vec::new();
    let mut writer = Writer::pcapng(&mut file, "fuzz").unwrap();
    for (time_ns, data) in &packets {
        writer.write(*time_ns, data).unwrap();
    }
    writer.flush().unwrap();
    drop(writer);
    assert_eq!(read(&file), packets);

    let mut file = Vec::new();
    let mut writer = Writer::pcap(&mut file).unwrap();
    let mut written = packets;
    written.retain(|(time_ns, data)| {
        let fits = time_ns / 1_000_000_000 <= u64::from(u32::MAX);
        assert_eq!(writer.write(*time_ns, data).is_ok(), fits);
        fits
    });
    writer.flush().unwrap();
    drop(writer);
    assert_eq!(read(&file), written);
});

/// All packets before the end or the first error.
fn read(bytes: &[u8]) -> Vec<Packet> {
    let mut packets = Vec::new();
    let Ok(mut reader) = Reader::open(bytes) else { return packets };
    loop {
        match reader.next() {
            Ok(Some(record)) => {
                assert!(record.data.len() <= MAX_RECORD && record.data.len() < bytes.len());
                packets.push((record.time_ns, record.data.to_vec()));
            }
            Ok(None) => {
                assert!(matches!(reader.next(), Ok(None)));
                return packets;
            }
            Err(error) => {
                let again = reader.next().map(|_| ()).unwrap_err();
                assert_eq!(again.to_string(), error.to_string());
                return packets;
            }
        }
    }
}
