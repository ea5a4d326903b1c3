//! A request to MokManager, and whoever grants it at the console.

use std::time::Duration;

use latchkey_disk::varstore::{Attributes, Variable, VariableId, vendor};
use latchkey_machine::Running;
use latchkey_measure::hash::digest;
use latchkey_measure::siglist::SignatureDb;
use latchkey_provision::Secret;
use latchkey_record::HashAlg;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::variables::{Entry, entry};
use super::{Act, Fault, SoFar};
use crate::Error;
use crate::bench::Bench;
use crate::rehearsal::Rehearsal;

/// See [`super::Step::RequestKey`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RequestKey {
    /// Whose certificate, or which hash.
    pub what: Entry,
}

/// What MokManager shows, in order, and what is typed at it then (shim 15.8 and 16.1, MokManager.c; `\x1b[B` is the arrow
/// that leads down).
const MENUS: [(&str, &str); 4] = [
    ("Press any key to perform MOK management", "\r"),
    ("Enroll MOK", "\x1b[B\r"),
    ("View key 0", "\x1b[B\r"),
    // Of the box with the question; the question itself does not always come through.
    ("Yes", "\x1b[B\r"),
];
const PASSWORD: &str = "Password:";
/// What its menu has first, once something was changed.
const REBOOT: &str = "Reboot";
/// From power-on to its first screen, and from one to the next.
const SHOWS: Duration = Duration::from_secs(120);
/// How much of the console is looked at.
const LINES: usize = 60;

impl Act for RequestKey {
    fn act(&self, bench: &mut Bench<'_>) -> Result<(), Error> {
        let key = SignatureDb::new().with(entry(bench, &self.what)?).to_bytes();
        let secret = Secret::generate();
        bench.tell_secret("the password for MokManager", &secret);
        // `compute_pw_hash`: the request, then the password in UCS-2.
        let password = secret.typed().unwrap_or_default().encode_utf16().flat_map(u16::to_le_bytes);
        let hashed: Vec<u8> = key.iter().copied().chain(password).collect();
        let hash = digest(HashAlg::Sha256, &hashed);
        bench.write_variable(&id("MokNew"), Attributes::RUNTIME, &key)?;
        bench.write_variable(&id("MokAuth"), Attributes::RUNTIME, hash.bytes())?;
        bench.request = Some(secret);
        Ok(())
    }

    fn rehearse(&self, rehearsal: &mut Rehearsal<'_>) -> Result<(), Error> {
        let key = SignatureDb::new().with(entry(rehearsal, &self.what)?).to_bytes();
        // Of a password's hash only its size is looked at.
        for (name, data) in [("MokNew", key), ("MokAuth", vec![0; HashAlg::Sha256.size()])] {
            rehearsal.variables.set(Variable::new(id(name), Attributes::RUNTIME, data));
        }
        Ok(())
    }

    fn describe(&self) -> String {
        format!("ask for {} to be enrolled by MokManager", self.what)
    }

    fn check(&self, so_far: &mut SoFar) -> Result<(), Fault> {
        so_far.guest()?;
        so_far.requests();
        Ok(())
    }

    fn sets_aside(&self) -> bool {
        true
    }
}

fn id(name: &str) -> VariableId {
    VariableId::new(name, vendor::SHIM)
}

/// Whether `text` is on the console after the last `before`, or anywhere when that is empty. What the system wrote that restarted counts as little as what a
/// screen before has.
fn comes_after(console: &str, before: &str, text: &str) -> bool {
    let after =
        if before.is_empty() { Some(console) } else { console.rsplit_once(before).map(|(_, after)| after) };
    after.is_some_and(|after| after.contains(text))
}

impl Bench<'_> {
    /// Goes through MokManager's menus at the console of a machine that starts, and grants what was asked for. Gives the
    /// console's mark after it.
    pub(crate) fn grant(&mut self) -> Result<usize, Error> {
        let none = || Error::Bench("nothing was asked of MokManager".into());
        let password = self.request.take().ok_or_else(none)?;
        let running = self.running()?;
        let console = running.console();
        let failed = |e| Error::file("typing at the console of", running.dir())(e);
        let mut before = "";
        let mut shows = |text: &'static str| {
            self.note(&format!("MokManager: {text}"));
            let shown = |r: &Running| comes_after(&r.console().tail(LINES), before, text).then_some(());
            running.wait_until(text, SHOWS, shown)?;
            before = text;
            Ok::<_, Error>(())
        };
        for (text, keys) in MENUS {
            shows(text)?;
            console.type_text(keys).map_err(failed)?;
        }
        shows(PASSWORD)?;
        console.type_secret(password.typed().unwrap_or_default()).map_err(failed)?;
        shows(REBOOT)?;
        let resets = running.resets().len();
        console.type_text("\r").map_err(failed)?;
        running.wait_until("MokManager to reset the machine", SHOWS, |r| {
            (r.resets().len() > resets).then_some(())
        })?;
        Ok(console.mark())
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::comes_after;

    const RESTARTS: &str = "systemd-shutdown[1]: Rebooting.\nPress any key\nView key 0\nNo Yes\nPassword:";

    #[rstest]
    #[case::the_first_screen("", "Press any key", true)]
    #[case::the_next("View key 0", "Yes", true)]
    #[case::what_the_system_wrote_before("Password:", "Reboot", false)]
    #[case::a_screen_before("Yes", "View key 0", false)]
    #[case::nothing_yet("Reboot Enroll", "Password:", false)]
    fn only_what_follows_the_screen_before_counts(
        #[case] before: &str,
        #[case] text: &str,
        #[case] seen: bool,
    ) {
        assert_eq!(comes_after(RESTARTS, before, text), seen);
    }
}
