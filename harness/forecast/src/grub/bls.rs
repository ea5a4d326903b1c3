//! `blscfg`: a menu made of the snippets of the Boot Loader Specification, one file an entry.
//!
//! Source: GRUB 2.14, `grub-core/commands/blsuki.c` (`blsuki_read_entry`, `bls_parse_keyvals`, `blsuki_expand_val`,
//! `bls_create_entry`), `grub-core/lib/gnulib/filevercmp.c`. The command of that name in Red Hat's GRUB, out of a module of
//! that name, is another one ([`super::red_hat`]).

use std::cmp::Ordering;

use latchkey_disk::esp::EntryKind;

use super::core::Version;
use super::menu::MenuEntry;
use super::run::{Run, Stop};

/// Where the snippets lie. GRUB puts one slash more before their names.
const DIRECTORY: &str = "/loader/entries/";
const SUFFIX: &str = ".conf";
/// Values of a variable that stand for no (`grub_env_get_bool`).
const NO: [&str; 5] = ["", "0", "false", "disable", "no"];

/// More keys GRUB takes for a mistake (`BLSUKI_KEYVALS_MAX`).
const MOST_VALUES: usize = 10_000;

/// One file.
struct Snippet {
    name: String,
    /// As a forecast calls it.
    file: String,
    values: Values,
}

/// Keys and values of a snippet, in its order.
#[derive(Debug, Clone)]
pub(super) struct Values(pub(super) Vec<(String, String)>);

impl Values {
    pub(super) fn first(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    pub(super) fn all(&self, key: &str) -> Vec<&str> {
        self.0.iter().filter(|(known, _)| known == key).map(|(_, value)| value.as_str()).collect()
    }
}

impl Run<'_, '_> {
    /// Whether `blscfg` is upstream's. Red Hat's GRUB may have both modules, and the command out of its own.
    pub(crate) fn has_upstreams_snippets(&self) -> bool {
        let has = |module: &str| self.core.modules.contains(module);
        self.core.version == Version::V2_14 && has("blsuki") && !has("blscfg")
    }

    /// `blscfg`: every snippet is opened, in the directory's order; the menu has the newest first.
    pub(crate) fn blscfg(&mut self, args: &[&str]) -> Result<i32, Stop> {
        if !args.is_empty() {
            return self.unmodelled("blscfg with arguments is not modelled");
        }
        let directory = format!("({}){DIRECTORY}", self.env.get("root"));
        let mut snippets: Vec<Snippet> = Vec::new();
        for entry in self.list(&directory)?.unwrap_or_default().iter() {
            if !entry.name.ends_with(SUFFIX) {
                continue;
            }
            let found = match entry.kind {
                EntryKind::Directory => None,
                EntryKind::File { .. } => self.open(&format!("{directory}/{}", entry.name))?,
            };
            let Some((file, bytes)) = found else {
                return self.unmodelled("a snippet that is no file is not modelled");
            };
            self.grown(bytes.len())?;
            let text = std::str::from_utf8(&bytes).ok().filter(|text| !text.contains('\0'));
            let Some(values) = text.map(parse).filter(|values| values.len() <= MOST_VALUES) else {
                return self.unmodelled("a snippet that is no text, or a very long one, is not modelled");
            };
            let at = snippets.iter().position(|known| file_version(&entry.name, &known.name).is_ge());
            let at = at.unwrap_or(snippets.len());
            if snippets.get(at).is_some_and(|known| file_version(&entry.name, &known.name).is_eq()) {
                return self.unmodelled("snippets whose names count as equal are not modelled");
            }
            snippets.insert(at, Snippet { name: entry.name.clone(), file, values: Values(values) });
        }
        for snippet in snippets {
            self.snippet(&snippet)?;
        }
        Ok(0)
    }

