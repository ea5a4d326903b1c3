//! GRUB's commands: what each measures, sets and loads. A command that is not here ends the forecast; nothing is guessed.
//!
//! Sources: GRUB 2.06 with Debian's patches, `grub-core/commands/{search,search_wrap,loadenv,test,menuentry,configfile}.c`,
//! `grub-core/normal/{dyncmd,main}.c`, `grub-core/gettext/gettext.c`, `grub-core/font/font.c`, `grub-core/kern/dl.c`.

use super::devices::{self, Device};
use super::menu::MenuEntry;
use super::modules::PLATFORM;
use super::run::{Run, Stop};
use super::test;
use super::words::Arg;

/// Lists of what modules have, in the order in which normal mode reads them.
const LISTS: [&str; 4] = ["command.lst", "fs.lst", "crypto.lst", "terminal.lst"];
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
    "terminal_output",
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
            "unset" => {
                texts.iter().for_each(|variable| self.env.unset(variable));
                0
            }
            "export" => {
                texts.iter().for_each(|variable| self.env.export(variable));
                0
            }
            "false" => 1,
            "test" => self.test(&texts)?,
            "[" => match texts.split_last() {
                Some((&"]", texts)) => self.test(texts)?,
                _ => 1,
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
            "normal" => {
                if first.is_empty() {
                    self.normal_mode()?
                } else {
                    self.normal(Some(first))?
                }
                0
            }
            "source" | "." => i32::from(!self.config(first)?),
            "configfile" => i32::from(!self.config_with_menu(first)?),
            "search" => self.search(&texts)?,
            "search.fs_uuid" | "search.file" | "search.fs_label" => {
                let kind = name.trim_start_matches("search.");
                let by = match kind {
                    "file" => By::File,
                    "fs_uuid" => By::Uuid,
                    _ => By::Label,
                };
                let variable = texts.get(1).copied().filter(|name| !name.is_empty()).unwrap_or("root");
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
            "linux" | "linuxefi" => self.linux(&texts)?,
            "initrd" | "initrdefi" => self.initrd(&texts)?,
            "boot" => return if self.kernel.is_some() { Err(Stop::Boot) } else { Ok(Some(1)) },
            _ if INERT.contains(&name) => 0,
            _ if FOREIGN.contains(&name) => {
                return self.unmodelled(&format!("the command {name} is not modelled"));
            }
            _ => return Ok(None),
        }))
    }

    /// Sets a variable, with what hangs on it.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<(), Stop> {
        self.env.put(name, value);
        match name {
            "prefix" => self.read_lists(value),
            "lang" | "locale_dir" => self.translations(),
            _ => Ok(()),
        }
    }

    /// What normal mode reads below a new prefix.
    pub(crate) fn read_lists(&mut self, prefix: &str) -> Result<(), Stop> {
        for list in LISTS {
            let Some((_, bytes)) = self.open(&format!("{prefix}/{PLATFORM}/{list}"))? else { continue };
            match list {
                "command.lst" => {
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

    fn translations(&mut self) -> Result<(), Stop> {
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

    fn search(&mut self, args: &[&str]) -> Result<i32, Stop> {
        let (mut by, mut variable, mut hints, mut plain) = (By::Nothing, None, Vec::new(), Vec::new());
        for arg in args {
            let (name, value) = arg.split_once('=').unwrap_or((arg, ""));
            match name {
                "--fs-uuid" | "-u" => by = By::Uuid,
                "--label" | "-l" => by = By::Label,
                "--file" | "-f" => by = By::File,
                "--no-floppy" | "-n" => {}
                "--set" | "-s" => variable = Some(if value.is_empty() { "root" } else { value }),
                "--hint" | "--hint-efi" => hints.push(value),
                // The disk that is booted from is the only one.
                "--root-dev-only" | "-r" if self.is_red_hats() => {}
                "--hint-bios" | "--hint-baremetal" | "--hint-ieee1275" | "--hint-arc" => {}
                _ if name.starts_with('-') => {
                    return self.unmodelled(&format!("search with {name} is not modelled"));
                }
                _ => plain.push(*arg),
            }
        }
        let Some((key, more)) = plain.split_first() else { return Ok(1) };
        hints.extend(more);
        let variable = variable.unwrap_or_default().to_owned();
        self.look_for(by, key, &variable, &hints)
    }

    fn look_for(&mut self, by: By, key: &str, variable: &str, hints: &[&str]) -> Result<i32, Stop> {
        if matches!(by, By::Nothing) {
            return Ok(1);
        }
        let hinted: Vec<u32> = hints
            .iter()
            .filter_map(|hint| match Device::parse(hint.trim_matches(['(', ')'])) {
                Some(Device::Partition(number)) => Some(number),
                _ => None,
            })
            .collect();
        // The last partition comes first (`kern/device.c`, `iterate_partition`).
        let mut all = devices::numbers(self.chain.target);
        all.sort_unstable_by(|one, other| other.cmp(one));
        for (number, sure) in hinted.iter().map(|n| (n, true)).chain(all.iter().map(|n| (n, false))) {
            let device = format!("hd0,gpt{number}");
            let found = match by {
                By::Label => devices::volume(self.chain.target, *number)
                    .and_then(crate::Volume::label)
                    .is_some_and(|label| label == key),
                By::File => self.open(&format!("({device}){key}"))?.is_some(),
                _ => devices::volume(self.chain.target, *number)
                    .and_then(crate::Volume::uuid)
                    .is_some_and(|uuid| uuid.eq_ignore_ascii_case(key)),
            };
            if !sure && self.tries_modules {
                return self.unmodelled("a search that no hint helps tries modules of file systems");
            }
            if found {
                if !variable.is_empty() {
                    self.set(variable, &device)?;
                }
                return Ok(0);
            }
        }
        let others: Vec<u32> = self.chain.target.partitions.partitions.iter().map(|p| p.index).collect();
        others.into_iter().try_for_each(|number| self.readable(number))?;
        Ok(1)
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
        let text = String::from_utf8_lossy(&bytes).into_owned();
        for line in text.lines().skip(1).take_while(|line| !line.starts_with("###")) {
            let Some((name, value)) = line.split_once('=') else { continue };
            if only.is_empty() || only.contains(&name) {
                self.set(name, &value.replace("\\\\", "\\"))?;
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

/// What `search` goes by.
#[derive(Clone, Copy)]
enum By {
    Uuid,
    Label,
    File,
    Nothing,
}
