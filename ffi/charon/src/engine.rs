//! The connection to Culvert.
//!
//! Culvert listens; a thread of ours connects, and does so again when Culvert has been away. Whenever it connects it tells
//! first which SAs there are (`hello`, an `sa` line each, `synced`). Then every change is a line that Culvert answers with
//! `ok`, or `no` and why. charon's own threads wait for that answer: what charon believes to be installed, is.
//!
//! Another thread has a connection by which it says `listen`, and hears where packets of an SA come from now. That is charon's to act
//! upon, as with a kernel that says so.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use crate::kernel;
use crate::record::{self, Id, Mapping, Sa, Use};

/// Where Culvert listens, unless the environment of charon says otherwise in `CULVERT_KEYS`.
const SOCKET: &str = "/var/run/culvert.sock.keys";
/// How long charon waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause between two attempts to connect, and two looks at the connection.
const PAUSE: Duration = Duration::from_millis(250);

/// What there is to tell, and to whom.
#[derive(Default)]
pub(crate) struct Engine {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sas: HashMap<Id, Sa>,
    connection: Option<BufReader<UnixStream>>,
}

static ENGINE: OnceLock<Engine> = OnceLock::new();

/// The one engine.
pub(crate) fn engine() -> &'static Engine {
    ENGINE.get_or_init(Engine::default)
}

/// Connects from now on. Without a thread there is no connection, and charon is told so whenever it wants something.
pub(crate) fn start() {
    let socket = std::env::var_os("CULVERT_KEYS").map_or_else(|| PathBuf::from(SOCKET), PathBuf::from);
    let heard = socket.clone();
    let hold = move || {
        loop {
            engine().hold(&socket);
            thread::sleep(PAUSE);
        }
    };
    let hear = move || {
        loop {
            // Culvert is away, or has gone.
            let _ = hear(&heard);
            thread::sleep(PAUSE);
        }
    };
    let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
        if let Err(error) = thread::Builder::new().name(name.to_owned()).spawn(body) {
            eprintln!("culvert plugin: no thread: {error}");
        }
    };
    spawn("culvert", Box::new(hold));
    spawn("culvert-hears", Box::new(hear));
}

/// Has charon follow what Culvert tells, until it leaves.
fn hear(socket: &Path) -> std::io::Result<()> {
    let stream = UnixStream::connect(socket)?;
    (&stream).write_all(b"listen\n")?;
    for line in BufReader::new(stream).lines() {
        // A Culvert that knows nothing of this says so, and then nothing more.
        if let Some(Mapping { id, source }) = Mapping::parse(&line?) {
            kernel::mapping(id, source);
        }
    }
    Ok(())
}

impl Engine {
    /// A thread that panicked under the lock would have taken charon with it.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects if there is no connection; else looks whether it still stands.
    fn hold(&self, socket: &Path) {
        let mut state = self.state();
        if state.connection.as_ref().is_some_and(|connection| !stands(connection.get_ref())) {
            state.connection = None;
        }
        if state.connection.is_none()
            && let Ok(stream) = UnixStream::connect(socket)
            && stream.set_read_timeout(Some(PATIENCE)).is_ok()
            && stream.set_write_timeout(Some(PATIENCE)).is_ok()
        {
            state.connection = Some(BufReader::new(stream));
            let hello = format!("hello {}\n", record::VERSION);
            let lines: Vec<_> = state.sas.values().map(|sa| sa.line("sa")).collect();
            let all = state.write(hello.as_bytes())
                && lines.iter().all(|line| state.write(line.as_bytes()))
                && state.write(b"synced\n");
            if !all || state.read().is_none_or(|answer| !answer.starts_with("ok")) {
                state.connection = None;
            }
        }
    }

    /// Is Culvert there?
    fn is_there(&self) -> bool {
        self.state().connection.is_some()
    }

    /// Is Culvert there, now or in a while? Both may just have been started.
    pub(crate) fn comes(&self) -> bool {
        let looks = PATIENCE.as_millis() / PAUSE.as_millis();
        (0..looks).any(|look| {
            if look > 0 {
                thread::sleep(PAUSE);
            }
            self.is_there()
        })
    }

    /// Is the SPI, in host byte order, one of an SA?
    pub(crate) fn is_used(&self, spi: u32) -> bool {
        self.state().sas.keys().any(|(used, _)| *used == spi)
    }

    /// Installs an SA. False: Culvert does not take it, or is away.
    pub(crate) fn add(&self, sa: Sa) -> bool {
        let mut state = self.state();
        let taken = state.ask(sa.line("add").as_bytes()).is_some_and(|answer| answer.starts_with("ok"));
        if taken {
            state.sas.insert(sa.id(), sa);
        } else {
            // One that is busy takes it later, and nobody here would know of it.
            state.ask(record::about("del", sa.id()).as_bytes());
        }
        taken
    }

    /// Changes the ends of an SA by `change`. False: there is no such SA.
    pub(crate) fn update(&self, id: Id, change: impl FnOnce(&mut Sa)) -> bool {
        let mut state = self.state();
        let Some(mut sa) = state.sas.remove(&id) else { return false };
        change(&mut sa);
        // Where Culvert is away, it learns it with all the rest.
        state.ask(sa.moved(id).as_bytes());
        state.sas.insert(sa.id(), sa);
        true
    }

