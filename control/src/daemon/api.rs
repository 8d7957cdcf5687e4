//! The local API: a UNIX socket that root and the daemon's own user may use, with one JSON request and one JSON reply a line.
//!
//! `{"version":1,"command":"show","what":"ports"}` is answered by `{"ok":true,"result":..}` or `{"ok":false,"error":".."}`.
//! Each client has a thread of its own, of which there are [`CLIENTS`] at most; the control thread gives the answers.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam::channel::{Sender, bounded};
use nix::sys::stat::{Mode, umask};
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::bell::Bell;
use super::log;
use super::status::What;

/// Where the daemon listens unless told otherwise.
pub const SOCKET: &str = "/var/run/culvert.sock";
/// The version of requests and replies.
const VERSION: u32 = 1;
/// Clients at a time.
const CLIENTS: usize = 16;
/// The longest request, in bytes.
const LONGEST: u64 = 64 << 10;
/// How long a client may take for a request or a reply.
const PATIENCE: Duration = Duration::from_secs(10);

/// A request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Request {
    version: u32,
    command: Command,
    what: What,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Command {
    Show,
}

impl Request {
    /// The request to show something.
    pub(super) fn show(what: What) -> Request {
        Request { version: VERSION, command: Command::Show, what }
    }
}

/// The reply to a request.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Reply {
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    result: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    error: Option<String>,
}

impl From<Result<Value, String>> for Reply {
    fn from(answer: Result<Value, String>) -> Reply {
        match answer {
            Ok(result) => Reply { ok: true, result: Some(result), error: None },
            Err(error) => Reply { ok: false, result: None, error: Some(error) },
        }
    }
}

impl From<Reply> for Result<Value, String> {
    fn from(reply: Reply) -> Result<Value, String> {
        match (reply.result, reply.error) {
            (Some(result), _) if reply.ok => Ok(result),
            (_, error) => Err(error.unwrap_or_else(|| "it gives no reason".to_owned())),
        }
    }
}

/// What a client asks of the control thread.
pub(super) struct Query {
    /// What it wants to see.
    pub(super) what: What,
    /// Where the answer goes.
    pub(super) answer: Sender<Result<Value, String>>,
}

/// The socket and its file, which goes away with it.
pub(super) struct Endpoint {
    listener: UnixListener,
    path: PathBuf,
    file: Option<(u64, u64)>,
}

impl Endpoint {
    /// Listens at `path`. The file of a daemon that has died is replaced.
    ///
    /// # Errors
    /// Another daemon listens there, something else is there, or the system refuses; in words.
    pub(super) fn bind(path: &Path) -> Result<Endpoint, String> {
        let about = |why: &dyn std::fmt::Display| format!("socket {}: {why}", path.display());
        match fs::symlink_metadata(path) {
            Ok(metadata) if !metadata.file_type().is_socket() => {
                return Err(about(&"there is a file that is no socket; choose another place with --socket"));
            }
            Ok(_) if UnixStream::connect(path).is_ok() => {
                return Err(about(
                    &"another daemon listens there; stop it, or choose another place with --socket",
                ));
            }
            Ok(_) => fs::remove_file(path).map_err(|error| about(&error))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(about(&error)),
        }
        // Nobody else may use it from its first moment on. No other thread makes files now.
        let before = umask(Mode::from_bits_truncate(0o177));
        let listener = UnixListener::bind(path);
        umask(before);
        let listener = listener.map_err(|error| about(&error))?;
        Ok(Endpoint { listener, path: path.to_owned(), file: identity(path) })
    }

