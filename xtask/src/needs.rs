//! What the harness needs on the host, and why. The one list; setup, its `--check` and the commands it prints
//! are made from it. What the harness looks for by name (`latchkey_host`, which is built only when this is installed) is held
//! against it by a test.

/// Which repository a package must come from on Debian 12.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bookworm {
    /// Debian 12 itself.
    Release,
    /// Backports: QEMU 7.2 of the release cannot save a machine with `mapped-ram`, and QEMU's packages depend
    /// on one another at equal versions, so one from backports (often preinstalled) draws all of them there.
    Backports,
}

/// One thing that is needed.
#[derive(Debug)]
pub(crate) struct Need {
    /// Its package on Debian and Ubuntu.
    pub(crate) debian: &'static str,
    /// Its package on Fedora; empty when another line's package has it.
    pub(crate) fedora: &'static str,
    /// Its package in RHEL's family where that is another one than Fedora's.
    pub(crate) rhel: Option<&'static str>,
    /// What shows on any other system that it is there.
    pub(crate) proof: Proof,
    /// What for.
    pub(crate) why: &'static str,
    /// Where from on Debian 12.
    pub(crate) bookworm: Bookworm,
}

/// What shows that something is there where no package manager is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proof {
    /// A program.
    Program(&'static str),
    /// Any one of several programs that do the same; one that is there need not come from the package.
    OneOf(&'static [&'static str]),
    /// A library with its headers, by the name of its `pkg-config` file.
    Library(&'static str),
    /// Something in any one of these places, files or directories, or a variable that names another: where it is looked for,
    /// and by whoever looks there it is told whether it will do.
    OneOfPlaces(&'static [&'static str], &'static str),
    /// Comes along with another need.
    Implied,
}

const fn need(debian: &'static str, fedora: &'static str, proof: Proof, why: &'static str) -> Need {
    Need { debian, fedora, rhel: None, proof, why, bookworm: Bookworm::Release }
}

const fn qemu(debian: &'static str, fedora: &'static str, proof: Proof, why: &'static str) -> Need {
    Need { debian, fedora, rhel: None, proof, why, bookworm: Bookworm::Backports }
}

use Proof::{Implied, Library, OneOf, OneOfPlaces, Program};

/// Where the probe finds firmware (`latchkey_host::firmware`), and the variable that names another.
const FIRMWARE: Proof = OneOfPlaces(
    &[
        "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd",
        "/usr/share/edk2/x64/OVMF_CODE.secboot.4m.fd",
        "/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd",
        "/usr/share/qemu/firmware",
        "/etc/qemu/firmware",
    ],
    "LATCHKEY_OVMF_CODE",
);

/// Everything, in the order in which it is shown.
pub(crate) const NEEDS: &[Need] = &[
    Need {
        debian: "qemu-system-x86",
        fedora: "qemu-system-x86-core",
        rhel: Some("qemu-kvm"),
        proof: Program("qemu-system-x86_64"),
        why: "runs the machines",
        bookworm: Bookworm::Backports,
    },
    qemu("qemu-system-common", "", Implied, "QEMU's own parts"),
    qemu("qemu-system-data", "", Implied, "QEMU's own parts"),
    qemu("seabios", "", Implied, "QEMU's own parts"),
    qemu("qemu-utils", "qemu-img", Program("qemu-storage-daemon"), "reads and writes disks"),
    need("ovmf", "edk2-ovmf", FIRMWARE, "UEFI firmware with Secure Boot"),
    need("swtpm", "swtpm", Program("swtpm"), "the machines' TPM"),
    need("fuse3", "fuse3", Program("fusermount3"), "shows disks as files"),
    need("mmdebstrap", "mmdebstrap", Program("mmdebstrap"), "builds the reference images"),
    need("debian-archive-keyring", "debian-keyring", Implied, "checks the images' packages"),
    need("gpgv", "gnupg2", Program("gpgv"), "checks the images' packages"),
    need("mtools", "mtools", Program("mcopy"), "checks what was written to an ESP"),
    need("dosfstools", "dosfstools", Program("mkfs.vfat"), "makes and checks an ESP"),
    need("e2fsprogs", "e2fsprogs", Program("mkfs.ext4"), "makes the root file system"),
    need(
        "xfsprogs",
        "xfsprogs",
        Program("mkfs.xfs"),
        "makes a /boot, and what the tests take for a root file system",
    ),
    need("rpm", "rpm-build", Program("rpmbuild"), "makes the packages that a guest's dnf is offered"),
    need("createrepo-c", "createrepo_c", Program("createrepo_c"), "makes the repository that they are in"),
    need("gdisk", "gdisk", Program("sgdisk"), "checks partition tables"),
    need("sbsigntool", "sbsigntools", Program("sbverify"), "checks Secure Boot signatures"),
    need("pesign", "pesign", Program("pesign"), "checks the hashes that signatures cover"),
    need("osslsigncode", "osslsigncode", Program("osslsigncode"), "signs over other hashes, for the tests"),
    need(
        "cryptsetup-bin",
        "cryptsetup",
        Program("cryptsetup"),
        "encrypts a root in place, reads LUKS headers",
    ),
    need("tpm2-tools", "tpm2-tools", Program("tpm2_pcrread"), "checks what a TPM says"),
    need("openssh-client", "openssh-clients", Program("ssh"), "runs commands in a guest"),
    need("openssl", "openssl", Program("openssl"), "checks certificates"),
    need("util-linux", "util-linux", Program("setpriv"), "keeps children from outliving a run"),
    need("gcc", "gcc", Program("cc"), "builds the harness"),
    need("libc6-dev", "glibc-devel", Implied, "builds the harness"),
    need("pkg-config", "pkgconf-pkg-config", Program("pkg-config"), "builds the harness"),
    need("libclang-dev", "clang-devel", Implied, "builds the harness: bindings to C libraries"),
    need(
        "libtss2-dev",
        "tpm2-tss-devel",
        Library("tss2-esys"),
        "the TPM tools of the tests reach swtpm through its libraries",
    ),
    need("libcryptsetup-dev", "cryptsetup-devel", Library("libcryptsetup"), "builds the harness: LUKS2"),
];

