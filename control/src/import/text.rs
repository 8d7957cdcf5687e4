//! The characters of a file as a shell's reader takes them: where it stands, what comes next, and the few runs of
//! characters that are passed as a whole. A backslash at the end of a line joins it with the next one, everywhere but in single
//! quotes and comments.

use std::path::Path;
use std::sync::Arc;

use crate::config::Position;

/// Where the lines of a file begin.
#[derive(Debug)]
pub(super) struct Lines {
    file: Arc<Path>,
    order: u32,
    ends: Vec<usize>,
}

impl Lines {
    /// Those of `text`, which was read from `file` as number `order`.
    pub(super) fn new(file: &Path, order: u32, text: &str) -> Lines {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(offset, _)| offset);
        Lines { file: file.into(), order, ends: ends.collect() }
    }

    /// The line that holds the byte at `offset`.
    pub(super) fn at(&self, offset: usize) -> Position {
        let before = self.ends.partition_point(|end| *end < offset);
        let line = u32::try_from(before.saturating_add(1)).unwrap_or(u32::MAX);
        Position::new(Arc::clone(&self.file), self.order, line)
    }
}

/// What has not been read yet.
#[derive(Clone, Debug)]
pub(super) struct Text<'r> {
    rest: &'r str,
    offset: usize,
}

impl<'r> Text<'r> {
    pub(super) fn new(text: &'r str) -> Text<'r> {
        Text { rest: text, offset: 0 }
    }

    /// How many bytes have been read.
    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    /// What was read from here up to where `later` is.
    pub(super) fn up_to(&self, later: &Text<'r>) -> &'r str {
        self.rest.get(..later.offset.saturating_sub(self.offset)).unwrap_or_default()
    }

    fn pass(&mut self, bytes: usize) -> &'r str {
        let (passed, rest) = self.rest.split_at_checked(bytes).unwrap_or((self.rest, ""));
        self.rest = rest;
        self.offset = self.offset.saturating_add(passed.len());
        passed
    }

    /// Passes the ends of lines that go on.
    fn join(&mut self) {
        while self.rest.starts_with("\\\n") {
            self.pass(2);
        }
    }

    /// The next character.
    pub(super) fn peek(&mut self) -> Option<char> {
        self.join();
        self.rest.chars().next()
    }

    /// Takes the next character.
    pub(super) fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.pass(next.len_utf8());
        Some(next)
    }

    /// Takes the next character as it stands: the one behind a backslash, which joins no lines itself.
    pub(super) fn raw(&mut self) -> Option<char> {
        let next = self.rest.chars().next()?;
        self.pass(next.len_utf8());
        Some(next)
    }

    /// Takes the next character if it is this one.
    pub(super) fn take(&mut self, wanted: char) -> bool {
        let there = self.peek() == Some(wanted);
        if there {
            self.next();
        }
        there
    }

    /// Passes blanks.
    pub(super) fn blanks(&mut self) {
        while matches!(self.peek(), Some(' ' | '\t')) {
            self.next();
        }
    }

    /// Passes a comment up to the end of its line.
    pub(super) fn comment(&mut self) {
        let length = self.rest.find('\n').unwrap_or(self.rest.len());
        self.pass(length);
    }

    /// Takes a line of a here-document; `None` at the end of the file.
    pub(super) fn line(&mut self) -> Option<&'r str> {
        if self.rest.is_empty() {
            return None;
        }
        let length = self.rest.find('\n').map_or(self.rest.len(), |end| end.saturating_add(1));
        let line = self.pass(length);
        Some(line.strip_suffix('\n').unwrap_or(line))
    }

    /// Takes a word in which nothing is quoted or expanded; an empty one, and nothing, where the next word is of another kind.
    pub(super) fn bare_word(&mut self) -> String {
        let mut ahead = self.clone();
        let mut word = String::new();
        while let Some(next) = ahead.peek() {
            match next {
                ' ' | '\t' | '\n' | ';' | '&' | '|' | '<' | '>' | '(' | ')' => break,
                '\'' | '"' | '\\' | '$' | '`' => return String::new(),
                other => word.push(other),
            }
            ahead.next();
        }
        *self = ahead;
        word
    }

    /// Takes the letters, digits and underscores that come next: a variable's name, which starts with no digit.
    pub(super) fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(next) = self.peek() {
            let first = name.is_empty();
            if !(next.is_ascii_alphabetic() || next == '_' || !first && next.is_ascii_digit()) {
                break;
            }
            name.push(next);
            self.next();
        }
        name
    }

    /// Takes `NAME=`, if that comes next.
    pub(super) fn assignment(&mut self) -> Option<String> {
        let mut ahead = self.clone();
        let name = ahead.name();
        if name.is_empty() || !ahead.take('=') {
            return None;
        }
        *self = ahead;
        Some(name)
    }

    /// Takes what stands before the next single quote, and the quote.
    pub(super) fn single_quoted(&mut self) -> Option<&'r str> {
        let length = self.rest.find('\'')?;
        let text = self.pass(length);
        self.pass(1);
        Some(text)
    }

    /// Passes a command up to its backquote. Is there one?
    pub(super) fn backquoted(&mut self) -> bool {
        while let Some(next) = self.next() {
            match next {
                '`' => return true,
                '\\' => drop(self.raw()),
                _ => {}
            }
        }
        false
    }

    /// Passes what stands in parentheses, with what is quoted in it, to the closing one; the opening one comes next. Is
    /// it there, with no more than `deepest` in each other?
    pub(super) fn parenthesised(&mut self, deepest: usize) -> bool {
        // The closing marks that are waited for.
        let mut open: Vec<char> = Vec::new();
        let mut before = ' ';
        while let Some(next) = self.next() {
            let quoted = open.last() == Some(&'"');
            let ends = match next {
                '\'' if !quoted => self.single_quoted().is_some(),
                '`' => self.backquoted(),
                _ => true,
            };
            if !ends {
                return false;
            }
            match next {
                '\\' => drop(self.raw()),
                '"' if quoted => drop(open.pop()),
                '"' => open.push('"'),
                '#' if !quoted && matches!(before, ' ' | '\t' | '\n' | ';' | '(') => self.comment(),
                '(' if !quoted || before == '$' => open.push(')'),
                ')' if open.last() == Some(&')') => drop(open.pop()),
                _ => {}
            }
            before = next;
            if open.is_empty() {
                return true;
            }
            if open.len() > deepest {
                return false;
            }
        }
        false
    }

    /// Takes `&&`, `||`, `|` or `&`. Does it make the next command depend on the last?
    pub(super) fn joint(&mut self) -> bool {
        let first = self.next();
        let twice = self.peek() == first;
        if twice {
            self.next();
        }
        twice || first == Some('|')
    }

    /// Takes `<`, `>` and what belongs to it. Of a here-document: whether tabs before its lines are passed.
    pub(super) fn redirection(&mut self) -> Option<bool> {
        let document = self.take('<') && self.take('<');
        if document {
            return Some(self.take('-'));
        }
        while matches!(self.peek(), Some('<' | '>' | '&' | '|')) {
            self.next();
        }
        None
    }
}
