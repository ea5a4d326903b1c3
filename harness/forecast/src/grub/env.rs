//! GRUB's environment: variables, what is exported of them, and the menu that goes with it.
//!
//! Source: GRUB 2.06, `grub-core/kern/env.c`, `grub-core/normal/context.c` (`grub_env_context_open`).

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
