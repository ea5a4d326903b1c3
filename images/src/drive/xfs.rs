//! An XFS with kernels.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use latchkey_supervise as supervise;
use uuid::Uuid;

use super::{MIB, Place};
use crate::Error;
use crate::error::{io, tool};

/// What Linux 5.15 made by default, so nearly what RHEL 9 does, said as mkfs.xfs(8) has it from xfsprogs 5.19 on: of newer
/// defaults GRUB 2.06 reads none, and 2.12 not all. (xfsprogs has a file that says so, `lts_5.15.conf`, but 6.1's cannot read its own.)
const FEATURES: &str = "-m crc=1,finobt=1,rmapbt=0,reflink=1,bigtime=1,inobtcount=1 -i sparse=1,nrext64=0";

/// Makes an XFS of what lies in `tree` in its place on `disk`. mkfs.xfs knows no offset, so it is made beside `tree` first.
/// It has the time in it, and numbers drawn by chance.
pub(super) fn write(disk: &Path, place: Place, uuid: Uuid, tree: &Path) -> Result<(), Error> {
    let tree = &std::path::absolute(tree).map_err(io("finding", tree))?;
    let (made, list) = (tree.with_extension("xfs"), tree.with_extension("list"));
    let mut text = String::from("/\n0 0\nd--755 0 0\n");
    describe(tree, Path::new(""), &mut text).map_err(io("reading", tree))?;
    text += "$\n";
    fs::write(&list, text).map_err(io("writing", &list))?;
    File::create(&made).and_then(|file| file.set_len(place.length)).map_err(io("making", &made))?;
    let options = format!("-q -L boot -m uuid={uuid} {FEATURES} -p");
    let mut args: Vec<OsString> = options.split_whitespace().map(OsString::from).collect();
    args.extend([list.clone().into(), made.clone().into()]);
    supervise::run_with("mkfs.xfs", &args, |e| e.dir(tree))
        .map_err(tool("making the file system with kernels"))?;
    copy(&made, disk, place).map_err(io("writing", disk))?;
    [list, made].iter().try_for_each(|file| fs::remove_file(file).map_err(io("removing", file)))
}

/// What is in `tree`, in its directory `dir`, as mkfs.xfs(8) wants it told under `-p`: a name, its kind and mode, owner,
/// group and what is copied. Names with spaces cannot be told; the builder makes none.
fn describe(tree: &Path, dir: &Path, text: &mut String) -> io::Result<()> {
    let mut entries = fs::read_dir(tree.join(dir))?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_unstable_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (name, path) = (entry.file_name(), dir.join(entry.file_name()));
        let (name, shown) = (name.display(), path.display());
        if entry.file_type()?.is_dir() {
            writeln!(text, "{name} d--755 0 0").map_err(io::Error::other)?;
            describe(tree, &path, text)?;
            *text += "$\n";
        } else {
            writeln!(text, "{name} ---644 0 0 {shown}").map_err(io::Error::other)?;
        }
    }
    Ok(())
}

/// Copies what is not zero.
fn copy(from: &Path, disk: &Path, place: Place) -> io::Result<()> {
    let (mut from, mut to) = (File::open(from)?, OpenOptions::new().write(true).open(disk)?);
    let mut part = Vec::new();
    for start in (0..place.length).step_by(usize::try_from(MIB).map_err(io::Error::other)?) {
        part.clear();
        (&mut from).take(MIB).read_to_end(&mut part)?;
        if part.iter().any(|byte| *byte != 0) {
            to.seek(SeekFrom::Start(place.start + start))?;
            to.write_all(&part)?;
        }
    }
    Ok(())
}
