//! As much of HTTP/1.1 (RFC 9112) as a scraper needs: `GET /metrics`, answered and closed.
//!
//! There are [`CLIENTS`] connections at a time, each on a thread of its own for [`PATIENCE`] at most, whatever it sends and however
//! slowly it reads. Nothing of a request is believed but its first line and `Host`.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::exposition::MEDIA_TYPE;

/// Connections at a time.
const CLIENTS: usize = 4;
/// How long a connection may last.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest request, in bytes.
const LONGEST: usize = 8 << 10;
/// Header fields of a request, at most.
const FIELDS: usize = 64;
/// Bytes that are written at once.
const CHUNK: usize = 64 << 10;

/// Gives `page` to whoever asks at `listener`, from a thread that lives as long as the process.
///
/// # Errors
/// The system has no thread left.
pub(crate) fn serve(
    listener: TcpListener,
    page: impl Fn() -> Result<String, String> + Send + Sync + 'static,
) -> io::Result<()> {
    let (page, clients) = (Arc::new(page), Arc::new(AtomicUsize::new(0)));
    let accept = move || {
        loop {
            let Ok((stream, _)) = listener.accept() else {
                // For want of descriptors, most likely: some may be free soon.
                thread::sleep(Duration::from_millis(100));
                continue;
            };
            if clients.fetch_add(1, Ordering::Relaxed) >= CLIENTS {
                clients.fetch_sub(1, Ordering::Relaxed);
                // It fits the socket's buffer, so it holds nobody up.
                let _ = stream.set_nonblocking(true).and_then(|()| {
                    (&stream).write_all(
                        Answer::error(503, "too many connections; try again").head(true).as_bytes(),
                    )
                });
                continue;
            }
            let (page, clients_then) = (Arc::clone(&page), Arc::clone(&clients));
            let answer = move || {
                // However it ends, the scraper has left.
                let _ = converse(&stream, &*page);
                clients_then.fetch_sub(1, Ordering::Relaxed);
            };
            if thread::Builder::new().name("scraper".to_owned()).spawn(answer).is_err() {
                clients.fetch_sub(1, Ordering::Relaxed);
            }
        }
    };
    thread::Builder::new().name("metrics".to_owned()).spawn(accept).map(drop)
}

/// Reads one request and answers it.
fn converse(stream: &TcpStream, page: &dyn Fn() -> Result<String, String>) -> io::Result<()> {
    let end = Instant::now() + PATIENCE;
    let (asked, whole) = match read(stream, end)? {
        Some(head) => asked(&head),
        None => (Err(Answer::error(431, "the request is too long")), true),
    };
    let answer = match asked {
        Ok(()) => match page() {
            Ok(page) => Answer { status: 200, kind: MEDIA_TYPE, body: page },
            Err(why) => Answer::error(503, &why),
        },
        Err(answer) => answer,
    };
    write(stream, answer.head(false).as_bytes(), end)?;
    if whole {
        write(stream, answer.body.as_bytes(), end)?;
    }
    // Closed with something unread, the connection would be reset, and the answer with it.
    stream.shutdown(Shutdown::Write)?;
    let mut rest = [0; 4096];
    for _ in 0..64 {
        stream.set_read_timeout(Some(left(end)?.min(Duration::from_secs(1))))?;
        if (&mut &*stream).read(&mut rest)? == 0 {
            break;
        }
    }
    Ok(())
}

/// The head of the request, with its empty line; `None`: it is too long.
fn read(mut stream: &TcpStream, end: Instant) -> io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    loop {
        stream.set_read_timeout(Some(left(end)?))?;
        let length = stream.read(&mut chunk)?;
        head.extend_from_slice(chunk.get(..length).unwrap_or_default());
        let is_whole =
            head.windows(4).any(|four| four == b"\r\n\r\n") || head.windows(2).any(|two| two == b"\n\n");
        if is_whole || length == 0 {
            return Ok(Some(head));
        }
        if head.len() > LONGEST {
            return Ok(None);
        }
    }
}

fn write(mut stream: &TcpStream, bytes: &[u8], end: Instant) -> io::Result<()> {
    for chunk in bytes.chunks(CHUNK) {
        let mut rest = chunk;
        while !rest.is_empty() {
            stream.set_write_timeout(Some(left(end)?))?;
            let written = stream.write(rest)?;
            rest = rest.get(written..).unwrap_or_default();
        }
    }
    Ok(())
}

