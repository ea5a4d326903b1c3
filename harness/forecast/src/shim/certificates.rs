//! The signature lists in a certificate file, as shim copies them: of a list it looks at nothing but its size.
//!
//! Source: shim 15.8, 16.0 and 16.1, `shim.c` (`load_cert_file`).

use latchkey_measure::pe::Section;
use latchkey_measure::{PeImage, SignatureDb};
use latchkey_record::Stage;

use super::Shim;
use crate::Chain;

/// `sizeof(EFI_SIGNATURE_LIST)`, and where the size of the whole list stands in it.
const HEAD: usize = 28;
const SIZE_AT: usize = 16;

impl Shim {
    /// Takes the sections `.db` of a certificate file that was verified.
    pub(super) fn take_certificates(&mut self, chain: &mut Chain<'_>, bytes: &[u8], file: String) {
        if let Ok(image) = PeImage::parse(bytes) {
            for section in image.sections().filter(|section| section.name == b".db") {
                let lists = match self.version.major {
                    16.. => Some(whole_lists(&section, bytes)),
                    _ => first_list(&section, bytes),
                };
                let Some(lists) = lists else {
                    let why = "the first list in its section .db is longer than the file";
                    chain.unmodelled(Stage::Shim, &file, why, &[4, 7, 14]);
                    continue;
                };
                if SignatureDb::parse(lists).is_err() {
                    let why =
                        "whose word counts beside a signature list whose sizes do not add up is not modelled";
                    chain.unmodelled(Stage::Shim, &file, why, &[4, 7]);
                }
                self.user.extend(lists);
            }
        }
        self.user_files.push(file);
    }
}

/// 16.x: list after list while a head fits, up to one that does not fit itself. What is not in memory as well as in the file
/// does not count.
fn whole_lists<'a>(section: &Section<'_>, bytes: &'a [u8]) -> &'a [u8] {
    let data = bytes.get(section.offset..).unwrap_or_default();
    let data = &data[..data.len().min(section.raw_size.min(section.virtual_size))];
    let mut end = 0;
    while let Some(size) = data.get(end..).filter(|rest| rest.len() >= HEAD).and_then(list_size) {
        match end.checked_add(size) {
            Some(next) if size >= HEAD && next <= data.len() => end = next,
            _ => break,
        }
    }
    &data[..end]
}

/// 15.x: as many bytes as the first list says that it has, be they in the section or not. `None` where they are not in the
/// file either.
fn first_list<'a>(section: &Section<'_>, bytes: &'a [u8]) -> Option<&'a [u8]> {
    if section.raw_size < HEAD {
        return Some(&[]);
    }
    let list = bytes.get(section.offset..)?;
    list.get(..list_size(list)?)
}

fn list_size(list: &[u8]) -> Option<usize> {
    let size = list.get(SIZE_AT..SIZE_AT + 4)?.try_into().ok()?;
    usize::try_from(u32::from_le_bytes(size)).ok()
}

#[cfg(test)]
mod tests {
    use latchkey_measure::{SignatureList, Uuid};
    use rstest::rstest;

    use super::*;

    fn list(hash: u8) -> Vec<u8> {
        SignatureList::sha256(Uuid::nil(), &[[hash; 32]]).to_bytes()
    }

    /// What both take of a section that begins with two lists of 76 bytes, in bytes.
    #[rstest]
    #[case::as_it_should_be(&[], 152, (152, 76))]
    #[case::zeros_behind(&[0; 40], 192, (152, 76))]
    #[case::less_than_a_head_behind(&[1; 20], 172, (152, 76))]
    #[case::longer_than_the_rest(&[0xff; 40], 192, (152, 76))]
    #[case::cut_in_memory(&[], 151, (76, 76))]
    #[case::not_in_memory(&[], 0, (0, 76))]
    fn lists_are_taken_one_by_one(
        #[case] behind: &[u8],
        #[case] virtual_size: usize,
        #[case] expected: (usize, usize),
    ) {
        let bytes = [&[9; 4][..], &list(1), &list(2), behind].concat();
        let raw_size = bytes.len() - 4;
        let section = Section { name: b".db", offset: 4, raw_size, virtual_size, data: &[] };
        let (whole, first) =
            (whole_lists(&section, &bytes), first_list(&section, &bytes).unwrap_or_default());
        assert_eq!((whole.len(), first.len()), expected);
        assert!(bytes[4..].starts_with(whole) && bytes[4..].starts_with(first));
    }

    #[test]
    fn a_first_list_may_be_longer_than_its_section_but_not_than_the_file() {
        let bytes = list(1);
        let section = |raw_size| Section { name: b".db", offset: 0, raw_size, virtual_size: 28, data: &[] };
        assert_eq!(first_list(&section(28), &bytes), Some(&bytes[..]));
        assert_eq!(first_list(&section(28), &bytes[..75]), None);
        assert_eq!(first_list(&section(27), &bytes), Some(&[][..]));
    }
}
