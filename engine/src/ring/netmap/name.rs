//! Names of netmap ports, as netmap's users write them after `netmap:`: an interface (`vmx0`), a port of a VALE switch
//! (`vale0:a`), or one end of a pipe (`pipe{0` and `pipe}0`, `em0{1`, `vale0:a}1`).
//!
//! What netmap's own tools allow behind the name (`-N` for a ring, `^` and `*` for the host's rings, `/` and `@` for flags and
//! memory) is refused: Culvert decides these itself.

use netmap_sys::{IFNAMSIZ, NETMAP_REQ_IFNAMSIZ};

use super::NetmapError;

/// What kind of port a name means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortKind {
    /// The rings of a network interface.
    Interface,
    /// A port of a VALE switch, made by opening it.
    Vale,
    /// One end of a pipe, made by opening it.
    Pipe,
}

/// A name that netmap can be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PortName {
    text: String,
    pub(super) kind: PortKind,
}

impl PortName {
    /// Reads what stands behind `netmap:`.
    pub(super) fn parse(text: &str) -> Result<PortName, NetmapError> {
        let wrong = |why| NetmapError::Name { name: text.to_owned(), why };
        let (base, pipe) = match text.split_once(['{', '}']) {
            Some((base, id)) => (base, Some(id)),
            None => (text, None),
        };
        if let Some(id) = pipe
            && (id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()))
        {
            return Err(wrong("a pipe's end is NAME{ID or NAME}ID, with letters and digits as ID"));
        }
        if base.contains(['-', '^', '*', '/', '@', ' ']) {
            return Err(wrong("ring, flag and memory suffixes are not used here: give the plain name"));
        }
        let switch = base.split_once(':');
        let (longest, part) = match switch {
            Some((switch, port)) if switch.starts_with("vale") => (NETMAP_REQ_IFNAMSIZ, port),
            Some(_) => return Err(wrong("only the ports of a VALE switch have a colon: valeNAME:PORT")),
            // A pipe's base that is no interface is made by netmap, under the same limit.
            None => (IFNAMSIZ, base),
        };
        if part.is_empty() || !base.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong("it names nothing"));
        }
        if base.len() >= longest || text.len() >= NETMAP_REQ_IFNAMSIZ {
            return Err(wrong("it is too long"));
        }
        let kind = match (pipe, switch) {
            (Some(_), _) => PortKind::Pipe,
            (None, Some(_)) => PortKind::Vale,
            (None, None) => PortKind::Interface,
        };
        Ok(PortName { text: text.to_owned(), kind })
    }

    /// The name, as it was given.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// The name as a request carries it: ended by a zero.
    pub(super) fn to_field(&self) -> [u8; NETMAP_REQ_IFNAMSIZ] {
        let mut field = [0; NETMAP_REQ_IFNAMSIZ];
        for (to, from) in field.iter_mut().zip(self.text.bytes().take(NETMAP_REQ_IFNAMSIZ - 1)) {
            *to = from;
        }
        field
    }
}
