//! Why apt failed, and what to do about it, from what it printed.

/// What apt prints, and what its reader should do. The first that fits is taken.
const REMEDIES: &[(&[&str], &str)] = &[
    (
        &["No space left on device", "don't have enough free space", "not enough disk space"],
        "the disk is full: free 2 GB below /var and /usr (`apt-get clean` frees some), then run this again",
    ),
    (
        &["dpkg was interrupted", "dpkg --configure -a"],
        "an earlier installation was interrupted: run `dpkg --configure -a` as root, then run this again",
    ),
    (
        &["Could not get lock", "Unable to acquire the dpkg frontend lock"],
        "another package manager is at work: wait until it is done, then run this again",
    ),
    (
        &[
            "are not authenticated",
            "NO_PUBKEY",
            "is not signed",
            "Release file is not yet valid",
            "is expired",
        ],
        "the mirror's signature does not hold: check the system's clock and its archive keyring",
    ),
    (
        &["does not have a Release file", "404  Not Found", "404 Not Found", "was not found for"],
        "the mirror lacks a suite or a file: check the URIs in /etc/apt, or run `apt-get update`, then run this again",
    ),
    (
        &[
            "Temporary failure resolving",
            "Could not resolve",
            "Could not connect",
            "Failed to fetch",
            "Connection timed out",
        ],
        "the mirror cannot be reached: check the network, and the URIs in /etc/apt",
    ),
    (
        &["Unable to locate package", "has no installation candidate"],
        "the machine's apt sources lack a package: enable the release's own repository (on Ubuntu also `universe`)",
    ),
    (
        &["unmet dependencies", "held broken packages"],
        "other packages stand in the way: `apt-mark showhold` lists those held back, /etc/apt/preferences.d those pinned",
    ),
];

/// What to do after apt printed `output`.
pub(super) fn remedy(output: &str) -> &'static str {
    REMEDIES
        .iter()
        .find(|(signs, _)| signs.iter().any(|sign| output.contains(sign)))
        .map_or("correct what it says, then run this again", |(_, remedy)| remedy)
}

/// Whether apt gave up because somebody else was updating the package lists.
pub(super) fn lists_were_locked(output: &str) -> bool {
    output.contains("Could not get lock") && output.contains("lists")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("E: You don't have enough free space in /var/cache/apt/archives/.", "the disk is full")]
    #[case(
        "E: Failed to fetch http://m.example.org/x.deb  write (28: No space left on device)",
        "the disk is full"
    )]
    #[case("E: dpkg was interrupted, you must manually run 'dpkg --configure -a'", "earlier installation")]
    #[case(
        "Err:1 http://m.example.org/debian bookworm InRelease\n  Temporary failure resolving 'm.example.org'",
        "network"
    )]
    #[case(
        "E: The repository 'http://m.example.org bookworm-backports Release' does not have a Release file.",
        "suite"
    )]
    #[case("E: Unable to locate package swtpm", "universe")]
    #[case("E: Unable to correct problems, you have held broken packages.", "showhold")]
    #[case("E: something new", "correct what it says")]
    fn remedies(#[case] output: &str, #[case] expected: &str) {
        assert!(remedy(output).contains(expected), "{}", remedy(output));
    }

    #[rstest]
    #[case("E: Could not get lock /var/lib/apt/lists/lock. It is held by process 12 (apt-get)", true)]
    #[case("E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 12", false)]
    fn locked_lists(#[case] output: &str, #[case] expected: bool) {
        assert_eq!(lists_were_locked(output), expected);
    }
}
