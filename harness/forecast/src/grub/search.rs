//! `search`: which device has a file system with this UUID or label, or this file.
//!
//! Source: GRUB 2.06, 2.12 and 2.14, `grub-core/commands/{search,search_wrap}.c`, `grub-core/lib/arg.c`.

use super::devices::{self, Device};
use super::run::{Run, Stop};

/// What `search` goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Uuid,
    Label,
    File,
}

impl Run<'_, '_> {
    pub(super) fn search(&mut self, args: &[&str]) -> Result<i32, Stop> {
        let (mut label, mut uuid, mut file, mut variable, mut plain) =
            (false, false, false, None, Vec::new());
        // In this order, whatever the arguments' is.
        let mut hints: [Vec<&str>; 3] = Default::default();
        let mut rest = args.iter().copied().peekable();
        while let Some(arg) = rest.next() {
            let (name, value) = arg.split_once('=').map_or((arg, None), |(name, value)| (name, Some(value)));
            // A value may be the next word, unless that begins with a dash.
            let mut value = || value.or_else(|| rest.next_if(|next| !next.starts_with('-')));
            match name {
                "--fs-uuid" | "-u" => uuid = true,
                "--label" | "-l" => label = true,
                "--file" | "-f" => file = true,
                "--no-floppy" | "-n" => {}
                "--set" | "-s" => variable = Some(value()),
                "--hint" | "-h" => hints[0].extend(value()),
                "--hint-efi" => hints[1].extend(value()),
                "--hint-baremetal" => hints[2].extend(value()),
                // Those of other platforms.
                "--hint-bios" | "--hint-ieee1275" | "--hint-arc" => drop(value()),
                // The disk that is booted from is the only one.
                "--root-dev-only" | "-r" if self.is_red_hats() => {}
                _ if name.starts_with('-') => {
                    return self.unmodelled(&format!("search with {name} is not modelled"));
                }
                _ => plain.push(arg),
            }
        }
        let (key, variable) = match (plain.first(), variable) {
            (Some(key), None) => (*key, ""),
            (Some(key), Some(name)) => (*key, name.unwrap_or("root")),
            (None, Some(Some(key))) => (key, "root"),
            (None, _) => return Ok(1),
        };
        let by = match (label, uuid, file) {
            (true, ..) => By::Label,
            (_, true, _) => By::Uuid,
            (.., true) => By::File,
            _ => return Ok(1),
        };
        self.look_for(by, key, variable, &hints.concat())
    }

    /// Looks where the same was found before, where the hints say, then at every partition. Without a `variable` to set it goes through all of them.
    pub(super) fn look_for(
        &mut self,
        by: By,
        key: &str,
        variable: &str,
        hints: &[&str],
    ) -> Result<i32, Stop> {
        if by == By::File && hints.iter().any(|hint| hint.ends_with(',')) {
            return self.unmodelled("a search through a disk that a hint names is not modelled");
        }
        // What is asked for files counts where they are read.
        if by != By::File {
            self.asks()?;
        }
        // A device goes by the name that the hint gives it.
        let before = self.found.iter().filter(|(how, what, _)| (*how, what.as_str()) == (by, key));
        let before: Vec<String> = before.map(|(.., device)| device.clone()).collect();
        let named = before.into_iter().chain(hints.iter().map(|hint| (*hint).to_owned()));
        let named = named.filter_map(|name| match Device::parse(&name) {
            Some(Device::Partition(number)) => Some((number, name, true)),
            _ => None,
        });
        // The last partition comes first (`kern/device.c`, `iterate_partition`).
        let mut all: Vec<u32> =
            self.chain.target.partitions.partitions.iter().map(|partition| partition.index).collect();
        all.extend(devices::numbers(self.chain.target));
        all.sort_unstable_by(|one, other| other.cmp(one));
        all.dedup();
        let places: Vec<_> =
            named.chain(all.iter().map(|number| (*number, format!("hd0,gpt{number}"), false))).collect();
        let tries = "a search that finds nothing at first tries modules of file systems";
        let mut status = 1;
        for (number, device, sure) in places {
            // With a variable to set, the modules' turn comes after all else.
            if !sure && self.tries_modules && variable.is_empty() {
                return self.unmodelled(tries);
            }
            let volume = devices::volume(self.chain.target, number);
            let found = match by {
                By::File => self.open(&format!("({device}){key}"))?.is_some(),
                By::Label => volume.and_then(crate::Volume::label).is_some_and(|label| label == key),
                By::Uuid => {
                    volume.and_then(crate::Volume::uuid).is_some_and(|uuid| uuid.eq_ignore_ascii_case(key))
                }
            };
            let known = |(how, what, place): &(By, String, String)| {
                (*how, what.as_str(), place) == (by, key, &device)
            };
            if found && !self.found.iter().any(known) {
                self.found.push((by, key.to_owned(), device.clone()));
            }
            if found && !variable.is_empty() {
                self.set(variable, &device)?;
                return Ok(0);
            }
            status = if found { 0 } else { status };
        }
        if status != 0 && self.tries_modules {
            return self.unmodelled(tries);
        }
        if status != 0 {
            all.into_iter().try_for_each(|number| self.readable(number))?;
        }
        Ok(status)
    }
}
