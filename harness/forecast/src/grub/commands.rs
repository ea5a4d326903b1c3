//! GRUB's commands: what each measures, sets and loads. A command that is not here ends the forecast; nothing is guessed.
//!
//! Sources: GRUB 2.06 with Debian's patches, `grub-core/commands/{loadenv,test,menuentry,configfile}.c`,
//! `grub-core/normal/{dyncmd,main}.c`, `grub-core/gettext/gettext.c`, `grub-core/font/font.c`, `grub-core/kern/dl.c`.

use super::core::Version;
use super::env::saved;
use super::menu::MenuEntry;
use super::modules::PLATFORM;
use super::run::{Run, Stop};
use super::search::By;
use super::test;
use super::words::Arg;

/// Lists of what modules have, in the order in which normal mode reads them.
const LISTS: [&str; 4] = ["command.lst", "fs.lst", "crypto.lst", "terminal.lst"];
/// How a file begins that variables are saved in (`include/grub/lib/envblk.h`).
const ENVIRONMENT_BLOCK: &[u8] = b"# GRUB Environment Block\n";
/// Variables that something hangs on (`grub_register_variable_hook`), besides `prefix`.
const HOOKED: [&str; 8] = [
    "root",
    "lang",
    "locale_dir",
    "secondary_locale_dir",
    "check_signatures",
    "color_normal",
    "color_highlight",
    "pager",
];
/// Commands that change nothing which matters here.
const INERT: &[&str] = &[
    "background_color",
    "clear",
    "cls",
    "echo",
    "hiddenentry",
    "play",
    "serial",
    "sleep",
    "terminal",
    "terminal_input",
    "true",
    "videoinfo",
];
/// Commands that matter and are not modelled.
const FOREIGN: &[&str] = &[
    "acpi",
    "authenticate",
    "background_image",
    "bls_import",
    "blscfg",
    "break",
    "cat",
    "chainloader",
    "cmp",
    "connectefi",
    "continue",
    "crc",
    "cryptocheck",
    "cryptomount",
    "cutmem",
    "decrement",
    "devicetree",
    "efi-export-env",
    "efi-load-env",
    "eval",
    "exit",
    "extract_entries_configfile",
    "extract_entries_source",
    "fwsetup",
    "halt",
    "hashsum",
    "hexdump",
    "increment",
    "keystatus",
    "legacy_configfile",
    "legacy_source",
    "list_env",
    "loopback",
    "ls",
    "md5sum",
    "multiboot",
    "multiboot2",
    "normal_exit",
    "probe",
    "read",
    "reboot",
    "regexp",
    "rmmod",
    "sha1sum",
    "sha256sum",
    "sha512sum",
    "shift",
    "smbios",
    "syslinux_configfile",
    "syslinux_source",
    "time",
    "trust",
    "uki",
    "verify_detached",
];

