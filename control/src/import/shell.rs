//! Assignments as sh(1) makes them when it reads files of rc.conf's kind, without running anything.
//!
//! Read as a shell does: quotes, escapes, comments, continued lines, several assignments in a line, `export`, `readonly`,
//! `unset`, `:`, `return`, and `$NAME`, `${NAME}`, `${NAME-WORD}` and its relatives with `=`, `+`, `?` and `:`, which see what the
//! files before have set. What would have to be run is not: commands, `$(..)`, arithmetic, `if` and its kind. What such
//! a thing may have set is in [`Doubt`] from then on, and so is everything made of it.
//!
//! A value may be a secret: nothing here puts one into a message.

use std::collections::BTreeMap;

use super::text::{Lines, Text};
use crate::config::Position;

/// A value has at most this many bytes: `a=$a$a` doubles it line by line.
const LONGEST: usize = 1 << 16;
/// All values that were ever set have at most this many bytes together.
const ALL: usize = 1 << 24;
/// `${a:-${b:-..}}`, and what is quoted in each other, at most: the reader calls itself for each.
const DEEPEST: usize = 32;

/// A variable, and where it was set last.
#[derive(Clone, Debug)]
pub(super) struct Variable {
    /// Its value, as far as it is known without running anything.
    pub(super) value: String,
    /// Where it was set.
    pub(super) at: Position,
    /// Why it may have another value.
    pub(super) doubt: Option<Doubt>,
    /// Up to which byte the value was there already, line by line: lists grow.
    grown: Vec<(usize, Position)>,
}

impl Variable {
    /// The words of the value, as a shell splits it, each with the line that brought it.
    pub(super) fn words(&self) -> impl Iterator<Item = (&str, &Position)> {
        let mut end = 0_usize;
        self.value.split_inclusive([' ', '\t', '\n']).filter_map(move |part| {
            let word = part.trim_end_matches([' ', '\t', '\n']);
            let last = end.saturating_add(word.len());
            end = end.saturating_add(part.len());
            let brought = self.grown.iter().find(|(grown, _)| last <= *grown).map_or(&self.at, |(_, at)| at);
            (!word.is_empty()).then_some((word, brought))
        })
    }
}

/// Why a value is not certain.
#[derive(Clone, Debug)]
pub(super) struct Doubt {
    /// What would have to be run.
    pub(super) why: &'static str,
    /// Where that stands.
    pub(super) at: Position,
}

/// A command that was not run.
#[derive(Clone, Debug)]
pub(super) struct Command {
    /// What it is.
    pub name: &'static str,
    /// Where it stands.
    pub(super) at: Position,
}

/// A file that no shell could read either.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    /// What is wrong.
    pub(super) why: String,
    /// Where.
    pub(super) at: Position,
}

/// The variables that the files read so far have set, and what was not run.
#[derive(Debug, Default)]
pub(super) struct Shell {
    variables: BTreeMap<String, Variable>,
    commands: Vec<Command>,
    bytes: usize,
}

impl Shell {
    /// Reads a file, after those before it.
    ///
    /// # Errors
    /// Quotes, braces or compound commands that do not end, and the like. What stands before has been taken.
    pub(super) fn read(&mut self, text: &str, lines: &Lines) -> Result<(), Fault> {
        let mut reader = Reader {
            text: Text::new(text),
            lines,
            shell: self,
            inside: Vec::new(),
            joined: false,
            ended: false,
            depth: 0,
            fresh: Vec::new(),
            documents: Vec::new(),
        };
        reader.file()
    }

    /// All variables, by name.
    pub(super) fn variables(&self) -> impl Iterator<Item = (&str, &Variable)> {
        self.variables.iter().map(|(name, variable)| (name.as_str(), variable))
    }

    /// One variable.
    #[must_use]
    pub(super) fn get(&self, name: &str) -> Option<&Variable> {
        self.variables.get(name)
    }

    /// What was not run, in the order of the files.
    #[must_use]
    pub(super) fn commands(&self) -> &[Command] {
        &self.commands
    }

    fn set(&mut self, name: &str, value: Value, at: Position) {
        let Value { text, doubt } = value;
        self.bytes = self.bytes.saturating_add(text.len());
        let before = self.variables.remove(name).filter(|before| text.starts_with(&before.value));
        let mut grown = before.map_or_else(Vec::new, |before| before.grown);
        grown.push((text.len(), at.clone()));
        self.variables.insert(name.to_owned(), Variable { value: text, at, doubt, grown });
    }