    /// Answers clients from a thread of its own, which lives as long as the process: `queries` go to the thread that `bell`
    /// wakes.
    ///
    /// # Errors
    /// The system has no thread or descriptor left.
    pub(super) fn serve(&self, queries: Sender<Query>, bell: Arc<Bell>) -> io::Result<()> {
        let listener = self.listener.try_clone()?;
        let clients = Arc::new(AtomicUsize::new(0));
        let accept = move || {
            loop {
                match listener.accept() {
                    Ok((stream, _)) => admit(stream, &clients, &queries, &bell),
                    // For want of descriptors, most likely: some may be free soon.
                    Err(_) => thread::sleep(Duration::from_millis(100)),
                }
            }
        };
        thread::Builder::new().name("api".to_owned()).spawn(accept).map(drop)
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // Not another daemon's, which has taken the place meanwhile.
        if self.file.is_some() && identity(&self.path) == self.file {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// A client that leaves makes room for another.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(clients: &Arc<AtomicUsize>) -> Option<Place> {
        let place = Place(Arc::clone(clients));
        (clients.fetch_add(1, Ordering::Relaxed) < CLIENTS).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn admit(stream: UnixStream, clients: &Arc<AtomicUsize>, queries: &Sender<Query>, bell: &Arc<Bell>) {
    let refuse = |why: &str| drop(send(&stream, &Err(why.to_owned()).into()));
    let patient =
        stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
    if patient.is_err() {
        return;
    }
    match peer(&stream) {
        Ok(uid) if uid == 0 || uid == geteuid().as_raw() => {}
        Ok(uid) => {
            log::warn(format_args!("socket: user {uid} was refused"));
            return refuse("this is for root and the daemon's own user");
        }
        Err(error) => return refuse(&format!("who asks is not known: {error}")),
    }
    let Some(place) = Place::take(clients) else { return refuse("too many clients; try again") };
    let (queries, bell) = (queries.clone(), Arc::clone(bell));
    let talk = move || {
        talk(&stream, &queries, &bell);
        drop(place);
    };
    if let Err(error) = thread::Builder::new().name("client".to_owned()).spawn(talk) {
        log::warn(format_args!("socket: no thread for a client: {error}"));
    }
}

/// The user behind the other end.
#[cfg(target_os = "linux")]
fn peer(stream: &UnixStream) -> nix::Result<u32> {
    use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
    getsockopt(stream, PeerCredentials).map(|credentials| credentials.uid())
}

/// The user behind the other end.
#[cfg(target_os = "freebsd")]
fn peer(stream: &UnixStream) -> nix::Result<u32> {
    nix::unistd::getpeereid(stream).map(|(uid, _)| uid.as_raw())
}

/// Answers one client until it leaves.
fn talk(stream: &UnixStream, queries: &Sender<Query>, bell: &Bell) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        match (&mut reader).take(LONGEST).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if line.last() != Some(&b'\n') {
            let why = format!("a request is one line of at most {LONGEST} bytes");
            return drop(send(stream, &Err(why).into()));
        }
        let answer = ask(&line, queries, bell);
        if send(stream, &answer.into()).is_err() {
            return;
        }
    }
}

fn ask(line: &[u8], queries: &Sender<Query>, bell: &Bell) -> Result<Value, String> {
    let request: Request = serde_json::from_slice(line).map_err(|error| format!("request: {error}"))?;
    if request.version != VERSION {
        return Err(format!("request: version {} is not spoken here; {VERSION} is", request.version));
    }
    let (answer, answered) = bounded(1);
    let Command::Show = request.command;
    let busy = |_| "the daemon is busy; try again".to_owned();
    queries.try_send(Query { what: request.what, answer }).map_err(|_| busy(()))?;
    bell.wake();
    answered.recv_timeout(PATIENCE).map_err(|_| busy(()))?
}

fn send(mut stream: &UnixStream, reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// Asks the daemon that listens at `path`.
///
/// # Errors
/// It is not there, or what it answers, in words.
pub(super) fn call(path: &Path, request: &Request) -> Result<Value, String> {
    let unreachable = |error: io::Error| {
        let hint = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                "; no daemon runs there: start `culvert run`, or name its socket with --socket"
            }
            io::ErrorKind::PermissionDenied => "; it takes root, or the daemon's user",
            _ => "",
        };
        format!("{}: {error}{hint}", path.display())
    };
    let mut stream = UnixStream::connect(path).map_err(unreachable)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(unreachable)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(unreachable)?;
    let mut line = serde_json::to_vec(request).map_err(|error| error.to_string())?;
    line.push(b'\n');
    match stream.write_all(&line) {
        // A daemon that has no place for us says so, and does not listen.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(unreachable(error)),
        _ => {}
    }
    let mut answer = Vec::new();
    BufReader::new(&stream).read_until(b'\n', &mut answer).map_err(unreachable)?;
    let reply: Reply =
        serde_json::from_slice(&answer).map_err(|error| format!("the daemon's answer: {error}"))?;
    reply.into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use crossbeam::channel::{Receiver, unbounded};
    use serde_json::json;

    use super::*;

