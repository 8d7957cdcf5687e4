//! A page of `docs/` as a section of the manual: as much of Markdown as it uses (headings, paragraphs, lists, text as it is to be
//! typed), in roff.

use std::io::{self, Write};

/// How two routers on FreeBSD share their addresses, with every file.
const TWO_ROUTERS: &str = include_str!("../../../docs/two-routers-freebsd.md");

/// Writes the section.
///
/// # Errors
/// Whatever writing to `out` gives.
pub(super) fn write(out: &mut dyn Write) -> io::Result<()> {
    out.write_all(roff(TWO_ROUTERS).as_bytes())
}

fn roff(markdown: &str) -> String {
    let mut out = String::new();
    let (mut literal, mut fresh) = (false, true);
    for line in markdown.lines() {
        let line = if line.starts_with("```") {
            literal = !literal;
            fresh = true;
            if literal { ".PP\n.RS 4\n.nf".to_owned() } else { ".fi\n.RE".to_owned() }
        } else if literal {
            guarded(&escaped(line))
        } else if let Some(title) = line.strip_prefix("# ") {
            format!(".SH \"{}\"", escaped(title).to_uppercase())
        } else if let Some(title) = line.strip_prefix("## ") {
            fresh = true;
            format!(".SS \"{}\"", escaped(title))
        } else if line.is_empty() {
            fresh = true;
            continue;
        } else if let Some(item) = line.strip_prefix("- ") {
            fresh = false;
            format!(".IP \\(bu 2\n{}", guarded(&marked(item)))
        } else if std::mem::take(&mut fresh) {
            format!(".PP\n{}", guarded(&marked(line)))
        } else {
            guarded(&marked(line.trim_start()))
        };
        out.push_str(&line);
        out.push('\n');
    }
    out
}

/// What has a meaning in roff has none any more.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}

/// A line that begins as an order of roff's is none.
fn guarded(line: &str) -> String {
    if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.to_owned() }
}

/// Bold is what is bold in Markdown, and what is to be typed.
fn marked(text: &str) -> String {
    let text = escaped(text).replace("**", "`");
    let parts: Vec<&str> = text.split('`').collect();
    let bold = |(number, part): (usize, &&str)| match number % 2 {
        0 => (*part).to_owned(),
        _ => format!("\\fB{part}\\fR"),
    };
    parts.iter().enumerate().map(bold).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markdown_becomes_roff() {
        let page = "# A page\n\nSome `code-like` text\nin **two** lines.\n.dot\n\n```sh\n.a -b\\c\n```\n\n- one\n  more\n- two\n";
        let wanted = ".SH \"A PAGE\"\n.PP\nSome \\fBcode\\-like\\fR text\nin \\fBtwo\\fR lines.\n\\&.dot\n.PP\n.RS 4\n.nf\n\
                      \\&.a \\-b\\ec\n.fi\n.RE\n.IP \\(bu 2\none\nmore\n.IP \\(bu 2\ntwo\n";
        assert_eq!(roff(page), wanted);
    }

    /// What the page says to write is what Culvert takes, on both routers, with what it says to change on the second.
    #[test]
    fn the_configuration_of_the_page_loads() {
        let block = TWO_ROUTERS.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next());
        let first = block.expect("a configuration");
        let folder = std::env::temp_dir().join(format!("culvert-guide-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let write = |name: &str, text: &str| {
            use std::os::unix::fs::PermissionsExt;
            let path = folder.join(name);
            std::fs::write(&path, text).expect("written");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("ours");
            path
        };
        for secret in ["carp.secret", "oslo.psk"] {
            write(secret, "0123456789abcdef0123456789abcdef\n");
        }
        // A line with `# paris2: VALUE` has that value there; one with an address, that address.
        let there = |line: &str| {
            let (before, other) = line.split_once("# paris2: ")?;
            let (key, old) = before.split_once(" = ")?;
            let port = old.trim().trim_matches('"').split_once(':').map(|(_, port)| format!(":{port}"));
            Some(format!("{key} = \"{}{}\"", other.trim_matches('"'), port.unwrap_or_default()))
        };
        let second: Vec<String> =
            first.lines().map(|line| there(line).unwrap_or_else(|| line.to_owned())).collect();
        let load = |name: &str, text: &str| {
            let (config, warnings) = crate::config::Config::load(&write(name, text)).expect("it loads");
            assert!(warnings.is_empty(), "{warnings:?}");
            config
        };
        let (one, other) = (load("one.toml", first), load("other.toml", &second.join("\n")));
        std::fs::remove_dir_all(&folder).expect("ours");
        assert_eq!((one.carp.router.name(), other.carp.router.name()), ("first", "second"));
        let ends = |config: &crate::config::Config| {
            config.carp.sync.as_ref().map(|sync| (sync.listen, sync.partner)).expect("a link")
        };
        let ((here, there), (over, back)) = (ends(&one), ends(&other));
        assert_eq!((here, there), (back, over));
        assert_eq!(one.carp.groups.len(), 2);
        assert_eq!(one.tunnels.first().map(|tunnel| &tunnel.name), other.tunnels.first().map(|it| &it.name));
    }
}
