//! A router that is not ready is demoted: CARP adds so much to what it advertises (`net.inet.carp.demotion`), and the other router is
//! master sooner. It is done once, however long it lasts, and given back when the router is ready.
//!
//! A daemon that ends leaves its router demoted, as does one that was killed. What was added stands in a file, and the next one goes
//! on from there; so it does where somebody else has added it and written that down, as a script that runs before there is a daemon.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// As much as FreeBSD itself adds for an interface that is down (`V_carp_ifdown_adj`): enough for any other router to go first.
const BY: i32 = 240;
/// What the file's name ends in, behind the socket's.
const SUFFIX: &str = ".demotion";

/// Where demotion is counted.
pub trait Demotion {
    /// What it is now, with what others have added.
    ///
    /// # Errors
    /// The system does not say.
    fn now(&self) -> io::Result<i32>;

    /// Adds so much to it. Whatever it is, nothing included: the kernel advertises at once all groups of which it is master.
    ///
    /// # Errors
    /// The system refuses.
    fn add(&mut self, by: i32) -> io::Result<()>;
}

/// FreeBSD's `net.inet.carp.demotion`.
#[cfg(target_os = "freebsd")]
struct Kernel;

#[cfg(target_os = "freebsd")]
impl Demotion for Kernel {
    fn now(&self) -> io::Result<i32> {
        netmap_sys::carp_demotion()
    }

    fn add(&mut self, by: i32) -> io::Result<()> {
        netmap_sys::carp_demote(by)
    }
}

/// The running system's; `None` where there is none, and scripts ask `culvert carp ready`.
#[must_use]
pub fn demotion() -> Option<Box<dyn Demotion>> {
    #[cfg(target_os = "freebsd")]
    return Some(Box::new(Kernel));
    #[cfg(not(target_os = "freebsd"))]
    return None;
}

/// See the module page.
pub struct Demoted {
    counted: Option<Box<dyn Demotion>>,
    file: PathBuf,
    is: bool,
}

impl Demoted {
    /// Beside the daemon's socket; takes over what an earlier daemon has added.
    #[must_use]
    pub fn beside(socket: &Path, counted: Option<Box<dyn Demotion>>) -> Demoted {
        let mut file = socket.as_os_str().to_owned();
        file.push(SUFFIX);
        let file = PathBuf::from(file);
        // A file without what it tells of: nothing was added, or somebody has put it right.
        let there = |counted: &dyn Demotion| counted.now().is_ok_and(|now| now >= BY);
        let is = counted.as_deref().is_some_and(|counted| file.exists() && there(counted));
        Demoted { counted, file, is }
    }

    /// The router is demoted, or is not, from now on. Did that change?
    ///
    /// # Errors
    /// The system refuses, in words.
    pub fn set(&mut self, is: bool) -> Result<bool, String> {
        let Some(counted) = self.counted.as_deref_mut() else { return Ok(false) };
        if is == self.is {
            return Ok(false);
        }
        let by = if is { BY } else { -BY };
        counted.add(by).map_err(|error| format!("net.inet.carp.demotion: {error}"))?;
        self.is = is;
        let noted = if is { fs::write(&self.file, format!("{BY}\n")) } else { fs::remove_file(&self.file) };
        // It is only wanted after a crash.
        noted.map(|()| true).map_err(|error| format!("{}: {error}", self.file.display()))
    }

    /// All groups of which this router is master are advertised now, each of which would be within a second or two, in its own
    /// time: whoever is to take them takes all of them together.
    pub fn advertise(&mut self) {
        // It is said again anyway.
        let _ = self.counted.as_deref_mut().map(|counted| counted.add(0));
    }
}

#[cfg(test)]
pub(super) mod scripted {
    use std::cell::Cell;
    use std::io;
    use std::rc::Rc;

    use super::Demotion;

    /// A kernel, shared with whoever watches.
    #[derive(Clone, Default)]
    pub(in crate::carp) struct Scripted {
        pub(in crate::carp) count: Rc<Cell<i32>>,
        /// How often it has advertised all groups.
        pub(in crate::carp) advertised: Rc<Cell<usize>>,
        pub(in crate::carp) refuses: Rc<Cell<bool>>,
    }

    impl Demotion for Scripted {
        fn now(&self) -> io::Result<i32> {
            Ok(self.count.get())
        }

        fn add(&mut self, by: i32) -> io::Result<()> {
            if self.refuses.get() {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            self.count.set(self.count.get() + by);
            self.advertised.set(self.advertised.get() + 1);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::scripted::Scripted;
    use super::*;

    fn place(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("culvert-demotion-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        folder.join("socket")
    }

    #[test]
    fn once_and_given_back() {
        let (kernel, socket) = (Scripted::default(), place("once"));
        kernel.count.set(7);
        let mut demoted = Demoted::beside(&socket, Some(Box::new(kernel.clone())));
        for (is, changes, count) in
            [(false, false, 7), (true, true, 247), (true, false, 247), (false, true, 7)]
        {
            assert_eq!((demoted.set(is), kernel.count.get()), (Ok(changes), count));
        }
        kernel.refuses.set(true);
        assert!(demoted.set(true).unwrap_err().contains("net.inet.carp.demotion"));
        kernel.refuses.set(false);
        assert_eq!((demoted.set(true), kernel.count.get()), (Ok(true), 247), "tried again");
        assert_eq!((demoted.set(false), kernel.count.get()), (Ok(true), 7));
        fs::remove_dir(socket.parent().unwrap()).expect("nothing is left");
    }

    /// The next daemon takes over what one that was killed has added; after a restart of the machine, there is nothing to take.
    #[test]
    fn after_a_crash() {
        let (kernel, socket) = (Scripted::default(), place("crash"));
        let start = || Demoted::beside(&socket, Some(Box::new(kernel.clone())));
        assert_eq!(start().set(true), Ok(true));
        let mut next = start();
        assert_eq!((next.set(true), kernel.count.get()), (Ok(false), 240));
        assert_eq!((next.set(false), kernel.count.get()), (Ok(true), 0));
        assert_eq!(start().set(true), Ok(true));
        kernel.count.set(0);
        assert_eq!((start().set(true), kernel.count.get()), (Ok(true), 240));
        fs::remove_dir_all(socket.parent().unwrap()).expect("removed");
    }
}
