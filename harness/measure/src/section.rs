//! Giving a section of a PE image other contents, where nothing but signatures follows it ("PE Format", section table).

use crate::bytes::{size_at, u16_at};
use crate::sign::{Error, fix_checksum, strip_signatures};
use crate::{PeImage, pe};

/// Bytes of one entry of the section table, and where in it the size in memory, the address, the size and the place in the file
/// stand.
const ENTRY: usize = 40;
const IN_MEMORY: usize = 8;
const ADDRESS: usize = 12;
const IN_FILE: usize = 16;
const PLACE: usize = 20;
/// From the PE header: the number of sections, the size of the optional header, that header.
const SECTIONS: usize = 6;
const OPTIONAL_SIZE: usize = 20;
const OPTIONAL: usize = 24;
/// In the optional header: the alignments in memory and in the file, the image's size in memory.
const IN_MEMORY_ALIGNED: usize = 32;
const IN_FILE_ALIGNED: usize = 36;
const IMAGE_SIZE: usize = 56;

/// The largest alignment that an image of this kind has; in the file it is at most 64 KiB, in memory larger on none that starts.
const LARGEST_ALIGNMENT: usize = 64 << 10;

/// `image` without signatures, with `data` in its section `name`; `None` where that section is not the last one, in the file and
/// in memory, so that others would have to move.
///
/// # Errors
/// [`Error::Pe`] when `image` is not a PE image, [`Error::TooLarge`] when it is more than an image can hold.
pub fn replace_last(image: &[u8], name: &str, data: &[u8]) -> Result<Option<Vec<u8>>, Error> {
    let mut out = strip_signatures(image)?;
    let Some(at) = PeImage::parse(&out)?.sections().position(|section| section.name == name.as_bytes())
    else {
        return Ok(None);
    };
    let cut = || Error::Pe(pe::Error::OutOfBounds);
    let header = size_at(&out, 0x3c).ok_or_else(cut)?;
    let sections = usize::from(u16_at(&out, header + SECTIONS).ok_or_else(cut)?);
    let optional = header + OPTIONAL;
    let table = optional + usize::from(u16_at(&out, header + OPTIONAL_SIZE).ok_or_else(cut)?);
    let field = |entry: usize, offset| size_at(&out, table + ENTRY * entry + offset).ok_or_else(cut);
    let (address, place) = (field(at, ADDRESS)?, field(at, PLACE)?);
    // Whatever else lies behind it would be lost; but signatures begin at multiples of eight bytes.
    let end = place.checked_add(field(at, IN_FILE)?).ok_or_else(cut)?;
    if end.next_multiple_of(8) < out.len() || place > out.len() {
        return Ok(None);
    }
    for other in (0..sections).filter(|other| *other != at) {
        if field(other, ADDRESS)? > address || field(other, PLACE)? > place {
            return Ok(None);
        }
    }
    let aligned = |size: usize, offset| {
        let sound = |to: &usize| to.is_power_of_two() && *to <= LARGEST_ALIGNMENT;
        let to = size_at(&out, optional + offset).filter(sound).ok_or_else(cut)?;
        size.checked_next_multiple_of(to).ok_or(Error::TooLarge)
    };
    let in_file = aligned(data.len(), IN_FILE_ALIGNED)?;
    let whole = aligned(address.checked_add(data.len()).ok_or(Error::TooLarge)?, IN_MEMORY_ALIGNED)?;
    out.truncate(place);
    out.extend_from_slice(data);
    out.resize(place + in_file, 0);
    let entry = table + ENTRY * at;
    for (to, value) in
        [(entry + IN_MEMORY, data.len()), (entry + IN_FILE, in_file), (optional + IMAGE_SIZE, whole)]
    {
        let value = u32::try_from(value).map_err(|_| Error::TooLarge)?;
        out.get_mut(to..to + 4).ok_or_else(cut)?.copy_from_slice(&value.to_le_bytes());
    }
    fix_checksum(&mut out)?;
    Ok(Some(out))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use crate::{samples, sign_pe};

    #[test]
    fn the_last_section_has_other_contents_and_the_rest_is_as_it_was() {
        let signer = samples::signer("vendor").unwrap();
        let uki = sign_pe(&samples::uki(&[7; 5000], "quiet").unwrap(), &signer).unwrap();
        let larger = vec![9; 70_001];
        let other = replace_last(&uki, ".initrd", &larger).unwrap().unwrap();
        let (before, after) = (PeImage::parse(&uki).unwrap(), PeImage::parse(&other).unwrap());
        assert_eq!(after.section(".initrd"), Some(&larger[..]));
        for name in [".text", ".sbat", ".osrel", ".uname", ".cmdline", ".linux"] {
            assert_eq!(after.section(name), before.section(name), "{name}");
        }
        // Back again, it is what it was: the checksum and the sizes as well.
        let back = replace_last(&other, ".initrd", before.section(".initrd").unwrap()).unwrap().unwrap();
        assert_eq!(back, strip_signatures(&uki).unwrap());
        assert_eq!(sign_pe(&back, &signer).unwrap(), uki);
    }

    #[test]
    fn what_others_follow_is_not_replaced() {
        let uki = samples::uki(&[7; 5000], "quiet").unwrap();
        assert_eq!(replace_last(&uki, ".linux", b"more").unwrap(), None);
        assert_eq!(replace_last(&uki, ".missing", b"more").unwrap(), None);
        let overlay = [&uki[..], &[1; 4096]].concat();
        assert_eq!(replace_last(&overlay, ".initrd", b"more").unwrap(), None);
        let mut odd = uki.clone();
        // The alignment in the file, behind the PE header at 0x40.
        odd[0x40 + OPTIONAL + IN_FILE_ALIGNED..][..4].copy_from_slice(&(1_u32 << 31).to_le_bytes());
        assert!(replace_last(&odd, ".initrd", b"more").is_err());
        assert!(replace_last(b"MZ and nothing else", ".initrd", b"more").is_err());
    }
}
