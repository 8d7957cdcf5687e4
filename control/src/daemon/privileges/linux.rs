//! Linux's means: capabilities, no new privileges, Landlock, seccomp; in this order, as each takes the right to the one before away.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    RulesetStatus,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs,
};

use super::{Needs, Privileges, system_calls};

/// What is kept:
/// - `NET_ADMIN`: interfaces, offloads, XDP programs, the kernel's neighbours and SAs;
/// - `NET_RAW`: AF_XDP and packet sockets;
/// - `IPC_LOCK`: their buffers, beyond what a limit allows that this process may not be able to raise;
/// - `BPF` and `PERFMON`: the XDP program of a port that comes back; without the second, the kernel lets it add no length that it has
///   read to a pointer (kernel/bpf/verifier.c, `bypass_spec_v1`).
pub(super) const KEPT: CapabilitySet = CapabilitySet::NET_ADMIN
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::IPC_LOCK)
    .union(CapabilitySet::BPF)
    .union(CapabilitySet::PERFMON);

/// Devices, which are opened for writing: `/dev/net/tun`.
const DEVICES: &str = "/dev";
/// What is known of Landlock here; a kernel that knows less is asked for less.
const LANDLOCK: ABI = ABI::V6;

pub(super) fn limit(needs: &Needs, privileges: &mut Privileges) {
    match keep_capabilities() {
        Ok(kept) => privileges.capabilities = Some(kept),
        Err(error) => privileges.missing.push(format!("capabilities: {error}")),
    }
    match set_no_new_privs(true) {
        Ok(()) => privileges.new_privileges = false,
        Err(error) => privileges.missing.push(format!("no new privileges: {error}")),
    }
    match lock_files(&needs.written) {
        Ok(RulesetStatus::NotEnforced) => {
            privileges.missing.push("files: this kernel has no Landlock".to_owned());
        }
        Ok(_) => privileges.writable = Some(needs.written.clone()),
        Err(error) => privileges.missing.push(format!("files: {error}")),
    }
    match system_calls::limit() {
        Ok(count) => privileges.system_calls = Some(count),
        Err(error) => privileges.missing.push(format!("system calls: {error}")),
    }
}

/// Gives up all capabilities but those of [`KEPT`] that are there.
fn keep_capabilities() -> rustix::io::Result<Vec<String>> {
    let had = capabilities(None)?;
    for other in (CapabilitySet::all() - KEPT).iter() {
        // One that this kernel does not know, or that is gone, or may not be taken out: nothing that could be started
        // would have it, as there are no new privileges.
        let _ = remove_capability_from_bounding_set(other);
    }
    let kept = had.permitted & KEPT;
    set_capabilities(
        None,
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() },
    )?;
    Ok(kept.iter_names().map(|(name, _)| name.to_lowercase()).collect())
}

/// Reading anywhere, as configuration names files anywhere; writing in `folders` and to devices; starting nothing.
fn lock_files(folders: &[PathBuf]) -> Result<RulesetStatus, RulesetError> {
    let mut rules = Ruleset::default().handle_access(AccessFs::from_all(LANDLOCK))?.create()?;
    let open = |path: &Path| PathFd::new(path).ok();
    if let Some(root) = open(Path::new("/")) {
        rules = rules.add_rule(PathBeneath::new(root, AccessFs::ReadFile | AccessFs::ReadDir))?;
    }
    if let Some(devices) = open(Path::new(DEVICES)) {
        rules = rules.add_rule(PathBeneath::new(devices, AccessFs::WriteFile | AccessFs::IoctlDev))?;
    }
    // A folder that cannot be made is told of by whoever writes there.
    for folder in folders.iter().filter_map(|folder| open(folder)) {
        let write = AccessFs::RemoveDir
            | AccessFs::RemoveFile
            | AccessFs::MakeDir
            | AccessFs::MakeReg
            | AccessFs::MakeSock
            | AccessFs::WriteFile
            | AccessFs::Truncate
            | AccessFs::Refer;
        rules = rules.add_rule(PathBeneath::new(folder, write))?;
    }
    Ok(rules.restrict_self()?.ruleset)
}