    /// Makes a snippet an entry of the menu. One without a kernel is none.
    fn snippet(&mut self, snippet: &Snippet) -> Result<(), Stop> {
        let Some(linux) = snippet.values.first("linux") else { return Ok(()) };
        if snippet.values.first("grub_users").is_some_and(|users| self.expanded(users).is_some()) {
            return self.unmodelled("entries for some users alone are not modelled");
        }
        let mut source = String::new();
        if !NO.contains(&self.env.get("blsuki_save_default")) {
            source.push_str("savedefault\n");
        }
        // The first line of options counts; what the others name is expanded when the entry runs.
        let options = snippet.values.first("options").and_then(|options| self.expanded(options));
        source
            .push_str(&options.map_or(format!("linux {linux}\n"), |text| format!("linux {linux} {text}\n")));
        let initrds = snippet.values.all("initrd");
        if !initrds.is_empty() {
            source.push_str(&format!("initrd {}\n", initrds.join(" ")));
        }
        if let Some(tree) = snippet.values.first("devicetree").and_then(|tree| self.expanded(tree)) {
            source.push_str(&format!("devicetree {tree}\n"));
        }
        let id = snippet.name.strip_suffix(SUFFIX).unwrap_or(&snippet.name);
        self.add_snippet(&snippet.values, linux, id, &snippet.file, source);
        Ok(())
    }

    /// Puts what was made of a snippet at the menu's end.
    pub(super) fn add_snippet(&mut self, values: &Values, linux: &str, id: &str, file: &str, source: String) {
        let title = values.first("title").unwrap_or(linux);
        self.add_to_menu(MenuEntry {
            args: std::iter::once(title).chain(values.all("grub_arg")).map(str::to_owned).collect(),
            id: id.to_owned(),
            source,
            submenu: false,
            sets_parameters: false,
            restricted: false,
            file: file.to_owned(),
            line: 1,
        });
    }

