//! Writes inputs that the fuzzers start from: `cargo run -p latchkey-measure --example fuzz_seeds --
//! DIRECTORY`, where the directory is `harness/measure/fuzz/corpus`. Made here, so that no binary lies in the
//! repository.

use std::error::Error;
use std::path::Path;

use latchkey_measure::bank::StartupLocality;
use latchkey_measure::eventlog::{EventLog, EventType, FinalEvents};
use latchkey_measure::variable_event::VariableEvent;
use latchkey_measure::{HashAlg, SignatureDb, SignatureList, Uuid, samples, shim, sign_pe};

/// A path with a PCI device, an NVMe disk, a GPT partition and a file.
const PATH: &str = "02010c00d041030a000000000101060000010317100001000000000000000000000004012a000100\
    00000008000000000000001000000000000011223344556677889900aabbccddeeff020204040c005c0041002e0000007fff\
    0400";

fn main() -> Result<(), Box<dyn Error>> {
    let root = std::env::args().nth(1).ok_or("say where: the fuzzers' corpus directory")?;
    let put = |target: &str, name: &str, bytes: &[u8]| {
        let dir = Path::new(&root).join(target);
        std::fs::create_dir_all(&dir)?;
        std::fs::write(dir.join(name), bytes)
    };
    let vendor = samples::signer("Seed")?;
    let bare = samples::shim("15.8", 1024)?;
    let image = sign_pe(&shim::replace_vendor_cert(&bare, &[0x30, 0x82, 0, 0])?, &vendor)?;
    let lists = SignatureDb::new()
        .with(SignatureList::x509(Uuid::nil(), vendor.certificate()))
        .with(SignatureList::sha256(Uuid::nil(), &[[1; 32]]))
        .to_bytes();
    let path = hex::decode(PATH)?;
    put("pe", "signed", &image)?;
    put("pe", "uki", &samples::uki(b"kernel", "root=none")?)?;
    put("shim", "bare", &bare)?;
    put("shim", "signed", &image)?;
    put("siglist", "db", &lists)?;
    put("sbat", "metadata", b"sbat,1,SBAT Version,sbat,1,u\nshim,4,UEFI shim,shim,15.8,u\n")?;
    put("sbat", "level", b"sbat,1,2024010900\nshim,4\ngrub,3\n")?;
    put("certificate", "leaf", vendor.certificate())?;
    put("device_path", "file", &path)?;
    let variable = VariableEvent::new(Uuid::nil(), "db", &lists).to_bytes();
    put("variable_event", "db", &variable)?;

    for (name, mut log) in
        [("legacy", EventLog::legacy()), ("agile", EventLog::agile(&[HashAlg::Sha1, HashAlg::Sha256]))]
    {
        log.started_from(StartupLocality::Three);
        log.measure(7, EventType::EFI_VARIABLE_DRIVER_CONFIG, &variable, &variable);
        log.measure(7, EventType::SEPARATOR, &[0; 4], &[0; 4]);
        put("eventlog", name, &log.to_bytes()?)?;
        if name == "agile" {
            put("final_events", name, &FinalEvents::new(log.events.clone()).to_bytes(&log)?)?;
        }
    }
    let mut load = [0_u64, 4096, 0, path.len() as u64].map(u64::to_le_bytes).concat();
    load.extend(&path);
    let mut gpt = b"EFI PART".to_vec();
    gpt.resize(84, 0);
    gpt.extend([128, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    gpt.resize(92 + 8 + 128, 1);
    for (kind, data) in [
        (EventType::EFI_VARIABLE_AUTHORITY, variable.as_slice()),
        (EventType::EFI_BOOT_SERVICES_APPLICATION, &load),
        (EventType::EFI_GPT_EVENT, &gpt),
        (EventType::EVENT_TAG, b"\xec\x22\x3b\x8f\x02\0\0\0ab"),
        (EventType::EFI_PLATFORM_FIRMWARE_BLOB2, b"\x02Fv0123456789abcdef"),
        (EventType::EFI_HANDOFF_TABLES2, b"\x01T\x01\0\0\0\0\0\0\x000123456789abcdef01234567"),
        (EventType::IPL, b"grub_cmd: set a=b\0"),
    ] {
        let name = format!("{:08x}", kind.0);
        put("event_data", &name, &[&kind.0.to_le_bytes()[..], data].concat())?;
    }
    // An update that was not really signed: the parser asks for the signature's form only.
    let pkcs7 = latchkey_measure::PeImage::parse(&image)?.signatures()?.remove(0)?;
    let mut update = vec![0xea, 7, 11, 24, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    update.extend(u32::try_from(24 + pkcs7.der().len())?.to_le_bytes());
    update.extend([0, 2, 0xf1, 0x0e]);
    update.extend(hex::decode("9dd2af4adf68ee498aa9347d375665a7")?);
    update.extend(pkcs7.der());
    update.extend(&lists);
    put("authvar", "db", &update)?;
    Ok(())
}
