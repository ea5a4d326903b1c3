//! shim's own data: version, certificate-file rule, vendor certificate, revocation levels, certificate files.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use latchkey_measure::shim::{self, CertificateFiles, Version};
use latchkey_measure::{
    PeImage, SignatureDb, SignatureList, Uuid, certfile, samples, sbat, siglist, sign_pe,
};
use rstest::rstest;

#[rstest]
#[case("15.4", CertificateFiles::None, false, false)]
#[case("15.5", CertificateFiles::None, false, false)]
#[case("15.6", CertificateFiles::Prefix, true, true)]
#[case("15.7", CertificateFiles::Prefix, true, true)]
#[case("15.8", CertificateFiles::Exact, true, false)]
#[case("16.0", CertificateFiles::Prefix, true, true)]
#[case("16.1", CertificateFiles::Prefix, true, true)]
#[case("16.1-rc1", CertificateFiles::Prefix, true, true)]
fn the_version_decides_which_files_count(
    #[case] version: &str,
    #[case] rule: CertificateFiles,
    #[case] efi: bool,
    #[case] bak: bool,
) {
    let image = samples::shim(version, 64).unwrap();
    assert_eq!(shim::version_text(&image), Some(version));
    let parsed = shim::version(&image).unwrap();
    assert_eq!(parsed.certificate_files(), rule);
    assert_eq!(rule.loads("shim_certificate.efi"), efi);
    assert_eq!(rule.loads("SHIM_CERTIFICATE.EFI"), efi);
    assert_eq!(rule.loads("shim_certificate.efi.bak"), bak);
    assert!(!rule.loads("disabled_shim_certificate.efi"));
    assert!(!rule.loads("shim_certificat"));
}

#[test]
fn a_vendor_certificate_is_replaced_in_place() {
    let vendor = samples::signer("Vendor").unwrap();
    let der = vendor.certificate();
    let shim_image = samples::shim("15.8", der.len() + 16).unwrap();
    assert!(shim::vendor_cert(&shim_image).unwrap().authorised.is_empty());

    let signed = sign_pe(&shim_image, &vendor).unwrap();
    let patched = shim::replace_vendor_cert(&signed, der).unwrap();
    let read = shim::vendor_cert(&patched).unwrap();
    assert_eq!((read.authorised.as_slice(), read.deauthorised.len()), (der, 0));
    assert_eq!(read.room, der.len() + 16);
    assert_eq!(patched.len(), shim_image.len());
    assert!(PeImage::parse(&patched).unwrap().signatures().unwrap().is_empty());
    for other in [".text", ".sbat", ".sbatlevel", ".data.ident"] {
        let section = |image| PeImage::parse(image).unwrap().section(other).unwrap().to_vec();
        assert_eq!(section(&patched), section(&shim_image), "{other}");
    }

    let tight = samples::shim("15.8", der.len() + 15).unwrap();
    assert!(matches!(shim::replace_vendor_cert(&tight, der), Err(shim::Error::TooLarge { .. })));
    assert!(matches!(shim::replace_vendor_cert(&shim_image, b"\x30\x10short"), Err(shim::Error::NotDer)));
    let uki = samples::uki(b"k", "").unwrap();
    assert!(matches!(shim::replace_vendor_cert(&uki, der), Err(shim::Error::NoTable)));
}

#[test]
fn levels_and_metadata_are_read() {
    let image = samples::shim("15.8", 64).unwrap();
    let levels = shim::sbat_levels(&image).unwrap();
    assert_eq!((levels.automatic.date, levels.latest.date), (2_023_012_900, 2_024_010_900));
    let own = sbat::parse(PeImage::parse(&image).unwrap().section(".sbat").unwrap()).unwrap();
    assert_eq!(own[1].name, "shim");
    assert!(levels.latest.refuses(&own).is_none());
    let stricter = sbat::Revocations::parse(b"sbat,1,2030010100\nshim,5\n").unwrap();
    let (component, needed) = stricter.refuses(&own).unwrap();
    assert_eq!((component.name.as_str(), component.generation, needed), ("shim", 4, 5));
    assert_eq!(own.iter().map(sbat::line).collect::<String>().lines().count(), 2);
}

#[test]
fn a_certificate_file_carries_its_lists_and_nothing_more() {
    let community = samples::signer("Community").unwrap();
    let owner = Uuid::from_u128(0x0102_0304);
    let lists = SignatureDb::new()
        .with(SignatureList::x509(owner, community.certificate()))
        .with(SignatureList::sha256(owner, &[[1; 32], [2; 32]]));
    let csv = "sbat,1,SBAT Version,sbat,1,u\ncertmule,1,Vendor,certmule,1,u\n";
    let file = certfile::build(&lists.to_bytes(), csv).unwrap();
    let image = PeImage::parse(&file).unwrap();
    assert_eq!(image.machine(), 0x8664);
    assert_eq!(image.section(".sbat").unwrap(), csv.as_bytes());
    let back = SignatureDb::parse(image.section(".db").unwrap()).unwrap();
    assert_eq!(back, lists);
    assert_eq!(back.certificates().collect::<Vec<_>>(), [community.certificate()]);
    assert_eq!(back.entries(siglist::SHA256).count(), 2);

    assert!(matches!(certfile::build(&[], csv), Err(certfile::Error::Empty)));
    assert!(matches!(certfile::build(&lists.to_bytes(), ""), Err(certfile::Error::Empty)));
    assert!(certfile::build(&lists.to_bytes(), "a,b\n").is_err());
    assert!(certfile::build(&[1, 2, 3], csv).is_err());
}

#[test]
fn versions_order() {
    let v = |major, minor| Version { major, minor };
    assert!(v(15, 8) < v(16, 0) && v(15, 8).to_string() == "15.8");
}

#[test]
fn a_table_that_lies_over_the_headers_is_not_written() {
    // Found by fuzzing. The string table holds the sections' names; whoever writes there has another image.
    let shim = samples::shim("15.8", 1000).unwrap();
    let field = |at: usize| u32::from_le_bytes(shim[at..at + 4].try_into().unwrap());
    let strings = field(0x4c);
    let place = PeImage::parse(&shim).unwrap().find_section(".vendor_cert").unwrap().offset;
    let offset_field = (0x100..0x400).find(|at| field(*at) as usize == place).unwrap();
    let mut hostile = shim.clone();
    hostile[offset_field..offset_field + 4].copy_from_slice(&strings.to_le_bytes());
    hostile[offset_field - 4..offset_field].copy_from_slice(&24_u32.to_le_bytes());
    assert_eq!(PeImage::parse(&hostile).unwrap().section(".vendor_cert").unwrap().len(), 24);
    let der = [0x30, 0x82, 0, 0];
    assert!(shim::replace_vendor_cert(&shim, &der).is_ok());
    assert!(matches!(shim::replace_vendor_cert(&hostile, &der), Err(shim::Error::BadTable { size: 24 })));
}
