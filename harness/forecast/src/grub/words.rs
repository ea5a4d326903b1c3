//! A command's words: what stands where variables are written.

use super::run::{Run, Stop};
use super::script::{Part, Word};

/// Most text that the commands of one boot may have, in bytes.
const MOST_TEXT: usize = 16 << 20;

/// A word of a command after expansion.
#[derive(Debug, Clone, Default)]
pub(crate) struct Arg {
    pub(crate) text: String,
    /// The text between braces, when it is a block.
    pub(crate) block: Option<String>,
}

impl Run<'_, '_> {
    /// So much text more, in bytes.
    fn grown(&mut self, by: usize) -> Result<(), Stop> {
        self.text += by;
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
        let mut args = Vec::new();
        for word in words {
            let mut current: Option<Arg> = None;
            for part in word {
                match part {
                    Part::Text(text) if text.contains(['*', '?']) && self.core.modules.contains("regexp") => {
                        return self.unmodelled("wildcards are not modelled");
                    }
                    Part::Text(text) | Part::Quoted(text) => {
                        self.grown(text.len())?;
                        current.get_or_insert_default().text.push_str(text);
                    }
                    Part::Variable { name, quoted: true } => {
                        let value = self.value(name);
                        self.grown(value.len())?;
                        current.get_or_insert_default().text.push_str(&value);
                    }
                    Part::Variable { name, quoted: false } => {
                        let value = self.value(name);
                        self.grown(value.len())?;
                        let mut pieces = value.split_whitespace();
                        if let Some(first) = pieces.next() {
                            current.get_or_insert_default().text.push_str(first);
                        }
                        for piece in pieces {
                            args.extend(current.replace(Arg { text: piece.to_owned(), block: None }));
                        }
                    }
                    Part::Block(source) => {
                        self.grown(source.len())?;
                        let text = format!("{{{source}}}");
                        current = Some(Arg { text, block: Some(source.clone()) });
                    }
                }
            }
            args.extend(current);
        }
        Ok(args)
    }
}
