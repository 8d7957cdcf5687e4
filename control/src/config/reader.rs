//! Typed reading of TOML tables: every getter takes its key out of the table, notes what is wrong with the value and
//! goes on, and [`Table::finish`] then knows which keys nobody asked for. A value is quoted in a message only by the
//! conversion that was given for it, never here, so that secrets cannot slip out.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use toml::de::{DeTable, DeValue};
use zeroize::Zeroizing;

use super::report::{Fault, Position, Report};
use super::source::Document;
use super::values::quoted;

/// A table that is being read.
pub(super) struct Table<'d> {
    /// The file it stands in.
    pub(super) document: &'d Document,
    /// What messages call it, such as `tunnel "paris"`.
    pub(super) what: String,
    /// The line of its header.
    pub(super) at: Position,
    entries: DeTable<'d>,
    asked: Vec<&'static str>,
}

/// A value with the line of its key.
pub(super) struct Entry<'d> {
    pub(super) value: DeValue<'d>,
    pub(super) at: Position,
}

impl<'d> Table<'d> {
    /// The table of a whole file.
    pub(super) fn root(document: &'d Document, entries: DeTable<'d>) -> Self {
        Self { document, what: String::new(), at: document.position(0), entries, asked: Vec::new() }
    }

    fn nested(&self, what: String, at: Position, entries: DeTable<'d>) -> Self {
        Self { document: self.document, what, at, entries, asked: Vec::new() }
    }

    /// What messages call the value of `key`.
    pub(super) fn name_of(&self, key: &str) -> String {
        if self.what.is_empty() { key.to_owned() } else { format!("{}, {key}", self.what) }
    }

    /// Remembers `key` as one that may stand here.
    fn ask(&mut self, key: &'static str) {
        if !self.asked.contains(&key) {
            self.asked.push(key);
        }
    }

    /// Whether `key` is there and not taken yet.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Whether `key` is there and a string.
    pub(super) fn is_text(&self, key: &str) -> bool {
        self.entries.get(key).is_some_and(|value| value.get_ref().is_str())
    }

    /// Notes an error if `key` is missing.
    pub(super) fn require(&mut self, key: &'static str, remedy: &str, report: &mut Report) {
        self.ask(key);
        if !self.has(key) {
            report.error(self.name_of(key), &self.at, Fault::new("is missing", remedy));
        }
    }

