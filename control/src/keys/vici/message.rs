//! Messages of VICI, strongSwan's control interface: a tree of named values, lists and sections. The format is that of
//! `src/libcharon/plugins/vici/README.md` in strongSwan's source, under "Message format".
//!
//! Values are bytes. What they mean, and whether a secret is among them, only the two ends know: a [`Message`] is therefore
//! never shown, and is wiped when it is dropped.

use std::fmt;
use std::net::IpAddr;

use zeroize::Zeroize;

/// How deep sections may be nested in what we read.
const DEPTH: usize = 16;

const SECTION_START: u8 = 1;
const SECTION_END: u8 = 2;
const KEY_VALUE: u8 = 3;
const LIST_START: u8 = 4;
const LIST_ITEM: u8 = 5;
const LIST_END: u8 = 6;

/// A message, or a section of one: names and what they stand for, in order.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Message(Vec<(String, Element)>);

/// What a name in a message stands for.
#[derive(Clone, PartialEq, Eq)]
enum Element {
    Value(Vec<u8>),
    List(Vec<Vec<u8>>),
    Section(Message),
}

impl Drop for Element {
    fn drop(&mut self) {
        match self {
            Element::Value(value) => value.zeroize(),
            Element::List(items) => items.iter_mut().for_each(Zeroize::zeroize),
            Element::Section(_) => {}
        }
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().map(|(name, element)| (name, element))).finish()
    }
}

impl fmt::Debug for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Element::Value(value) => write!(f, "<{} bytes>", value.len()),
            Element::List(items) => write!(f, "<{} items>", items.len()),
            Element::Section(section) => section.fmt(f),
        }
    }
}

/// Bytes that are no message, or a message that cannot be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It ends within an element.
    #[error("it ends within an element")]
    Short,
    /// An element of a kind that does not exist, or that may not stand where it does.
    #[error("an element of kind {0} where none may be")]
    Misplaced(u8),
    /// A name that is no text.
    #[error("a name that is no text")]
    Name,
    /// Sections within sections without end.
    #[error("sections nested more than {DEPTH} deep")]
    Deep,
    /// A name of more than 255 bytes, or a value of more than 65,535.
    #[error("a name or value that is too long")]
    Long,
}

impl Message {
    /// A message without anything in it.
    #[must_use]
    pub fn new() -> Message {
        Message::default()
    }

