//! SAs from the plugin in charon (`ffi/charon`), for kernels without ESP.
//!
//! The plugin connects to a socket beside the daemon's own and speaks lines: `hello 1`, an `sa ..` for each SA that charon
//! has, `synced`; then `add ..`, `update ..`, `del ..`, `flush` and `query ..` as they happen, each answered by `ok ..` or
//! `no WHY`. `ffi/charon/src/record.rs` has the form of the lines. Only root, who can read every key anyway, may connect.
//!
//! On a second connection it says `listen`, and is told by `mapping ..` where packets of an SA come from now ([`Told`]).

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{MsgFlags, send};
use zeroize::Zeroizing;

use super::sa::{Change, Ends, Id, Limits, Origin, Sa};
use super::source::{Answer, Ear, Saying};
use crate::config::{Direction, Mode, Secret, Suite};
use crate::socket::{self, Listener};

/// The version of the lines.
const VERSION: &str = "1";
/// The longest line, in bytes.
const LONGEST: u64 = 4096;

/// Those who listen to what they are told of SAs: the plugin, where it is one that does.
#[derive(Debug, Clone, Default)]
pub struct Told(Arc<Mutex<Vec<UnixStream>>>);

impl Told {
    fn listeners(&self) -> std::sync::MutexGuard<'_, Vec<UnixStream>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The far end's packets by that SA come from `source` now. False: nobody listens. Waits for nobody: who does not take it in time is
    /// left alone.
    #[must_use]
    pub fn tell(&self, sa: Id, source: SocketAddr) -> bool {
        let line = format!("mapping spi={:08x} at={} src={source}\n", sa.spi, sa.at);
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let hears = |stream: &UnixStream| {
            let told = send(stream.as_raw_fd(), line.as_bytes(), flags).is_ok_and(|sent| sent == line.len());
            if !told {
                // It is taken off the list when its end has come.
                let _ = stream.shutdown(Shutdown::Both);
            }
            told
        };
        self.listeners().iter().fold(false, |any, stream| any | hears(stream))
    }

    /// Who is at the other end listens until it leaves.
    fn hold(&self, mut stream: &UnixStream) -> io::Result<()> {
        let kept = stream.try_clone()?;
        let number = kept.as_raw_fd();
        self.listeners().push(kept);
        let left = io::copy(&mut stream, &mut io::sink());
        self.listeners().retain(|kept| kept.as_raw_fd() != number);
        left.map(drop)
    }
}

/// Listens at `path` from now on, and says what the plugin tells.
///
/// # Errors
/// The socket cannot be had, in words.
pub fn listen(path: &Path, ear: Ear) -> Result<(Listener, Told), String> {
    let listener = Listener::bind(path)?;
    let about = |error: io::Error| format!("socket {}: {error}", path.display());
    let accepting = listener.try_clone().map_err(about)?;
    let told = Told::default();
    let listening = told.clone();
    let accept = move || {
        loop {
            match accepting.accept() {
                Ok((stream, _)) => admit(stream, ear.clone(), listening.clone()),
                // For want of descriptors, most likely: some may be free soon.
                Err(_) => thread::sleep(Duration::from_millis(100)),
            }
        }
    };
    let spawned = thread::Builder::new().name("keys".to_owned()).spawn(accept);
    spawned.map_err(about)?;
    Ok((listener, told))
}

fn admit(stream: UnixStream, ear: Ear, listening: Told) {
    if socket::peer(&stream).is_ok_and(|uid| uid == 0) {
        let talk = move || drop(talk(&stream, &ear, &listening));
        // Without a thread the plugin is left alone; it tries again.
        let _ = thread::Builder::new().name("keys-plugin".to_owned()).spawn(talk);
    }
}

