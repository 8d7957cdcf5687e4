//! What the daemon gives up, so that whoever takes it over has little: it reads packets from anybody, and holds keys.
//!
//! 1. [`keep_secrets`], before a key is read: no core dump, nobody looks into the process, files are their owner's alone.
//! 2. [`become_user`], where it is to be another than who starts it: before anything is opened that stays.
//! 3. [`limit`], before the first device is opened and the first thread started: so every thread is limited, and whatever works
//!    at the start works later as well, for ports that come back and tunnels that are added.
//! 4. [`tell_refused`], from time to time: a system call that was refused is either missing in our list, or somebody's attempt.
//!
//! What is in force is logged and shown (`culvert show privileges`). What the system has no means for is told, and goes without.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
mod system_calls;
#[cfg(all(test, target_os = "linux"))]
mod tests;
#[cfg(target_os = "linux")]
mod user;

use std::fs::File;
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, umask};
use nix::unistd::geteuid;
use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};

use super::log;
use crate::Failure;

/// What the daemon is limited to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub(super) struct Privileges {
    /// Number of the user that it runs as.
    pub(super) user: u32,
    /// Whether the kernel may write its memory to a file when it crashes.
    pub(super) core_dumps: bool,
    /// The capabilities that it has (capabilities(7)); null: all that its user has.
    pub(super) capabilities: Option<Vec<String>>,
    /// Whether programs that it started could have more rights than it has.
    pub(super) new_privileges: bool,
    /// How many system calls it can use; null: all.
    pub(super) system_calls: Option<usize>,
    /// Folders that it can change files in; null: all that its user can.
    pub(super) writable: Option<Vec<PathBuf>>,
    /// Limits that are not in force, and why.
    pub(super) missing: Vec<String>,
}

/// What the daemon needs later, whatever it gives up.
pub(super) struct Needs {
    /// Files that it reads again.
    pub(super) read: Vec<PathBuf>,
    /// Folders that it makes, changes and removes files in.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "Linux alone can limit it to these"))]
    pub(super) written: Vec<PathBuf>,
}

/// Step 1. What the system refuses here, [`limit`] tells.
pub(super) fn keep_secrets() {
    umask(Mode::from_bits_truncate(0o077));
    // Where it is refused, the process cannot be dumped either.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
    #[cfg(target_os = "freebsd")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        let _ = set_dumpable_behavior(None, DumpableBehavior::NotDumpable);
    }
}

/// Step 2: where the socket is to be that clients look for at `socket`, now that the daemon is the user `name`; `state` is where
/// it keeps what outlives it.
///
/// # Errors
/// Code 2 where there is no such user, or none can be become. Code 1 where the system refuses.
pub(super) fn become_user(name: Option<&str>, socket: &Path, state: &Path) -> Result<PathBuf, Failure> {
    let Some(name) = name else { return Ok(socket.to_owned()) };
    #[cfg(target_os = "linux")]
    if let Some(user) = user::User::named(name)? {
        let socket = user.move_in(socket, state).map_err(Failure::failed)?;
        user.become_it()?;
        return Ok(socket);
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = state;
        if name != "root" {
            return Err(Failure::usage(format!(
                "run: --user {name}: this system lets root alone have netmap ports and make interfaces; leave --user out"
            )));
        }
    }
    Ok(socket.to_owned())
}

/// Step 3.
///
/// # Errors
/// Code 2: with what is left, the daemon could not read its configuration again.
pub(super) fn limit(needs: &Needs) -> Result<Privileges, Failure> {
    let core_dumps = rustix::process::getrlimit(Resource::Core).maximum != Some(0);
    let mut privileges =
        Privileges { user: geteuid().as_raw(), core_dumps, new_privileges: true, ..Privileges::default() };
    #[cfg(target_os = "linux")]
    linux::limit(needs, &mut privileges);
    #[cfg(target_os = "freebsd")]
    match rustix::process::set_no_new_privs(None) {
        Ok(()) => privileges.new_privileges = false,
        Err(error) => privileges.missing.push(format!("no new privileges: {error}")),
    }
    let unreadable = |path: &PathBuf| {
        let error = File::open(path).err()?;
        Some(format!(
            "{}: cannot be read with the privileges that the daemon keeps: {error}; give it to the daemon's user (chown), or run with --unlimited",
            path.display()
        ))
    };
    if let Some(why) = needs.read.iter().find_map(unreadable) {
        return Err(Failure::usage(why));
    }
    privileges.tell();
    Ok(privileges)
}

/// Step 4.
pub(super) fn tell_refused() {
    #[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
    for number in netmap_sys::refused_calls() {
        log::error(format_args!(
            "system call {number} was refused: it is not among those that the daemon needs; where something does not work for want of it, run with --unlimited"
        ));
    }
}

/// The folder that a file is in.
pub(super) fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

impl Privileges {
    /// With `--unlimited`.
    pub(super) fn all() -> Privileges {
        let missing = vec!["all: --unlimited".to_owned()];
        Privileges { user: geteuid().as_raw(), new_privileges: true, missing, ..Privileges::default() }
    }

    fn tell(&self) {
        for missing in &self.missing {
            log::warn(format_args!("privileges: a limit is not in force: {missing}"));
        }
        let limits = self.lines().into_iter().map(|(what, value)| format!("{what} {value}"));
        log::info(format_args!("privileges: {}", limits.collect::<Vec<_>>().join("; ")));
    }

    /// What there is to show, but for what is missing.
    pub(super) fn lines(&self) -> Vec<(&'static str, String)> {
        let all = || "all".to_owned();
        let joined = |names: &Vec<String>| if names.is_empty() { "none".to_owned() } else { names.join(" ") };
        let mut lines = vec![
            ("user", self.user.to_string()),
            ("capabilities", self.capabilities.as_ref().map_or_else(all, joined)),
            ("new privileges", if self.new_privileges { "possible" } else { "none" }.to_owned()),
            ("system calls", self.system_calls.map_or_else(all, |count| count.to_string())),
            ("core dumps", if self.core_dumps { "possible" } else { "none" }.to_owned()),
        ];
        match &self.writable {
            Some(folders) => {
                lines.extend(folders.iter().map(|folder| ("writes in", folder.display().to_string())))
            }
            None => lines.push(("writes in", all())),
        }
        lines
    }
}
