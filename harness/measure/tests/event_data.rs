//! What events say, in words. Expected texts follow from the specifications' layouts.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use latchkey_measure::eventlog::data::Decoded;
use latchkey_measure::eventlog::{Event, EventType};
use latchkey_measure::variable_event::VariableEvent;
use latchkey_measure::{SignatureDb, SignatureList, Uuid, device_path, hash, samples};
use latchkey_record::pcr::HashAlg;
use rstest::rstest;

const GLOBAL: Uuid = Uuid::from_u128(0x8be4_df61_93ca_11d2_aa0d_00e0_9803_2b8c);
const DISK: &str = "02010c00d041030a00000000 010106000001 04012a00\
    01000000 0008000000000000 0010000000000000 112233445566778899aabbccddeeff00 02 02\
    04040c00 5c0041002e000000 7fff0400";
const DISK_TEXT: &str =
    r"PciRoot(0x0)/Pci(0x1,0x0)/HD(1,GPT,44332211-6655-8877-99AA-BBCCDDEEFF00,0x800,0x1000)/\A.";

fn bytes(text: &str) -> Vec<u8> {
    hex::decode(text.replace(' ', "")).unwrap()
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn decode(kind: EventType, data: &[u8]) -> Decoded {
    Event { register: 0, kind, digests: Vec::new(), data: data.to_vec() }.decode()
}

#[rstest]
#[case("7fff0400", "")]
#[case("", "")]
#[case("02010c00d041080a03000000 7fff0400", "PcieRoot(0x3)")]
#[case("02010c00d041050300000000 7fff0400", "Acpi(PNP0305,0x0)")]
#[case::a_bus_of_hyper_v(
    "02021800 00000000 00000000 00000000 564d427573 00 00 00 7fff0400",
    "AcpiEx(@@@0000,@@@0000,0x0,VMBus,,)"
)]
#[case::by_numbers_alone("02021400 d041030a 00000000 d041080a 00 3100 00", "AcpiExp(PNP0A03,PNP0A08,1)")]
#[case::without_its_last_text(
    "02021200 00000000 00000000 00000000 6100",
    "Path(2,2,0000000000000000000000006100)"
)]
#[case(
    "0101060002 1f 0317100001000000 0102030405060708 7fff0400",
    "Pci(0x1f,0x2)/NVMe(0x1,08-07-06-05-04-03-02-01)"
)]
#[case("03120a000200ffff0000 7fff0400", "Sata(0x2,0xffff,0x0)")]
#[case("03020800 01000200 7fff0400", "Scsi(0x1,0x2)")]
#[case("03050600 0301 7fff0400", "USB(0x3,0x1)")]
#[case(
    "030b2500 0cc47aff601c0000000000000000000000000000000000000000000000000000 01",
    "MAC(0cc47aff601c,0x1)"
)]
#[case(
    "04071400 c9bdb87cebf8344faaea3ee4af6516a1 04061400 21aa2c4614760345836e8ab6f4662331",
    "Fv(7CB8BDC9-F8EB-4F34-AAEA-3EE4AF6516A1)/FvFile(462CAA21-7614-4503-836E-8AB6F4662331)"
)]
#[case(
    "04012a00 02000000 0100000000000000 0200000000000000 78563412000000000000000000000000 01 01",
    "HD(2,MBR,0x12345678,0x1,0x2)"
)]
#[case("03180e00 687474703a2f2f612f62", "Uri(http://a/b)")]
#[case("01041500 c9bdb87cebf8344faaea3ee4af6516a1 07", "VenHw(7CB8BDC9-F8EB-4F34-AAEA-3EE4AF6516A1,07)")]
#[case("0101060000 01 7f010400 0101060000 02 7fff0400", "Pci(0x1,0x0),Pci(0x2,0x0)")]
#[case::unknown("09090600 abcd 7fff0400", "Path(9,9,abcd)")]
#[case::too_short_for_its_kind("010105000a 7fff0400", "Path(1,1,0a)")]
#[case::cut("0101060000", "Rest(0101060000)")]
#[case::length_below_a_node("0101060000 01 01010300", "Pci(0x1,0x0)/Rest(01010300)")]
#[case(DISK, DISK_TEXT)]
fn device_paths_read_as_uefi_writes_them(#[case] path: &str, #[case] text: &str) {
    assert_eq!(device_path::text(&bytes(path)), text);
}

#[test]
fn variables_say_what_is_in_them() {
    let vendor = samples::signer("Vendor").unwrap();
    let owner = Uuid::from_u128(7);
    let db = SignatureDb::new()
        .with(SignatureList::x509(owner, vendor.certificate()))
        .with(SignatureList::sha256(owner, &[[1; 32], [2; 32]]));
    let path = bytes(DISK);
    let mut option = vec![1, 0, 0, 0, u8::try_from(path.len()).unwrap(), 0];
    option.extend(utf16("Rocky\0"));
    option.extend(&path);
    option.extend(b"optional data");
    let with_owner = [&owner.to_bytes_le()[..], vendor.certificate()].concat();
    for (kind, name, data, words) in [
        (EventType::EFI_VARIABLE_DRIVER_CONFIG, "SecureBoot", vec![1], "1 bytes 01".to_owned()),
        (EventType::EFI_VARIABLE_DRIVER_CONFIG, "PK", vec![], "empty".to_owned()),
        (
            EventType::EFI_VARIABLE_DRIVER_CONFIG,
            "db",
            db.to_bytes(),
            "certificates Vendor, 2 hashes".to_owned(),
        ),
        (EventType::EFI_VARIABLE_BOOT, "BootOrder", vec![1, 0, 0x1f, 0], "0001 001F".to_owned()),
        (EventType::EFI_VARIABLE_BOOT2, "Boot0001", option, format!("\"Rocky\" attributes 0x1, {DISK_TEXT}")),
        (EventType::EFI_VARIABLE_AUTHORITY, "db", with_owner, format!("certificate Vendor (owner {owner})")),
        (
            EventType::EFI_VARIABLE_AUTHORITY,
            "Shim",
            vendor.certificate().to_vec(),
            "certificate Vendor".to_owned(),
        ),
        (EventType::EFI_VARIABLE_AUTHORITY, "SbatLevel", b"sbat,1\n".to_vec(), "\"sbat,1\\n\"".to_owned()),
    ] {
        let event = VariableEvent::new(GLOBAL, name, &data);
        let decoded = decode(kind, &event.to_bytes());
        assert_eq!(decoded, Decoded::Variable(event.clone()));
        assert_eq!(decoded.to_string(), format!("{name} ({GLOBAL}): {words}"));
        assert_eq!(event.digest(HashAlg::Sha256), hash::digest(HashAlg::Sha256, &event.to_bytes()));
    }
}

