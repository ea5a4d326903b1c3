//! `fbx64`: makes boot options out of the lists in the vendors' directories, and resets the machine.
//!
//! Source: shim 15.8 and 16.1, `fallback.c` (`find_boot_options`, `find_boot_csv`, `add_to_boot_list`, `add_boot_option`,
//! `update_boot_order`, `try_start_first_option`), `replacements.c`, `loader-proto.c` (who loads the first option).

use latchkey_disk::bootcsv::{self, BootEntry};
use latchkey_disk::esp::EntryKind;
use latchkey_record::Stage;
use memchr::memmem;

use super::Shim;
use super::state::variable;
use crate::chain::Image;
use crate::firmware::{self, add, encode, esp, file_path, find, order, set_order};
use crate::stub::utf16;
use crate::{Chain, Error, Next};

/// `LOAD_OPTION_ACTIVE`.
const ACTIVE: u32 = 1;
/// The lists that are looked for, in any case; the first one that is there counts.
const LISTS: [&str; 2] = ["BOOTX64.CSV", "BOOT.CSV"];
const VENDORS: &str = "/EFI";
const REMOVABLE: &str = "BOOT";
/// A message that the program has from 16.0 on: it then puts new options in the lists' order, and a NUL after their
/// arguments.
const SINCE_16: &str = "new boot entries: ";

/// From the fallback program's start to the reset.
pub(super) fn run(chain: &mut Chain<'_>, shim: &mut Shim, program: &[u8]) -> Result<Next, Error> {
    let mark: Vec<u8> = SINCE_16.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let in_order = memmem::find(program, &mark).is_some();
    let (mut first, mut new) = (None, Vec::new());
    let entries = match entries(chain)? {
        Ok(entries) => entries,
        Err(because) => return Ok(super::end(None, because)),
    };
    for (directory, entry) in entries {
        let Some(partition) = esp(chain).cloned() else { break };
        let path = format!("{VENDORS}/{directory}/{}", entry.file);
        let arguments = match entry.options.as_str() {
            "" => Vec::new(),
            options if in_order => utf16(options),
            options => options.encode_utf16().flat_map(u16::to_le_bytes).collect(),
        };
        let data = encode(ACTIVE, &entry.label, &file_path(&partition, &path), &arguments);
        first.get_or_insert((path, arguments));
        let known = find(&chain.variables, &data);
        let Some(number) = known.or_else(|| add(&mut chain.variables, data)) else { break };
        if known.is_none() && in_order {
            new.push(number);
        } else {
            prefer(chain, &[number]);
        }
        let what = format!("\"{}\", put in front in BootOrder, by fbx64", entry.label);
        chain.leaves(&format!("Boot{number:04X}"), &what);
    }
    prefer(chain, &new);
    let no_reboot = chain.variables.get(&variable("FB_NO_REBOOT")).map(|variable| variable.data.clone());
    match first {
        // Where there is no TPM nothing was measured that a restart would put right (`fallback_should_prefer_reset`).
        Some(first) if no_reboot == Some(vec![1, 0, 0, 0]) || !chain.has_tpm() => start(chain, shim, first),
        _ => Ok(Next::Reset),
    }
}

/// The lines of all lists, with their vendor's directory; or why nobody knows them.
fn entries(chain: &mut Chain<'_>) -> Result<Result<Vec<(String, BootEntry)>, String>, Error> {
    let mut all = Vec::new();
    for directory in chain.target.esp.list(VENDORS)?.unwrap_or_default() {
        let name = directory.name;
        if directory.kind != EntryKind::Directory || name.eq_ignore_ascii_case(REMOVABLE) {
            continue;
        }
        for list in LISTS {
            let path = format!("{VENDORS}/{name}/{list}");
            let Some(bytes) = chain.target.esp.read(&path)? else { continue };
            match bootcsv::parse(&bytes) {
                // Of a path the firmware's FAT driver takes backslashes alone, and the option keeps what the list has.
                Ok(entries) if entries.iter().any(|entry| entry.file.contains('/')) => {
                    let why = "where an option leads whose file is named with a slash is not modelled";
                    let file = format!("esp:{path}");
                    chain.unmodelled(Stage::Shim, &file, why, &[1, 4, 7, 14]);
                    return Ok(Err(format!("{file}: {why}")));
                }
                Ok(entries) => all.extend(entries.into_iter().map(|entry| (name.clone(), entry))),
                // A list in another encoding has no columns. What `populate_stanza` finds past its end leads nowhere: the
                // firmware drops such an option before it measures one (found by booting `boot-list-as-utf-8`).
                Err(_) if !bytes.chunks_exact(2).any(|unit| unit == [b',', 0]) => {}
                Err(why) => {
                    let (file, why) = (format!("esp:{path}"), why.to_string());
                    chain.unmodelled(Stage::Shim, &file, &why, &[1, 4, 7, 14]);
                    return Ok(Err(format!("{file}: {why}")));
                }
            }
            break;
        }
    }
    Ok(Ok(all))
}

/// Puts these options first.
fn prefer(chain: &mut Chain<'_>, numbers: &[u16]) {
    let rest = order(&chain.variables).into_iter().filter(|number| !numbers.contains(number));
    let order: Vec<u16> = numbers.iter().copied().chain(rest).collect();
    set_order(&mut chain.variables, &order);
}

/// `FB_NO_REBOOT`: the first option is started at once, by the firmware or, from 16.0 on, by the shim that runs.
fn start(chain: &mut Chain<'_>, shim: &mut Shim, first: (String, Vec<u8>)) -> Result<Next, Error> {
    let (path, options) = first;
    let Some(bytes) = chain.target.esp.read(&path)? else { return Ok(Next::Reset) };
    let image = Image { path, bytes, options };
    if !shim.loads_images(chain) {
        return firmware::start_image(chain, image).or(Ok(Next::Reset));
    }
    match shim.verify(chain, &image.path, &image.bytes, "boot loader") {
        Ok(()) => Ok(firmware::program(chain, image)),
        Err(_) => Ok(Next::Reset),
    }
}