    /// Something that is not run may set it.
    fn doubt(&mut self, name: &str, doubt: Doubt) {
        let at = doubt.at.clone();
        let unset = || Variable { value: String::new(), at, doubt: None, grown: Vec::new() };
        self.variables.entry(name.to_owned()).or_insert_with(unset).doubt = Some(doubt);
    }
}

/// What a word comes to.
#[derive(Clone, Debug, Default)]
struct Value {
    text: String,
    doubt: Option<Doubt>,
}

impl Value {
    fn add(&mut self, other: Value) {
        self.text.push_str(&other.text);
        self.doubt = self.doubt.take().or(other.doubt);
    }

    /// The value, in doubt for this reason too.
    fn or_doubt(self, doubt: Option<Doubt>) -> Value {
        Value { doubt: doubt.or(self.doubt), ..self }
    }
}

/// How the characters of a word are taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Quoting {
    /// Bare, up to a blank or an operator.
    None,
    /// Between double quotes.
    Double,
    /// The word of a `${NAME-WORD}` that is bare itself.
    Brace,
    /// The word of one between double quotes.
    DoubleBrace,
}

/// A compound command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Compound {
    If,
    Loop,
    Case,
    Group,
    Subshell,
}

impl Compound {
    fn end(self) -> &'static str {
        match self {
            Compound::If => "fi",
            Compound::Loop => "done",
            Compound::Case => "esac",
            Compound::Group => "}",
            Compound::Subshell => ")",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Compound::If => "`if`",
            Compound::Loop => "a loop",
            Compound::Case => "`case`",
            Compound::Group => "a group or function",
            Compound::Subshell => "`(`",
        }
    }
}

/// What comes after a command.
enum Next {
    /// Another one.
    Command,
    /// The end of the file, or `return`.
    End,
}

/// A word of a command.
struct Word {
    /// What it comes to; of an assignment, what stands behind `=`.
    value: Value,
    /// The name before `=`.
    assigns: Option<String>,
    at: usize,
}

struct Reader<'r> {
    text: Text<'r>,
    lines: &'r Lines,
    shell: &'r mut Shell,
    /// The compound commands around, and where they begin.
    inside: Vec<(Compound, usize)>,
    /// Whether the command runs depends on the one before.
    joined: bool,
    /// A command came before on this line, which `;` may end.
    ended: bool,
    depth: usize,
    /// Names that the command has set so far: whether the rest of it sees that, shells decide differently.
    fresh: Vec<String>,
    /// The ends of here-documents that begin on the next line, and whether tabs before them are passed.
    documents: Vec<(String, bool)>,
}

