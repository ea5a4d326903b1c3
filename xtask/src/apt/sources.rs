//! The machine's apt sources, read so that others can be derived from them: sources.list(5), one-line and
//! deb822 style.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// Some sources of binary packages.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Sources(Vec<Source>);

/// One entry: everything that decides how its mirror is reached and checked is kept as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    options: Options,
    uris: Vec<String>,
    suites: Vec<String>,
    components: Vec<String>,
}

/// What else an entry says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Options {
    /// What stands between the brackets of a one-line entry; empty without brackets.
    Line(String),
    /// The other fields of a stanza, each with its continuation lines.
    Fields(Vec<(String, String)>),
}

impl Sources {
    /// The machine's: `sources.list` and `sources.list.d` below `etc`, as apt reads them.
    pub(crate) fn of_machine(etc: &Path) -> Self {
        let mut all = Self::default();
        if let Ok(text) = fs::read_to_string(etc.join("sources.list")) {
            all.0.extend(Self::lines(&text).0);
        }
        let parts = fs::read_dir(etc.join("sources.list.d")).into_iter().flatten().flatten();
        let mut parts: Vec<_> = parts.map(|entry| entry.path()).collect();
        parts.sort();
        for path in parts {
            let Ok(text) = fs::read_to_string(&path) else { continue };
            match path.extension().and_then(|e| e.to_str()) {
                Some("list") => all.0.extend(Self::lines(&text).0),
                Some("sources") => all.0.extend(Self::stanzas(&text).0),
                _ => {}
            }
        }
        all
    }

    /// From one-line style.
    pub(crate) fn lines(text: &str) -> Self {
        Self(text.lines().filter_map(line).collect())
    }

    /// From deb822 style.
    pub(crate) fn stanzas(text: &str) -> Self {
        let mut sources = Vec::new();
        let mut fields: Vec<(String, String)> = Vec::new();
        for line in text.lines().chain([""]) {
            if line.starts_with('#') {
                continue;
            }
            if line.trim().is_empty() {
                sources.extend(stanza(std::mem::take(&mut fields)));
            } else if line.starts_with([' ', '\t']) {
                if let Some((_, value)) = fields.last_mut() {
                    value.push('\n');
                    value.push_str(line);
                }
            } else if let Some((name, value)) = line.split_once(':') {
                fields.push((name.to_owned(), value.trim().to_owned()));
            }
        }
        Self(sources)
    }

    /// Whether `suite` is among them.
    pub(crate) fn has(&self, suite: &str) -> bool {
        self.0.iter().any(|s| s.suites.iter().any(|s| s == suite))
    }

    /// Those of one release alone: its suite and what carries its name, such as `bookworm-security`.
    pub(crate) fn of_release(&self, release: &str) -> Self {
        let belongs = |suite: &str| {
            let rest = suite.strip_prefix(release);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '/']))
        };
        let narrowed = self.0.iter().map(|source| Source {
            suites: source.suites.iter().filter(|s| belongs(s)).cloned().collect(),
            ..source.clone()
        });
        Self(narrowed.filter(|source| !source.suites.is_empty()).collect())
    }

    /// The same mirror's `suite` for every entry that has `release` itself, checked by the same key; from
    /// `main` alone. Empty when no entry has that release.
    pub(crate) fn another_suite(&self, release: &str, suite: &str) -> Self {
        let of_release = self.0.iter().filter(|source| source.suites.iter().any(|s| s == release));
        let derived = of_release.map(|source| Source {
            suites: vec![suite.to_owned()],
            components: vec!["main".into()],
            ..source.clone()
        });
        Self(derived.collect())
    }

    /// Both, these first.
    pub(crate) fn and(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As one file in one-line style, holding the entries that came in that style.
    pub(crate) fn to_lines(&self) -> String {
        let mut text = String::new();
        for source in &self.0 {
            let Options::Line(options) = &source.options else { continue };
            let options = if options.is_empty() { String::new() } else { format!("[{options}] ") };
            for (uri, suite) in source.uris.iter().flat_map(|u| source.suites.iter().map(move |s| (u, s))) {
                let _ = writeln!(text, "deb {options}{uri} {suite} {}", source.components.join(" "));
            }
        }
        text
    }

    /// As one file in deb822 style, holding the entries that came in that style.
    pub(crate) fn to_stanzas(&self) -> String {
        let mut text = String::new();
        for source in &self.0 {
            let Options::Fields(fields) = &source.options else { continue };
            let _ = writeln!(text, "Types: deb\nURIs: {}", source.uris.join(" "));
            let _ = writeln!(text, "Suites: {}", source.suites.join(" "));
            if !source.components.is_empty() {
                let _ = writeln!(text, "Components: {}", source.components.join(" "));
            }
            for (name, value) in fields {
                let _ = writeln!(text, "{name}: {value}");
            }
            text.push('\n');
        }
        text
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// `deb [options] uri suite component...`; nothing for comments, source packages, CDs and broken lines.
fn line(line: &str) -> Option<Source> {
    let line = line.split('#').next()?.trim();
    let rest = line.strip_prefix("deb").filter(|rest| rest.starts_with(char::is_whitespace))?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']')?,
        None => ("", rest),
    };
    let mut words = words(rest).into_iter();
    let (uri, suite) = (words.next()?, words.next()?);
    if uri.starts_with("cdrom:") {
        return None;
    }
    Some(Source {
        options: Options::Line(options.trim().to_owned()),
        uris: vec![uri],
        suites: vec![suite],
        components: words.collect(),
    })
}

