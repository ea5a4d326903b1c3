//! One variable and how it lies in flash.

use std::fmt;

use uuid::Uuid;

use super::Error;

/// `sizeof (AUTHENTICATED_VARIABLE_HEADER)`.
pub(super) const HEADER: usize = 60;
/// `VARIABLE_DATA`: marks the start of a variable.
const START: u16 = 0x55aa;
/// `VAR_ADDED`: complete.
const ADDED: u8 = 0x3f;
/// `VAR_IN_DELETED_TRANSITION & VAR_ADDED`: about to be replaced.
const IN_DELETION: u8 = 0x3e;
/// A size field that was never written.
const UNWRITTEN: u32 = u32::MAX;
/// 2010-01-01 00:00:00 as `EFI_TIME`: before any real update, so that signed updates still apply.
const ENROLLED: [u8; 16] = [0xda, 0x07, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Vendor GUIDs of the variables that matter to booting.
pub mod vendor {
    use uuid::{Uuid, uuid};

    /// `EFI_GLOBAL_VARIABLE`: PK, KEK, BootOrder, Boot####.
    pub const GLOBAL: Uuid = uuid!("8be4df61-93ca-11d2-aa0d-00e098032b8c");
    /// `EFI_IMAGE_SECURITY_DATABASE_GUID`: db, dbx.
    pub const IMAGE_SECURITY: Uuid = uuid!("d719b2cb-3d3a-4596-a3bc-dad00e67656f");
    /// shim's lock GUID: MokList, SbatLevel and their relatives.
    pub const SHIM: Uuid = uuid!("605dab50-e046-4300-abb6-3dd810dd8b23");
    /// edk2 `gEfiSecureBootEnableDisableGuid`.
    pub const SECURE_BOOT_ENABLE: Uuid = uuid!("f0a30bc7-af08-4556-99c4-001009c93a44");
    /// edk2 `gEfiMemoryTypeInformationGuid`: how much memory of which kind the last boot needed.
    pub const MEMORY_TYPE_INFORMATION: Uuid = uuid!("4c19049f-4137-4dd3-9c10-8b97a83ffdfa");
    /// edk2 `gEfiCustomModeEnableGuid`.
    pub const CUSTOM_MODE: Uuid = uuid!("c076ec0c-7028-4399-a072-71ee5c448b9f");
}

/// A variable's name and vendor, which together identify it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VariableId {
    /// e.g. `db`.
    pub name: String,
    /// e.g. [`vendor::IMAGE_SECURITY`].
    pub vendor: Uuid,
}

impl VariableId {
    /// A name of a vendor.
    #[must_use]
    pub fn new(name: &str, vendor: Uuid) -> Self {
        Self { name: name.to_owned(), vendor }
    }
}

impl fmt::Display for VariableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.name, self.vendor)
    }
}

/// Attribute bits (UEFI 2.10 section 8.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes(pub u32);

impl Attributes {
    /// Kept over a restart, seen by boot loaders only.
    pub const BOOT: Self = Self(0x03);
    /// Kept over a restart, seen by the running system too.
    pub const RUNTIME: Self = Self(0x07);
    /// As [`Self::RUNTIME`], and changed only by signed, time-stamped writes: PK, KEK, db, dbx.
    pub const AUTHENTICATED: Self = Self(0x27);
}

/// One variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Name and vendor.
    pub id: VariableId,
    /// Who sees it, who may change it.
    pub attributes: Attributes,
    /// `EFI_TIME` of the last signed write, zeros when there is none.
    pub time: [u8; 16],
    /// Counter of an older kind of authentication; 0 today.
    pub monotonic_count: u64,
    /// Index of an older kind of authentication; 0 today.
    pub public_key_index: u32,
    /// The value.
    pub data: Vec<u8>,
}

/// How far a variable in flash is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Added,
    InDeletion,
}

/// What [`Variable::read`] finds: a variable that counts (or none), its state, and where the next one starts.
type Found = Option<(Option<Variable>, State, usize)>;

impl Variable {
    /// A variable without time stamp.
    #[must_use]
    pub fn new(id: VariableId, attributes: Attributes, data: Vec<u8>) -> Self {
        Self { id, attributes, time: [0; 16], monotonic_count: 0, public_key_index: 0, data }
    }

    /// A variable as a signed write leaves it: with [`Attributes::AUTHENTICATED`] and a fixed early time.
    #[must_use]
    pub fn authenticated(id: VariableId, data: Vec<u8>) -> Self {
        Self { time: ENROLLED, ..Self::new(id, Attributes::AUTHENTICATED, data) }
    }

    /// Reads the variable at `at`; `None` where no further one starts.
    pub(super) fn read(image: &[u8], at: usize, end: usize) -> Result<Found, Error> {
        let damaged = |why| Error::Damaged { at, why };
        let header = image.get(at..at + HEADER).ok_or_else(|| damaged("its header is cut off"))?;
        if header[..2] != START.to_le_bytes() {
            return Ok(None);
        }
        let field = |offset| u32_at(header, offset).unwrap_or(UNWRITTEN);
        let size =
            |field: u32| if field == UNWRITTEN { 0 } else { usize::try_from(field).unwrap_or(usize::MAX) };
        let (name_size, data_size) = (size(field(36)), size(field(40)));
        let data_at = (at + HEADER).checked_add(name_size);
        let after = data_at.and_then(|d| d.checked_add(data_size)).filter(|after| *after <= end);
        let (Some(data_at), Some(after)) = (data_at, after) else {
            return Err(damaged("its sizes reach past the end of the store"));
        };
        let next = after.next_multiple_of(4);
        let state = match header[2] {
            ADDED => State::Added,
            IN_DELETION => State::InDeletion,
            _ => return Ok(Some((None, State::InDeletion, next))),
        };
        let units: Vec<u16> =
            image[at + HEADER..data_at].chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]])).collect();
        let units = units.strip_suffix(&[0]).ok_or_else(|| damaged("its name has no end"))?;
        let name = String::from_utf16(units).map_err(|_| damaged("its name is not UTF-16"))?;
        let array = |range: std::ops::Range<usize>| header[range].try_into().unwrap_or([0; 16]);
        let variable = Self {
            id: VariableId { name, vendor: Uuid::from_bytes_le(array(44..60)) },
            attributes: Attributes(field(4)),
            time: array(16..32),
            monotonic_count: header[8..16].try_into().map_or(0, u64::from_le_bytes),
            public_key_index: field(32),
            data: image[data_at..after].to_vec(),
        };
        Ok(Some((Some(variable), state, next)))
    }

    /// Appends the variable as flash holds it, complete, padded to four bytes.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let name: Vec<u8> =
            self.id.name.encode_utf16().chain(std::iter::once(0)).flat_map(u16::to_le_bytes).collect();
        out.extend(START.to_le_bytes());
        out.extend([ADDED, 0]);
        out.extend(self.attributes.0.to_le_bytes());
        out.extend(self.monotonic_count.to_le_bytes());
        out.extend(self.time);
        out.extend(self.public_key_index.to_le_bytes());
        // A length beyond 4 GiB makes a store that is too small for it anyway.
        out.extend(u32::try_from(name.len()).unwrap_or(UNWRITTEN).to_le_bytes());
        out.extend(u32::try_from(self.data.len()).unwrap_or(UNWRITTEN).to_le_bytes());
        out.extend(self.id.vendor.to_bytes_le());
        out.extend(name);
        out.extend(&self.data);
        out.resize(out.len().next_multiple_of(4), 0xff);
    }
}

/// The `u32` at byte `at`.
pub(super) fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(data.get(at..at.checked_add(4)?)?.try_into().ok()?))
}
