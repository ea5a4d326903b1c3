//! GRUB: its configuration files run, every command measured into PCR 8 and every file that is opened into PCR 9, and the
//! kernel verified by shim.
//!
//! Sources: GRUB 2.06, 2.12 and 2.14 with Debian's patches, `grub-core/commands/tpm.c`, `grub-core/kern/{main,verifiers}.c`,
//! `grub-core/kern/efi/sb.c`, `grub-core/script/execute.c`, `grub-core/normal/menu.c`.

mod bls;
mod commands;
mod core;
mod devices;
mod env;
mod files;
mod linux;
mod menu;
mod modules;
mod red_hat;
mod run;
mod script;
mod search;
mod test;
mod words;

use latchkey_record::{Origin, Outcome, Stage};

use crate::chain::{Image, KernelStart, MeasuredUki};
use crate::firmware;
use crate::shim::Shim;
use crate::{Chain, End, Error, Next};
use core::{Core, Version};
use linux::Starter;
use run::{Run, Stop};

/// What normal mode sets before it reads a file (`grub-core/normal/main.c`, `features`).
const FEATURES: &[&str] = &[
    "feature_chainloader_bpb",
    "feature_ntldr",
    "feature_platform_search_hint",
    "feature_default_font_path",
    "feature_all_video_module",
    "feature_menuentry_id",
    "feature_menuentry_options",
    "feature_200_final",
    "feature_nativedisk_cmd",
    "feature_timeout_style",
];

/// The module that sets `LoaderDevicePartUUID`, from 2.12 on (`grub-core/commands/bli.c`). It does nothing but that, built in or
/// loaded.
const TELLS_DISK: &str = "bli";

/// Those that came with 2.14.
const LATER_FEATURES: &[&str] =
    &["feature_search_cryptodisk_only", "feature_tpm2_cap_pcrs", "feature_gcry_hw_accel"];

/// From GRUB's start to the kernel's.
///
/// # Errors
/// When a file system cannot be read.
pub fn run(chain: &mut Chain<'_>, image: &Image, shim: Shim) -> Result<Next, Error> {
    let file = format!("esp:{}", image.path);
    let core = match Core::read(&image.bytes) {
        Ok(core) => core,
        Err(why) => return Ok(foreign(chain, &file, &why)),
    };
    let xfs = chain.target.boot.and_then(|(_, boot)| boot.xfs_features());
    if let Some(Err(why)) = xfs.map(|features| core.reads_xfs(features)) {
        return Ok(foreign(chain, &file, &why));
    }
    let Some(esp) = devices::esp_number(chain.target) else {
        return Ok(foreign(chain, &file, "the disk has no EFI system partition"));
    };
    let directory = image.path.rsplit_once('/').map_or("", |(directory, _)| directory).to_owned();
    let mut run = Run::new(chain, shim, core);
    let esp = format!("hd0,gpt{esp}");
    // Of a prefix with a device that is what `root` becomes, on the drive that was started from where it names none
    // (`kern/main.c`, `grub_set_prefix_and_root`).
    let (device, path) = match run.core.prefix.strip_prefix('(').and_then(|prefix| prefix.rsplit_once(')')) {
        Some((own, path)) if own.is_empty() || own.starts_with(',') => (format!("hd0{own}"), path),
        Some((own, path)) => (own.to_owned(), path),
        None => (esp.clone(), run.core.prefix.as_str()),
    };
    // One without a path is the directory that GRUB was started from, but for the modules' own.
    let path = match path {
        "" => directory.strip_suffix("/x86_64-efi").unwrap_or(&directory),
        path => path,
    };
    let mut known = vec![
        ("root", device.clone()),
        ("prefix", format!("({device}){path}")),
        (if run.core.looks_around { "fw_path" } else { "cmdpath" }, format!("({esp}){directory}")),
        ("grub_cpu", "x86_64".to_owned()),
        ("grub_platform", "efi".to_owned()),
    ];
    let later: &[&str] = if run.core.version == Version::V2_14 { LATER_FEATURES } else { &[] };
    known.extend(FEATURES.iter().chain(later).map(|name| (*name, "y".to_owned())));
    if run.secure() {
        known.extend([("shim_lock", "y".to_owned()), ("lockdown", "y".to_owned())]);
    }
    for (name, value) in known {
        run.env.put(name, &value);
        run.env.export(name);
    }
    match start(&mut run) {
        Ok(()) => match run.unmodelled::<()>("GRUB shows its command line and waits for somebody") {
            Err(Stop::End(end)) => Ok(Next::End(end)),
            _ => Ok(foreign(chain, &file, "GRUB waits for somebody")),
        },
        Err(Stop::Failed(error)) => Err(error),
        Err(Stop::End(end)) => Ok(Next::End(end)),
        Err(Stop::Boot) => Ok(boot(run)),
    }
}

fn start(run: &mut Run<'_, '_>) -> Result<(), Stop> {
    run.red_hats_start()?;
    if let Some(config) = run.core.config.clone() {
        run.built_in(&config)?;
    }
    if run.core.modules.contains("normal") {
        run.normal_mode()?;
    }
    Ok(())
}

fn boot(mut run: Run<'_, '_>) -> Next {
    let Some(kernel) = run.kernel.take() else {
        let because = "GRUB starts nothing".to_owned();
        return Next::End(End { outcome: Some(Outcome::Crashed), because, reported_by: None });
    };
    let loaded = match kernel.starter {
        Starter::Firmware => {
            firmware::load_bytes(run.chain, &kernel.file, &kernel.bytes, "kernel, loaded for GRUB")
        }
        Starter::ShimAtLast => run.shim.load_for_grub(run.chain, &kernel.file, &kernel.bytes),
        Starter::Shim | Starter::Grub => Ok(()),
    };
    if let Err(why) = loaded {
        let because = format!("GRUB leaves the kernel to somebody who does not load it: {why}");
        return Next::End(End {
            outcome: Some(Outcome::RefusedByFirmware),
            because,
            reported_by: Some("grub"),
        });
    }
    Next::Kernel(KernelStart {
        from: Origin::File(kernel.file),
        kernel: kernel.bytes,
        initrd_from: Origin::File(kernel.initrd_files.join(" + ")),
        initrd: kernel.initrd,
        command_line: kernel.command_line,
        hand_over: kernel.hand_over,
        measured_uki: MeasuredUki::No,
        may_tell_disk: run.core.modules.contains(TELLS_DISK),
    })
}

fn foreign(chain: &mut Chain<'_>, file: &str, why: &str) -> Next {
    chain.unmodelled(Stage::Grub, file, why, &[4, 8, 9]);
    Next::End(End { outcome: None, because: format!("{file}: {why}"), reported_by: None })
}
