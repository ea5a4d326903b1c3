//! What Red Hat's GRUB does otherwise, as RHEL 9 and what is built from it have it: a `blscfg` of its own, and how the menu's
//! default is looked up.
//!
//! Source: `rhboot/grub2`, branch `rhel-9-main` at 7878971fb, `grub-core/commands/blscfg.c`, `grub-core/normal/menu.c`. A GRUB built from
//! that commit was booted (docs/rhel.md).

use std::cmp::Ordering;

use latchkey_disk::varstore::VariableId;
use uuid::{Uuid, uuid};

use super::bls::Values;
use super::core::Version;
use super::menu::MenuEntry;
use super::run::{Run, Stop};

/// Where the snippets lie, where `blsdir` names no other directory. GRUB puts one slash more before their names.
const DIRECTORY: &str = "/loader/entries/";
/// Where it looks when there is no such directory.
const DIRECTORY_OF_ROOT: &str = "/boot/loader/entries/";
const SUFFIX: &str = ".conf";
const BLANK: [char; 2] = [' ', '\t'];
/// A variable of the firmware's whose values GRUB begins with (`kern/efi/init.c`, `GRUB_EFI_GRUB_VARIABLE_GUID`).
const ENVIRONMENT: (&str, Uuid) = ("GRUB_ENV", uuid!("91376aff-cba6-42be-949d-06fde81128e8"));

/// A snippet that was read. GRUB keeps them, so that a second `blscfg` adds what is new alone.
#[derive(Debug, Clone)]
pub(crate) struct Snippet {
    /// Its name without the ending.
    name: String,
    file: String,
    values: Values,
    in_menu: bool,
}

impl Run<'_, '_> {
    /// Whether this is RHEL 9's: nobody else's GRUB has the module `blscfg`, and RHEL 10's is another version.
    pub(crate) fn is_red_hats(&self) -> bool {
        self.core.version == Version::V2_06 && self.core.modules.contains("blscfg")
    }

    /// What it does before anything else.
    pub(crate) fn red_hats_start(&mut self) -> Result<(), Stop> {
        if !self.is_red_hats() {
            return Ok(());
        }
        self.env.export_everything();
        match self.chain.variables.get(&VariableId::new(ENVIRONMENT.0, ENVIRONMENT.1)) {
            Some(_) => self.unmodelled("variables out of the firmware's GRUB_ENV are not modelled"),
            None => Ok(()),
        }
    }

    /// `blscfg`: every snippet is opened, in the directory's order; the menu has the newest first.
    pub(crate) fn red_hats_blscfg(&mut self, args: &[&str]) -> Result<i32, Stop> {
        if !args.is_empty() {
            return self.unmodelled("blscfg with arguments is not modelled");
        }
        let root = self.env.get("root").to_owned();
        let mut directory = self.env.value_of("blsdir").unwrap_or(DIRECTORY).to_owned();
        let mut entries = self.list(&format!("({root}){directory}"))?;
        if entries.is_none() {
            directory = DIRECTORY_OF_ROOT.to_owned();
            entries = self.list(&format!("({root}){directory}"))?;
        }
        for entry in entries.unwrap_or_default().iter() {
            let Some(name) = entry.name.strip_suffix(SUFFIX).filter(|name| !name.is_empty()) else {
                continue;
            };
            if name.starts_with('.') {
                continue;
            }
            // GRUB reads no further then, and looks into the other directory.
            let Some((file, bytes)) = self.open(&format!("({root}){directory}/{}", entry.name))? else {
                return self.unmodelled("a snippet that is no file is not modelled");
            };
            self.grown(bytes.len())?;
            let Some(text) = std::str::from_utf8(&bytes).ok().filter(|text| !text.contains('\0')) else {
                return self.unmodelled("a snippet that is no text is not modelled");
            };
            if text
                .lines()
                .any(|line| line.starts_with(BLANK) && !line.trim_start_matches(BLANK).starts_with('#'))
            {
                return self.unmodelled("GRUB stops at a line that begins with a blank");
            }
            if text.contains("\\$") {
                return self
                    .unmodelled("a `$` behind a backslash is another thing from one release to the next");
            }
            let (name, values) = (name.to_owned(), parse(text));
            let older = |known: &Snippet| by_name(&name, &known.name).is_ge();
            let at = self.snippets.iter().position(older).unwrap_or(self.snippets.len());
            // Of names that count as equal the first one stays.
            if self.snippets.get(at).is_none_or(|known| by_name(&name, &known.name).is_ne()) {
                self.snippets.insert(at, Snippet { name, file, values, in_menu: false });
            }
        }
        for at in 0..self.snippets.len() {
            if !std::mem::replace(&mut self.snippets[at].in_menu, true) {
                let snippet = self.snippets[at].clone();
                self.red_hats_snippet(&snippet)?;
            }
        }
        Ok(0)
    }

