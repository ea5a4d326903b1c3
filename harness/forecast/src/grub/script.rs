//! GRUB's script language: statements out of the text of a configuration file, one at a time, as GRUB reads them.
//!
//! Source: GRUB 2.06, `grub-core/script/{yylex.l,parser.y}`, `grub-core/normal/main.c` (`read_config_file_getline` drops
//! lines that begin with `#`).

use std::rc::Rc;

/// How deep statements may be nested.
const DEEPEST: usize = 64;

/// A piece of a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// Text outside of quotes.
    Text(String),
    /// Text within quotes: makes a word even when it is empty.
    Quoted(String),
    /// A variable's value; outside of quotes it is split at blanks.
    Variable {
        /// Its name.
        name: String,
        /// Whether it stands within quotes.
        quoted: bool,
    },
    /// `{ ... }` as an argument: the text between the braces.
    Block(String),
}

/// A word of a command.
pub(crate) type Word = Vec<Part>;

/// A statement, with the line on which it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Statement {
    /// Counted from 1.
    pub(crate) line: usize,
    /// What it says.
    pub(crate) what: What,
}

/// What a statement says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    /// A command with its arguments.
    Command(Vec<Word>),
    /// `if`, `elif` ..., `else`.
    If { arms: Vec<(Vec<Statement>, Vec<Statement>)>, otherwise: Vec<Statement> },
    /// `for NAME in WORDS`.
    For { name: String, words: Vec<Word>, body: Vec<Statement> },
    /// `while` or `until`.
    While { until: bool, condition: Vec<Statement>, body: Vec<Statement> },
    /// A function's definition.
    Function { name: String, body: Rc<[Statement]> },
}

/// The text is no script; the line on which that shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mistake {
    pub(crate) line: usize,
    pub(crate) why: &'static str,
}

/// Reads statements.
pub(crate) struct Parser {
    text: Vec<char>,
    at: usize,
    line: usize,
    depth: usize,
    /// Line numbers in the file, for each line of `text`.
    numbers: Vec<usize>,
}

/// Words that mean something where a command begins.
const CLOSING: &[&str] = &["}", "done", "elif", "else", "fi", "then", "do"];

impl Parser {
    /// A parser of the file's `text`.
    pub(crate) fn new(text: &str) -> Self {
        let kept: Vec<(usize, &str)> =
            text.lines().enumerate().filter(|(_, line)| !line.starts_with('#')).collect();
        let numbers = kept.iter().map(|(number, _)| number + 1).collect();
        let text = kept.iter().flat_map(|(_, line)| line.chars().chain(['\n'])).collect();
        Self { text, at: 0, line: 0, depth: 0, numbers }
    }

    /// The next statement; `None` at the end of the file.
    pub(crate) fn statement(&mut self) -> Result<Option<Statement>, Mistake> {
        self.separators();
        if self.peek().is_none() {
            return Ok(None);
        }
        self.one().map(Some)
    }

    /// Leaves out what remains of a line: a comment.
    fn skip_line(&mut self) {
        while self.peek().is_some_and(|c| c != '\n') {
            self.next();
        }
    }

    fn mistake<T>(&self, why: &'static str) -> Result<T, Mistake> {
        Err(Mistake { line: self.number(), why })
    }

    fn number(&self) -> usize {
        self.numbers.get(self.line).or(self.numbers.last()).copied().unwrap_or(1)
    }

