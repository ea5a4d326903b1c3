//! Where Debian packages come from: the archive that this machine's own apt is set up with.
//!
//! Formats: `sources.list(5)`, both the one-line style and deb822.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use crate::Error;

/// The keyring of the package debian-archive-keyring, which knows the keys of all releases in use.
const ARCHIVE_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Overrides the archive's address.
const OVERRIDE: &str = "LATCHKEY_DEBIAN_MIRROR";
/// Code names of the releases recipes may ask for, and what apt calls the current ones.
const RELEASES: &[&str] =
    &["bullseye", "bookworm", "trixie", "forky", "sid", "oldstable", "stable", "testing", "unstable"];
/// A release whose security updates live in a suite of their own; sid and backports have none.
const WITH_SECURITY: &[&str] = &["bookworm", "trixie", "forky"];

/// apt's words for yes and no (apt-pkg/contrib/strutl.cc, `StringToBool`).
const YES: [&str; 6] = ["yes", "true", "1", "on", "enable", "with"];
const NO: [&str; 6] = ["no", "false", "0", "off", "disable", "without"];

/// One source of packages.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    uri: String,
    suite: String,
    signed_by: Option<PathBuf>,
    trusted: bool,
}

/// An archive and how to trust it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Archive {
    uri: String,
    /// The keyring that it is checked with; `None` for one that is trusted without.
    keyring: Option<PathBuf>,
}

impl Archive {
    /// That of `source`, as apt trusts it.
    fn of(source: &Source) -> Self {
        let keyring = || source.signed_by.clone().unwrap_or_else(|| ARCHIVE_KEYRING.into());
        Self { uri: source.uri.clone(), keyring: (!source.trusted).then(keyring) }
    }
}

/// Debian's archive, and that of its security updates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mirror {
    main: Archive,
    /// When apt knows one.
    security: Option<Archive>,
}

impl Mirror {
    /// The archive that apt is set up with under `etc` (normally `/etc/apt`), unless the user named one.
    pub(crate) fn of_host(etc: &Path) -> Result<Self, Error> {
        let sources = read_sources(etc);
        let named = env::var(OVERRIDE).ok().filter(|v| !v.is_empty());
        let mirror = Self::choose(&sources, named.as_deref())
            .ok_or_else(|| Error::NoMirror { looked: looked(etc, sources.len()) })?;
        let missing = mirror.keyrings().into_iter().find(|keyring| !keyring.exists()).map(Path::to_owned);
        missing.map_or(Ok(mirror), |path| Err(Error::NoKeyring { path }))
    }

    fn choose(sources: &[Source], named: Option<&str>) -> Option<Self> {
        let is_debians = |s: &&Source| {
            let base = s.suite.split(['-', '/']).next().unwrap_or(&s.suite);
            RELEASES.contains(&base) && !foreign(&s.uri)
        };
        let debians = || sources.iter().filter(is_debians);
        let plain = |s: &&Source| !is_security(&s.suite);
        // Vendors name their suites as Debian does; none but the archive has a release's updates as well.
        let has_updates = |s: &&Source| {
            let updates = format!("{}-updates", s.suite);
            debians().any(|other| other.uri == s.uri && other.suite == updates)
        };
        let main = debians().find(|s| plain(s) && has_updates(s)).or_else(|| debians().find(plain));
        let security = debians().find(|s| is_security(&s.suite)).map(Archive::of);
        // How an archive is trusted goes for that archive, not for another one.
        let is_named =
            |s: &&Source| named.is_none_or(|uri| uri.trim_end_matches('/') == s.uri.trim_end_matches('/'));
        let unknown =
            |uri: &str| Archive { uri: uri.to_owned(), keyring: Some(PathBuf::from(ARCHIVE_KEYRING)) };
        let main = main.filter(is_named).map(Archive::of).or_else(|| named.map(unknown))?;
        Some(Self { main, security })
    }

    /// One-line sources for `suite` with its updates, and its security updates where apt knows them.
    pub(crate) fn sources(&self, suite: &str) -> String {
        let line = |(archive, suite): (&Archive, String)| {
            let trust = match &archive.keyring {
                None => "trusted=yes".to_owned(),
                Some(keyring) => format!("signed-by={}", keyring.display()),
            };
            format!("deb [{trust}] {} {suite} main\n", archive.uri)
        };
        self.places(suite).into_iter().map(line).collect()
    }

    /// The same in deb822 style, for a system that has the keyrings [`below`] the directory `keyrings`.
    pub(crate) fn stanzas(&self, suite: &str, keyrings: &Path) -> String {
        let stanza = |(archive, suite): (&Archive, String)| {
            let trust = match &archive.keyring {
                None => "Trusted: yes".to_owned(),
                Some(keyring) => format!("Signed-By: {}", below(keyrings, keyring).display()),
            };
            format!("Types: deb\nURIs: {}\nSuites: {suite}\nComponents: main\n{trust}\n\n", archive.uri)
        };
        self.places(suite).into_iter().map(stanza).collect()
    }