/// Needed besides when an ordinary user builds images, who does it in a user namespace.
pub(crate) const ORDINARY_USERS_NEED: Need =
    need("uidmap", "shadow-utils", Program("newuidmap"), "builds images without root");

/// Needed besides by the project's own tests, which look at the HTML report in a real browser.
pub(crate) const BROWSER: Need = need(
    "chromium-headless-shell",
    "chromium",
    OneOf(&["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"]),
    "the tests look at the HTML report in it",
);

/// Needed besides by the project's own tests, which hold the JUnit report to its schema.
pub(crate) const XMLLINT: Need =
    need("libxml2-utils", "libxml2", Program("xmllint"), "the tests check the JUnit report with it");

/// Needed besides by the project's own tests, which hold forecasts against another predictor from PyPI, and the CI templates
/// to the schemas of GitHub's and GitLab's files.
pub(crate) const PIP: Need = need(
    "python3-pip",
    "python3-pip",
    Program("pip3"),
    "the tests get another predictor and schemas by it, from the index that pip is configured with",
);

impl Need {
    /// Its name where the package manager calls it otherwise in RHEL's family; none when it comes with another.
    pub(crate) fn rpm(&self, rhel: bool) -> Option<&'static str> {
        let name = self.rhel.filter(|_| rhel).unwrap_or(self.fedora);
        (!name.is_empty()).then_some(name)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use latchkey_host::firmware::{DESCRIPTORS, KNOWN_PAIRS};
    use latchkey_host::tools::{FILE_SYSTEMS, PACKAGES, PROGRAMS};

    use super::*;

    /// Programs that come with a package which another of its programs proves.
    const ALONG: [(&str, &str); 4] = [
        ("qemu-img", "qemu-utils"),
        ("debugfs", "e2fsprogs"),
        ("e2fsck", "e2fsprogs"),
        ("resize2fs", "e2fsprogs"),
    ];
    /// What is there on every system (Debian Policy, section 3.8).
    const ESSENTIAL: &str = "tar";

    #[test]
    fn what_the_harness_looks_for_is_needed() {
        for program in PROGRAMS.into_iter().chain(FILE_SYSTEMS).chain(PACKAGES) {
            let comes_with = |need: &Need| ALONG.contains(&(program, need.debian));
            let is_listed = NEEDS.iter().any(|need| need.proof == Program(program) || comes_with(need));
            assert!(is_listed || program == ESSENTIAL, "{program}");
        }
    }

    #[test]
    fn firmware_is_proven_where_the_harness_looks_for_it() {
        let OneOfPlaces(places, _) = FIRMWARE else { panic!("it lies in one of several places") };
        let codes = KNOWN_PAIRS.iter().map(|(code, _)| *code);
        let theirs: BTreeSet<&str> = codes.chain(DESCRIPTORS.iter().copied()).collect();
        assert_eq!(places.iter().copied().collect::<BTreeSet<_>>(), theirs);
    }

    #[test]
    fn every_need_is_named_once_and_has_a_reason() {
        let names: BTreeSet<_> = NEEDS.iter().map(|n| n.debian).collect();
        assert_eq!(names.len(), NEEDS.len());
        assert!(NEEDS.iter().all(|n| !n.why.is_empty()));
    }

    #[test]
    fn rhels_own_name_is_used_there_only() {
        assert_eq!(NEEDS[0].rpm(false), Some("qemu-system-x86-core"));
        assert_eq!(NEEDS[0].rpm(true), Some("qemu-kvm"));
        assert_eq!(NEEDS[1].rpm(true), None);
    }
}