    /// Makes a snippet an entry of the menu. One without a kernel is none.
    fn red_hats_snippet(&mut self, snippet: &Snippet) -> Result<(), Stop> {
        let Some(linux) = snippet.values.first("linux") else { return Ok(()) };
        let id = snippet.name.strip_suffix(SUFFIX).unwrap_or(&snippet.name);
        if id.contains(SUFFIX) {
            return self.unmodelled("GRUB never comes to the end of a name with `.conf` in it");
        }
        if snippet.values.first("grub_users").is_some_and(|users| self.expanded(users).is_some()) {
            return self.unmodelled("entries for some users alone are not modelled");
        }
        let default = self.env.value_of("default_kernelopts");
        let options = snippet.values.first("options").and_then(|options| self.expanded(options));
        let options = options.or_else(|| default.and_then(|options| self.expanded(options)));
        let initrds = snippet.values.all("initrd");
        let beside = |path: &str| path.rfind('/').map_or(path, |end| &path[..=end]).to_owned();
        let early = self.env.value_of("early_initrd").map(|early| {
            let prefix = beside(initrds.first().copied().unwrap_or(linux));
            early.split(' ').map(|name| format!(" ($root){prefix}{name}")).collect::<String>()
        });
        let initrds: String = initrds.iter().map(|path| format!(" ($root){path}")).collect();
        let tree = match snippet.values.first("devicetree").and_then(|tree| self.expanded(tree)) {
            Some(tree) => Some(tree),
            None => {
                let tree = self.env.value_of("devicetree").and_then(|tree| self.expanded(tree));
                tree.map(|tree| format!("{}{tree}", beside(linux)))
            }
        };
        let mut source = String::new();
        if self.env.get("save_default") == "true" {
            source.push_str("savedefault\n");
        }
        source.push_str("load_video\nset gfxpayload=keep\ninsmod gzio\n");
        source.push_str(&format!("linux ($root){linux}"));
        source.extend(options.iter().flat_map(|options| [" ", options]));
        source.push('\n');
        if early.is_some() || !initrds.is_empty() {
            source.push_str(&format!("initrd{}{initrds}\n", early.unwrap_or_default()));
        }
        source.extend(tree.map(|tree| format!("devicetree ($root){tree}\n")));
        self.add_snippet(&snippet.values, linux, id, &snippet.file, source);
        Ok(())
    }
}

/// Which entry `wanted` names (`get_entry_number`): first by id, where the id ends or `>` follows, then by title, last by number.
pub(crate) fn choice(menu: &[MenuEntry], wanted: &str) -> Option<usize> {
    let word = wanted.find(|c: char| c.is_ascii_whitespace()).unwrap_or(wanted.len());
    if let Some(at) = menu.iter().position(|entry| is_named(&entry.id, wanted, Some(word))) {
        return (word == wanted.len()).then_some(at);
    }
    let titled = |entry: &MenuEntry| entry.args.first().is_some_and(|title| is_named(title, wanted, None));
    menu.iter().position(titled).or_else(|| super::menu::number(wanted))
}

