//! The initrd's `crypttab`: which volumes are opened, and how.

/// What a volume's device begins with where it is named by its UUID (systemd, `src/cryptsetup/cryptsetup-generator.c`,
/// `add_crypttab_device`).
const BY_UUID: [&str; 2] = ["UUID=", "/dev/disk/by-uuid/"];

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

impl CrypttabLine {
    /// The UUID that its device is named by, if it is.
    pub(crate) fn uuid(&self) -> Option<&str> {
        BY_UUID.iter().find_map(|start| self.device.strip_prefix(start)).map(|uuid| uuid.trim_matches('"'))
    }

    /// The UUID under which the command line may tell something of it: its device's, or else the one in its name.
    pub(crate) fn told_by(&self) -> Option<&str> {
        self.uuid().or_else(|| self.name.strip_prefix("luks-"))
    }
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
