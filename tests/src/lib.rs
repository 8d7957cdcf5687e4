//! What the whole-system tests share: the binary under test, a folder for each test, and capture files and packets written
//! byte by byte from the formats' definitions, so that the engine's own writers cannot vouch for themselves.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// The binary under test: the one that the environment variable `CULVERT` names, else that of this build, which cargo is
/// asked to bring up to date.
///
/// # Panics
/// Where cargo cannot build it.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| std::env::var_os("CULVERT").map_or_else(build, PathBuf::from))
}

/// Tests run as `TARGET/PROFILE/deps/TEST`; the binary belongs to `TARGET/PROFILE`.
fn build() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own file");
    let folder = test.ancestors().nth(2).expect("a test lies in TARGET/PROFILE/deps");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--package", "culvert", "--target-dir"]);
    command.arg(folder.parent().expect("PROFILE lies in TARGET"));
    if folder.file_name() == Some(OsStr::new("release")) {
        command.arg("--release");
    }
    assert!(command.status().expect("cargo runs").success(), "cargo could not build the binary");
    folder.join("culvert")
}

/// A folder of its own for each test, gone afterwards.
pub struct Folder(PathBuf);

impl Folder {
    /// A new folder.
    ///
    /// # Panics
    /// Where the system has no room for it.
    #[allow(clippy::new_without_default, reason = "it makes something outside the process")]
    pub fn new() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("culvert-tests-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("a new folder");
        Folder(path)
    }

    /// The path of `name` in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file that only its owner may read.
    ///
    /// # Panics
    /// Where it cannot be written.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("a new file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode");
        path
    }

    /// Runs the binary here.
    pub fn culvert<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Ran {
        self.culvert_into(Stdio::piped(), arguments)
    }

    /// Runs the binary here, its standard output going to `stdout`.
    ///
    /// # Panics
    /// Where it cannot be started.
    pub fn culvert_into<S: AsRef<OsStr>>(
        &self,
        stdout: Stdio,
        arguments: impl IntoIterator<Item = S>,
    ) -> Ran {
        let mut command = Command::new(binary());
        command
            .current_dir(&self.0)
            .args(arguments)
            // As on the narrowest terminal.
            .env("COLUMNS", "80")
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(Stdio::piped());
        let child = command.spawn().expect("the binary starts");
        Ran::of(child.wait_with_output().expect("the binary ends"))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Left behind in the worst case; a panic here would hide the test's own.
        drop(fs::remove_dir_all(&self.0));
    }
}

/// A file or folder of `tests/fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// Compares with a fixture, which `CULVERT_BLESS=1` writes anew.
///
/// # Panics
/// Where it is different.
pub fn same(file: &str, made: &str) {
    if std::env::var_os("CULVERT_BLESS").is_some() {
        fs::write(fixture(file), made).expect("a fixture");
    }
    assert_eq!(fs::read_to_string(fixture(file)).expect("a fixture"), made, "{file}");
}

/// How a run of the binary ended.
#[derive(Debug)]
pub struct Ran {
    /// The exit code; `None`: killed by a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ran {
    fn of(output: Output) -> Ran {
        Ran {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Standard output as JSON.
    ///
    /// # Panics
    /// Where it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Checks the exit code, and that standard error has a line `culvert: ..` with all of these in it, and no other kind.
    ///
    /// # Panics
    /// Where that is not so.
    pub fn fails(&self, code: i32, says: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(self.stderr.starts_with("culvert: ") && !self.stderr.contains("panicked"), "{self:?}");
        let told = |line: &str| says.iter().all(|word| line.contains(word));
        assert!(self.stderr.lines().any(told), "{says:?} in {self:?}");
    }

    /// Checks that it did what it should and had nothing to complain about.
    ///
    /// # Panics
    /// Where that is not so.
    pub fn succeeds(&self) {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""), "{self:?}");
    }
}

/// Nanoseconds since 1970 at which captures here begin.
pub const START: u64 = 1_700_000_000_000_000_000;

/// A frame and its time stamp in nanoseconds since 1970.
pub type Stamped = (u64, Vec<u8>);

/// A pcap file with nanosecond stamps, little endian (draft-ietf-opsawg-pcap sections 4 and 5).
pub fn pcap(frames: &[Stamped]) -> Vec<u8> {
    let mut file = Vec::new();
    file.extend(0xa1b2_3c4d_u32.to_le_bytes());
    file.extend([2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    file.extend(262_144_u32.to_le_bytes());
    file.extend(1_u32.to_le_bytes());
    for (time, frame) in frames {
        let length = frame.len() as u32;
        for word in [(time / 1_000_000_000) as u32, (time % 1_000_000_000) as u32, length, length] {
            file.extend(word.to_le_bytes());
        }
        file.extend(frame);
    }
    file
}

/// The frames of a pcap file as [`pcap`] writes it.
///
/// # Panics
/// Where the file is another one, or damaged.
pub fn read_pcap(path: &Path) -> Vec<Stamped> {
    let file = fs::read(path).expect("a capture");
    let (header, mut rest) = file.split_at(24);
    assert_eq!(header, pcap(&[]), "a nanosecond pcap of Ethernet");
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let word =
            |place: usize| u32::from_le_bytes(rest[place * 4..place * 4 + 4].try_into().expect("four bytes"));
        let (time, length) = (u64::from(word(0)) * 1_000_000_000 + u64::from(word(1)), word(2) as usize);
        assert_eq!(word(2), word(3), "whole frames");
        frames.push((time, rest[16..16 + length].to_vec()));
        rest = &rest[16 + length..];
    }
    frames
}

/// An Ethernet frame around an IPv4 packet; addresses of the link by their last byte, 02:00:00:00:00:NN.
pub fn frame(destination: u8, source: u8, packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, destination, 2, 0, 0, 0, 0, source, 0x08, 0x00];
    frame.extend(packet);
    frame
}

/// An IPv4 packet (RFC 791 section 3.1) without options; DSCP, ECN and identification are 0.
pub fn ipv4(
    source: [u8; 4],
    destination: [u8; 4],
    protocol: u8,
    ttl: u8,
    dont_fragment: bool,
    payload: &[u8],
) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend((20 + payload.len() as u16).to_be_bytes());
    packet.extend([0, 0, if dont_fragment { 0x40 } else { 0 }, 0, ttl, protocol, 0, 0]);
    packet.extend(source);
    packet.extend(destination);
    let sum: u32 = packet.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(payload);
    packet
}