/// `menuentry_eq`: whether `wanted`, with `>>` for `>`, begins with the name and ends or has `>` there. `word` is where a blank ends it.
fn is_named(name: &str, wanted: &str, word: Option<usize>) -> bool {
    let (name, wanted) = (name.as_bytes(), wanted.as_bytes());
    let mut at = 0;
    for here in 0.. {
        if word.is_some_and(|word| here > word) {
            return false;
        }
        if wanted.get(at) == Some(&b'>') {
            if wanted.get(at + 1) != Some(&b'>') {
                return name.len() == here && at > 0;
            }
            at += 1;
        }
        match (name.get(here), wanted.get(at)) {
            (None, None) => return here > 0,
            (None, Some(c)) if word == Some(here) && c.is_ascii_whitespace() => return here > 1,
            (a, b) if a != b => return false,
            _ => at += 1,
        }
    }
    false
}

/// Keys and values, up to a line without both. A tab is what parts them only where no blank is in the line.
fn parse(text: &str) -> Values {
    let text = text.replace('\r', "");
    let mut values = Vec::new();
    for line in text.lines().map(|line| line.trim_start_matches(BLANK)) {
        if line.starts_with('#') {
            continue;
        }
        let parted = line.split_once(' ').or_else(|| line.split_once('\t'));
        let Some((key, value)) = parted.filter(|(_, value)| !value.is_empty()) else { break };
        values.push((key.to_owned(), value.trim_start_matches(BLANK).to_owned()));
    }
    Values(values)
}

/// The order of names: as a package's name, version and release (`split_cmp`).
fn by_name(one: &str, other: &str) -> Ordering {
    let (one, other) = (parts(one), parts(other));
    let pairs = one.iter().zip(&other);
    pairs.fold(Ordering::Equal, |order, (a, b)| order.then_with(|| version(a.as_bytes(), b.as_bytes())))
}

/// A package's name, version and release.
fn parts(name: &str) -> [&str; 3] {
    let (rest, release) = name.rsplit_once('-').unwrap_or((name, ""));
    match rest.rsplit_once('-') {
        Some((name, version)) => [name, version, release],
        None => [rest, release, ""],
    }
}