    /// Takes an SA away. False: there is no such SA.
    pub(crate) fn remove(&self, spi: u32, at: IpAddr) -> bool {
        let mut state = self.state();
        let known = state.sas.remove(&(spi, at)).is_some();
        if known {
            state.ask(record::about("del", (spi, at)).as_bytes());
        }
        known
    }

    /// Takes all SAs away.
    pub(crate) fn flush(&self) {
        let mut state = self.state();
        state.sas.clear();
        state.ask(b"flush\n");
    }

    /// What has gone through an SA.
    pub(crate) fn query(&self, id: Id) -> Option<Use> {
        let mut state = self.state();
        if !state.sas.contains_key(&id) {
            return None;
        }
        let answer = state.ask(record::about("query", id).as_bytes())?;
        Use::parse(&answer)
    }
}

impl State {
    /// Writes a line and reads the answer.
    fn ask(&mut self, line: &[u8]) -> Option<String> {
        if self.write(line) { self.read() } else { None }
    }

    fn write(&mut self, line: &[u8]) -> bool {
        let written =
            self.connection.as_mut().is_some_and(|connection| connection.get_mut().write_all(line).is_ok());
        if !written {
            self.connection = None;
        }
        written
    }

    fn read(&mut self) -> Option<String> {
        let mut answer = String::new();
        let read = self.connection.as_mut()?.read_line(&mut answer);
        if read.is_ok_and(|length| length > 0) && answer.ends_with('\n') {
            return Some(answer);
        }
        self.connection = None;
        None
    }
}

/// Has the other end not closed it? Nothing comes that was not asked for.
fn stands(stream: &UnixStream) -> bool {
    let mut waited =
        libc::pollfd { fd: std::os::fd::AsRawFd::as_raw_fd(stream), events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, which lives as long as the call.
    unsafe { libc::poll(&mut waited, 1, 0) == 0 }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn sa(spi: u32) -> Sa {
        Sa {
            spi,
            src: "192.0.2.1:500".parse().expect("an address"),
            dst: "192.0.2.2:500".parse().expect("an address"),
            encap: false,
            inbound: false,
            initiator: true,
            reqid: 1,
            mode: 1,
            cipher: 20,
            key: vec![1; 20].into(),
            window: 64,
            esn: false,
            limits: [(0, 0); 3],
        }
    }

    /// A Culvert that answers `answers` in turn; returns all it was told.
    fn culvert(listener: &UnixListener, answers: &[&str]) -> Vec<String> {
        let (stream, _) = listener.accept().expect("a client");
        let mut lines = BufReader::new(&stream).lines().map(|line| line.expect("a line"));
        let mut told = Vec::new();
        for line in lines.by_ref() {
            let synced = line == "synced";
            told.push(line);
            if synced {
                break;
            }
        }
        (&stream).write_all(b"ok\n").expect("to be heard");
        for answer in answers {
            told.push(lines.next().expect("a line"));
            (&stream).write_all(answer.as_bytes()).expect("to be heard");
        }
        told
    }

    #[test]
    fn culvert_is_told_everything_again_when_it_has_been_away() {
        let path = std::env::temp_dir().join(format!("culvert-charon-{}", std::process::id()));
        let listener = UnixListener::bind(&path).expect("a socket");
        let engine = Engine::default();
        assert!(!engine.is_there() && !engine.add(sa(1)), "nobody takes it");
        thread::scope(|scope| {
            let first = scope.spawn(|| {
                let answers =
                    ["ok\n", "no Culvert is busy\n", "ok\n", "ok bytes=1 packets=1\n", "ok\n", "ok\n"];
                culvert(&listener, &answers)
            });
            engine.hold(&path);
            let at = sa(1).dst.ip();
            assert!(engine.is_there() && engine.add(sa(1)));
            assert!(!engine.add(sa(2)), "refused");
            assert_eq!(engine.query((1, at)).map(|found| found.packets), Some(1));
            assert_eq!(engine.query((2, at)), None);
            assert!(engine.update((1, at), |sa| sa.dst.set_port(4500)));
            assert!(engine.add(sa(3)) && engine.is_used(3));
            let told = first.join().expect("no panic");
            assert_eq!(told[..2], ["hello 1", "synced"]);
            assert_eq!(told[4], "del spi=00000002 at=192.0.2.2", "nor later");
            assert!(told.last().is_some_and(|line| line.starts_with("add spi=00000003")));
            // It has gone.
            while engine.is_there() {
                if !engine.remove(3, at) {
                    thread::sleep(Duration::from_millis(1));
                }
                engine.hold(Path::new("/nonexistent"));
            }
            let second = scope.spawn(|| culvert(&listener, &["ok\n"]));
            engine.hold(&path);
            engine.flush();
            let told = second.join().expect("no panic");
            assert_eq!((told.len(), told[0].as_str(), told[3].as_str()), (4, "hello 1", "flush"), "{told:?}");
            assert!(
                told[1].starts_with("sa spi=00000001 src=192.0.2.1:500 dst=192.0.2.2:4500"),
                "{}",
                told[1]
            );
        });
        std::fs::remove_file(&path).expect("ours");
    }
}