impl Run<'_, '_> {
    /// Runs the command `name`, if GRUB has it: its status.
    pub(crate) fn builtin(&mut self, name: &str, args: &[Arg]) -> Result<Option<i32>, Stop> {
        let texts: Vec<&str> = args.iter().map(|arg| arg.text.as_str()).collect();
        let first = texts.first().copied().unwrap_or_default();
        Ok(Some(match name {
            "set" => match first.split_once('=') {
                Some((variable, value)) => {
                    self.set(variable, value)?;
                    0
                }
                None => 0,
            },
            // The first alone.
            "unset" => {
                self.unset(first)?;
                0
            }
            "export" => {
                texts.iter().for_each(|variable| self.env.export(variable));
                0
            }
            "false" => 1,
            // Under either name, the bracket at the end may be there or not.
            "test" | "[" => match texts.split_last() {
                Some((&"]", texts)) => self.test(texts)?,
                _ => self.test(&texts)?,
            },
            // Without a word, the status of what ran last.
            "return" => {
                let status = first.parse().unwrap_or_else(|_| self.status());
                self.return_with(status)?
            }
            "setparams" => {
                self.set_arguments(texts.iter().map(ToString::to_string).collect());
                0
            }
            // Its status is that of having been given a name.
            "insmod" => {
                self.insert_module(first)?;
                i32::from(first.is_empty())
            }
            "normal" if first.is_empty() => self.normal_mode()?,
            "normal" => self.normal(Some(first))?,
            // Whether or not there is such a file.
            "source" | "." | "configfile" if texts.len() != 1 => 1,
            "source" | "." => self.config(first).map(|_| 0)?,
            "configfile" => self.config_with_menu(first).map(|()| 0)?,
            "search" => self.search(&texts)?,
            "search.fs_uuid" | "search.file" | "search.fs_label" => {
                let kind = name.trim_start_matches("search.");
                let by = match kind {
                    "file" => By::File,
                    "fs_uuid" => By::Uuid,
                    _ => By::Label,
                };
                let variable = texts.get(1).copied().unwrap_or_default();
                self.look_for(by, first, variable, texts.get(2..).unwrap_or_default())?
            }
            "load_env" => self.load_env(&texts)?,
            "save_env" => {
                // Written without being read through a verifier: it is measured when it is loaded the next time.
                self.chain.leaves("grubenv", "variables are saved in it");
                0
            }
            "loadfont" => self.load_font(&texts)?,
            "menuentry" | "submenu" => self.menu_entry(args, name == "submenu")?,
            "blscfg" if self.has_upstreams_snippets() => self.blscfg(&texts)?,
            "blscfg" if self.is_red_hats() => self.red_hats_blscfg(&texts)?,
            "terminal_output" => {
                self.graphical |= texts.contains(&"gfxterm");
                0
            }
            "linux" => self.linux(&texts)?,
            "initrd" => self.initrd(&texts)?,
            "linuxefi" | "initrdefi" if self.has_linuxefi() => {
                if !self.is_red_hats() && !self.secure() {
                    return self.unmodelled(&format!("{name} without Secure Boot is not modelled"));
                }
                if name == "linuxefi" { self.linux(&texts)? } else { self.initrd(&texts)? }
            }
            "boot" => return if self.kernel.is_some() { Err(Stop::Boot) } else { Ok(Some(1)) },
            _ if INERT.contains(&name) => 0,
            _ if FOREIGN.contains(&name) => {
                return self.unmodelled(&format!("the command {name} is not modelled"));
            }
            _ => return Ok(None),
        }))
    }

    /// Whether it has the commands that start kernels by their hand-over entry: Debian's before 2.12, and Red Hat's.
    fn has_linuxefi(&self) -> bool {
        let module = self.core.version == Version::V2_06 && self.core.modules.contains("linuxefi");
        self.is_red_hats() || module
    }

