//! What a seccomp filter refuses (seccomp(2), `SECCOMP_RET_TRAP`): SIGSYS is caught, the system call fails with EPERM in place of
//! ending the process, and its number is kept until somebody asks.

extern crate std;

use core::ffi::{c_int, c_void};
use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};
use std::io;

/// One bit for each system call; those beyond share the last.
static REFUSED: [AtomicU64; 8] = [const { AtomicU64::new(0) }; 8];
const LAST: u32 = 511;
/// `<asm-generic/siginfo.h>`: the signal comes from a filter.
const SYS_SECCOMP: c_int = 1;

/// The part of a `siginfo_t` that SIGSYS fills (sigaction(2); `<asm-generic/siginfo.h>`, 64 bit).
#[repr(C)]
struct Refusal {
    signal: c_int,
    errno: c_int,
    code: c_int,
    address: *mut c_void,
    number: c_int,
    architecture: u32,
}

const _: () = assert!(size_of::<Refusal>() <= size_of::<libc::siginfo_t>());
const _: () = assert!(core::mem::offset_of!(Refusal, number) == 24);

/// From now on, a call that a filter traps fails with EPERM.
///
/// # Errors
/// What the kernel says.
pub fn fail_refused_calls() -> io::Result<()> {
    // SAFETY: all zeroes is a valid `sigaction`: an empty mask, no flags.
    let mut action: libc::sigaction = unsafe { core::mem::zeroed() };
    action.sa_sigaction = refuse as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK | libc::SA_NODEFER;
    // SAFETY: the handler has the type that SA_SIGINFO asks for, and does nothing that is not async-signal-safe.
    match unsafe { libc::sigaction(libc::SIGSYS, &raw const action, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The system calls that were refused since this was called last, by their numbers on this machine.
pub fn refused_calls() -> impl Iterator<Item = u32> {
    REFUSED.iter().zip(0_u32..).flat_map(|(word, place)| {
        let bits = word.swap(0, Ordering::Relaxed);
        (0..u64::BITS).filter(move |bit| bits >> bit & 1 == 1).map(move |bit| place * u64::BITS + bit)
    })
}

extern "C" fn refuse(_signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel hands over the information of a SIGSYS, whose layout this is, as long as it says so by `code`; the
    // fields before are those of every signal.
    let refusal = unsafe { &*info.cast::<Refusal>() };
    if refusal.code != SYS_SECCOMP {
        return;
    }
    let number = u32::try_from(refusal.number).unwrap_or(LAST).min(LAST);
    if let Some(word) = REFUSED.get((number / u64::BITS) as usize) {
        word.fetch_or(1 << (number % u64::BITS), Ordering::Relaxed);
    }
    // SAFETY: with SA_SIGINFO the third argument is the `ucontext_t` of the interrupted thread, which is ours until we return.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    let result = -i64::from(libc::EPERM);
    #[cfg(target_arch = "x86_64")]
    if let Some(register) = context.uc_mcontext.gregs.get_mut(libc::REG_RAX as usize) {
        *register = result;
    }
    #[cfg(target_arch = "aarch64")]
    if let Some(register) = context.uc_mcontext.regs.get_mut(0) {
        *register = result as u64;
    }
}