    /// A value with its variables filled in, each followed by a blank that takes the place of the one behind its name; `None`
    /// where nothing is left. GRUB loses a piece of one character at the end or before a `$`, and so does this.
    pub(super) fn expanded(&self, value: &str) -> Option<String> {
        let bytes = value.as_bytes();
        let mut out = None;
        let mut take = |variable: bool, start: usize, end: usize| {
            let piece = value.get(start..start.max(end + 1)).unwrap_or_default();
            let text = if variable {
                self.env.value_of(piece).map(|value| format!("{value} "))
            } else {
                Some(piece.to_owned())
            };
            if let Some(text) = text {
                out.get_or_insert_with(String::new).push_str(&text);
            }
            out.is_some()
        };
        let (mut start, mut end, mut variable) = (0, 0, false);
        for (at, c) in bytes.iter().enumerate() {
            if *c == b'$' {
                if start != end && !take(variable, start, end) {
                    return None;
                }
                (variable, start) = (true, at + 1);
            } else if variable && !c.is_ascii_alphanumeric() && *c != b'_' {
                take(true, start, end);
                (variable, start) = (false, at + usize::from(*c == b' '));
            }
            end = at;
        }
        if start != end {
            take(variable, start, end);
        }
        out
    }
}

/// Keys and values, up to a blank line or a key without a value.
fn parse(text: &str) -> Vec<(String, String)> {
    let blank = [' ', '\t'];
    let text = text.replace('\r', "");
    let mut values = Vec::new();
    for line in text.lines().map(|line| line.trim_start_matches(blank)) {
        if line.starts_with('#') {
            continue;
        }
        let (key, value) = line.split_once(blank).unwrap_or((line, ""));
        let value = value.trim_start_matches(blank);
        if key.is_empty() || value.is_empty() {
            break;
        }
        values.push((key.to_owned(), value.to_owned()));
    }
    values
}

/// `filevercmp`: file names by the versions in them, endings aside.
fn file_version(one: &str, other: &str) -> Ordering {
    // What begins with a dot comes before what does not.
    let hidden = other.starts_with('.').cmp(&one.starts_with('.'));
    let without = |name: &str| name[..stem(name)].to_owned();
    hidden
        .then_with(|| version(without(one).as_bytes(), without(other).as_bytes()))
        .then_with(|| version(one.as_bytes(), other.as_bytes()))
}

/// Where a name's endings begin: `(\.[A-Za-z~][A-Za-z0-9~]*)*$`.
fn stem(name: &str) -> usize {
    let mut end = name.len();
    while let Some(dot) = name[..end].rfind('.') {
        let ending = &name[dot + 1..end];
        let starts = ending.starts_with(|c: char| c.is_ascii_alphabetic() || c == '~');
        if !starts || !ending.chars().all(|c| c.is_ascii_alphanumeric() || c == '~') {
            break;
        }
        end = dot;
    }
    end
}

/// `verrevcmp`, as dpkg has it: texts in an order of their own, then numbers by their values, in turn.
fn version(one: &[u8], other: &[u8]) -> Ordering {
    let weight = |c: Option<&u8>| match c {
        Some(c) if c.is_ascii_digit() => 0,
        None => -1,
        Some(b'~') => -2,
        Some(c) if c.is_ascii_alphabetic() => i32::from(*c),
        Some(c) => i32::from(*c) + 256,
    };
    let (mut a, mut b) = (one, other);
    while !a.is_empty() || !b.is_empty() {
        let text = |c: Option<&u8>| c.is_some_and(|c| !c.is_ascii_digit());
        while text(a.first()) || text(b.first()) {
            let order = weight(a.first()).cmp(&weight(b.first()));
            if order.is_ne() {
                return order;
            }
            (a, b) = (a.get(1..).unwrap_or_default(), b.get(1..).unwrap_or_default());
        }
        let (number, rest) = number(a);
        let (its, its_rest) = self::number(b);
        let order = number.len().cmp(&its.len()).then_with(|| number.cmp(its));
        if order.is_ne() {
            return order;
        }
        (a, b) = (rest, its_rest);
    }
    Ordering::Equal
}

/// The number at the start, without zeros before it, and what follows.
fn number(text: &[u8]) -> (&[u8], &[u8]) {
    let digits = text.iter().take_while(|c| c.is_ascii_digit()).count();
    let (number, rest) = text.split_at(digits);
    let zeros = number.iter().take_while(|c| **c == b'0').count();
    (&number[zeros..], rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("6.12.9.conf", "6.12.10.conf")]
    #[case("m-0-rescue.conf", "m-5.14.0-70.el9.x86_64.conf")]
    #[case("m-5.14.0-70.el9.x86_64.conf", "m-5.14.0-427.13.1.el9_4.x86_64.conf")]
    #[case("6.12.0-1.conf", "6.12.0-1+debug.conf")]
    #[case("m-6.12~rc1.conf", "m-6.12.conf")]
    #[case(".x.conf", "a.conf")]
    fn newer_names_count_as_greater(#[case] older: &str, #[case] newer: &str) {
        assert_eq!(file_version(older, newer), Ordering::Less);
        assert_eq!(file_version(newer, older), Ordering::Greater);
    }

    #[rstest]
    #[case::all_kinds("title A B\nversion 6\nlinux /v\n", &[("title", "A B"), ("version", "6"), ("linux", "/v")])]
    #[case::comments_and_tabs("# c\n\ttitle\tA \nlinux /v", &[("title", "A "), ("linux", "/v")])]
    #[case::a_blank_line_ends("linux /v\n\noptions x\n", &[("linux", "/v")])]
    #[case::no_value_ends("linux /v\noptions\ninitrd /i\n", &[("linux", "/v")])]
    #[case::carriage_returns("linux /v\r\ninitrd /i\r\n", &[("linux", "/v"), ("initrd", "/i")])]
    fn a_snippet_is_keys_and_values(#[case] text: &str, #[case] expected: &[(&str, &str)]) {
        let values = parse(text);
        let values: Vec<_> = values.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(values, expected);
    }

    proptest! {
        #[test]
        fn names_have_one_order(one in "[a-z0-9.~+-]{0,12}", other in "[a-z0-9.~+-]{0,12}") {
            prop_assert_eq!(file_version(&one, &other), file_version(&other, &one).reverse());
            prop_assert_eq!(file_version(&one, &one), Ordering::Equal);
        }

        #[test]
        fn any_text_is_read(text in "\\PC{0,200}") {
            for (key, value) in parse(&text) {
                prop_assert!(!key.is_empty() && !value.is_empty());
            }
        }
    }
}
