//! Which of the console's events ends a boot.

use latchkey_record::console::{ConsoleEvent, Pattern};

/// What a program out of a firmware volume is called on the console: the firmware's own shell, which is no boot option's.
const FIRMWARES_OWN: &str = " from Fv(";

/// Goes through a boot's events until one decides. A boot option that the firmware refuses does not: the firmware goes on
/// to the next one. It is what the boot came to when none of the others was started either.
#[derive(Debug)]
pub(crate) struct Decision<'a> {
    decisive: &'a [Pattern],
    /// The first refusal since the last reset.
    refused: Option<ConsoleEvent>,
    /// Whether an option was started since then.
    started: bool,
}

impl<'a> Decision<'a> {
    /// One that `decisive` patterns come to.
    pub(crate) fn new(decisive: &'a [Pattern]) -> Self {
        Self { decisive, refused: None, started: false }
    }

    /// The machine was reset: its firmware goes through its options once more.
    pub(crate) fn reset(&mut self) {
        (self.refused, self.started) = (None, false);
    }

    /// Takes the next event; gives the one that decides.
    pub(crate) fn see(&mut self, event: ConsoleEvent) -> Option<ConsoleEvent> {
        match event.pattern {
            Pattern::FirmwareRefusal => {
                self.refused.get_or_insert(event);
                None
            }
            Pattern::FirmwareStarts => {
                self.started |= !event.text.contains(FIRMWARES_OWN);
                None
            }
            pattern if !self.decisive.contains(&pattern) => None,
            Pattern::NoBootOption | Pattern::FirmwareShell if !self.started => {
                Some(self.refused.take().unwrap_or(event))
            }
            _ => Some(event),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::judge::DECISIVE;
    use Pattern::{FirmwareRefusal, FirmwareShell, FirmwareStarts, Login, NoBootOption, PassphrasePrompt};

    fn event((pattern, text): &(Pattern, &str)) -> ConsoleEvent {
        ConsoleEvent { at_ms: 0, pattern: *pattern, text: (*text).to_owned() }
    }

    const REFUSED: (Pattern, &str) = (FirmwareRefusal, "failed to load Boot0003 from HD(1): Access Denied");
    const SHELL: (Pattern, &str) =
        (FirmwareStarts, "starting Boot0002 \"EFI Internal Shell\" from Fv(7C)/FvFile(7C)");
    const SHIM: (Pattern, &str) = (FirmwareStarts, "starting Boot0001 \"disk\" from PciRoot(0x0)");
    const NOTHING: (Pattern, &str) = (NoBootOption, "No bootable option or device was found");

    #[rstest]
    #[case::none_other_starts(&[REFUSED, REFUSED, SHELL, NOTHING], Some(FirmwareRefusal))]
    #[case::the_shell_stays(&[REFUSED, SHELL, (FirmwareShell, "")], Some(FirmwareRefusal))]
    #[case::another_opens(&[REFUSED, SHIM, (Login, "")], Some(Login))]
    #[case::another_prompts(&[REFUSED, SHIM, (PassphrasePrompt, "")], Some(PassphrasePrompt))]
    #[case::another_starts_and_returns(&[REFUSED, SHIM, NOTHING], Some(NoBootOption))]
    #[case::nothing_refused(&[SHELL, NOTHING], Some(NoBootOption))]
    #[case::it_goes_on(&[REFUSED, SHIM], None)]
    #[case::not_yet(&[REFUSED], None)]
    fn a_refused_option_decides_when_no_other_starts(
        #[case] events: &[(Pattern, &str)],
        #[case] decides: Option<Pattern>,
    ) {
        let mut decision = Decision::new(DECISIVE);
        let decided = events.iter().find_map(|seen| decision.see(event(seen)));
        assert_eq!(decided.map(|event| event.pattern), decides);
    }

    #[test]
    fn a_reset_begins_anew() {
        let mut decision = Decision::new(DECISIVE);
        assert_eq!(decision.see(event(&REFUSED)), None);
        decision.reset();
        assert_eq!(decision.see(event(&NOTHING)), Some(event(&NOTHING)));
    }
}