    /// Takes the value of `key`, whatever it is.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Entry<'d>> {
        self.ask(key);
        let (found, value) = self.entries.remove_entry(key)?;
        Some(Entry { value: value.into_inner(), at: self.document.position(found.span().start) })
    }

    /// Takes a value and converts it; what the conversion refuses is noted.
    pub(super) fn convert<T>(
        &mut self,
        key: &'static str,
        report: &mut Report,
        convert: impl FnOnce(DeValue<'d>) -> Result<T, Fault>,
    ) -> Option<T> {
        let entry = self.take(key)?;
        match convert(entry.value) {
            Ok(value) => Some(value),
            Err(fault) => {
                report.error(self.name_of(key), &entry.at, fault);
                None
            }
        }
    }

    /// A string, through `parse`.
    pub(super) fn text<T>(
        &mut self,
        key: &'static str,
        report: &mut Report,
        parse: impl FnOnce(&str) -> Result<T, Fault>,
    ) -> Option<T> {
        self.convert(key, report, |value| parse(&string(value)?))
    }

    /// A string that is secret: its buffer is wiped, and a file that others may read is refused.
    pub(super) fn secret<T>(
        &mut self,
        key: &'static str,
        report: &mut Report,
        parse: impl FnOnce(&str) -> Result<T, Fault>,
    ) -> Option<T> {
        let document = self.document;
        self.convert(key, report, |value| {
            // Borrowed text lies in the document's own buffer, which is wiped as well.
            let (borrowed, owned) = match string(value)? {
                Cow::Borrowed(text) => (text, Zeroizing::default()),
                Cow::Owned(text) => ("", Zeroizing::new(text)),
            };
            document.may_hold_secrets()?;
            parse(if owned.is_empty() { borrowed } else { &owned })
        })
    }

    /// A list of strings, each through `parse`. Bad entries are noted and left out.
    pub(super) fn texts<T>(
        &mut self,
        key: &'static str,
        report: &mut Report,
        mut parse: impl FnMut(&str) -> Result<T, Fault>,
    ) -> Option<Vec<(T, Position)>> {
        let entry = self.take(key)?;
        let what = self.name_of(key);
        let DeValue::Array(array) = entry.value else {
            report.error(what, &entry.at, wrong_kind(&entry.value, "a list of strings"));
            return None;
        };
        let mut list = Vec::with_capacity(array.len());
        for item in array {
            let at = self.document.position(item.span().start);
            match string(item.into_inner()).and_then(|text| parse(&text)) {
                Ok(value) => list.push((value, at)),
                Err(fault) => report.error(what.clone(), &at, fault),
            }
        }
        Some(list)
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, key: &'static str, report: &mut Report) -> Option<bool> {
        self.convert(key, report, |value| match value {
            DeValue::Boolean(value) => Ok(value),
            other => Err(wrong_kind(&other, "true or false")),
        })
    }

    /// A whole number within `range`.
    pub(super) fn number<T: TryFrom<i128>>(
        &mut self,
        key: &'static str,
        range: RangeInclusive<i128>,
        report: &mut Report,
    ) -> Option<T> {
        self.convert(key, report, |value| number(&value, range))
    }

    /// The table under `key`.
    pub(super) fn table(&mut self, key: &'static str, report: &mut Report) -> Option<Table<'d>> {
        let entry = self.take(key)?;
        let what = self.name_of(key);
        match entry.value {
            DeValue::Table(entries) => Some(self.nested(what, entry.at, entries)),
            other => {
                report.error(what, &entry.at, wrong_kind(&other, "a table"));
                None
            }
        }
    }

    /// The tables under `[[key]]`, called `key 1`, `key 2` and so on; none if there is no such key.
    pub(super) fn tables(&mut self, key: &'static str, report: &mut Report) -> Vec<Table<'d>> {
        let Some(entry) = self.take(key) else { return Vec::new() };
        let header = format!("a list of tables, [[{}]]", key);
        let DeValue::Array(array) = entry.value else {
            report.error(self.name_of(key), &entry.at, wrong_kind(&entry.value, &header));
            return Vec::new();
        };
        let mut tables = Vec::with_capacity(array.len());
        for (index, item) in array.into_iter().enumerate() {
            let what = format!("{} {}", self.name_of(key), index.saturating_add(1));
            let at = self.document.position(item.span().start);
            match item.into_inner() {
                DeValue::Table(entries) => tables.push(self.nested(what, at, entries)),
                other => report.error(what, &at, wrong_kind(&other, &header)),
            }
        }
        tables
    }

    /// Notes every key that nobody asked for.
    pub(super) fn finish(self, report: &mut Report) {
        for (key, _) in &self.entries {
            let name = key.get_ref();
            let at = self.document.position(key.span().start);
            let place = if self.what.is_empty() { String::new() } else { format!("{}, ", self.what) };
            report.error(format!("{place}unknown key {}", quoted(name)), &at, unknown_key(name, &self.asked));
        }
    }
}

fn unknown_key(name: &str, known: &[&'static str]) -> Fault {
    let why = "no such setting here";
    match nearest(name, known) {
        Some(near) => Fault::new(why, format!("did you mean `{near}`?")),
        None => Fault::new(why, format!("take it out; known here: {}", known.join(", "))),
    }
}

/// The known word that is likely to have been meant, if any.
pub(super) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let (distance, near) = known.iter().map(|near| (edits(word, near), *near)).min()?;
    let allowed = near.len().div_ceil(3);
    (distance <= allowed).then_some(near)
}

/// Levenshtein distance in bytes; words longer than any setting's name are far from all of them.
fn edits(from: &str, to: &str) -> usize {
    if from.len() > 64 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (line, have) in from.bytes().enumerate() {
        let mut diagonal = line;
        let mut left = line.saturating_add(1);
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, want) in row.iter_mut().skip(1).zip(to.bytes()) {
            let replace = diagonal.saturating_add(usize::from(have != want));
            diagonal = *cell;
            left = replace.min(left.saturating_add(1)).min(diagonal.saturating_add(1));
            *cell = left;
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}

/// The text of a string value.
pub(super) fn string(value: DeValue<'_>) -> Result<Cow<'_, str>, Fault> {
    match value {
        DeValue::String(text) => Ok(text),
        other => Err(wrong_kind(&other, "a string in quotes")),
    }
}

/// A whole number within `range`.
pub(super) fn number<T: TryFrom<i128>>(value: &DeValue<'_>, range: RangeInclusive<i128>) -> Result<T, Fault> {
    let DeValue::Integer(integer) = value else {
        return Err(wrong_kind(value, "a whole number"));
    };
    let limits = || format!("give {} to {}", range.start(), range.end());
    let Ok(number) = i128::from_str_radix(integer.as_str(), integer.radix()) else {
        return Err(Fault::new("is too large a number", limits()));
    };
    if !range.contains(&number) {
        return Err(Fault::new(format!("{integer} is out of range"), limits()));
    }
    T::try_from(number).map_err(|_| Fault::new(format!("{integer} is out of range"), limits()))
}

/// Says what kind of value is there and which is wanted, without quoting it.
pub(super) fn wrong_kind(value: &DeValue<'_>, wanted: &str) -> Fault {
    let kind = match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    Fault::new(format!("is {kind}"), format!("write {wanted}"))
}

#[cfg(test)]
mod tests {
    use super::{edits, nearest};

    #[test]
    fn distances() {
        for (from, to, distance) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("kitten", "sitting", 3),
            ("ttl", "tll", 1),
            ("mut", "mtu", 2),
        ] {
            assert_eq!(edits(from, to), distance, "{from} {to}");
        }
    }

    #[test]
    fn suggestions() {
        let known = ["checksum", "sequence", "mtu"];
        assert_eq!(nearest("cheksum", &known), Some("checksum"));
        assert_eq!(nearest("window", &known), None);
        assert_eq!(nearest(&"m".repeat(1 << 20), &known), None);
        assert_eq!(nearest("x", &[]), None);
    }
}