    /// The keyrings that the archives are checked with, each once.
    pub(crate) fn keyrings(&self) -> BTreeSet<&Path> {
        let archives = [Some(&self.main), self.security.as_ref()];
        archives.into_iter().flatten().filter_map(|archive| archive.keyring.as_deref()).collect()
    }

    /// Archive and suite of everything that belongs to `suite`.
    fn places(&self, suite: &str) -> Vec<(&Archive, String)> {
        let mut places = vec![(&self.main, suite.to_owned())];
        if WITH_SECURITY.contains(&suite) {
            places.push((&self.main, format!("{suite}-updates")));
            places.extend(self.security.iter().map(|archive| (archive, format!("{suite}-security"))));
        }
        places
    }
}

/// Where the keyring that lies at `keyring` here lies in a system that has them below the directory `keyrings`.
pub(crate) fn below(keyrings: &Path, keyring: &Path) -> PathBuf {
    keyrings.join(keyring.strip_prefix("/").unwrap_or(keyring))
}

fn looked(etc: &Path, found: usize) -> String {
    format!("none of the {found} package sources under {} is a Debian archive", etc.display())
}

fn is_security(suite: &str) -> bool {
    suite.ends_with("-security") || suite.ends_with("/updates")
}

/// Whether an address is not an archive's: an installation disc.
fn foreign(uri: &str) -> bool {
    uri.starts_with("cdrom:")
}

fn says(word: &str, words: [&str; 6]) -> bool {
    words.iter().any(|one| word.eq_ignore_ascii_case(one))
}

