//! swtpm's command log, read line by line.
//!
//! From log level 2 on, swtpm writes each command and answer as a headline and lines of hex bytes (swtpm,
//! `src/swtpm/swtpm_debug.c`, `SWTPM_PrintAll`, called from `swtpm_io.c` and `ctrlchannel.c`):
//!
//! ```text
//!  SWTPM_IO_Read: length 12
//!  80 01 00 00 00 0C 00 00 01 7B 00 08
//!  SWTPM_IO_Write: length 20
//!  80 01 00 00 00 14 00 00 00 00 00 08 C2 3A 01 19
//!  12 5F D5 41
//! ```
//!
//! The bytes are wiped as soon as a message is whole and its harmless part is taken.

use latchkey_record::tpm::{TpmDetail, TpmResponse};
use zeroize::Zeroizing;

use crate::command::Command;

/// More than any TPM 2.0 message (libtpms: 4096). Bytes beyond are counted and not kept.
const MOST: usize = 16 * 1024;
/// `CMD_INIT` of swtpm's control channel (swtpm, `include/swtpm/tpm_ioctl.h`): the TPM is switched on.
const CONTROL_INIT: [u8; 4] = [0, 0, 0, 2];

/// What a finished piece of the log says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogEvent {
    /// The TPM was switched on, by the machine's power-on or its reset.
    PowerOn,
    /// A command and its answer.
    Exchange {
        /// `TPM_CC`.
        code: u32,
        /// Its name.
        command: String,
        /// The handles it names.
        handles: Vec<u32>,
        /// Its harmless part.
        detail: Option<TpmDetail>,
        /// The answer.
        response: TpmResponse,
    },
    /// Something swtpm had to say that is no message.
    Remark(String),
    /// The log does not have the shape it should have; what follows may lack something.
    Doubt(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Message {
    Command,
    Answer,
    ControlCommand,
    ControlAnswer,
}

const HEADLINES: &[(&str, Message)] = &[
    ("SWTPM_IO_Read: length ", Message::Command),
    ("SWTPM_IO_Write: length ", Message::Answer),
    ("Ctrl Cmd: length ", Message::ControlCommand),
    ("Ctrl Rsp: length ", Message::ControlAnswer),
    ("Ctrl Rsp Continued: length ", Message::ControlAnswer),
];

struct Open {
    message: Message,
    bytes: Zeroizing<Vec<u8>>,
    left: usize,
}

/// Turns lines of the log into [`LogEvent`]s.
#[derive(Default)]
pub struct LogParser {
    open: Option<Open>,
    command: Option<Command>,
}

impl LogParser {
    /// Takes the next line, without its newline.
    pub fn line(&mut self, line: &str) -> Vec<LogEvent> {
        let text = line.trim();
        if let Some((message, length)) = headline(text) {
            let cut = self.open.take().map(|_| LogEvent::Doubt("a message ends before its length"));
            let bytes = Zeroizing::new(Vec::with_capacity(length.min(MOST)));
            self.open = Some(Open { message, bytes, left: length });
            return cut.into_iter().chain(self.finish()).collect();
        }
        if is_hex(text) {
            return match &mut self.open {
                None => vec![LogEvent::Doubt("bytes without a message")],
                Some(open) => {
                    open.take(text);
                    self.finish().into_iter().collect()
                }
            };
        }
        if text.is_empty() { Vec::new() } else { vec![LogEvent::Remark(text.to_owned())] }
    }

    /// What the end of the log leaves open.
    #[must_use]
    pub fn end(&self) -> Option<LogEvent> {
        if self.open.is_some() {
            Some(LogEvent::Doubt("the log ends within a message"))
        } else if self.command.is_some() {
            Some(LogEvent::Doubt("the log ends before the answer to a command"))
        } else {
            None
        }
    }

    fn finish(&mut self) -> Option<LogEvent> {
        let open = self.open.take_if(|open| open.left == 0)?;
        match open.message {
            Message::Command => {
                let unanswered = self.command.take().map(|_| LogEvent::Doubt("a command without an answer"));
                self.command = Command::read(&open.bytes);
                match &self.command {
                    Some(_) => unanswered,
                    None => Some(LogEvent::Doubt("a command that is too short")),
                }
            }
            Message::Answer => match self.command.take() {
                Some(command) => Some(command.answered(&open.bytes)),
                None => Some(LogEvent::Doubt("an answer without a command")),
            },
            Message::ControlCommand if open.bytes.starts_with(&CONTROL_INIT) => {
                self.command = None;
                Some(LogEvent::PowerOn)
            }
            Message::ControlCommand | Message::ControlAnswer => None,
        }
    }
}

impl Open {
    fn take(&mut self, text: &str) {
        for byte in text.split(' ').filter_map(|pair| u8::from_str_radix(pair, 16).ok()) {
            let Some(left) = self.left.checked_sub(1) else { return };
            self.left = left;
            if self.bytes.len() < MOST {
                self.bytes.push(byte);
            }
        }
    }
}

fn headline(text: &str) -> Option<(Message, usize)> {
    HEADLINES
        .iter()
        .find_map(|(start, message)| Some((*message, text.strip_prefix(start)?.trim().parse().ok()?)))
}

/// Whether a line is nothing but bytes in hex; such a line is never repeated as text.
fn is_hex(text: &str) -> bool {
    !text.is_empty()
        && text.split(' ').all(|pair| pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn parse(log: &str) -> Vec<LogEvent> {
        let mut parser = LogParser::default();
        let mut events: Vec<LogEvent> = log.lines().flat_map(|line| parser.line(line)).collect();
        events.extend(parser.end());
        events
    }

    const RANDOM: &str = " SWTPM_IO_Read: length 12\n 80 01 00 00 00 0C 00 00 01 7B 00 08 \n \
         SWTPM_IO_Write: length 20\n 80 01 00 00 00 14 00 00 00 00 00 08 C2 3A 01 19 \n 12 5F D5 41 \n";

    #[test]
    fn a_command_and_its_answer_become_an_exchange() {
        let [LogEvent::Exchange { code, command, response, .. }] = &parse(RANDOM)[..] else {
            panic!("{:?}", parse(RANDOM));
        };
        assert_eq!((*code, command.as_str(), response.code), (0x17b, "GetRandom", 0));
    }

    #[test]
    fn switching_on_is_seen_on_the_control_channel() {
        let log = " Ctrl Cmd: length 8\n 00 00 00 02 00 00 00 00 \n Ctrl Rsp: length 4\n 00 00 00 00 \n";
        assert_eq!(parse(log), [LogEvent::PowerOn]);
    }

    #[rstest]
    #[case(" 80 01 \n", "bytes without a message")]
    #[case(" SWTPM_IO_Read: length 12\n 80 01 \n", "the log ends within a message")]
    #[case(" SWTPM_IO_Write: length 2\n 80 01 \n", "an answer without a command")]
    #[case(" SWTPM_IO_Read: length 2\n 80 01 \n", "a command that is too short")]
    #[case(" SWTPM_IO_Read: length 0\n", "a command that is too short")]
    fn a_broken_log_is_doubted(#[case] log: &str, #[case] doubt: &'static str) {
        assert_eq!(parse(log), [LogEvent::Doubt(doubt)]);
    }

    #[test]
    fn what_swtpm_says_besides_is_a_remark_and_bytes_never_are() {
        assert_eq!(
            parse("Data client disconnected\n"),
            [LogEvent::Remark("Data client disconnected".into())]
        );
        assert!(!parse(" 73 65 63 72 65 74 \n").iter().any(|e| matches!(e, LogEvent::Remark(_))));
    }

    proptest! {
        #[test]
        fn any_text_is_survived(lines in prop::collection::vec(
            prop_oneof![
                ".*",
                "[0-9A-F ]{0,60}",
                (0..5_usize, any::<u64>()).prop_map(|(i, n)| format!(" {}{n}", HEADLINES[i].0)),
                (0..5_usize, 0..40_u64).prop_map(|(i, n)| format!(" {}{n}", HEADLINES[i].0)),
                Just(" 80 02 00 00 00 41 00 00 01 82 00 00 00 08 00 00".to_owned()),
            ], 0..40)) {
            parse(&lines.join("\n"));
        }
    }
}
