//! SAs as lines of text, as Culvert reads them: a word, then `name=value` pairs. Numbers are decimal, SPIs and keys
//! hexadecimal in the order of the wire, addresses and ports as people write them.

use std::fmt::Write;
use std::net::SocketAddr;

use zeroize::Zeroizing;

/// The version of what is spoken over the connection.
pub const VERSION: u32 = 1;

/// What an SA is known by: its SPI (host byte order) and the address that its packets go to.
pub type Id = (u32, std::net::IpAddr);

/// An SA.
#[derive(Clone)]
pub struct Sa {
    /// Its number, in host byte order.
    pub spi: u32,
    /// Where its packets come from, with the UDP port where they go in UDP.
    pub src: SocketAddr,
    /// Where they go.
    pub dst: SocketAddr,
    /// Do its packets go in UDP?
    pub encap: bool,
    /// Do its packets come to us?
    pub inbound: bool,
    /// Did we begin the exchange that it is from?
    pub initiator: bool,
    /// The number that the configuration gives SAs that belong together.
    pub reqid: u32,
    /// 1 for transport, 2 for tunnel mode.
    pub mode: u32,
    /// The cipher, by its number in IKE.
    pub cipher: u16,
    /// The cipher key, with the salt behind it.
    pub key: Zeroizing<Vec<u8>>,
    /// The replay window, in packets.
    pub window: u32,
    /// Do its sequence numbers have 64 bits?
    pub esn: bool,
    /// Until the SA ends and until it is to be replaced, in seconds, bytes and packets; 0 for never.
    pub limits: [(u64, u64); 3],
}

impl Sa {
    /// What it is known by.
    #[must_use]
    pub fn id(&self) -> Id {
        (self.spi, self.dst.ip())
    }

    /// The line behind the word `word`. There is a key in it.
    #[must_use]
    pub fn line(&self, word: &str) -> Zeroizing<String> {
        // As long as it gets at once: a string that grows leaves copies behind.
        let mut line = Zeroizing::new(String::with_capacity(512 + 2 * self.key.len()));
        let [(seconds, rekey_seconds), (bytes, rekey_bytes), (packets, rekey_packets)] = self.limits;
        // Writing to a string does not fail.
        let _ = write!(
            line,
            "{word} spi={:08x} src={} dst={} encap={} inbound={} initiator={} reqid={} mode={} cipher={} window={} esn={} \
             life={seconds},{bytes},{packets} rekey={rekey_seconds},{rekey_bytes},{rekey_packets} key=",
            self.spi,
            self.src,
            self.dst,
            u8::from(self.encap),
            u8::from(self.inbound),
            u8::from(self.initiator),
            self.reqid,
            self.mode,
            self.cipher,
            self.window,
            u8::from(self.esn),
        );
        for byte in self.key.iter() {
            let _ = write!(line, "{byte:02x}");
        }
        line.push('\n');
        line
    }

    /// The line that says where an SA's packets come from and go to from now on; `id` is what it was known by.
    #[must_use]
    pub fn moved(&self, id: Id) -> String {
        let encap = u8::from(self.encap);
        format!("update spi={:08x} at={} src={} dst={} encap={encap}\n", id.0, id.1, self.src, self.dst)
    }
}

/// The line behind `word` about the SA that is known by `id`.
#[must_use]
pub fn about(word: &str, id: Id) -> String {
    format!("{word} spi={:08x} at={}\n", id.0, id.1)
}

/// Where packets of an SA that comes to us are from now, as Culvert tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// The SA.
    pub id: Id,
    /// The place.
    pub source: SocketAddr,
}