    fn peek(&self) -> Option<char> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += 1;
        self.line += usize::from(c == '\n');
        Some(c)
    }

    fn blanks(&mut self) {
        loop {
            match (self.peek(), self.text.get(self.at + 1)) {
                (Some(' ' | '\t'), _) => drop(self.next()),
                (Some('\\'), Some('\n')) => {
                    self.next();
                    self.next();
                }
                (Some('#'), _) => self.skip_line(),
                _ => return,
            }
        }
    }

    fn separators(&mut self) {
        loop {
            self.blanks();
            match self.peek() {
                Some('\n' | ';') => drop(self.next()),
                _ => return,
            }
        }
    }

    /// Whether the reserved word `word` stands here; takes it if it does.
    fn take(&mut self, word: &str) -> bool {
        if !self.stands(word) {
            return false;
        }
        self.at += word.chars().count();
        true
    }

    fn stands(&self, word: &str) -> bool {
        let length = word.chars().count();
        let here = self.text.get(self.at..self.at + length);
        here.is_some_and(|here| here.iter().copied().eq(word.chars()))
            && (word == "{" || word == "}" || self.text.get(self.at + length).is_none_or(|c| ends_word(*c)))
    }

    fn need(&mut self, word: &'static str, why: &'static str) -> Result<(), Mistake> {
        self.separators();
        if self.take(word) { Ok(()) } else { self.mistake(why) }
    }

    fn list(&mut self) -> Result<Vec<Statement>, Mistake> {
        let mut statements = Vec::new();
        loop {
            self.separators();
            if self.peek().is_none() {
                return self.mistake("the file ends within a statement");
            }
            if CLOSING.iter().any(|word| self.stands(word)) {
                return Ok(statements);
            }
            statements.push(self.one()?);
        }
    }

    fn one(&mut self) -> Result<Statement, Mistake> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return self.mistake("statements are nested too deeply");
        }
        let line = self.number();
        let what = if self.take("if") {
            self.conditional()?
        } else if self.take("for") {
            self.blanks();
            let name = self.bare()?;
            self.need("in", "`for` without `in`")?;
            let words = self.words()?;
            self.need("do", "`for` without `do`")?;
            let body = self.list()?;
            self.need("done", "`for` without `done`")?;
            What::For { name, words, body }
        } else if self.stands("while") || self.stands("until") {
            let until = self.take("until");
            if !until {
                self.take("while");
            }
            let condition = self.list()?;
            self.need("do", "a loop without `do`")?;
            let body = self.list()?;
            self.need("done", "a loop without `done`")?;
            What::While { until, condition, body }
        } else if self.take("function") {
            self.blanks();
            let name = self.bare()?;
            self.need("{", "a function without `{`")?;
            let body = self.list()?;
            self.need("}", "a function without `}`")?;
            What::Function { name, body: body.into() }
        } else {
            // `script/parser.y` has these words and no rule for them.
            if ["[[", "case", "select"].iter().any(|word| self.stands(word)) {
                return self.mistake("this is nothing that GRUB knows");
            }
            let words = self.words()?;
            if words.is_empty() {
                return self.mistake("something here is no command");
            }
            What::Command(words)
        };
        self.depth -= 1;
        Ok(Statement { line, what })
    }

    fn conditional(&mut self) -> Result<What, Mistake> {
        let mut arms = Vec::new();
        loop {
            let condition = self.list()?;
            self.need("then", "`if` without `then`")?;
            arms.push((condition, self.list()?));
            if !self.take("elif") {
                break;
            }
        }
        let otherwise = if self.take("else") { self.list()? } else { Vec::new() };
        self.need("fi", "`if` without `fi`")?;
        Ok(What::If { arms, otherwise })
    }

    fn bare(&mut self) -> Result<String, Mistake> {
        let mut name = String::new();
        while self.peek().is_some_and(|c| !ends_word(c) && c != '{') {
            name.extend(self.next());
        }
        if name.is_empty() { self.mistake("a name is missing") } else { Ok(name) }
    }

    /// The words up to the end of a command.
    fn words(&mut self) -> Result<Vec<Word>, Mistake> {
        let mut words = Vec::new();
        loop {
            self.blanks();
            match self.peek() {
                None | Some('\n' | ';') => return Ok(words),
                Some('{') if !words.is_empty() => words.push(vec![self.block()?]),
                Some('}') => return Ok(words),
                Some('|' | '&' | '<' | '>' | '{') => return self.mistake("this is not known to GRUB"),
                Some(_) => words.push(self.word()?),
            }
        }
    }

    /// The text of a block: its statements are read so that braces in quotes and variables do not count.
    fn block(&mut self) -> Result<Part, Mistake> {
        self.next();
        let start = self.at;
        self.list()?;
        let end = self.at;
        if !self.take("}") {
            return self.mistake("a block without `}`");
        }
        Ok(Part::Block(self.text[start..end].iter().collect()))
    }

    fn word(&mut self) -> Result<Word, Mistake> {
        let mut parts: Word = Vec::new();
        let mut text = String::new();
        let flush = |text: &mut String, parts: &mut Word| {
            if !text.is_empty() {
                parts.push(Part::Text(std::mem::take(text)));
            }
        };
        while let Some(c) = self.peek() {
            match c {
                _ if ends_word(c) || matches!(c, '{' | '}' | '|' | '&' | '<' | '>') => break,
                '\\' => {
                    self.next();
                    match self.next() {
                        Some('\n') => {}
                        Some(c) => text.push(c),
                        None => return self.mistake("the file ends within a word"),
                    }
                }
                '\'' => {
                    flush(&mut text, &mut parts);
                    self.next();
                    parts.push(Part::Quoted(self.until_quote()?));
                }
                '"' => {
                    flush(&mut text, &mut parts);
                    self.next();
                    self.double_quoted(&mut parts)?;
                }
                '$' if self.text.get(self.at + 1) == Some(&'"') => {
                    // To be translated: there is no translation without a language.
                    self.next();
                }
                '$' => {
                    flush(&mut text, &mut parts);
                    self.next();
                    let name = self.variable()?;
                    parts.push(Part::Variable { name, quoted: false });
                }
                _ => text.extend(self.next()),
            }
        }
        flush(&mut text, &mut parts);
        Ok(parts)
    }

    fn until_quote(&mut self) -> Result<String, Mistake> {
        let mut text = String::new();
        loop {
            match self.next() {
                Some('\'') => return Ok(text),
                Some(c) => text.push(c),
                None => return self.mistake("a quote is not closed"),
            }
        }
    }

    fn double_quoted(&mut self, parts: &mut Word) -> Result<(), Mistake> {
        let mut text = String::new();
        let mut any = false;
        loop {
            match self.next() {
                None => return self.mistake("a quote is not closed"),
                Some('"') => break,
                Some('\\') => match self.next() {
                    Some('\n') => {}
                    Some(c @ ('$' | '\\' | '"')) => text.push(c),
                    Some(c) => text.extend(['\\', c]),
                    None => return self.mistake("a quote is not closed"),
                },
                Some('$') => {
                    if !text.is_empty() {
                        parts.push(Part::Quoted(std::mem::take(&mut text)));
                    }
                    let name = self.variable()?;
                    parts.push(Part::Variable { name, quoted: true });
                    any = true;
                }
                Some(c) => text.push(c),
            }
        }
        if !text.is_empty() || !any {
            parts.push(Part::Quoted(text));
        }
        Ok(())
    }

    /// A variable's name, after its `$`.
    fn variable(&mut self) -> Result<String, Mistake> {
        let braces = self.peek() == Some('{');
        if braces {
            self.next();
        }
        let mut name = String::new();
        match self.peek() {
            Some('?' | '#' | '*' | '@') => name.extend(self.next()),
            Some(c) if c.is_ascii_digit() => {
                while self.peek().is_some_and(|c| c.is_ascii_digit()) {
                    name.extend(self.next());
                }
            }
            _ => {
                while self.peek().is_some_and(|c| c.is_ascii_alphanumeric() || c == '_') {
                    name.extend(self.next());
                }
            }
        }
        if name.is_empty() || braces && self.next() != Some('}') {
            return self.mistake("a variable has no name");
        }
        Ok(name)
    }
}

fn ends_word(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | ';')
}