/// A stanza with `Types: deb` that is not switched off.
fn stanza(fields: Vec<(String, String)>) -> Option<Source> {
    let value = |name: &str| {
        fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).unwrap_or_default()
    };
    let switched_off = ["no", "false", "0", "off", "disable", "without"]
        .iter()
        .any(|word| value("Enabled").eq_ignore_ascii_case(word));
    let (uris, suites) = (words(value("URIs")), words(value("Suites")));
    let wanted = words(value("Types")).iter().any(|t| t == "deb");
    if switched_off || !wanted || uris.is_empty() || suites.is_empty() {
        return None;
    }
    let components = words(value("Components"));
    let own = ["Types", "URIs", "Suites", "Components", "Enabled"];
    let others = fields.into_iter().filter(|(name, _)| !own.iter().any(|o| name.eq_ignore_ascii_case(o)));
    Some(Source { options: Options::Fields(others.collect()), uris, suites, components })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::plain(
        "deb http://m.example.org/debian bookworm main",
        "deb http://m.example.org/debian bookworm main\n"
    )]
    #[case::options(
        "deb  [ arch=amd64 signed-by=/k.gpg ]  https://m.example.org/debian bookworm main contrib # mine",
        "deb [arch=amd64 signed-by=/k.gpg] https://m.example.org/debian bookworm main contrib\n"
    )]
    #[case::tabs(
        "\tdeb\thttp://m.example.org/d\tbookworm\tmain",
        "deb http://m.example.org/d bookworm main\n"
    )]
    #[case::comment("# deb http://m.example.org/debian bookworm main", "")]
    #[case::source_packages("deb-src http://m.example.org/debian bookworm main", "")]
    #[case::cd("deb cdrom:[Debian 12]/ bookworm main", "")]
    #[case::unclosed("deb [arch=amd64 http://m.example.org/debian bookworm main", "")]
    #[case::short("deb http://m.example.org/debian", "")]
    fn one_line_style(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(Sources::lines(text).to_lines(), expected);
    }

    const STANZAS: &str = "\
Types: deb deb-src
# a comment inside
URIs: http://m.example.org/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
Check-Valid-Until: no

Types: deb
URIs: http://m.example.org/debian-security
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 bWFpbg==
 -----END PGP PUBLIC KEY BLOCK-----

Enabled: no
Types: deb
URIs: http://off.example.org/debian
Suites: bookworm
Components: main

Types: deb-src
URIs: http://src.example.org/debian
Suites: bookworm

types: deb
uris: https://vendor.example.org/apt/
suites: stable
components: main";

    #[test]
    fn stanza_style() {
        let sources = Sources::stanzas(STANZAS);
        assert_eq!(sources.0.len(), 3);
        assert!(sources.has("bookworm-security") && sources.has("stable") && !sources.has("trixie"));
        let again = sources.to_stanzas();
        assert_eq!(Sources::stanzas(&again), sources);
        assert!(again.contains("\n bWFpbg==\n") && again.contains("Check-Valid-Until: no"), "{again}");
        assert!(!again.contains("off.example.org") && !again.contains("deb-src"), "{again}");
    }

    #[test]
    fn one_release_alone() {
        let release = Sources::stanzas(STANZAS).of_release("bookworm");
        assert!(
            release.has("bookworm-updates") && release.has("bookworm-security") && !release.has("stable")
        );
        let lines = "deb http://m.example.org/d bookworm main\ndeb http://m.example.org/d bookworm-x main\n\
                     deb http://m.example.org/d bookwormish main\ndeb http://m.example.org/s bookworm/updates main";
        assert_eq!(Sources::lines(lines).of_release("bookworm").0.len(), 3);
    }

    #[test]
    fn another_suite_of_the_same_mirror() {
        let backports =
            Sources::stanzas(STANZAS).another_suite("bookworm", "bookworm-backports").to_stanzas();
        assert_eq!(
            backports,
            "Types: deb\nURIs: http://m.example.org/debian\nSuites: bookworm-backports\nComponents: main\n\
             Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\nCheck-Valid-Until: no\n\n"
        );
        let line = "deb [trusted=yes] http://m.example.org/debian bookworm main contrib non-free";
        let backports = Sources::lines(line).another_suite("bookworm", "bookworm-backports").to_lines();
        assert_eq!(backports, "deb [trusted=yes] http://m.example.org/debian bookworm-backports main\n");
        assert!(Sources::lines(line).another_suite("trixie", "trixie-backports").is_empty());
    }

    #[test]
    fn the_machines_own_files() {
        let etc = tempfile::tempdir().unwrap();
        let parts = etc.path().join("sources.list.d");
        fs::create_dir(&parts).unwrap();
        fs::write(etc.path().join("sources.list"), "deb http://a.example.org/d bookworm main\n").unwrap();
        fs::write(parts.join("b.sources"), STANZAS).unwrap();
        fs::write(parts.join("c.list"), "deb http://c.example.org/d other main\n").unwrap();
        fs::write(parts.join("d.list.disabled"), "deb http://d.example.org/d hidden main\n").unwrap();
        let sources = Sources::of_machine(etc.path());
        assert!(sources.has("bookworm") && sources.has("bookworm-updates") && sources.has("other"));
        assert!(!sources.has("hidden"));
        assert!(Sources::of_machine(&etc.path().join("none")).is_empty());
    }
}