impl Mapping {
    /// Reads `mapping spi=.. at=.. src=..`.
    #[must_use]
    pub fn parse(line: &str) -> Option<Mapping> {
        let (mut spi, mut at, mut source) = (None, None, None);
        for pair in line.trim_end().strip_prefix("mapping ")?.split(' ') {
            match pair.split_once('=')? {
                ("spi", value) => spi = u32::from_str_radix(value, 16).ok(),
                ("at", value) => at = value.parse().ok(),
                ("src", value) => source = value.parse().ok(),
                _ => {}
            }
        }
        Some(Mapping { id: (spi?, at?), source: source? })
    }
}

/// What Culvert answers to a query: bytes, packets, and seconds since the last packet, if there was one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Use {
    /// Bytes of inner packets.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Seconds since the last one.
    pub idle: Option<u64>,
}

impl Use {
    /// Reads `ok bytes=N packets=N [idle=N]`.
    #[must_use]
    pub fn parse(line: &str) -> Option<Use> {
        let mut found = Use { bytes: 0, packets: 0, idle: None };
        for pair in line.trim_end().strip_prefix("ok ")?.split(' ') {
            let (name, value) = pair.split_once('=')?;
            let value = value.parse().ok()?;
            match name {
                "bytes" => found.bytes = value,
                "packets" => found.packets = value,
                "idle" => found.idle = Some(value),
                _ => {}
            }
        }
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sa() -> Sa {
        Sa {
            spi: 0xc0ff_ee01,
            src: "192.0.2.1:4500".parse().expect("an address"),
            dst: "[2001:db8::2]:4500".parse().expect("an address"),
            encap: true,
            inbound: false,
            initiator: true,
            reqid: 7,
            mode: 1,
            cipher: 20,
            key: vec![0, 1, 0xfe].into(),
            window: 1024,
            esn: true,
            limits: [(3600, 3000), (0, 0), (0, 0)],
        }
    }

    #[test]
    fn an_sa_is_one_line() {
        assert_eq!(
            sa().line("add").as_str(),
            "add spi=c0ffee01 src=192.0.2.1:4500 dst=[2001:db8::2]:4500 encap=1 inbound=0 initiator=1 reqid=7 mode=1 \
             cipher=20 window=1024 esn=1 life=3600,0,0 rekey=3000,0,0 key=0001fe\n"
        );
        let mut moved = sa();
        let id = moved.id();
        moved.src = "198.51.100.9:1025".parse().expect("an address");
        assert_eq!(
            moved.moved(id),
            "update spi=c0ffee01 at=2001:db8::2 src=198.51.100.9:1025 dst=[2001:db8::2]:4500 encap=1\n"
        );
        assert_eq!(about("del", id), "del spi=c0ffee01 at=2001:db8::2\n");
    }

    #[test]
    fn mappings() {
        let read = |line| {
            Mapping::parse(line).map(|Mapping { id: (spi, at), source }| (spi, at.to_string(), source.port()))
        };
        let line = "mapping spi=c0ffee01 at=192.0.2.1 src=198.51.100.9:1025 more=1\n";
        assert_eq!(read(line), Some((0xc0ff_ee01, "192.0.2.1".to_owned(), 1025)));
        assert_eq!(
            read("mapping spi=1 at=2001:db8::1 src=[2001:db8::2]:4500\n").map(|read| read.2),
            Some(4500)
        );
        for nonsense in [
            "",
            "ok",
            "no that is not known here\n",
            "mapping spi=1 at=192.0.2.1",
            "mapping spi=x at=1 src=2",
        ] {
            assert_eq!(read(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn answers_to_queries() {
        assert_eq!(Use::parse("ok bytes=10 packets=2\n"), Some(Use { bytes: 10, packets: 2, idle: None }));
        assert_eq!(
            Use::parse("ok bytes=10 packets=2 idle=0 more=1\n"),
            Some(Use { bytes: 10, packets: 2, idle: Some(0) })
        );
        for nonsense in ["", "ok", "no such SA", "ok bytes", "ok bytes=-1", "ok bytes=ten"] {
            assert_eq!(Use::parse(nonsense), None, "{nonsense}");
        }
    }
}
