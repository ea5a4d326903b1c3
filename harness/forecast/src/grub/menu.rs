//! GRUB's menu, with nobody at the keyboard.
//!
//! Source: GRUB 2.06, `grub-core/normal/menu.c` (`run_menu`, `get_entry_number`, `grub_menu_execute_entry`).

use latchkey_record::Outcome;

use super::red_hat;
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
    /// Whether a name is asked for where there are superusers.
    pub(crate) restricted: bool,
    /// Where it stands.
    pub(crate) file: String,
    pub(crate) line: usize,
}

impl Run<'_, '_> {
    /// The menu: what its time-out leads to.
    pub(crate) fn show_menu(&mut self) -> Result<(), Stop> {
        let menu = self.env.menu().to_vec();
        if menu.is_empty() {
            return Ok(());
        }
        let timeout = self.env.get("timeout").trim().parse::<i64>().unwrap_or(-1);
        self.stand_at(&menu[0]);
        if timeout < 0 {
            return self.unmodelled("the menu has no time-out and waits for somebody to choose");
        }
        // `normal/menu.c`, `run_menu` and `menu_init`.
        let drawn = timeout > 0 && !["hidden", "countdown"].contains(&self.env.get("timeout_style"));
        if drawn && self.graphical && self.env.value_of("theme").is_some() {
            return self.unmodelled("a menu with a theme, whose files GRUB opens, is not modelled");
        }
        let wanted = self.env.get("default").to_owned();
        let (first, rest) = split_default(&wanted);
        let named = || menu.iter().position(|e| e.id == first || e.args.first() == Some(&first));
        let chosen = match self.is_red_hats() {
            true => red_hat::choice(&menu, &wanted),
            false => leading_number(&wanted).or_else(named),
        };
        let chosen = chosen.and_then(|index| menu.get(index)).unwrap_or(&menu[0]).clone();
        if !self.env.get("fallback").is_empty() {
            return self.unmodelled("entries to fall back to are not modelled");
        }
        self.env.unset("timeout");
        self.stand_at(&chosen);
        if chosen.restricted && !self.env.get("superusers").is_empty() {
            return self.unmodelled("GRUB asks for a name and a password");
        }
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
        self.deeper()?;
        if entry.submenu {
            self.env.enter();
            self.env.put("timeout", "0");
        }
        let outer = self.env.get("chosen").to_owned();
        let id = entry.id.replace('>', ">>");
        let chosen = if outer.is_empty() { id } else { format!("{outer}>{id}") };
        self.env.put("chosen", &chosen);
        self.env.export("chosen");
        if !(rest.is_empty() && self.is_red_hats()) {
            self.env.put("default", rest);
        }
        if entry.sets_parameters {
            let quoted: Vec<String> =
                entry.args.iter().map(|arg| format!(" '{}'", arg.replace('\'', "'\\''"))).collect();
            self.script(&format!("setparams{}", quoted.concat()), &entry.file, entry.line)?;
        } else {
            self.set_arguments(entry.args.clone());
        }
        let status = self.script(&entry.source, &entry.file, entry.line)?;
        // Red Hat's starts nothing where the last command failed, whatever is loaded.
        if self.kernel.is_some() && (status == 0 || !self.is_red_hats()) {
            return Err(Stop::Boot);
        }
        if entry.submenu {
            self.show_menu()?;
            self.env.leave();
        }
        self.shallower();
        Ok(())
    }
}

/// `grub_strtoul`: the number that `text` begins with, whatever follows it, so that `6.1` is the entry with number 6. `None`
/// when it begins with no digit (GRUB 2.14, `kern/misc.c`, `grub_strtoull`).
fn leading_number(text: &str) -> Option<usize> {
    number_at_start(text).map(|(number, _)| number)
}

/// The number that `text` is, with nothing behind it.
pub(super) fn number(text: &str) -> Option<usize> {
    number_at_start(text).filter(|(_, rest)| rest.is_empty()).map(|(number, _)| number)
}

pub(super) fn number_at_start(text: &str) -> Option<(usize, &str)> {
    let text = text.trim_start();
    let (digits, radix) = match (text.strip_prefix("0x"), text.strip_prefix('0')) {
        (Some(rest), _) => (rest, 16),
        // `09` is no octal number, and so it is a decimal one.
        (None, Some(rest)) if rest.starts_with(|c: char| c.is_digit(8)) => (text, 8),
        _ => (text, 10),
    };
    let end = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
    // One that is too large is no entry's, as no number beyond the menu is; of the others 32 bits count.
    let number = u64::from_str_radix(digits.get(..end)?, radix);
    let cut = |number| usize::try_from(number & u64::from(u32::MAX)).unwrap_or(usize::MAX);
    (end > 0).then(|| (number.map_or(usize::MAX, cut), &digits[end..]))
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