    /// The message with one value more.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Message {
        self.0.push((name.to_owned(), Element::Value(value.as_ref().to_vec())));
        self
    }

    /// The message with one list more.
    #[must_use]
    pub fn with_list<T: AsRef<[u8]>>(mut self, name: &str, items: impl IntoIterator<Item = T>) -> Message {
        let items = items.into_iter().map(|item| item.as_ref().to_vec()).collect();
        self.0.push((name.to_owned(), Element::List(items)));
        self
    }

    /// The message with one section more.
    #[must_use]
    pub fn with_section(mut self, name: &str, section: Message) -> Message {
        self.0.push((name.to_owned(), Element::Section(section)));
        self
    }

    /// The value of that name.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find_map(|(at, element)| match element {
            Element::Value(value) if at == name => Some(value.as_slice()),
            _ => None,
        })
    }

    /// The value of that name, where it is text.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.value(name)?).ok()
    }

    /// The value of that name, where it is a decimal number.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }

    /// The value of that name, where it is a hexadecimal number (as SPIs are, in network byte order).
    #[must_use]
    pub fn hex(&self, name: &str) -> Option<u32> {
        u32::from_str_radix(self.text(name)?, 16).ok()
    }

    /// The value of that name, where it is an address.
    #[must_use]
    pub fn address(&self, name: &str) -> Option<IpAddr> {
        self.text(name)?.parse().ok()
    }

    /// Does the value of that name say yes?
    #[must_use]
    pub fn is_yes(&self, name: &str) -> bool {
        self.value(name) == Some(b"yes")
    }

    /// The texts of the list of that name; nothing where there is none.
    pub fn list<'m>(&'m self, name: &'m str) -> impl Iterator<Item = &'m str> {
        self.0
            .iter()
            .filter_map(move |(at, element)| match element {
                Element::List(items) if at == name => Some(items),
                _ => None,
            })
            .flatten()
            .filter_map(|item| std::str::from_utf8(item).ok())
    }

    /// Puts these items in the place of those of the list of that name, where there is one.
    pub fn put_list<T: AsRef<[u8]>>(&mut self, name: &str, items: impl IntoIterator<Item = T>) {
        for (at, element) in &mut self.0 {
            if at == name && matches!(element, Element::List(_)) {
                *element = Element::List(items.into_iter().map(|item| item.as_ref().to_vec()).collect());
                return;
            }
        }
    }

    /// The section of that name, to be changed.
    pub fn section_mut(&mut self, name: &str) -> Option<&mut Message> {
        self.0.iter_mut().find_map(|(at, element)| match element {
            Element::Section(section) if at == name => Some(section),
            _ => None,
        })
    }

    /// All sections, to be changed.
    pub fn sections_mut(&mut self) -> impl Iterator<Item = &mut Message> {
        self.0.iter_mut().filter_map(|(_, element)| match element {
            Element::Section(section) => Some(section),
            _ => None,
        })
    }

    /// The section of that name.
    #[must_use]
    pub fn section(&self, name: &str) -> Option<&Message> {
        self.sections().find_map(|(at, section)| (at == name).then_some(section))
    }

    /// All sections, with their names.
    pub fn sections(&self) -> impl Iterator<Item = (&str, &Message)> {
        self.0.iter().filter_map(|(name, element)| match element {
            Element::Section(section) => Some((name.as_str(), section)),
            _ => None,
        })
    }

    /// The message as lines of `name = value`, `name = [ a, b ]` and `name { .. }`, in the form of swanctl.conf(5). Of bytes that
    /// are no text only their number is shown.
    #[must_use]
    pub fn to_swanctl(&self) -> String {
        let mut out = String::new();
        self.write_swanctl(&mut out, 0);
        out
    }

    fn write_swanctl(&self, out: &mut String, depth: usize) {
        let shown = |value: &[u8]| match std::str::from_utf8(value) {
            Ok(text) => text.to_owned(),
            Err(_) => format!("({} bytes)", value.len()),
        };
        let indent = "  ".repeat(depth);
        for (name, element) in &self.0 {
            match element {
                Element::Value(value) => out.push_str(&format!("{indent}{name} = {}\n", shown(value))),
                Element::List(items) => {
                    let items: Vec<String> = items.iter().map(|item| shown(item)).collect();
                    out.push_str(&format!("{indent}{name} = {}\n", items.join(", ")));
                }
                Element::Section(section) => {
                    out.push_str(&format!("{indent}{name} {{\n"));
                    section.write_swanctl(out, depth + 1);
                    out.push_str(&format!("{indent}}}\n"));
                }
            }
        }
    }

    /// The message in the form of the wire, behind what is in `out` already.
    ///
    /// # Errors
    /// A name has more than 255 bytes, or a value more than 65,535.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), Malformed> {
        for (name, element) in &self.0 {
            match element {
                Element::Value(value) => {
                    out.push(KEY_VALUE);
                    encode_name(name, out)?;
                    encode_value(value, out)?;
                }
                Element::List(items) => {
                    out.push(LIST_START);
                    encode_name(name, out)?;
                    for item in items {
                        out.push(LIST_ITEM);
                        encode_value(item, out)?;
                    }
                    out.push(LIST_END);
                }
                Element::Section(section) => {
                    out.push(SECTION_START);
                    encode_name(name, out)?;
                    section.encode(out)?;
                    out.push(SECTION_END);
                }
            }
        }
        Ok(())
    }

    /// The message that the bytes are.
    ///
    /// # Errors
    /// They are none.
    pub fn decode(mut bytes: &[u8]) -> Result<Message, Malformed> {
        let message = Message::decode_section(&mut bytes, 0)?;
        if bytes.is_empty() { Ok(message) } else { Err(Malformed::Misplaced(SECTION_END)) }
    }

    /// Reads up to the section's end, or that of the bytes for the outermost one.
    fn decode_section(bytes: &mut &[u8], depth: usize) -> Result<Message, Malformed> {
        let mut section = Message::new();
        if depth > DEPTH {
            return Err(Malformed::Deep);
        }
        while let Some(kind) = bytes.first().copied() {
            if kind == SECTION_END {
                if depth > 0 {
                    take(bytes, 1)?;
                }
                return Ok(section);
            }
            take(bytes, 1)?;
            let name = match kind {
                KEY_VALUE | LIST_START | SECTION_START => decode_name(bytes)?,
                other => return Err(Malformed::Misplaced(other)),
            };
            let element = match kind {
                KEY_VALUE => Element::Value(decode_value(bytes)?.to_vec()),
                LIST_START => Element::List(decode_list(bytes)?),
                _ => Element::Section(Message::decode_section(bytes, depth + 1)?),
            };
            section.0.push((name, element));
        }
        if depth == 0 { Ok(section) } else { Err(Malformed::Short) }
    }
}

fn encode_name(name: &str, out: &mut Vec<u8>) -> Result<(), Malformed> {
    out.push(u8::try_from(name.len()).map_err(|_| Malformed::Long)?);
    out.extend_from_slice(name.as_bytes());
    Ok(())
}

fn encode_value(value: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    out.extend_from_slice(&u16::try_from(value.len()).map_err(|_| Malformed::Long)?.to_be_bytes());
    out.extend_from_slice(value);
    Ok(())
}

/// Cuts `count` bytes off the front.
pub(super) fn take<'b>(bytes: &mut &'b [u8], count: usize) -> Result<&'b [u8], Malformed> {
    let (taken, rest) = bytes.split_at_checked(count).ok_or(Malformed::Short)?;
    *bytes = rest;
    Ok(taken)
}

