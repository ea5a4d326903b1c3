//! A machine that stays after its row.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use latchkey_provision::Keys;
use latchkey_supervise::Scratch;

use crate::Error;

/// Leaves the machine in place, with a script that starts it. One that is not whole goes away: nobody would be told of it.
pub(super) fn keep(scratch: Scratch, by_hand: &Option<String>, keys: &Keys) -> Result<String, Error> {
    // Whoever enters the machine will need them; they lie beside its disk, for its owner alone.
    for (role, key) in keys.iter() {
        let path = scratch.path().join(role.to_string());
        let options = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let written = options.and_then(|mut file| file.write_all(key.expose()));
        written.map_err(Error::file("writing", &path))?;
    }
    let script = scratch.path().join("start.sh");
    if let Some(text) = by_hand {
        std::fs::write(&script, text).map_err(Error::file("writing", &script))?;
    }
    let dir = scratch.path().to_owned();
    let dir = scratch.keep().map_err(Error::file("marking as kept", &dir))?;
    Ok(match by_hand {
        Some(_) => format!(
            "start it with `sh {}`; its keys lie beside that; remove {} when done",
            script.display(),
            dir.display()
        ),
        None => format!("{} (its power-off failed)", dir.display()),
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use latchkey_provision::KeyRole;

    use super::*;

    #[test]
    fn a_machine_is_kept_when_all_that_belongs_to_it_is_there() {
        let root = tempfile::tempdir().unwrap();
        let keys = Keys::generate(&[KeyRole::FallbackPassphrase]);
        let scratch = || Scratch::new(root.path(), "machine-").unwrap();
        let whole = scratch();
        let dir = whole.path().to_owned();
        let told = keep(whole, &Some("true".to_owned()), &keys).unwrap();
        assert!(told.contains("start.sh") && dir.join("start.sh").is_file());
        assert!(dir.join("fallback-passphrase").is_file());
        for name in ["start.sh", "fallback-passphrase"] {
            let part = scratch();
            let dir = part.path().to_owned();
            // Nothing can be written there.
            std::fs::create_dir(dir.join(name)).unwrap();
            keep(part, &Some("true".to_owned()), &keys).unwrap_err();
            assert!(!dir.exists(), "{name}");
        }
    }
}
