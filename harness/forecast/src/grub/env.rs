//! GRUB's environment: variables, what is exported of them, and the menu that goes with it.
//!
//! Source: GRUB 2.06 to 2.14, `grub-core/kern/env.c`, `grub-core/normal/context.c` (`grub_env_context_open`),
//! `grub-core/lib/envblk.c` (`grub_envblk_iterate`).

use std::collections::{BTreeMap, BTreeSet};

use super::menu::MenuEntry;

/// Contexts, one in another: `configfile` and submenus open one, which knows what was exported.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment {
    outer: Vec<Context>,
    here: Context,
    exports_everything: bool,
}

#[derive(Debug, Clone, Default)]
struct Context {
    values: BTreeMap<String, String>,
    exported: BTreeSet<String>,
    menu: Vec<MenuEntry>,
}

impl Environment {
    /// A variable's value, empty where it is not set.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.value_of(name).unwrap_or_default()
    }

    /// As [`Self::get`], telling what is unset from what is empty.
    pub(crate) fn value_of(&self, name: &str) -> Option<&str> {
        self.here.values.get(name).map(String::as_str)
    }

    pub(crate) fn put(&mut self, name: &str, value: &str) {
        self.here.values.insert(name.to_owned(), value.to_owned());
    }

    pub(crate) fn unset(&mut self, name: &str) {
        self.here.values.remove(name);
        self.here.exported.remove(name);
    }

    pub(crate) fn export(&mut self, name: &str) {
        self.here.exported.insert(name.to_owned());
    }

    pub(crate) fn menu(&self) -> &[MenuEntry] {
        &self.here.menu
    }

    /// Puts an entry at the menu's end.
    pub(crate) fn add_to_menu(&mut self, entry: MenuEntry) {
        self.here.menu.push(entry);
    }

    /// From now on everything counts as exported: Red Hat's GRUB (`normal/context.c`).
    pub(crate) fn export_everything(&mut self) {
        self.exports_everything = true;
    }

    /// Opens a context.
    pub(crate) fn enter(&mut self) {
        if self.exports_everything {
            self.here.exported.extend(self.here.values.keys().cloned());
        }
        let exported = self.here.exported.clone();
        let values = self.here.values.iter().filter(|(name, _)| exported.contains(*name));
        let values = values.map(|(name, value)| (name.clone(), value.clone())).collect();
        let inner = Context { values, exported, menu: Vec::new() };
        self.outer.push(std::mem::replace(&mut self.here, inner));
    }

    /// Goes back to the context around this one.
    pub(crate) fn leave(&mut self) {
        self.here = self.outer.pop().unwrap_or_default();
    }
}

/// Names and values in an environment block, behind its head, up to a line that has no `=` before the block's end, or no end
/// itself. Lines that begin with `#` are passed over, and empty ones where GRUB `skips_empty` lines (2.14): before that they
/// are the beginning of the next name.
pub(super) fn saved(block: &[u8], skips_empty: bool) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (mut found, mut rest) = (Vec::new(), block);
    while let Some(first) = rest.first() {
        if *first == b'#' || skips_empty && [b'\n', b'\r'].contains(first) {
            let Some((_, after)) = line(rest) else { break };
            rest = after;
            continue;
        }
        let Some(name) = rest.split(|byte| *byte == b'=').next().filter(|name| name.len() < rest.len())
        else {
            break;
        };
        let Some((value, after)) = line(&rest[name.len() + 1..]) else { break };
        found.push((text(name), text(&value)));
        rest = after;
    }
    found
}

/// What stands before the end of a line, and what behind it. A backslash goes, and what follows it is a byte like any other.
fn line(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let (mut value, mut at) = (Vec::new(), 0);
    while let Some(byte) = text.get(at) {
        match byte {
            b'\n' => return Some((value, &text[at + 1..])),
            b'\\' => {
                at += 1;
                value.extend(text.get(at));
            }
            byte => value.push(*byte),
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::two("a=1\nb=x y\n####", false, &[("a", "1"), ("b", "x y")])]
    #[case::no_line_end("a=1\nb=2", true, &[("a", "1")])]
    #[case::no_value("a=1\nnothing\n####", true, &[("a", "1")])]
    #[case::a_name_of_two_lines("nothing\nb=2\n", true, &[("nothing\nb", "2")])]
    #[case::an_empty_line("a=1\n\nb=2\n", false, &[("a", "1"), ("\nb", "2")])]
    #[case::an_empty_line_later("a=1\n\n\r\nb=2\n", true, &[("a", "1"), ("b", "2")])]
    #[case::backslashes("a=x\\\\y\\\nz\nb=\\n\n", false, &[("a", "x\\y\nz"), ("b", "n")])]
    #[case::a_comment_before_more("# more\na=1\n#b=2\nc=\n", false, &[("a", "1"), ("c", "")])]
    #[case::a_backslash_at_the_end("a=1\\", false, &[])]
    #[case::nothing("", true, &[])]
    fn a_block_is_read_as_grub_reads_it(
        #[case] block: &str,
        #[case] skips_empty: bool,
        #[case] expected: &[(&str, &str)],
    ) {
        let saved = saved(block.as_bytes(), skips_empty);
        let told: Vec<_> = saved.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(told, expected);
    }
}