fn read_sources(etc: &Path) -> Vec<Source> {
    let mut found =
        fs::read_to_string(etc.join("sources.list")).map_or_else(|_| Vec::new(), |t| parse_list(&t));
    let mut parts: Vec<PathBuf> = fs::read_dir(etc.join("sources.list.d"))
        .map(|dir| dir.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    parts.sort();
    for path in parts {
        let text = fs::read_to_string(&path).unwrap_or_default();
        match path.extension().and_then(|e| e.to_str()) {
            Some("list") => found.extend(parse_list(&text)),
            Some("sources") => found.extend(parse_deb822(&text)),
            _ => {}
        }
    }
    found
}

fn parse_list(text: &str) -> Vec<Source> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Source> {
    let line = line.split('#').next().unwrap_or_default().trim();
    let rest = line.strip_prefix("deb").filter(|r| r.starts_with([' ', '\t', '[']))?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(inner) => inner.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    let option = |name: &str| {
        options.split_whitespace().find_map(|o| o.split_once('=').filter(|(k, _)| *k == name).map(|(_, v)| v))
    };
    Some(Source {
        uri: words.next()?.to_owned(),
        suite: words.next()?.to_owned(),
        signed_by: option("signed-by").and_then(keyring_path),
        trusted: option("trusted").is_some_and(|word| says(word, YES)),
    })
}

fn parse_deb822(text: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut stanza: Vec<(String, String)> = Vec::new();
    for line in text.lines().chain([""]) {
        if line.trim().is_empty() {
            found.extend(from_stanza(&stanza));
            stanza.clear();
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = stanza.last_mut() {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((key, value)) = line.split_once(':').filter(|_| !line.starts_with('#')) {
            stanza.push((key.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    found
}

fn from_stanza(stanza: &[(String, String)]) -> Vec<Source> {
    let field = |name: &str| stanza.iter().find(|(k, _)| k == name).map_or("", |(_, v)| v.as_str());
    if says(field("enabled"), NO) || !field("types").split_whitespace().any(|t| t == "deb") {
        return Vec::new();
    }
    let signed_by = keyring_path(field("signed-by"));
    let trusted = says(field("trusted"), YES);
    let uris = field("uris").split_whitespace();
    uris.flat_map(|uri| {
        field("suites").split_whitespace().map(|suite| Source {
            uri: uri.to_owned(),
            suite: suite.to_owned(),
            signed_by: signed_by.clone(),
            trusted,
        })
    })
    .collect()
}

/// A keyring named by path; keys can also stand in the file itself, or be named by fingerprint.
fn keyring_path(value: &str) -> Option<PathBuf> {
    value.split([',', ' ']).next().filter(|v| v.starts_with('/')).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use rstest::rstest;

    const DEB822: &str = "\
Types: deb deb-src
# a comment: with a colon
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/some.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/other.gpg

Types: deb
Enabled: no
URIs: http://off.example/
Suites: bookworm
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
";

    #[rstest]
    #[case::plain("deb http://m.example/debian bookworm main", "http://m.example/debian", None, false)]
    #[case::options(
        "deb [arch=amd64 signed-by=/k.gpg] http://m.example/d stable main",
        "http://m.example/d",
        Some("/k.gpg"),
        false
    )]
    #[case::trusted("deb [trusted=TRUE] file:/srv/m trixie main", "file:/srv/m", None, true)]
    #[case::other_first(
        "deb https://other.example/apt tool main\ndeb http://m.example/x sid main",
        "http://m.example/x",
        None,
        false
    )]
    #[case::disc(
        "deb cdrom:[Debian]/ bookworm main\ndeb http://m.example/x bookworm-backports main",
        "http://m.example/x",
        None,
        false
    )]
    fn one_line_sources(
        #[case] text: &str,
        #[case] archive: &str,
        #[case] keyring: Option<&str>,
        #[case] trusted: bool,
    ) {
        let mirror = Mirror::choose(&parse_list(text), None).unwrap();
        let keyring = (!trusted).then(|| PathBuf::from(keyring.unwrap_or(ARCHIVE_KEYRING)));
        assert_eq!(mirror.main, Archive { uri: archive.to_owned(), keyring });
    }

    #[test]
    fn deb822_sources_with_a_security_archive() {
        let sources = parse_deb822(DEB822);
        assert_eq!(sources.len(), 3);
        let mirror = Mirror::choose(&sources, None).unwrap();
        assert_eq!(
            mirror.sources("bookworm"),
            "deb [signed-by=/usr/share/keyrings/some.gpg] http://mirror.example/debian bookworm main\n\
             deb [signed-by=/usr/share/keyrings/some.gpg] http://mirror.example/debian bookworm-updates main\n\
             deb [signed-by=/usr/share/keyrings/other.gpg] http://mirror.example/debian-security bookworm-security main\n"
        );
        assert_eq!(mirror.sources("bullseye").lines().count(), 1);
        let keyrings: Vec<&Path> = mirror.keyrings().into_iter().collect();
        assert_eq!(
            keyrings,
            ["/usr/share/keyrings/other.gpg", "/usr/share/keyrings/some.gpg"].map(Path::new)
        );
        // Where they lie elsewhere, it is the same archives.
        let again = parse_deb822(&mirror.stanzas("bookworm", Path::new("/k")));
        let moved = |archive: &Archive| Archive {
            keyring: archive.keyring.as_deref().map(|keyring| below(Path::new("/k"), keyring)),
            ..archive.clone()
        };
        let elsewhere = Mirror { main: moved(&mirror.main), security: mirror.security.as_ref().map(moved) };
        assert_eq!(Mirror::choose(&again, None).unwrap(), elsewhere);
    }

    #[test]
    fn one_archives_trust_is_not_the_others() {
        let text = "deb [trusted=yes] file:/srv/m bookworm main\n\
                    deb http://s.example/security bookworm-security main";
        let mirror = Mirror::choose(&parse_list(text), None).unwrap();
        let sources = mirror.sources("bookworm");
        let line = |word: &str| sources.lines().find(|line| line.contains(word)).unwrap();
        assert!(line("/srv/m bookworm ").contains("trusted=yes"), "{sources}");
        assert!(line("bookworm-security").contains(&format!("[signed-by={ARCHIVE_KEYRING}]")), "{sources}");
        assert_eq!(mirror.stanzas("bookworm", Path::new("/k")).matches("Trusted: yes").count(), 2);
    }

    #[test]
    fn a_named_mirror_wins_and_without_any_there_is_an_error() {
        let sources = parse_list("deb http://m.example/ubuntu noble main");
        assert!(Mirror::choose(&sources, None).is_none());
        assert_eq!(
            Mirror::choose(&sources, Some("http://d.example/")).unwrap().main.uri,
            "http://d.example/"
        );
        let ubuntu =
            "deb http://m.example/ubuntu noble main\ndeb http://s.example/ubuntu noble-security main";
        let named = Mirror::choose(&parse_list(ubuntu), Some("http://d.example/debian")).unwrap();
        assert_eq!(named.security, None, "that is another distribution's");
        let dir = tempfile::tempdir().unwrap();
        assert!(read_sources(dir.path()).is_empty());
    }

    #[test]
    fn a_vendors_packages_are_no_archive() {
        let vendor = "deb [trusted=yes] http://v.example/cli bookworm main\n";
        let debian =
            "deb http://d.example/debian bookworm main\ndeb http://d.example/debian bookworm-updates main";
        let mirror = Mirror::choose(&parse_list(&format!("{vendor}{debian}")), None).unwrap();
        let checked = Some(PathBuf::from(ARCHIVE_KEYRING));
        assert_eq!((mirror.main.uri.as_str(), &mirror.main.keyring), ("http://d.example/debian", &checked));
        let named = Mirror::choose(&parse_list(vendor), Some("http://other.example/debian")).unwrap();
        assert_eq!(named.main.keyring, checked, "what is said of one archive is not said of another");
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC*(\n\\PC*){0,4}") {
            let _ = (parse_list(&text), parse_deb822(&text));
        }
    }
}