/// Answers the plugin until it leaves.
fn talk(mut stream: &UnixStream, ear: &Ear, listening: &Told) -> io::Result<()> {
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    let mut reader = BufReader::new(stream);
    // Until it has told of all that there are, it waits for no answer.
    let mut synchronised = false;
    loop {
        // As long as it gets at once, so that no copy of a key is left behind.
        let mut line = Zeroizing::new(String::with_capacity(LONGEST as usize));
        if (&mut reader).take(LONGEST).read_line(&mut line)? == 0 {
            return Ok(());
        }
        let answer = match parse(&line) {
            Err(why) => Some(format!("no {why}\n")),
            Ok(Line::Say(change)) if !synchronised => {
                synchronised = matches!(change, Change::Synchronised(_));
                let answer = ear.ask(Saying::Change(change));
                synchronised.then(|| told(answer))
            }
            Ok(Line::Say(change)) => Some(told(ear.ask(Saying::Change(change)))),
            Ok(Line::Query(id)) => Some(told(ear.ask(Saying::Query(id)))),
            Ok(Line::Listen) => return listening.hold(stream),
        };
        if let Some(answer) = answer {
            stream.write_all(answer.as_bytes())?;
        }
    }
}

/// An answer as a line.
fn told(answer: Option<Answer>) -> String {
    match answer {
        None => "no Culvert is busy\n".to_owned(),
        Some(Answer::Changed(Ok(()))) => "ok\n".to_owned(),
        Some(Answer::Changed(Err(why))) => format!("no {}\n", why.replace(char::is_control, " ")),
        Some(Answer::Used(None)) => "no such SA\n".to_owned(),
        Some(Answer::Used(Some(used))) => {
            let idle = used.idle.map_or(String::new(), |idle| format!(" idle={}", idle.as_secs()));
            format!("ok bytes={} packets={}{idle}\n", used.bytes, used.packets)
        }
    }
}

/// What a line says.
#[derive(Debug)]
pub enum Line {
    /// Something has changed.
    Say(Change),
    /// What has gone through that SA?
    Query(Id),
    /// Tell by this connection.
    Listen,
}

/// Reads a line, its end included.
///
/// # Errors
/// What is wrong with it, in words for charon's log.
pub fn parse(line: &str) -> Result<Line, String> {
    let line = line.strip_suffix('\n').ok_or("a line is at most 4096 bytes long")?;
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    if word == "hello" {
        let spoken = rest == VERSION;
        let wrong = || format!("version {rest:?} of the plugin is not spoken here; {VERSION} is");
        return spoken.then_some(Line::Say(Change::Begins(Origin::Plugin))).ok_or_else(wrong);
    }
    let pairs = rest.split(' ').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| pair.split_once('=').ok_or("a name without a value"));
    let pairs = Pairs(pairs.collect::<Result<_, _>>()?);
    Ok(Line::Say(match word {
        "synced" => Change::Synchronised(Origin::Plugin),
        "flush" => Change::Flushed(Origin::Plugin),
        "sa" => Change::Found(pairs.sa()?),
        "add" => Change::Added(pairs.sa()?),
        "update" => Change::Moved(pairs.id()?, pairs.ends()?),
        "del" => Change::Removed(pairs.id()?),
        "query" => return Ok(Line::Query(pairs.id()?)),
        "listen" => return Ok(Line::Listen),
        _ => return Err("that is not known here".to_owned()),
    }))
}

/// The names and values of a line.
struct Pairs<'l>(HashMap<&'l str, &'l str>);

