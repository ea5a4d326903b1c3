//! The little JSON that this crate prints, without a library that would have to be compiled first.

use std::fmt::Write as _;

/// `text` as a JSON string, quotes included.
pub(crate) fn string(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// A JSON array of `items` that are JSON already.
pub(crate) fn array(items: impl IntoIterator<Item = String>) -> String {
    format!("[{}]", items.into_iter().collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("plain", r#""plain""#)]
    #[case("a \"b\" \\ c\n", r#""a \"b\" \\ c\n""#)]
    #[case("\u{1b}[0m", r#""\u001b[0m""#)]
    #[case("é", "\"é\"")]
    fn strings(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(string(text), expected);
    }

    #[test]
    fn arrays() {
        assert_eq!(array(["1".to_owned(), string("x")]), r#"[1,"x"]"#);
        assert_eq!(array([]), "[]");
    }
}