/// Cuts a name with its length off the front.
pub(super) fn decode_name(bytes: &mut &[u8]) -> Result<String, Malformed> {
    let length = take(bytes, 1)?.first().copied().unwrap_or(0);
    let name = take(bytes, usize::from(length))?;
    String::from_utf8(name.to_vec()).map_err(|_| Malformed::Name)
}

fn decode_value<'b>(bytes: &mut &'b [u8]) -> Result<&'b [u8], Malformed> {
    let length = take(bytes, 2)?.first_chunk().copied().map_or(0, u16::from_be_bytes);
    take(bytes, usize::from(length))
}

fn decode_list(bytes: &mut &[u8]) -> Result<Vec<Vec<u8>>, Malformed> {
    let mut items = Vec::new();
    loop {
        match take(bytes, 1)?.first().copied().unwrap_or(0) {
            LIST_END => return Ok(items),
            LIST_ITEM => items.push(decode_value(bytes)?.to_vec()),
            other => return Err(Malformed::Misplaced(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The example of strongSwan's README, and what it says its bytes are.
    #[test]
    fn the_readmes_example() {
        let message = Message::new().with("key1", "value1").with_section(
            "section1",
            Message::new()
                .with_section("sub-section", Message::new().with("key2", "value2"))
                .with_list("list1", ["item1", "item2"]),
        );
        let bytes = [
            &b"\x03\x04key1\x00\x06value1"[..],
            b"\x01\x08section1",
            b"\x01\x0bsub-section",
            b"\x03\x04key2\x00\x06value2",
            b"\x02",
            b"\x04\x05list1\x05\x00\x05item1\x05\x00\x05item2\x06",
            b"\x02",
        ]
        .concat();
        let mut encoded = Vec::new();
        message.encode(&mut encoded).expect("it is short");
        assert_eq!(encoded, bytes);
        let read = Message::decode(&bytes).expect("it is a message");
        assert!(read == message);
        let section = read.section("section1").expect("it is there");
        assert_eq!(section.list("list1").collect::<Vec<_>>(), ["item1", "item2"]);
        assert_eq!(section.section("sub-section").and_then(|sub| sub.text("key2")), Some("value2"));
        assert_eq!(read.text("section1"), None);
    }

    #[test]
    fn values_as_charon_writes_them() {
        let message = Message::new()
            .with("spi-in", "c0ffee01")
            .with("uniqueid", "17")
            .with("local-host", "2001:db8::1")
            .with("esn", "yes")
            .with("raw", [0xff, 0xfe]);
        assert_eq!(message.hex("spi-in"), Some(0xc0ff_ee01));
        assert_eq!(message.number("uniqueid"), Some(17));
        assert_eq!(message.address("local-host"), "2001:db8::1".parse().ok());
        assert!(message.is_yes("esn") && !message.is_yes("raw"));
        assert_eq!((message.text("raw"), message.hex("esn")), (None, None));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for (bytes, why) in [
            (&b"\x03"[..], Malformed::Short),
            (b"\x03\x04key", Malformed::Short),
            (b"\x03\x01k\x00\x05ab", Malformed::Short),
            (b"\x01\x01s", Malformed::Short),
            (b"\x02", Malformed::Misplaced(2)),
            (b"\x05\x00\x00", Malformed::Misplaced(5)),
            (b"\x09", Malformed::Misplaced(9)),
            (b"\x04\x01l\x03", Malformed::Misplaced(3)),
            (b"\x03\x01\xff\x00\x00", Malformed::Name),
        ] {
            assert_eq!(Message::decode(bytes).err(), Some(why), "{bytes:?}");
        }
        assert_eq!(Message::decode(&b"\x01\x01s".repeat(1000)).err(), Some(Malformed::Deep));
        let long = Message::new().with("v", vec![0; 65_536]);
        assert_eq!(long.encode(&mut Vec::new()), Err(Malformed::Long));
    }

    /// A secret in a message is not shown by whoever logs the message.
    #[test]
    fn values_are_not_shown() {
        let message = Message::new().with("data", "secret").with_list("owners", ["secret"]);
        assert_eq!(format!("{message:?}"), r#"{"data": <6 bytes>, "owners": <1 items>}"#);
    }

    fn messages() -> impl Strategy<Value = Message> {
        let value = prop::collection::vec(any::<u8>(), 0..20);
        let leaf = prop_oneof![
            value.clone().prop_map(Element::Value),
            prop::collection::vec(value, 0..4).prop_map(Element::List),
        ];
        let element = leaf.prop_recursive(3, 30, 4, |inner| {
            prop::collection::vec(("[a-z]{0,9}", inner), 0..4)
                .prop_map(|elements| Element::Section(Message(elements)))
        });
        prop::collection::vec(("[a-z]{0,9}", element), 0..5).prop_map(Message)
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding(message in messages()) {
            let mut bytes = Vec::new();
            message.encode(&mut bytes).expect("short");
            prop_assert!(Message::decode(&bytes) == Ok(message));
            for cut in 0..bytes.len() {
                // A part of a message is another one, or none; and never a panic.
                let _ = Message::decode(&bytes[..cut]);
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(0_u8..10, 0..200)) {
            let _ = Message::decode(&bytes);
        }
    }
}