impl Reader<'_> {
    fn fault<T>(&self, offset: usize, why: impl Into<String>) -> Result<T, Fault> {
        Err(Fault { why: why.into(), at: self.lines.at(offset) })
    }

    fn doubt(&self, why: &'static str, offset: usize) -> Option<Doubt> {
        Some(Doubt { why, at: self.lines.at(offset) })
    }

    fn note(&mut self, name: &'static str, offset: usize) {
        self.shell.commands.push(Command { name, at: self.lines.at(offset) });
    }

    fn file(&mut self) -> Result<(), Fault> {
        while let Next::Command = self.command()? {
            if self.shell.bytes > ALL {
                return self
                    .fault(self.text.offset(), format!("all values together have more than {ALL} bytes"));
            }
        }
        match self.inside.last() {
            Some((compound, at)) => self.fault(*at, format!("{} has no end", compound.name())),
            None => Ok(()),
        }
    }

    /// A simple command, or one step into or out of a compound one.
    fn command(&mut self) -> Result<Next, Fault> {
        self.between()?;
        let start = self.text.offset();
        match self.text.peek() {
            None if self.joined => return self.fault(start, "`&&`, `||` or `|` joins nothing"),
            None => return Ok(Next::End),
            Some('(') => {
                self.text.next();
                self.enter(Compound::Subshell, start);
            }
            Some(')') => {
                self.text.next();
                self.leave(")", start)?;
            }
            Some(_) => {
                if !self.reserved(start)? {
                    return self.simple(start);
                }
            }
        }
        Ok(Next::Command)
    }

    /// Passes what may stand between commands.
    fn between(&mut self) -> Result<(), Fault> {
        loop {
            self.text.blanks();
            let at = self.text.offset();
            match self.text.peek() {
                Some('\n') => self.end_of_line()?,
                Some('#') => {
                    self.text.comment();
                    continue;
                }
                Some(';') => {
                    self.text.next();
                    // `;;` ends a branch of `case`.
                    if self.text.take(';') {
                        match self.inside.last() {
                            Some((Compound::Case, _)) => self.patterns()?,
                            _ => return self.fault(at, "`;;` stands outside of `case`"),
                        }
                        continue;
                    }
                    if !self.ended {
                        return self.fault(at, "`;` ends nothing");
                    }
                }
                _ => return Ok(()),
            }
            self.ended = false;
        }
    }

    fn blank_lines(&mut self) -> Result<(), Fault> {
        loop {
            self.text.blanks();
            match self.text.peek() {
                Some('\n') => self.end_of_line()?,
                Some('#') => self.text.comment(),
                _ => return Ok(()),
            }
        }
    }

    /// The end of a line, and the here-documents behind it.
    fn end_of_line(&mut self) -> Result<(), Fault> {
        let at = self.text.offset();
        self.text.next();
        for (end, tabs) in std::mem::take(&mut self.documents) {
            loop {
                let Some(line) = self.text.line() else {
                    return self.fault(at, "a here-document has no end");
                };
                if end == if tabs { line.trim_start_matches('\t') } else { line } {
                    break;
                }
            }
        }
        Ok(())
    }

    fn enter(&mut self, compound: Compound, at: usize) {
        self.ended = false;
        if self.inside.is_empty() {
            self.note(compound.name(), at);
        }
        self.inside.push((compound, at));
    }

    fn leave(&mut self, word: &str, at: usize) -> Result<(), Fault> {
        match self.inside.last() {
            Some((compound, _)) if compound.end() == word => {
                self.inside.pop();
                self.ended = true;
                Ok(())
            }
            _ => self.fault(at, format!("`{word}` ends nothing")),
        }
    }

    /// Takes a reserved word or the head of a function, with what belongs to it. Was there one?
    fn reserved(&mut self, start: usize) -> Result<bool, Fault> {
        let back = self.text.clone();
        let word = self.text.bare_word();
        match word.as_str() {
            "if" => self.enter(Compound::If, start),
            "while" | "until" => self.enter(Compound::Loop, start),
            "for" => {
                self.enter(Compound::Loop, start);
                self.loop_over(start)?;
                self.ended = true;
            }
            "case" => {
                self.enter(Compound::Case, start);
                self.text.blanks();
                self.word(Quoting::None)?;
                self.blank_lines()?;
                if self.text.bare_word() != "in" {
                    return self.fault(start, "`case` has no `in`");
                }
                self.ended = false;
                self.patterns()?;
            }
            "{" => self.enter(Compound::Group, start),
            "!" => self.ended = false,
            "then" | "elif" | "else" | "do" if !self.inside.is_empty() => self.ended = false,
            "then" | "elif" | "else" | "do" | "fi" | "done" | "esac" | "}" => self.leave(&word, start)?,
            _ if !word.is_empty() && self.parentheses() => {
                if self.inside.is_empty() {
                    self.note("a function", start);
                }
                self.blank_lines()?;
                if self.text.take('{') {
                    self.inside.push((Compound::Group, start));
                } else if self.text.take('(') {
                    self.inside.push((Compound::Subshell, start));
                } else {
                    return self.fault(start, "a function has no body in braces");
                }
            }
            _ => {
                self.text = back;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes the parentheses behind a function's name. Are they there?
    fn parentheses(&mut self) -> bool {
        let mut ahead = self.text.clone();
        ahead.blanks();
        let open = ahead.take('(');
        ahead.blanks();
        let both = open && ahead.take(')');
        if both {
            self.text = ahead;
        }
        both
    }

    /// The variable of a loop, and what it runs over.
    fn loop_over(&mut self, start: usize) -> Result<(), Fault> {
        self.text.blanks();
        let name = self.text.bare_word();
        if !is_name(&name) {
            return self.fault(start, "`for` names no variable");
        }
        self.shell.doubt(&name, Doubt { why: Compound::Loop.name(), at: self.lines.at(start) });
        loop {
            self.text.blanks();
            match self.text.peek() {
                None | Some('\n' | ';') => return Ok(()),
                Some('#') => self.text.comment(),
                Some('&' | '|' | '<' | '>' | '(' | ')') => {
                    return self.fault(start, "`for` runs over something that is no word");
                }
                Some(_) => drop(self.word(Quoting::None)?),
            }
        }
    }

    /// The patterns of the next branch of `case`, or its end.
    fn patterns(&mut self) -> Result<(), Fault> {
        self.blank_lines()?;
        let start = self.text.offset();
        let mut ahead = self.text.clone();
        if ahead.bare_word() == "esac" {
            self.text = ahead;
            return self.leave("esac", start);
        }
        self.text.take('(');
        loop {
            self.text.blanks();
            match self.text.peek() {
                Some(')') => {
                    self.text.next();
                    return Ok(());
                }
                Some('|') => drop(self.text.next()),
                None | Some('\n' | ';' | '&' | '<' | '>' | '(') => {
                    return self.fault(start, "a pattern of `case` has no `)`");
                }
                Some(_) => drop(self.word(Quoting::None)?),
            }
        }
    }

    /// Assignments, and a command with its words.
    fn simple(&mut self, start: usize) -> Result<Next, Fault> {
        let mut joined = std::mem::take(&mut self.joined);
        let mut assignments = Vec::new();
        let mut words: Vec<Word> = Vec::new();
        let mut behind = false;
        self.fresh.clear();
        let after = std::mem::replace(&mut self.ended, true);
        loop {
            self.text.blanks();
            let at = self.text.offset();
            match self.text.peek() {
                Some('&' | '|') if at == start && !after => {
                    return self.fault(at, "`&&`, `||`, `|` or `&` has nothing before it");
                }
                None | Some('\n' | ';' | ')') => break,
                Some('#') => self.text.comment(),
                Some('&' | '|') => {
                    self.joined = self.text.joint();
                    self.ended = false;
                    joined = true;
                    break;
                }
                Some('<' | '>') => self.redirection()?,
                Some('(') => return self.fault(start, "`(` stands inside a command"),
                Some(_) => {
                    let before = self.text.clone();
                    let word = self.word_of_command()?;
                    let quoted = before.up_to(&self.text).contains(['\'', '"', '\\', '`']);
                    if word.assigns.is_none()
                        && !quoted
                        && word.value.text.is_empty()
                        && word.value.doubt.is_none()
                    {
                        // Expanded to nothing, it is no word; but no assignment can follow it.
                        behind = true;
                    } else if !behind && words.is_empty() && word.assigns.is_some() {
                        self.fresh.extend(word.assigns.clone());
                        assignments.push(word);
                    } else if !(is_number(&word) && matches!(self.text.peek(), Some('<' | '>'))) {
                        words.push(word);
                    }
                }
            }
        }
        self.fresh.clear();
        let around = self.inside.last().map(|(compound, at)| (compound.name(), *at));
        let unsure = around.or(joined.then_some(("`&&`, `||`, `|` or `&`", start)));
        let unsure = unsure.and_then(|(why, at)| self.doubt(why, at));
        Ok(self.execute(assignments, words, unsure))
    }

    fn redirection(&mut self) -> Result<(), Fault> {
        let start = self.text.offset();
        let document = self.text.redirection();
        self.text.blanks();
        if matches!(self.text.peek(), None | Some('\n' | ';' | '&' | '|' | '<' | '>' | '(' | ')')) {
            return self.fault(start, "a redirection names no file");
        }
        let word = self.word(Quoting::None)?;
        self.documents.extend(document.map(|tabs| (word.text, tabs)));
        Ok(())
    }

    /// Does what a command does to variables; `unsure`: if it is run at all.
    fn execute(&mut self, assignments: Vec<Word>, words: Vec<Word>, unsure: Option<Doubt>) -> Next {
        let mut words = words.into_iter();
        let Some(command) = words.next() else {
            self.assign(assignments, unsure);
            return Next::Command;
        };
        // Expanded to nothing, it would be no command.
        if command.value.doubt.is_some() {
            self.assign(assignments, command.value.doubt);
            self.note("a command", command.at);
            return Next::Command;
        }
        let name = command.value.text.as_str();
        // What is assigned before a special built-in command stays (POSIX, Shell Command Language, 2.14).
        if matches!(name, ":" | "export" | "readonly" | "unset" | "return") {
            self.assign(assignments, unsure.clone());
        }
        match name {
            ":" | "true" => {}
            "export" | "readonly" => {
                let words = words.map(|word| self.exported(word)).collect::<Vec<_>>();
                self.assign(words, unsure);
            }
            "unset" => {
                for word in words.filter(|word| is_name(&word.value.text)) {
                    match &unsure {
                        Some(doubt) => self.shell.doubt(&word.value.text, doubt.clone()),
                        None => drop(self.shell.variables.remove(&word.value.text)),
                    }
                }
            }
            "return" if unsure.is_none() => return Next::End,
            _ => {
                // What some of them set.
                let doubt = Doubt { why: "a command that is not run", at: self.lines.at(command.at) };
                for word in words.filter(|_| matches!(name, "read" | "local" | "getopts")) {
                    let set = word.assigns.as_deref().unwrap_or(&word.value.text);
                    if is_name(set) {
                        self.shell.doubt(set, doubt.clone());
                    }
                }
                if self.inside.is_empty() {
                    // What stands where a command is expected may be the rest of a value, and a secret.
                    let known = COMMANDS.iter().find(|known| **known == name);
                    self.note(known.copied().unwrap_or("a command"), command.at);
                }
            }
        }
        Next::Command
    }

    /// A word of `export`, which may be `NAME=VALUE` once it is expanded.
    fn exported(&self, word: Word) -> Word {
        match word.value.text.split_once('=') {
            Some((name, value)) if word.assigns.is_none() && is_name(name) => {
                let splits = value.contains([' ', '\t', '\n']);
                let splits = if splits { self.doubt("a word that may be several", word.at) } else { None };
                let value = Value { text: value.to_owned(), doubt: word.value.doubt };
                Word { value: value.or_doubt(splits), assigns: Some(name.to_owned()), at: word.at }
            }
            _ => word,
        }
    }

    fn assign(&mut self, words: impl IntoIterator<Item = Word>, unsure: Option<Doubt>) {
        for word in words {
            let Some(name) = word.assigns else { continue };
            match &unsure {
                Some(doubt) => self.shell.doubt(&name, doubt.clone()),
                None => self.shell.set(&name, word.value, self.lines.at(word.at)),
            }
        }
    }

    fn word_of_command(&mut self) -> Result<Word, Fault> {
        let at = self.text.offset();
        let assigns = self.text.assignment();
        Ok(Word { value: self.word(Quoting::None)?, assigns, at })
    }

    /// What a word comes to, from here to its end.
    fn word(&mut self, quoting: Quoting) -> Result<Value, Fault> {
        if self.depth == DEEPEST {
            return self.fault(self.text.offset(), "it is nested too deeply");
        }
        self.depth = self.depth.saturating_add(1);
        let value = self.pieces(quoting);
        self.depth = self.depth.saturating_sub(1);
        value
    }

    fn pieces(&mut self, quoting: Quoting) -> Result<Value, Fault> {
        let start = self.text.offset();
        let braces = matches!(quoting, Quoting::Brace | Quoting::DoubleBrace);
        let mut value = Value::default();
        // Between double quotes that stand inside the braces.
        let mut quoted = false;
        // Where `~` stands for somebody's home.
        let mut home = true;
        loop {
            if value.text.len() > LONGEST {
                return self.fault(start, format!("a value has more than {LONGEST} bytes"));
            }
            let double = matches!(quoting, Quoting::Double | Quoting::DoubleBrace) || quoted;
            let at = self.text.offset();
            let Some(next) = self.text.peek() else {
                return match quoting {
                    Quoting::None => Ok(value),
                    Quoting::Double => self.fault(start, "a double quote has no end"),
                    Quoting::Brace | Quoting::DoubleBrace => self.fault(start, "`${` has no `}`"),
                };
            };
            if quoting == Quoting::None && is_delimiter(next) {
                return Ok(value);
            }
            self.text.next();
            match next {
                '"' if quoting == Quoting::Double => return Ok(value),
                '"' if braces => quoted = !quoted,
                '"' => value.add(self.word(Quoting::Double)?),
                '}' if braces && !quoted => return Ok(value),
                '\'' if !double => match self.text.single_quoted() {
                    Some(text) => value.text.push_str(text),
                    None => return self.fault(at, "a single quote has no end"),
                },
                '\\' => self.escaped(quoting, double, &mut value.text),
                '`' => {
                    if !self.text.backquoted() {
                        return self.fault(at, "a backquote has no end");
                    }
                    value = value.or_doubt(self.doubt("a command in backquotes", at));
                }
                '$' => {
                    let found = self.dollar(at, double)?;
                    value.add(found);
                }
                other => {
                    if home && other == '~' && !double {
                        value = value.or_doubt(self.doubt("`~`", at));
                    }
                    value.text.push(other);
                    home = other == ':';
                    continue;
                }
            }
            home = false;
        }
    }

    /// The character behind a backslash.
    fn escaped(&mut self, quoting: Quoting, double: bool, text: &mut String) {
        let next = self.text.raw();
        let special = match next {
            Some('$' | '`' | '"' | '\\') => true,
            Some('}') => quoting == Quoting::DoubleBrace,
            _ => false,
        };
        if next.is_none() || double && !special {
            text.push('\\');
        }
        text.extend(next);
    }

    /// What stands behind `$`.
    fn dollar(&mut self, at: usize, double: bool) -> Result<Value, Fault> {
        let unknown = |doubt| Ok(Value { text: String::new(), doubt });
        match self.text.peek() {
            Some('(') => {
                if !self.text.parenthesised(DEEPEST) {
                    return self.fault(at, "`$(` has no `)`");
                }
                unknown(self.doubt("`$(..)`", at))
            }
            Some('{') => {
                self.text.next();
                self.braced(at, double)
            }
            Some('\'') if !double => unknown(self.doubt("`$'..'`", at)),
            Some(next) if next.is_ascii_alphabetic() || next == '_' => {
                let name = self.text.name();
                Ok(self.value_of(&name, at).1)
            }
            Some(next)
                if next.is_ascii_digit() || matches!(next, '@' | '*' | '#' | '?' | '-' | '$' | '!') =>
            {
                self.text.next();
                unknown(self.doubt("a parameter of the shell itself", at))
            }
            _ => Ok(Value { text: "$".to_owned(), doubt: None }),
        }
    }

    /// Is the variable set, and to what?
    fn value_of(&self, name: &str, at: usize) -> (bool, Value) {
        let variable = self.shell.variables.get(name);
        let (text, doubt) = match variable {
            Some(Variable { value, doubt, .. }) => (value.clone(), doubt.clone()),
            None if ENVIRONMENT.contains(&name) => {
                (String::new(), self.doubt("a variable of the environment", at))
            }
            None => (String::new(), None),
        };
        let fresh = self.fresh.iter().any(|fresh| fresh == name);
        let fresh = if fresh { self.doubt("a variable that the same command sets", at) } else { None };
        (variable.is_some(), Value { text, doubt }.or_doubt(fresh))
    }

    /// What stands behind `${`.
    fn braced(&mut self, at: usize, double: bool) -> Result<Value, Fault> {
        let quoting = if double { Quoting::DoubleBrace } else { Quoting::Brace };
        let name = self.text.name();
        let (set, value) = self.value_of(&name, at);
        if !name.is_empty() && self.text.take('}') {
            return Ok(value);
        }
        let or_empty = self.text.take(':');
        let there = set && !(or_empty && value.text.is_empty());
        let operator =
            self.text.peek().filter(|next| !name.is_empty() && matches!(next, '-' | '=' | '+' | '?'));
        if operator.is_some() {
            self.text.next();
        }
        let word = self.word(quoting)?;
        // Which of the two it is depends on the variable.
        let word = word.or_doubt(value.doubt.clone());
        Ok(match operator {
            Some('+') if there => word,
            Some('+') => Value { text: String::new(), doubt: value.doubt },
            Some(_) if there => value,
            Some('-') => word,
            Some('=') => {
                match self.inside.last() {
                    Some((compound, place)) => {
                        let doubt = Doubt { why: compound.name(), at: self.lines.at(*place) };
                        self.shell.doubt(&name, doubt);
                    }
                    None => self.shell.set(&name, word.clone(), self.lines.at(at)),
                }
                word
            }
            _ => Value {
                text: String::new(),
                doubt: self.doubt("an expansion that only a shell can make", at),
            },
        })
    }
}

/// Variables that have values before any file sets them.
const ENVIRONMENT: [&str; 13] = [
    "HOME", "IFS", "LINENO", "LOGNAME", "OPTIND", "PATH", "PPID", "PS1", "PS2", "PWD", "SHELL", "TERM",
    "USER",
];

/// Commands that are called by their names.
const COMMANDS: [&str; 18] = [
    ".", "[", "echo", "eval", "exit", "ifconfig", "kldload", "local", "logger", "printf", "read", "return",
    "route", "service", "set", "source", "sysctl", "test",
];

fn is_delimiter(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\n' | ';' | '&' | '|' | '<' | '>' | '(' | ')')
}

/// A file descriptor's number before a redirection.
fn is_number(word: &Word) -> bool {
    let text = &word.value.text;
    word.assigns.is_none() && !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|first: char| first.is_ascii_digit())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
