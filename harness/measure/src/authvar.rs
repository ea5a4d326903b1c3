//! Authenticated UEFI variables: what an update of PK, KEK, db or dbx looks like before firmware takes it
//! apart.
//!
//! `EFI_VARIABLE_AUTHENTICATION_2` (UEFI 2.10, section 8.2.2): an `EFI_TIME`, a `WIN_CERTIFICATE_UEFI_GUID`
//! with a PKCS#7 `SignedData`, then the variable's new contents. Only the contents are stored and measured.

use std::fmt;

use cms::content_info::ContentInfo;
use cms::signed_data::SignedData;
use der::{Decode, Encode};
use uuid::{Uuid, uuid};

use crate::Signer;
use crate::bytes::{guid_at, size_at, slice, u16_at, u32_at};
use crate::pe::WIN_CERT_REVISION;

/// Bytes of an `EFI_TIME`.
const TIME: usize = 16;
/// `WIN_CERTIFICATE_UEFI_GUID` without its data: u32 length, u16 revision, u16 type, GUID.
const CERTIFICATE_HEAD: usize = 24;
/// `WIN_CERT_TYPE_EFI_GUID`.
const CERTIFICATE_TYPE: u16 = 0x0ef1;
/// `EFI_CERT_TYPE_PKCS7_GUID`.
const PKCS7: Uuid = uuid!("4aafd29d-68df-49ee-8aa9-347d375665a7");

/// `EFI_VARIABLE_TIME_BASED_AUTHENTICATED_WRITE_ACCESS`, and the three that PK, KEK, db and dbx have with it:
/// non volatile, at boot, at run time (UEFI 2.10, section 8.2.1).
pub const ATTRIBUTES: u32 = 0x27;

/// Why bytes are no authenticated variable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes end before the contents begin.
    #[error("reading an authenticated variable: the file ends within its {0}; it may be truncated")]
    Truncated(&'static str),
    /// The time is not one that firmware takes.
    #[error("reading an authenticated variable: its time ({0}) is not one that firmware takes")]
    Time(String),
    /// The signature is not of the kind that the specification wants.
    #[error(
        "reading an authenticated variable: its {what} is {found}, not {wanted}; sign it as a PKCS#7 update"
    )]
    Kind {
        /// Which field.
        what: &'static str,
        /// Its value.
        found: String,
        /// The right one.
        wanted: String,
    },
    /// What should be PKCS#7 is not.
    #[error("reading an authenticated variable's signature: {0}")]
    Pkcs7(String),
}

/// A time as authenticated variables use it: the calendar fields of `EFI_TIME`, everything else zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// 1900 to 9999; some signers leave everything zero for an update that must not count as newer.
    pub year: u16,
    /// 1 to 12.
    pub month: u8,
    /// 1 to the month's last.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { year, month, day, hour, minute, second } = self;
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
    }
}

impl Time {
    /// The 16 bytes of an `EFI_TIME` (UEFI 2.10, section 8.3).
    #[must_use]
    pub fn to_bytes(self) -> [u8; TIME] {
        let [low, high] = self.year.to_le_bytes();
        let mut out = [0; TIME];
        out[..7].copy_from_slice(&[low, high, self.month, self.day, self.hour, self.minute, self.second]);
        out
    }

    /// Reads the 16 bytes and checks what firmware checks: padding, nanoseconds, zone and daylight are zero
    /// (UEFI 2.10, section 8.2.2). Whether the calendar knows the day is [`Self::is_calendar_time`]'s.
    fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let time = slice(bytes, 0, TIME).ok_or(Error::Truncated("time"))?;
        let year = u16_at(time, 0).ok_or(Error::Truncated("time"))?;
        let read =
            Self { year, month: time[2], day: time[3], hour: time[4], minute: time[5], second: time[6] };
        if time[7..].iter().any(|byte| *byte != 0) {
            return Err(Error::Time(format!("{read}, and fields that must be zero are not")));
        }
        Ok(read)
    }

    /// Whether it is a moment of the calendar as `EFI_TIME` has it. edk2 does not ask for that, and updates
    /// with a time of nothing but zeros exist.
    #[must_use]
    pub fn is_calendar_time(self) -> bool {
        let leap =
            self.year.is_multiple_of(4) && (!self.year.is_multiple_of(100) || self.year.is_multiple_of(400));
        let days = match self.month {
            2 if leap => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            1..=12 => 31,
            _ => 0,
        };
        (1900..=9999).contains(&self.year)
            && (1..=days).contains(&self.day)
            && self.hour < 24
            && self.minute < 60
            && self.second < 60
    }
}

