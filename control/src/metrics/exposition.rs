//! Prometheus' text format, version 0.0.4: families of samples, each family with its help and type before it.

use std::fmt::{self, Display, Write};

/// The media type of the text.
pub(crate) const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Text that is being written.
#[derive(Debug, Default)]
pub(crate) struct Exposition(String);

/// What kind of numbers a family has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// They only grow, until the daemon starts anew. The name ends with `_total`.
    Counter,
    /// They go up and down.
    Gauge,
}

/// Samples of one name.
pub(crate) struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
}

impl Exposition {
    /// Begins a family.
    pub(crate) fn family(&mut self, kind: Kind, name: &'static str, help: &'static str) -> Family<'_> {
        debug_assert_eq!(kind == Kind::Counter, name.ends_with("_total"), "{name}");
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        self.0 += &format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
        Family { text: &mut self.0, name }
    }

    /// All of it.
    pub(crate) fn into_text(self) -> String {
        self.0
    }
}

impl Family<'_> {
    /// Adds a sample.
    pub(crate) fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        // A string takes everything.
        let _ = writeln!(self.text, "{}{} {value}", self.name, Labels(labels));
    }
}

struct Labels<'a>(&'a [(&'a str, &'a str)]);

impl Display for Labels<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (name, value)) in self.0.iter().enumerate() {
            write!(out, "{}{name}=\"", if number == 0 { '{' } else { ',' })?;
            for character in value.chars() {
                match character {
                    '\\' => out.write_str("\\\\")?,
                    '"' => out.write_str("\\\"")?,
                    '\n' => out.write_str("\\n")?,
                    other => out.write_char(other)?,
                }
            }
            out.write_char('"')?;
        }
        if self.0.is_empty() { Ok(()) } else { out.write_char('}') }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_written_with_their_samples() {
        let mut text = Exposition::default();
        let mut family = text.family(Kind::Counter, "a_total", "What a is.");
        family.sample(&[], 7_u64);
        family.sample(&[("name", "q\"b\\s\nn"), ("of", "it")], u64::MAX);
        text.family(Kind::Gauge, "b_seconds", "What b is.").sample(&[], 0.25);
        assert_eq!(
            text.into_text(),
            "# HELP a_total What a is.\n# TYPE a_total counter\na_total 7\n\
             a_total{name=\"q\\\"b\\\\s\\nn\",of=\"it\"} 18446744073709551615\n\
             # HELP b_seconds What b is.\n# TYPE b_seconds gauge\nb_seconds 0.25\n"
        );
    }
}
