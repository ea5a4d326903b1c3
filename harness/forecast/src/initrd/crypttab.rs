//! The initrd's `crypttab`: which volumes are opened, and how.
//!
//! Sources: systemd 252.39 and 257.3, `src/cryptsetup/cryptsetup-generator.c` (`add_crypttab_devices`),
//! `src/shared/fstab-util.c` (`fstab_node_to_udev_node`, which takes quotes from what stands behind a tag).

/// What a device begins with that is named by its UUID, and by its partition's GUID or name.
const BY_UUID: [&str; 2] = ["UUID=", "/dev/disk/by-uuid/"];
const BY_PARTITION: [&str; 2] = ["PARTUUID=", "/dev/disk/by-partuuid/"];
const BY_PARTITIONS_NAME: [&str; 2] = ["PARTLABEL=", "/dev/disk/by-partlabel/"];

/// A line of a `crypttab` (crypttab(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrypttabLine {
    /// What the volume is called once it is open.
    pub name: String,
    /// What the volume lies on, such as `UUID=...`.
    pub device: String,
    /// The third column, a key file or none.
    pub key: Option<String>,
    /// With which options it is opened.
    pub options: Vec<String>,
}

/// How a line names its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Named<'a> {
    /// By the UUID of what lies on it.
    Uuid(&'a str),
    /// By its partition's GUID.
    Partition(&'a str),
    /// By its partition's name.
    PartitionsName(&'a str),
    /// Otherwise.
    Otherwise,
}

impl CrypttabLine {
    /// How it names its device.
    pub(crate) fn named(&self) -> Named<'_> {
        let behind = |[tag, path]: [&str; 2]| {
            self.device.strip_prefix(tag).map(unquoted).or_else(|| self.device.strip_prefix(path))
        };
        let uuid = behind(BY_UUID).map(Named::Uuid);
        let partition = || behind(BY_PARTITION).map(Named::Partition);
        let name = || behind(BY_PARTITIONS_NAME).map(Named::PartitionsName);
        uuid.or_else(partition).or_else(name).unwrap_or(Named::Otherwise)
    }

    /// The UUID under which the command line may tell something of it: its device's, as it stands there, or else the one in
    /// its name.
    pub(crate) fn told_by(&self) -> Option<&str> {
        let uuid = BY_UUID.iter().find_map(|start| self.device.strip_prefix(start));
        uuid.or_else(|| self.name.strip_prefix("luks-"))
    }
}

/// `text` without the quotes around it.
fn unquoted(text: &str) -> &str {
    let without = |quote: char| text.strip_prefix(quote)?.strip_suffix(quote);
    without('"').or_else(|| without('\'')).unwrap_or(text)
}

/// A `crypttab` taken apart.
pub(crate) fn read(text: &str) -> Vec<CrypttabLine> {
    let line = |line: &str| {
        let mut columns = line.split_whitespace().map(str::to_owned);
        let (name, device) = (columns.next()?, columns.next()?);
        let key = columns.next();
        let options = columns.next().unwrap_or_default();
        let options = options.split(',').filter(|option| !option.is_empty()).map(str::to_owned).collect();
        Some(CrypttabLine { name, device, key, options })
    };
    text.lines().filter(|line| !line.trim_start().starts_with('#')).filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("UUID=1", Named::Uuid("1"), Some("1"))]
    #[case("UUID=\"1\"", Named::Uuid("1"), Some("\"1\""))]
    #[case("/dev/disk/by-uuid/1", Named::Uuid("1"), Some("1"))]
    #[case("PARTUUID='1'", Named::Partition("1"), Some("2"))]
    #[case("/dev/disk/by-partuuid/1", Named::Partition("1"), Some("2"))]
    #[case("PARTLABEL=\"a", Named::PartitionsName("\"a"), Some("2"))]
    #[case("/dev/disk/by-partlabel/a", Named::PartitionsName("a"), Some("2"))]
    #[case("LABEL=a", Named::Otherwise, Some("2"))]
    #[case("/dev/sda3", Named::Otherwise, Some("2"))]
    fn a_device_has_names_of_several_kinds(
        #[case] device: &str,
        #[case] named: Named<'_>,
        #[case] told_by: Option<&str>,
    ) {
        let line = read(&format!("luks-2 {device} none luks")).remove(0);
        assert_eq!((line.named(), line.told_by()), (named, told_by));
    }
}