fn left(end: Instant) -> io::Result<Duration> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// Is this a request for the metrics? If not, what is answered. And is the body of the answer wanted?
fn asked(head: &[u8]) -> (Result<(), Answer>, bool) {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) | Err(_) => {
            return (Err(Answer::error(400, "this is no request")), true);
        }
    }
    let whole = request.method != Some("HEAD");
    let host = request.headers.iter().find(|field| field.name.eq_ignore_ascii_case("host"));
    if !host.is_none_or(|field| is_this_host(field.value)) {
        // A page in a browser on this host could have a name of its own lead here, and read what we answer.
        return (Err(Answer::error(421, "this answers to addresses and to localhost alone")), whole);
    }
    let path = request.path.and_then(|path| path.split('?').next());
    let answer = match (request.method, path) {
        (Some("GET" | "HEAD"), Some("/metrics")) => Ok(()),
        (Some("GET" | "HEAD"), _) => Err(Answer::error(404, "there is /metrics")),
        _ => Err(Answer::error(405, "GET and HEAD are known here")),
    };
    (answer, whole)
}

/// `127.0.0.1:9178`, `[::1]`, `localhost:9178`.
fn is_this_host(value: &[u8]) -> bool {
    let Ok(value) = str::from_utf8(value) else { return false };
    let name = match value.strip_prefix('[') {
        Some(rest) => rest.split(']').next(),
        None => value.split(':').next(),
    };
    name.is_some_and(|name| name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok())
}

struct Answer {
    status: u16,
    kind: &'static str,
    body: String,
}

impl Answer {
    fn error(status: u16, why: &str) -> Answer {
        Answer { status, kind: "text/plain; charset=utf-8", body: format!("{why}\n") }
    }

    /// Everything before the body, and on demand the body as well.
    fn head(&self, whole: bool) -> String {
        let reason = match self.status {
            200 => "OK",
            400 => "Bad Request",
            404 => "Not Found",
            405 => "Method Not Allowed",
            421 => "Misdirected Request",
            431 => "Request Header Fields Too Large",
            _ => "Service Unavailable",
        };
        let allow = if self.status == 405 { "Allow: GET, HEAD\r\n" } else { "" };
        format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{allow}Connection: close\r\n\r\n{}",
            self.status,
            self.kind,
            self.body.len(),
            if whole { self.body.as_str() } else { "" }
        )
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn endpoint(page: impl Fn() -> Result<String, String> + Send + Sync + 'static) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        serve(listener, page).expect("a thread");
        address
    }

    /// All that is answered to these bytes.
    fn tell(address: SocketAddr, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).expect("an endpoint");
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a time");
        // One that is told to be too long may be cut short.
        let _ = stream.write_all(bytes).and_then(|()| stream.shutdown(Shutdown::Write));
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).expect("text")
    }

    #[test]
    fn the_page_is_given_to_whoever_asks_for_it() {
        let page = "a 1\n".repeat(100_000);
        let told = page.clone();
        let address = endpoint(move || Ok(told.clone()));
        for request in [
            "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:9178\r\nAccept: */*\r\n\r\n",
            "GET /metrics?x=y HTTP/1.0\r\n\r\n",
            "GET /metrics HTTP/1.1\r\nhost: LOCALHOST\r\n\r\n",
            "GET /metrics HTTP/1.1\r\nHost: [::1]:9178\r\n\r\n",
        ] {
            let answer = tell(address, request.as_bytes());
            let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
            assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{request}: {head}");
            assert!(head.contains(MEDIA_TYPE) && head.contains(&format!("Content-Length: {}", page.len())));
            assert!(body == page);
        }
        let answer = tell(address, b"HEAD /metrics HTTP/1.1\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    }

    #[test]
    fn everything_else_is_refused() {
        let address = endpoint(|| Err("the daemon is busy".to_owned()));
        let long = [b"GET /metrics HTTP/1.1\r\nX: ", &[b'x'; 20_000][..]].concat();
        for (request, status) in [
            (&b"GET /metrics HTTP/1.1\r\n\r\n"[..], "503"),
            (b"GET / HTTP/1.1\r\n\r\n", "404"),
            (b"POST /metrics HTTP/1.1\r\nContent-Length: 1\r\n\r\nx", "405"),
            (b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n", "421"),
            (b"GET /metrics HTTP/1.1\r\nHost: \xff\r\n\r\n", "421"),
            (b"GET /metrics\r\n\r\n", "400"),
            (b"\x16\x03\x01\x02\x00\x01\n\n", "400"),
            (b"GET /met", "400"),
            (b"", "400"),
            (&long, "431"),
        ] {
            let answer = tell(address, request);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {answer}");
        }
    }

    /// Those that say nothing take places, and give them back when they leave.
    #[test]
    fn connections_are_bounded() {
        let address = endpoint(|| Ok(String::new()));
        let request = b"GET /metrics HTTP/1.1\r\n\r\n";
        let silent: Vec<TcpStream> =
            (0..CLIENTS).map(|_| TcpStream::connect(address).expect("an endpoint")).collect();
        let answer = tell(address, request);
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        drop(silent);
        let end = Instant::now() + Duration::from_secs(5);
        while !tell(address, request).starts_with("HTTP/1.1 200 ") {
            assert!(Instant::now() < end, "places are not given back");
        }
    }
}
