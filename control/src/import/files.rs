//! Which files are read, and in which order: rc(8)'s, for the services that make interfaces and routes.
//!
//! A path may be a file, which is read where it stands; the root of a system or its `etc`, of which are read
//! `defaults/rc.conf`, what `rc_conf_files` names (`rc.conf`, `rc.conf.local`), and then, here and in `/usr/local/etc`,
//! `rc.conf.d/netif`, `network` and `routing`, each a file or a folder of files; such an `rc.conf.d` alone; or any other
//! folder, of which all files are read in the order of their names.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::shell::Shell;
use super::text::Lines;
use crate::Failure;

/// A file has at most this many bytes: FreeBSD's own defaults have 40,000.
const LONGEST: u64 = 1 << 20;
/// So many files are read at most.
const MOST: usize = 10_000;
/// The services whose files under `rc.conf.d` are read, in rc's order: `netif` reads `network` as well.
const SERVICES: [&str; 3] = ["netif", "network", "routing"];

/// What has been read.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// The variables.
    pub(super) shell: Shell,
    /// The files, in their order.
    pub(super) read: Vec<PathBuf>,
    /// Files that set something about interfaces or routes, and that rc reads for one service only, which makes none.
    pub(super) elsewhere: Vec<PathBuf>,
}

impl Files {
    /// Reads all that `path` stands for, after what was read before.
    ///
    /// # Errors
    /// Code 2: something cannot be read, or no shell could make sense of it; with the file and line.
    pub(super) fn read(&mut self, path: &Path) -> Result<(), Failure> {
        let kind = fs::metadata(path).map_err(|error| unreadable(path, &error))?;
        if !kind.is_dir() {
            return self.file(path);
        }
        let etc = path.join("etc");
        let inside = |folder: &Path, names: &[&str]| names.iter().any(|name| folder.join(name).exists());
        if inside(&etc, &["rc.conf", "rc.conf.d"]) {
            self.tree(&etc, Some(path))
        } else if inside(path, &["rc.conf", "rc.conf.local", "rc.conf.d", "defaults/rc.conf"]) {
            let named_etc = path.file_name() == Some(OsStr::new("etc"));
            self.tree(path, path.parent().filter(|_| named_etc))
        } else if inside(path, &SERVICES) {
            SERVICES.iter().try_for_each(|service| self.service(path, service))?;
            self.look_elsewhere(path)
        } else {
            let before = self.read.len();
            self.folder(path)?;
            if self.read.len() == before {
                let why = "holds no rc.conf, no rc.conf.d and no other file";
                return Err(refused(path, why, "name rc.conf, its folder, or the root of the system"));
            }
            Ok(())
        }
    }

    /// An `etc`, and the root that it belongs to.
    fn tree(&mut self, etc: &Path, root: Option<&Path>) -> Result<(), Failure> {
        for name in ["defaults/rc.conf", "defaults/vendor.conf"] {
            self.if_there(&etc.join(name))?;
        }
        let named = self.shell.get("rc_conf_files").map(|variable| variable.value.clone());
        for name in named.as_deref().unwrap_or("/etc/rc.conf /etc/rc.conf.local").split_ascii_whitespace() {
            match (name.strip_prefix("/etc/"), root) {
                (Some(name), _) => self.if_there(&etc.join(name))?,
                (None, Some(root)) => self.if_there(&root.join(name.trim_start_matches('/')))?,
                (None, None) => {}
            }
        }
        let folders = [Some(etc.join("rc.conf.d")), root.map(|root| root.join("usr/local/etc/rc.conf.d"))];
        for service in SERVICES {
            folders.iter().flatten().try_for_each(|folder| self.service(folder, service))?;
        }
        folders.iter().flatten().try_for_each(|folder| self.look_elsewhere(folder))
    }

    /// What a service has under `rc.conf.d`: a file, or a folder of them.
    fn service(&mut self, folder: &Path, service: &str) -> Result<(), Failure> {
        let path = folder.join(service);
        if path.is_dir() { self.folder(&path) } else { self.if_there(&path) }
    }

    /// All files of a folder, as a shell's `*` lists them.
    fn folder(&mut self, folder: &Path) -> Result<(), Failure> {
        for path in list(folder)?.into_iter().filter(|path| path.is_file()) {
            self.file(&path)?;
        }
        Ok(())
    }

    fn if_there(&mut self, path: &Path) -> Result<(), Failure> {
        if path.exists() && !self.read.iter().any(|read| read == path) { self.file(path) } else { Ok(()) }
    }

    fn file(&mut self, path: &Path) -> Result<(), Failure> {
        if self.read.len() == MOST {
            return Err(refused(path, &format!("more than {MOST} files"), "name fewer"));
        }
        let text = text(path)?;
        let order = u32::try_from(self.read.len()).unwrap_or(u32::MAX);
        self.read.push(path.to_owned());
        self.shell.read(&text, &Lines::new(path, order, &text)).map_err(|fault| {
            let remedy = "sh(1) could not read it either: correct it";
            Failure::usage(format!("import: {} ({}); {remedy}", fault.why, fault.at))
        })
    }

    /// Notes files of other services that speak of interfaces or routes.
    fn look_elsewhere(&mut self, folder: &Path) -> Result<(), Failure> {
        if !folder.is_dir() {
            return Ok(());
        }
        let others = list(folder)?.into_iter().filter(|path| {
            let name = path.file_name().unwrap_or_default();
            !SERVICES.iter().any(|service| name == *service)
        });
        for other in others {
            let files = if other.is_dir() { list(&other)? } else { vec![other] };
            for file in files.into_iter().filter(|file| file.is_file()) {
                let text = text(&file)?;
                let mut shell = Shell::default();
                // What cannot be read is none of ours: rc does not read it here.
                let _ = shell.read(&text, &Lines::new(&file, 0, &text));
                if shell.variables().any(|(name, _)| speaks_of_interfaces(name)) {
                    self.elsewhere.push(file);
                }
            }
        }
        Ok(())
    }
}

fn speaks_of_interfaces(name: &str) -> bool {
    let starts = ["ifconfig_", "create_args_", "route_", "ipv6_route_", "ipv4_addrs_"];
    let whole =
        ["cloned_interfaces", "static_routes", "ipv6_static_routes", "defaultrouter", "ipv6_defaultrouter"];
    whole.contains(&name) || starts.iter().any(|start| name.starts_with(start))
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = fs::read_dir(folder).map_err(|error| unreadable(folder, &error))?;
    let mut paths = Vec::new();
    for entry in entries.take(MOST) {
        let entry = entry.map_err(|error| unreadable(folder, &error))?;
        if !entry.file_name().as_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// The text of a regular file. Bytes that are no UTF-8 are replaced: they can only stand in comments and descriptions.
fn text(path: &Path) -> Result<String, Failure> {
    // A FIFO would keep us waiting before it is refused.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = file.map_err(|error| unreadable(path, &error))?;
    let metadata = file.metadata().map_err(|error| unreadable(path, &error))?;
    if !metadata.is_file() {
        return Err(refused(path, "is not a regular file", "name a file or a folder"));
    }
    let mut bytes = Vec::new();
    file.take(LONGEST.saturating_add(1)).read_to_end(&mut bytes).map_err(|error| unreadable(path, &error))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > LONGEST) {
        return Err(refused(path, &format!("has more than {LONGEST} bytes"), "name rc.conf"));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn refused(path: &Path, why: &str, remedy: &str) -> Failure {
    Failure::usage(format!("{}: {why}; {remedy}", path.display()))
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    refused(path, &format!("cannot be read: {error}"), "check its name and permissions")
}
