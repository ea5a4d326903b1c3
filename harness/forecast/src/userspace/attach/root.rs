//! Which partition is root's, and which lines of `crypttab` are its.
//!
//! Source: systemd 252.39 and 257.13, `src/udev/udev-builtin-blkid.c` (`find_gpt_root`).

use latchkey_disk::gpt::{self, Partition, kind};

use super::ByType;
use crate::initrd::CrypttabLine;
use crate::initrd::crypttab::Named;

/// The root volume, as far as a line of `crypttab` may name it.
#[derive(Debug, Clone, Copy)]
pub(in crate::userspace) struct Root<'a> {
    pub(in crate::userspace) uuid: Option<&'a str>,
    pub(in crate::userspace) partitions: &'a [Partition],
}

/// Whether a line of `crypttab` is the root volume's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    Roots,
    Others,
    Unknown,
}

impl Root<'_> {
    /// Whose this line is. udev's links to partitions are told apart by the partition table, where it says which is root's.
    pub(super) fn whose(&self, line: &CrypttabLine) -> Whose {
        let own = gpt::root(self.partitions);
        let called = |name: &str| self.partitions.iter().filter(|partition| partition.name == name).count();
        let is_its = match (line.named(), own) {
            (Named::Uuid(uuid), _) => self.uuid == Some(uuid),
            (Named::Partition(guid), Some(own)) => own.guid.to_string() == guid,
            // Of two partitions with one name either may have the link. Characters may be written as `\\x20`.
            (Named::PartitionsName(name), _) if called(name) > 1 || name.contains('\\') => {
                return Whose::Unknown;
            }
            (Named::PartitionsName(name), Some(own)) => own.name == name,
            _ => return Whose::Unknown,
        };
        if is_its { Whose::Roots } else { Whose::Others }
    }

    /// Why it is not known which of several partitions is root's, unless something names it.
    pub(super) fn one_of_several(&self, by_type: ByType) -> Option<&'static str> {
        let typed = self.partitions.iter().filter(|partition| partition.type_guid == kind::ROOT_X86_64);
        if typed.count() < 2 {
            return None;
        }
        if by_type == ByType::No {
            return Some("which of several root partitions is the system's is not modelled");
        }
        // Of those with one name it takes the first.
        let mut names = gpt::roots(self.partitions).map(|partition| partition.name.as_str());
        let first = names.next();
        let differ = names.any(|name| Some(name) != first);
        differ.then_some(
            "which of several root partitions systemd takes hangs on their names, which is not modelled",
        )
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::super::{Holds, attached};
    use super::*;
    use crate::command_line::words;
    use crate::initrd::{Initrd, crypttab};
    use crate::options::Options;

    const UUID: &str = "0ed3a7ab-6c6d-4cd5-8c29-53b0e1a0b1c2";

    fn partition(index: u32, name: &str, type_guid: latchkey_measure::Uuid) -> Partition {
        let guid = latchkey_measure::Uuid::from_u128(index.into());
        let name = name.to_owned();
        Partition { index, type_guid, guid, name, first_lba: 0, last_lba: 0, no_auto: false }
    }

    /// The partition table tells whose a line is.
    #[rstest]
    #[case("PARTUUID=00000000-0000-0000-0000-000000000003", Whose::Roots)]
    #[case("/dev/disk/by-partuuid/00000000-0000-0000-0000-000000000001", Whose::Others)]
    #[case("PARTLABEL=root", Whose::Roots)]
    #[case("PARTLABEL=\"root\"", Whose::Roots)]
    #[case("/dev/disk/by-partlabel/data", Whose::Others)]
    #[case("PARTLABEL=none", Whose::Others)]
    #[case("PARTLABEL=same", Whose::Unknown)]
    #[case("PARTLABEL=ro\\x6ft", Whose::Unknown)]
    #[case("LABEL=root", Whose::Unknown)]
    #[case("/dev/sda3", Whose::Unknown)]
    fn partitions_are_told_apart(#[case] device: &str, #[case] expected: Whose) {
        let of_kind = |(index, name): (u32, &str)| {
            partition(index, name, if name == "root" { kind::ROOT_X86_64 } else { kind::LINUX })
        };
        let partitions = (1..).zip(["same", "data", "root", "same"]).map(of_kind).collect::<Vec<_>>();
        let line = crypttab::read(&format!("a {device}")).remove(0);
        let root = Root { uuid: Some(UUID), partitions: &partitions };
        assert_eq!(root.whose(&line), expected);
        // Which of them is root's has to be known.
        let root = Root { partitions: &partitions[..2], ..root };
        assert_eq!(root.whose(&line), Whose::Unknown);
    }

    /// Of several partitions of root's type, by their names, whether systemd finds each by it, and which end there is.
    #[rstest]
    #[case::one(&[("a", true)], "", ByType::With(Options::default()), Ok(()))]
    #[case::another_hides(&[("b", false), ("a", true)], "", ByType::With(Options::default()), Ok(()))]
    #[case::of_one_name(&[("a", true), ("a", true)], "", ByType::With(Options::default()), Ok(()))]
    #[case::of_two_names(&[("a", true), ("b", true)], "", ByType::With(Options::default()), Err(Holds::Anything))]
    #[case::perhaps_by_type(&[("a", true), ("b", true)], "", ByType::Perhaps, Err(Holds::Anything))]
    #[case::named(&[("a", true), ("b", true)], "rd.luks.uuid=@", ByType::No, Ok(()))]
    #[case::named_and_found(&[("a", true), ("b", true)], "rd.luks.name=@=root", ByType::With(Options::default()), Err(Holds::Anything))]
    #[case::another_is_named(&[("a", true), ("b", true)], "rd.luks.uuid=1", ByType::No, Err(Holds::Anything))]
    #[case::the_one_is_not_named(&[("a", true)], "rd.luks.uuid=1", ByType::No, Err(Holds::Luks))]
    fn several_partitions_may_be_roots(
        #[case] partitions: &[(&str, bool)],
        #[case] line: &str,
        #[case] by_type: ByType,
        #[case] expected: Result<(), Holds>,
    ) {
        let root = |(index, (name, is_found)): (u32, &(&str, bool))| Partition {
            no_auto: !is_found,
            ..partition(index, name, kind::ROOT_X86_64)
        };
        let partitions = (1..).zip(partitions).map(root).collect::<Vec<_>>();
        let words = words(&line.replace('@', UUID));
        let root = Root { uuid: Some(UUID), partitions: &partitions };
        let told = attached(&Initrd::default(), &words, root, by_type);
        assert_eq!(told.map(|_| ()).map_err(|unattached| unattached.holds), expected);
    }
}