#[rstest]
#[case(EventType::SEPARATOR, vec![0; 4], "separator 00000000")]
#[case(EventType::SEPARATOR, vec![0xff; 4], "separator ffffffff")]
#[case(EventType::SEPARATOR, vec![1, 0, 0, 0], "separator 00000001: the firmware reports an error")]
#[case::windows(EventType::SEPARATOR, b"WBCL".to_vec(), "separator 4c434257")]
#[case(EventType::IPL, b"grub_cmd: set a=b\0".to_vec(), r#""grub_cmd: set a=b""#)]
#[case(EventType::IPL, utf16("root=/dev/sda ü\0"), r#""root=/dev/sda ü""#)]
#[case(EventType::EFI_ACTION, b"Exit Boot Services".to_vec(), r#""Exit Boot Services""#)]
#[case(EventType::S_CRTM_VERSION, utf16("v2\0"), r#""v2""#)]
#[case::a_guid_is_no_text(
    EventType::S_CRTM_VERSION,
    bytes("1efb6b544c1d5540a4d54ef4bf175fae"),
    "16 bytes 1efb6b544c1d5540a4d54ef4bf175fae"
)]
#[case(
    EventType::EVENT_TAG,
    bytes("ec223b8f 0d000000 4c696e757820696e6974726400"),
    r#"tag 0x8f3b22ec: "Linux initrd""#
)]
#[case(
    EventType::EFI_PLATFORM_FIRMWARE_BLOB,
    bytes("0000820000000000 0000020000000000"),
    "at 0x820000, 131072 bytes"
)]
#[case(
    EventType::EFI_PLATFORM_FIRMWARE_BLOB2,
    bytes("02 4676 0000820000000000 0000020000000000"),
    "Fv at 0x820000, 131072 bytes"
)]
#[case(
    EventType::EFI_HANDOFF_TABLES2,
    bytes("01 54 0100000000000000 00112233445566778899aabbccddeeff 0000000000000000"),
    "T tables 33221100-5544-7766-8899-aabbccddeeff"
)]
#[case(EventType::NO_ACTION, b"StartupLocality\0\x03".to_vec(), "TPM started from locality 3")]
#[case(EventType::NO_ACTION, b"SP800-155 Event3more".to_vec(), r#""SP800-155 Event3""#)]
#[case(EventType::POST_CODE, b"ACPI DATA".to_vec(), r#""ACPI DATA""#)]
#[case(EventType::COMPACT_HASH, vec![0x80; 40], &format!("40 bytes {}...", "80".repeat(32)))]
#[case::cut(EventType::EFI_BOOT_SERVICES_DRIVER, vec![0x80; 31], &format!("31 bytes {}", "80".repeat(31)))]
fn data_reads_as_its_type_says(#[case] kind: EventType, #[case] data: Vec<u8>, #[case] words: &str) {
    assert_eq!(decode(kind, &data).to_string(), words);
}

#[test]
fn images_and_partition_tables_are_taken_apart() {
    let path = bytes(DISK);
    let head = [0x1000, 4096, 0, path.len() as u64].map(u64::to_le_bytes).concat();
    let shown = decode(EventType::EFI_BOOT_SERVICES_APPLICATION, &[head, path].concat()).to_string();
    assert_eq!(shown, format!("{DISK_TEXT} (4096 bytes)"));

    let mut table = b"EFI PART".to_vec();
    table.resize(92, 0);
    table[56..72].copy_from_slice(&GLOBAL.to_bytes_le());
    table[84..88].copy_from_slice(&128_u32.to_le_bytes());
    table.extend(1_u64.to_le_bytes());
    let mut entry = vec![7; 32];
    entry.extend([2048_u64, 4095].map(u64::to_le_bytes).concat());
    entry.resize(56, 0);
    entry.extend(utf16("ESP"));
    entry.resize(128, 0);
    table.extend(entry);
    assert_eq!(
        decode(EventType::EFI_GPT_EVENT, &table).to_string(),
        format!("disk {GLOBAL}: \"ESP\" 2048-4095")
    );
    let bad = &table[..table.len() - 1];
    assert_eq!(decode(EventType::EFI_GPT_EVENT, bad), Decoded::Bytes(bad.to_vec()));
}

#[test]
fn a_type_has_its_name() {
    assert_eq!(EventType::EFI_VARIABLE_AUTHORITY.to_string(), "EV_EFI_VARIABLE_AUTHORITY");
    assert_eq!((EventType(0x77).to_string(), EventType(0x77).name()), ("0x00000077".to_owned(), None));
}
