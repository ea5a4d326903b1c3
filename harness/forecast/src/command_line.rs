//! A kernel's command line, as systemd takes it apart.
//!
//! Sources: systemd 252.39 to 262, `src/basic/proc-cmdline.c` (`proc_cmdline_parse`, `mangle_word`),
//! `src/basic/extract-word.c` (`EXTRACT_UNQUOTE`, `EXTRACT_RELAX`, `EXTRACT_RETAIN_ESCAPE`).

/// What separates words (`WHITESPACE`).
const BLANKS: [char; 4] = [' ', '\t', '\n', '\r'];

/// One word, without its quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Word(String);

impl Word {
    /// What stands before its first `=`, or all of it.
    pub(crate) fn name(&self) -> &str {
        self.0.split_once('=').map_or(&self.0, |(name, _)| name)
    }

    /// As [`Self::name`], without the `rd.` of words that are for the initrd alone.
    pub(crate) fn bare(&self) -> &str {
        self.name().strip_prefix("rd.").unwrap_or(self.name())
    }

    /// What stands behind its first `=`, if it has one.
    pub(crate) fn value(&self) -> Option<&str> {
        self.0.split_once('=').map(|(_, value)| value)
    }
}

/// The words of a command line. Quotes of both kinds keep blanks together, anywhere in a word, and go; one that is not closed
/// runs to the end. Backslashes are characters like any other.
pub(crate) fn words(line: &str) -> Vec<Word> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            None if c == '\'' || c == '"' => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None if BLANKS.contains(&c) => words.extend(word.take().map(Word)),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word.map(Word));
    words
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::blanks(" quiet\t rw\r\n", &["quiet", "rw"])]
    #[case::nothing("  ", &[])]
    #[case::a_quoted_value(r#"rd.luks.uuid="luks-1" rw"#, &["rd.luks.uuid=luks-1", "rw"])]
    #[case::a_quoted_word(r#""a=b c" d"#, &["a=b c", "d"])]
    #[case::of_both_kinds(r#"'a"b'"c'd""#, &[r#"a"bc'd"#])]
    #[case::an_empty_word(r#"a "" b"#, &["a", "", "b"])]
    #[case::that_is_not_closed(r#"a "b c"#, &["a", "b c"])]
    #[case::backslashes_are_kept(r#"a\ b\"c d""#, &[r"a\", r"b\c d"])]
    fn quotes_keep_blanks_together(#[case] line: &str, #[case] expected: &[&str]) {
        let words = words(line);
        assert_eq!(words.iter().map(|word| word.0.as_str()).collect::<Vec<_>>(), expected);
    }

    #[rstest]
    #[case("rd.luks.key=a=b", "rd.luks.key", "luks.key", Some("a=b"))]
    #[case("luks", "luks", "luks", None)]
    #[case("rd.auto=", "rd.auto", "auto", Some(""))]
    fn a_word_has_a_name_and_perhaps_a_value(
        #[case] word: &str,
        #[case] name: &str,
        #[case] bare: &str,
        #[case] value: Option<&str>,
    ) {
        let word = Word(word.to_owned());
        assert_eq!((word.name(), word.bare(), word.value()), (name, bare, value));
    }
}