/// `vercmp`, as rpm has it: letters and digits in turn, `~` before everything, `+` after the end alone.
fn version(mut one: &[u8], mut other: &[u8]) -> Ordering {
    if one == other {
        return Ordering::Equal;
    }
    let counts = |c: &u8| c.is_ascii_alphanumeric() || matches!(c, b'~' | b'+');
    let skipped = |text: &mut &[u8]| *text = &text[text.iter().position(counts).unwrap_or(text.len())..];
    while !one.is_empty() || !other.is_empty() {
        skipped(&mut one);
        skipped(&mut other);
        let (a, b) = (one.first(), other.first());
        let has = |c| [a == Some(&c), b == Some(&c)];
        match (has(b'~'), has(b'+')) {
            ([false, true], _) => return Ordering::Greater,
            ([true, false], _) => return Ordering::Less,
            ([false, false], [false, true]) if a.is_none() => return Ordering::Less,
            ([false, false], [true, false]) if b.is_none() => return Ordering::Greater,
            ([false, false], [false, true]) => return Ordering::Greater,
            ([false, false], [true, false]) => return Ordering::Less,
            ([false, false], [false, false]) => {}
            _ => {
                (one, other) = (&one[1..], &other[1..]);
                continue;
            }
        }
        let Some((first, _)) = a.zip(b) else { break };
        let numbers = first.is_ascii_digit();
        let piece = |text: &[u8]| {
            let inside = |c: &u8| if numbers { c.is_ascii_digit() } else { c.is_ascii_alphabetic() };
            text.iter().position(|c| !inside(c)).unwrap_or(text.len())
        };
        let (mine, rest) = one.split_at(piece(one));
        let (its, its_rest) = other.split_at(piece(other));
        if its.is_empty() {
            return if numbers { Ordering::Greater } else { Ordering::Less };
        }
        let value = |text: &[u8]| {
            let zeros = if numbers { text.iter().take_while(|c| **c == b'0').count() } else { 0 };
            text[zeros..].to_vec()
        };
        let (mine, its) = (value(mine), value(its));
        let longer = if numbers { mine.len().cmp(&its.len()) } else { Ordering::Equal };
        let order = longer.then_with(|| mine.cmp(&its));
        if order.is_ne() {
            return order;
        }
        (one, other) = (rest, its_rest);
    }
    one.is_empty().cmp(&other.is_empty()).reverse()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("m-5.14.0-70.el9.x86_64", "m-5.14.0-427.13.1.el9_4.x86_64")]
    #[case::rescue("m-0-rescue", "m-5.14.0-427.13.1.el9_4.x86_64")]
    #[case::rescue_of_its_own_machine("0a1b-0-rescue", "0a1b-6.1.0-56-cloud-amd64")]
    #[case::a_candidate("m-6.12~rc1-1", "m-6.12-1")]
    #[case::a_variant("m-6.12-1", "m-6.12-1+debug")]
    #[case::digits_after_letters("m-1-a", "m-1-1")]
    #[case::zeros_do_not_count("m-1-09", "m-1-10")]
    fn newer_names_count_as_greater(#[case] older: &str, #[case] newer: &str) {
        assert_eq!(by_name(older, newer), Ordering::Less);
        assert_eq!(by_name(newer, older), Ordering::Greater);
    }

    #[rstest]
    #[case::kinds("title A B\nlinux /v\n", &[("title", "A B"), ("linux", "/v")])]
    #[case::a_tab_alone("linux\t/v\n", &[("linux", "/v")])]
    #[case::a_tab_before_a_blank("title\tA B\n", &[("title\tA", "B")])]
    #[case::comments("# x\n  # y\nlinux /v\r\n", &[("linux", "/v")])]
    #[case::an_empty_line_ends("linux /v\n\ninitrd /i\n", &[("linux", "/v")])]
    #[case::blanks_are_a_value("options  \nlinux /v\n", &[("options", ""), ("linux", "/v")])]
    fn a_snippet_is_keys_and_values(#[case] text: &str, #[case] expected: &[(&str, &str)]) {
        let values = parse(text);
        let values: Vec<_> = values.0.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(values, expected);
    }

    #[rstest]
    #[case::an_id_that_begins_with_a_digit("3f5c-6.1", Some(1))]
    #[case::an_id_before_a_title("Old", Some(2))]
    #[case::a_title("New kernel", Some(0))]
    #[case::a_number("1", Some(1))]
    #[case::no_number("1x", None)]
    #[case::an_id_and_more("3f5c-6.1 1", None)]
    #[case::an_entry_of_a_submenu("3f5c-6.1>0", Some(1))]
    #[case::a_name_with_the_mark("a>>b", Some(3))]
    #[case::nothing("", None)]
    fn the_default_is_an_id_a_title_or_a_number(#[case] wanted: &str, #[case] expected: Option<usize>) {
        let entry = |id: &str, title: &str| MenuEntry {
            args: vec![title.to_owned()],
            id: id.to_owned(),
            source: String::new(),
            submenu: false,
            sets_parameters: false,
            restricted: false,
            file: String::new(),
            line: 0,
        };
        let menu = [
            entry("3f5c-6.12", "New kernel"),
            entry("3f5c-6.1", "Old"),
            entry("Old", "x"),
            entry("a>b", "y"),
        ];
        assert_eq!(choice(&menu, wanted), expected);
    }

    proptest! {
        #[test]
        fn names_that_differ_in_letters_alone_have_one_order(one in "[a-z]{1,3}(-[0-9.]{1,5}){0,3}", other in "[a-z]{1,3}(-[0-9.]{1,5}){0,3}") {
            prop_assert_eq!(by_name(&one, &other), by_name(&other, &one).reverse());
            prop_assert_eq!(by_name(&one, &one), Ordering::Equal);
        }

        #[test]
        fn any_name_is_compared(one in "\\PC{0,20}", other in "\\PC{0,20}", text in "\\PC{0,100}") {
            by_name(&one, &other);
            is_named(&one, &other, Some(other.len()));
            is_named(&one, &text, None);
            parse(&text);
        }
    }
}