impl Pairs<'_> {
    fn text(&self, name: &str) -> Result<&str, String> {
        self.0.get(name).copied().ok_or_else(|| format!("{name} is missing"))
    }

    fn value<T: FromStr>(&self, name: &str) -> Result<T, String> {
        self.text(name)?.parse().map_err(|_| format!("{name} is wrong"))
    }

    fn is(&self, name: &str) -> Result<bool, String> {
        Ok(self.value::<u8>(name)? != 0)
    }

    fn spi(&self) -> Result<u32, String> {
        u32::from_str_radix(self.text("spi")?, 16).map_err(|_| "spi is wrong".to_owned())
    }

    fn id(&self) -> Result<Id, String> {
        Ok(Id { spi: self.spi()?, at: self.value("at")? })
    }

    fn ends(&self) -> Result<Ends, String> {
        let (source, destination): (SocketAddr, SocketAddr) = (self.value("src")?, self.value("dst")?);
        Ok(Ends::new(source, destination, self.is("encap")?))
    }

    /// Three numbers: seconds, bytes, packets; 0 for none.
    fn limits(&self, name: &str) -> Result<[Option<u64>; 3], String> {
        let wrong = || format!("{name} is wrong");
        let numbers = self.text(name)?.splitn(3, ',').map(|number| number.parse().map_err(|_| wrong()));
        let numbers = numbers.collect::<Result<Vec<u64>, String>>()?;
        let numbers: [u64; 3] = numbers.try_into().map_err(|_| wrong())?;
        Ok(numbers.map(|number| (number > 0).then_some(number)))
    }

    fn sa(&self) -> Result<Sa, String> {
        let key = Secret::new(unhex(self.text("key")?).ok_or("key is wrong")?);
        // IKE's numbers: ENCR_AES_GCM_16 (RFC 4106), ENCR_CHACHA20_POLY1305 (RFC 7634).
        let suite = match (
            self.value::<u16>("cipher")?,
            key.expose().len() - Suite::SALT_LEN.min(key.expose().len()),
        ) {
            (20, 16) => Suite::Aes128Gcm16,
            (20, 32) => Suite::Aes256Gcm16,
            (28, 32) => Suite::ChaCha20Poly1305,
            _ => return Err("no cipher has that number and length of key".to_owned()),
        };
        let mode = match self.value::<u8>("mode")? {
            1 => Mode::Transport,
            2 => Mode::Tunnel,
            _ => return Err("mode is wrong".to_owned()),
        };
        let ([life, bytes, packets], [rekey, rekey_bytes, rekey_packets]) =
            (self.limits("life")?, self.limits("rekey")?);
        // charon has drawn its lots already, and waits for its kernel to say that it is time.
        let (life, rekey) = (life.map(Limits::lasting), rekey.map(Limits::lasting));
        let ends = self.ends()?;
        let inbound = self.is("inbound")?;
        // Where the far end began the exchange, it has its half when it has read our answer, which leaves after this.
        // Of a rekey charon takes the old pair away then, and so this one sends all the same.
        let ready = inbound || self.is("initiator")?;
        Ok(Sa {
            id: Id { spi: self.spi()?, at: ends.destination },
            origin: Origin::Plugin,
            direction: Some(if inbound { Direction::In } else { Direction::Out }),
            ends,
            reqid: self.value("reqid")?,
            mode,
            suite,
            key,
            window: self.value("window")?,
            esn: self.is("esn")?,
            ready,
            limits: Limits { life, rekey, rekey_bytes, rekey_packets, bytes, packets },
        })
    }
}

/// The bytes that the text shows in hexadecimal.
fn unhex(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len() / 2));
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    for [high, low] in pairs {
        bytes.push(u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()?);
    }
    rest.is_empty().then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A responder's answer is on its way when its charon adds the SAs: the far end cannot receive yet.
    #[test]
    fn who_did_not_begin_waits_for_a_sign() {
        for (inbound, initiator, ready) in [(0, 1, true), (0, 0, false), (1, 1, true), (1, 0, true)] {
            let line = format!(
                "add spi=c0ffee01 src=192.0.2.1:500 dst=192.0.2.2:500 encap=0 inbound={inbound} \
                 initiator={initiator} reqid=7 mode=1 cipher=20 window=64 esn=1 life=3600,0,0 rekey=3000,0,0 \
                 key={}\n",
                "5a".repeat(20)
            );
            match parse(&line) {
                Ok(Line::Say(Change::Added(sa))) => assert_eq!(sa.ready, ready, "{line}"),
                other => panic!("{line}: {:?}", other.err()),
            }
        }
    }
}