    fn place(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("culvert-api-{}-{name}", std::process::id()))
    }

    /// A daemon whose control thread answers with what it is asked for.
    fn daemon(path: &Path) -> Endpoint {
        let endpoint = Endpoint::bind(path).expect("a socket");
        let (queries, asked): (_, Receiver<Query>) = unbounded();
        endpoint.serve(queries, Arc::new(Bell::new().expect("a bell"))).expect("a thread");
        thread::spawn(move || {
            for query in asked {
                let answer = match query.what {
                    What::Sas => Err("no SAs".to_owned()),
                    what => Ok(json!({ what.name(): {} })),
                };
                drop(query.answer.send(answer));
            }
        });
        endpoint
    }

    /// What is answered to these bytes.
    fn tell(path: &Path, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(path).expect("a daemon");
        stream.write_all(bytes).expect("to be heard");
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).expect("an answer");
        line
    }

    #[test]
    fn requests_are_answered() {
        let path = place("answers");
        let endpoint = daemon(&path);
        assert_eq!(fs::metadata(&path).expect("the file").permissions().mode() & 0o777, 0o600);
        assert_eq!(call(&path, &Request::show(What::Ports)), Ok(json!({"ports": {}})));
        assert_eq!(call(&path, &Request::show(What::Sas)), Err("no SAs".to_owned()));
        drop(endpoint);
        assert!(!path.exists());
    }

    #[test]
    fn nonsense_is_refused_and_said_so() {
        let path = place("nonsense");
        let _endpoint = daemon(&path);
        for (request, says) in [
            (&b"\n"[..], "request: EOF"),
            (b"{\"version\":1}\n", "missing field"),
            (b"{\"version\":2,\"command\":\"show\",\"what\":\"ports\"}\n", "version 2 is not spoken"),
            (b"{\"version\":1,\"command\":\"show\",\"what\":\"keys\"}\n", "unknown variant `keys`"),
            (b"{\"version\":1,\"command\":\"stop\",\"what\":\"ports\"}\n", "unknown variant `stop`"),
            (b"\xff\xfe\n", "request: "),
            (&[b'['; 70_000], "at most 65536 bytes"),
        ] {
            let answer = tell(&path, request);
            assert!(answer.starts_with("{\"ok\":false,") && answer.contains(says), "{says}: {answer}");
        }
        // Several in one go are answered in their order.
        let two = "{\"version\":1,\"command\":\"show\",\"what\":\"ports\"}\n".repeat(2);
        assert_eq!(tell(&path, two.as_bytes()), "{\"ok\":true,\"result\":{\"ports\":{}}}\n");
    }

    #[test]
    fn clients_are_bounded() {
        let path = place("bounded");
        let _endpoint = daemon(&path);
        let request = b"{\"version\":1,\"command\":\"show\",\"what\":\"ports\"}\n";
        let waiting: Vec<UnixStream> = (0..CLIENTS)
            .map(|_| {
                // Once answered, it is known to have a place.
                let mut stream = UnixStream::connect(&path).expect("a daemon");
                stream.write_all(request).expect("to be heard");
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).expect("an answer");
                stream
            })
            .collect();
        assert!(call(&path, &Request::show(What::Ports)).is_err_and(|why| why.contains("too many")));
        drop(waiting);
        let end = std::time::Instant::now() + Duration::from_secs(2);
        while call(&path, &Request::show(What::Ports)).is_err() {
            assert!(std::time::Instant::now() < end, "places are not given back");
        }
    }

    #[test]
    fn the_socket_of_a_dead_daemon_is_replaced_and_that_of_a_living_one_is_not() {
        let path = place("stale");
        drop(UnixListener::bind(&path).expect("a socket"));
        assert!(path.exists());
        let endpoint = daemon(&path);
        let refused = Endpoint::bind(&path).err().expect("one is there");
        assert!(refused.contains("another daemon listens there"), "{refused}");
        assert!(call(&path, &Request::show(What::Ports)).is_ok());
        drop(endpoint);

        fs::write(&path, "precious").expect("a file");
        let refused = Endpoint::bind(&path).err().expect("no socket");
        assert!(refused.contains("no socket"), "{refused}");
        assert_eq!(fs::read_to_string(&path).expect("untouched"), "precious");
        fs::remove_file(&path).expect("ours");
    }

    #[test]
    fn without_a_daemon_there_is_a_hint() {
        let why = call(&place("none"), &Request::show(What::Ports)).expect_err("nobody");
        assert!(why.contains("start `culvert run`"), "{why}");
    }
}
