//! GRUB's menu, with nobody at the keyboard.
//!
//! Source: GRUB 2.06, `grub-core/normal/menu.c` (`run_menu`, `get_entry_number`, `grub_menu_execute_entry`).

use latchkey_record::Outcome;

use super::run::{Run, Stop};
use crate::End;

/// A line of a menu.
#[derive(Debug, Clone)]
pub(crate) struct MenuEntry {
    pub(crate) args: Vec<String>,
    pub(crate) id: String,
    pub(crate) source: String,
    pub(crate) submenu: bool,
    /// Whether GRUB puts a line before its own that sets the parameters: not where `blscfg` made it.
    pub(crate) sets_parameters: bool,
    /// Where it stands.
    pub(crate) file: String,
    pub(crate) line: usize,
}

impl Run<'_, '_> {
    /// The menu: what its time-out leads to.
    pub(crate) fn show_menu(&mut self) -> Result<(), Stop> {
        let menu = self.menu();
        if menu.is_empty() {
            return Ok(());
        }
        let timeout = self.get("timeout").trim().parse::<i64>().unwrap_or(-1);
        self.stand_at(&menu[0]);
        if timeout < 0 {
            return self.unmodelled("the menu has no time-out and waits for somebody to choose");
        }
        let wanted = self.get("default").to_owned();
        let (first, rest) = split_default(&wanted);
        let named = || menu.iter().position(|e| e.id == first || e.args.first() == Some(&first));
        let chosen = leading_number(&wanted)
            .or_else(named)
            .and_then(|index| menu.get(index))
            .unwrap_or(&menu[0])
            .clone();
        if !self.get("fallback").is_empty() {
            return self.unmodelled("entries to fall back to are not modelled");
        }
        self.unset("timeout");
        self.stand_at(&chosen);
        self.execute(&chosen, rest)?;
        let because = match &self.refused {
            Some(why) => {
                let because = format!("GRUB loads no kernel: {why}");
                let outcome = Some(Outcome::RefusedByShim);
                return Err(Stop::End(End { outcome, because, reported_by: Some("grub") }));
            }
            None => "the menu entry loads no kernel, and GRUB waits for somebody",
        };
        self.unmodelled(because)
    }

    fn execute(&mut self, entry: &MenuEntry, rest: &str) -> Result<(), Stop> {
        if entry.submenu {
            self.enter_context();
            self.put("timeout", "0");
        }
        let outer = self.get("chosen").to_owned();
        let id = entry.id.replace('>', ">>");
        let chosen = if outer.is_empty() { id } else { format!("{outer}>{id}") };
        self.put("chosen", &chosen);
        self.export("chosen");
        self.put("default", rest);
        if entry.sets_parameters {
            let quoted: Vec<String> =
                entry.args.iter().map(|arg| format!(" '{}'", arg.replace('\'', "'\\''"))).collect();
            self.script(&format!("setparams{}", quoted.concat()), &entry.file, entry.line)?;
        } else {
            self.set_arguments(entry.args.clone());
        }
        self.script(&entry.source, &entry.file, entry.line)?;
        if self.kernel.is_some() {
            return Err(Stop::Boot);
        }
        if entry.submenu {
            self.show_menu()?;
            self.leave_context();
        }
        Ok(())
    }
}

/// `grub_strtoul`: the number that `text` begins with, whatever follows it, so that `6.1` is the entry with number 6. `None`
/// when it begins with no digit.
fn leading_number(text: &str) -> Option<usize> {
    let text = text.trim_start();
    let (digits, radix) = match text.strip_prefix("0x") {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_hexdigit()) => (rest, 16),
        // `09` is no octal number, and so it is a decimal one.
        _ if text.starts_with('0') && text[1..].starts_with(|c: char| c.is_digit(8)) => (text, 8),
        _ => (text, 10),
    };
    let end = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
    // One that is too large is no entry's, as no number beyond the menu is.
    (end > 0).then(|| usize::from_str_radix(&digits[..end], radix).unwrap_or(usize::MAX))
}

/// `default` is a path of numbers, titles or ids with `>` between them, and `>>` for one that is part of a name.
fn split_default(wanted: &str) -> (String, &str) {
    let mut first = String::new();
    let mut rest = wanted;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match (c, rest.strip_prefix('>')) {
            ('>', Some(after)) => {
                first.push('>');
                rest = after;
            }
            ('>', None) => return (first, rest),
            _ => first.push(c),
        }
    }
    (first, "")
}