/// An update of an authenticated variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthenticatedVariable {
    /// When it was signed: firmware refuses an update that is not newer than what it has.
    pub time: Time,
    /// The signature: a DER `SignedData`, mostly without the `ContentInfo` around it.
    pub pkcs7: Vec<u8>,
    /// The new contents; for db and the like [signature lists](crate::siglist).
    pub payload: Vec<u8>,
}

impl AuthenticatedVariable {
    /// Splits an update as it is given to `SetVariable` (a `.auth` file) and checks its form. Whether the
    /// signature holds is another question.
    ///
    /// # Errors
    /// [`Error`] when the bytes end too early, or its time or the signature's kind is not what firmware
    /// takes.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let time = Time::parse(bytes)?;
        let head = slice(bytes, TIME, CERTIFICATE_HEAD).ok_or(Error::Truncated("signature's head"))?;
        let kind = |what, found: u32, wanted: u16| {
            let hex = |value: u32| format!("{value:#06x}");
            if found == u32::from(wanted) {
                return Ok(());
            }
            Err(Error::Kind { what, found: hex(found), wanted: hex(wanted.into()) })
        };
        let words = u32_at(head, 4).unwrap_or_default();
        kind("signature's revision", words & 0xffff, WIN_CERT_REVISION)?;
        kind("signature's type", words >> 16, CERTIFICATE_TYPE)?;
        let guid = guid_at(head, 8).unwrap_or_default();
        if guid != PKCS7 {
            let (found, wanted) = (guid.to_string(), PKCS7.to_string());
            return Err(Error::Kind { what: "signature's GUID", found, wanted });
        }
        let length = size_at(head, 0).unwrap_or_default();
        let pkcs7 = length.checked_sub(CERTIFICATE_HEAD);
        let pkcs7 = pkcs7.and_then(|size| slice(bytes, TIME + CERTIFICATE_HEAD, size));
        let pkcs7 = pkcs7.ok_or(Error::Truncated("signature"))?.to_vec();
        signed_data(&pkcs7)?;
        Ok(Self { time, pkcs7, payload: bytes[TIME + length..].to_vec() })
    }

    /// An update of the variable `name` of `vendor`, signed by `signer` for a write with these attributes.
    ///
    /// # Errors
    /// [`sign::Error::Build`](crate::sign::Error::Build) when the signature cannot be made.
    pub fn sign(
        name: &str,
        vendor: Uuid,
        attributes: u32,
        time: Time,
        payload: Vec<u8>,
        signer: &Signer,
    ) -> Result<Self, crate::sign::Error> {
        let mut update = Self { time, pkcs7: Vec::new(), payload };
        update.pkcs7 = signer.detached(&update.signed_bytes(name, vendor, attributes))?;
        Ok(update)
    }

    /// The update as it is given to `SetVariable`.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let length = u32::try_from(CERTIFICATE_HEAD + self.pkcs7.len()).unwrap_or(u32::MAX);
        let mut out = self.time.to_bytes().to_vec();
        out.extend(length.to_le_bytes());
        out.extend(WIN_CERT_REVISION.to_le_bytes());
        out.extend(CERTIFICATE_TYPE.to_le_bytes());
        out.extend(PKCS7.to_bytes_le());
        out.extend(&self.pkcs7);
        out.extend(&self.payload);
        out
    }

    /// What the signature covers (UEFI 2.10, section 8.2.2): the name without a terminator, the vendor, the
    /// attributes, the time, the new contents.
    #[must_use]
    pub fn signed_bytes(&self, name: &str, vendor: Uuid, attributes: u32) -> Vec<u8> {
        let mut out: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        out.extend(vendor.to_bytes_le());
        out.extend(attributes.to_le_bytes());
        out.extend(self.time.to_bytes());
        out.extend(&self.payload);
        out
    }

    /// The certificates that came with the signature, DER, in its order.
    ///
    /// # Errors
    /// [`Error::Pkcs7`] when `pkcs7` was changed to something else.
    pub fn certificates(&self) -> Result<Vec<Vec<u8>>, Error> {
        let signed = signed_data(&self.pkcs7)?;
        let all = signed.certificates.iter().flat_map(|set| set.0.iter());
        all.map(|choice| choice.to_der().map_err(|e| Error::Pkcs7(e.to_string()))).collect()
    }
}

/// `SignedData`, bare or in a `ContentInfo`.
fn signed_data(pkcs7: &[u8]) -> Result<SignedData, Error> {
    let bad = |e: der::Error| Error::Pkcs7(e.to_string());
    match ContentInfo::from_der(pkcs7) {
        Ok(info) => info.content.decode_as().map_err(bad),
        Err(_) => SignedData::from_der(pkcs7).map_err(bad),
    }
}
