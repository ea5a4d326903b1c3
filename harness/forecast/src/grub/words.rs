//! A command's words: what stands where variables are written.

use super::run::{Run, Stop};
use super::script::{Part, Word};

/// Most text that the commands of one boot may have, and the files that they are read from, in bytes.
const MOST_TEXT: usize = 16 << 20;
/// What values are split at (`kern/misc.c`, `grub_isspace`).
const BLANKS: [char; 4] = [' ', '\t', '\n', '\r'];

/// A word of a command after expansion.
#[derive(Debug, Clone, Default)]
pub(crate) struct Arg {
    pub(crate) text: String,
    /// The text between braces, when it is a block.
    pub(crate) block: Option<String>,
    /// Whether a `*` or `?` in it stands outside of quotes; a variable's value may bring one.
    wild: bool,
}

impl Arg {
    fn add(&mut self, text: &str, bare: bool) {
        self.wild |= bare && text.contains(['*', '?']);
        self.text.push_str(text);
    }
}

impl Run<'_, '_> {
    /// So much text more, in bytes.
    pub(super) fn grown(&mut self, by: usize) -> Result<(), Stop> {
        self.text = self.text.saturating_add(by);
        match self.text > MOST_TEXT {
            true => self.unmodelled("its commands are too much text"),
            false => Ok(()),
        }
    }

    fn value(&self, name: &str) -> String {
        match name {
            "?" => self.status.to_string(),
            "#" => self.arguments.len().to_string(),
            "@" | "*" => self.arguments.join(" "),
            _ => match name.parse::<usize>() {
                Ok(number) => number
                    .checked_sub(1)
                    .and_then(|index| self.arguments.get(index))
                    .cloned()
                    .unwrap_or_default(),
                Err(_) => self.env.get(name).to_owned(),
            },
        }
    }

    /// The words of a command with their variables in place.
    pub(super) fn expand(&mut self, words: &[Word]) -> Result<Vec<Arg>, Stop> {
        let mut args: Vec<Arg> = Vec::new();
        for word in words {
            let mut current: Option<Arg> = None;
            for part in word {
                match part {
                    Part::Text(text) => {
                        self.grown(text.len())?;
                        current.get_or_insert_default().add(text, true);
                    }
                    Part::Quoted(text) => {
                        self.grown(text.len())?;
                        current.get_or_insert_default().add(text, false);
                    }
                    Part::Variable { name, .. } if name == "?" && self.status != 0 => {
                        return self.unmodelled("the number of what went wrong (`$?`) is not modelled");
                    }
                    // Each argument stays a word.
                    Part::Variable { name, quoted: true } if name == "@" => {
                        for (index, argument) in self.arguments.clone().iter().enumerate() {
                            self.grown(argument.len())?;
                            if index > 0 {
                                args.extend(current.take());
                            }
                            current.get_or_insert_default().add(argument, false);
                        }
                        // Of none one empty word is left: the quotes.
                        current.get_or_insert_default();
                    }
                    Part::Variable { name, quoted: true } => {
                        let value = self.value(name);
                        self.grown(value.len())?;
                        current.get_or_insert_default().add(&value, false);
                    }
                    Part::Variable { name, quoted: false } => {
                        let value = self.value(name);
                        self.grown(value.len())?;
                        let mut pieces = value.split(BLANKS).filter(|piece| !piece.is_empty());
                        if let Some(first) = pieces.next() {
                            current.get_or_insert_default().add(first, true);
                        }
                        for piece in pieces {
                            let mut next = Arg::default();
                            next.add(piece, true);
                            args.extend(current.replace(next));
                        }
                    }
                    Part::Block(source) => {
                        self.grown(source.len())?;
                        let text = format!("{{{source}}}");
                        current = Some(Arg { text, block: Some(source.clone()), wild: false });
                    }
                }
            }
            args.extend(current);
        }
        // Only what begins like a path or a device is looked for (`commands/wildcard.c`).
        let pattern = |arg: &Arg| arg.wild && arg.text.starts_with(['/', '(', '*']);
        if self.core.modules.contains("regexp") && args.iter().any(pattern) {
            return self.unmodelled("wildcards are not modelled");
        }
        Ok(args)
    }
}