    /// Sets a variable, with what hangs on it.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<(), Stop> {
        // `kern/main.c`, `grub_env_write_root`.
        let bare = value.strip_prefix('(').and_then(|value| value.strip_suffix(')'));
        let value = bare.filter(|_| name == "root").unwrap_or(value);
        if name == "check_signatures" && value.starts_with(['1', 'e']) && self.core.modules.contains("pgp") {
            return self.unmodelled("a GRUB that asks for a signature beside every file is not modelled");
        }
        self.env.put(name, value);
        match name {
            "prefix" if self.in_normal_mode => self.read_lists(value),
            "lang" | "locale_dir" => self.translations(),
            _ => Ok(()),
        }
    }

    /// Unsets a variable; one that something hangs on becomes empty instead (`kern/env.c`, `grub_env_unset`).
    fn unset(&mut self, name: &str) -> Result<(), Stop> {
        let hooked = HOOKED.contains(&name) || name == "prefix" && self.in_normal_mode;
        if hooked && self.env.value_of(name).is_some() {
            return self.set(name, "");
        }
        self.env.unset(name);
        Ok(())
    }

    /// What normal mode reads below a new prefix.
    pub(crate) fn read_lists(&mut self, prefix: &str) -> Result<(), Stop> {
        for list in LISTS {
            let Some((_, bytes)) = self.open(&format!("{prefix}/{PLATFORM}/{list}"))? else { continue };
            match list {
                "command.lst" => {
                    self.grown(bytes.len())?;
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    let pairs = text.lines().filter_map(|line| line.split_once(':'));
                    self.on_disk = pairs
                        .map(|(name, module)| {
                            (name.trim_start_matches('*').trim().into(), module.trim().into())
                        })
                        .collect();
                }
                "fs.lst" => self.tries_modules = true,
                _ => {}
            }
        }
        self.translations()
    }

    pub(super) fn translations(&mut self) -> Result<(), Stop> {
        let language = self.env.get("lang").to_owned();
        if language.is_empty() || !self.core.modules.contains("gettext") {
            return Ok(());
        }
        let directory = match self.env.get("locale_dir") {
            "" => format!("{}/locale", self.env.get("prefix")),
            directory => directory.to_owned(),
        };
        let short = language.split('_').next().unwrap_or_default().to_owned();
        for language in [language, short] {
            for suffix in ["mo", "mo.gz", "gmo"] {
                if self.find(&format!("{directory}/{language}.{suffix}"))?.is_some() {
                    return self.unmodelled("translations are not modelled");
                }
            }
        }
        Ok(())
    }

    fn test(&mut self, args: &[&str]) -> Result<i32, Stop> {
        let holds = test::holds(args, self)?;
        Ok(i32::from(!holds))
    }

    fn load_env(&mut self, args: &[&str]) -> Result<i32, Stop> {
        let mut file = format!("{}/grubenv", self.env.get("prefix"));
        let (mut measured, mut only) = (true, Vec::new());
        let mut rest = args.iter();
        while let Some(arg) = rest.next() {
            match *arg {
                "--skip-sig" | "-s" => measured = false,
                "--file" | "-f" => file = rest.next().map(ToString::to_string).unwrap_or_default(),
                _ => match arg.strip_prefix("--file=") {
                    Some(name) => file = name.to_owned(),
                    None => only.push(*arg),
                },
            }
        }
        let found = if measured { self.open(&file)? } else { self.find(&file)? };
        let Some((_, bytes)) = found else { return Ok(1) };
        // More than the head has to be there.
        let Some(block) = bytes.strip_prefix(ENVIRONMENT_BLOCK).filter(|block| !block.is_empty()) else {
            return Ok(1);
        };
        self.grown(bytes.len())?;
        for (name, value) in saved(block, self.core.version == Version::V2_14) {
            if only.is_empty() || only.contains(&name.as_str()) {
                self.set(&name, &value)?;
            }
        }
        Ok(0)
    }

    fn load_font(&mut self, names: &[&str]) -> Result<i32, Stop> {
        for name in names {
            let mut status = 0;
            if name.starts_with(['(', '/', '+']) {
                status = i32::from(self.open(name)?.is_none() || self.secure());
            } else if self.find(&format!("(memdisk)/fonts/{name}.pf2"))?.is_none() {
                let file = format!("{}/fonts/{name}.pf2", self.env.get("prefix"));
                status = i32::from(self.open(&file)?.is_none() || self.secure());
            }
            if status != 0 {
                return Ok(status);
            }
        }
        Ok(0)
    }

    fn menu_entry(&mut self, args: &[Arg], submenu: bool) -> Result<i32, Stop> {
        let Some((source, args)) =
            args.split_last().and_then(|(last, args)| Some((last.block.clone()?, args)))
        else {
            return self.unmodelled("a menu entry without a block is not modelled");
        };
        let (mut plain, mut id, mut restricted) = (Vec::new(), None, true);
        let mut rest = args.iter().map(|arg| arg.text.as_str());
        while let Some(arg) = rest.next() {
            match arg {
                // There its value is one that may be missing.
                "--users" if self.is_red_hats() => {}
                "--class" | "--users" | "--hotkey" => drop(rest.next()),
                "--id" => id = rest.next().map(str::to_owned),
                "--unrestricted" => restricted = false,
                "--source" => return self.unmodelled("menu entries with --source are not modelled"),
                _ => match arg.strip_prefix("--id=") {
                    Some(name) => id = Some(name.to_owned()),
                    None if ["--class=", "--users=", "--hotkey="].iter().any(|o| arg.starts_with(o)) => {}
                    None => plain.push(arg.to_owned()),
                },
            }
        }
        let Some(title) = plain.first().cloned() else { return Ok(1) };
        let id = id.unwrap_or(title);
        let (file, line) = (String::new(), 0);
        let sets_parameters = true;
        self.add_to_menu(MenuEntry {
            id,
            args: plain,
            source,
            submenu,
            sets_parameters,
            restricted,
            file,
            line,
        });
        Ok(0)
    }
}
