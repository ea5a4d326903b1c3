//! GRUB at work: statements and functions. Its words are in [`super::words`], its environment in [`super::env`], its
//! commands in [`super::commands`], its menu in [`super::menu`], its files in [`super::files`].

use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use latchkey_record::{Origin, Stage};

use super::core::Core;
use super::env::Environment;
use super::files::Seen;
use super::linux::Starter;
use super::menu::MenuEntry;
use super::red_hat::Snippet;
use super::script::{Mistake, Parser, Statement, What, Word};
use super::search::By;
use super::words::Arg;
use crate::chain::{HandOver, kind};
use crate::shim::Shim;
use crate::{Chain, End, Error};

/// Most commands that one boot may run.
const MOST_COMMANDS: usize = 100_000;
/// What the built-in configuration is called. The parser that runs it measures nothing (`kern/rescue_parser.c`).
const BUILT_IN: &str = "built-in configuration";
/// How deep statements may stand in one another, through functions and files: each takes its part of the stack.
const DEEPEST_STATEMENT: usize = 500;
/// How deep functions, files, menus and modules may call one another (`MAX_RECURSION_DEPTH`).
const DEEPEST: usize = 100;
/// PCRs that GRUB extends (`include/grub/tpm.h`): strings and files.
const STRINGS: u8 = 8;
pub(crate) const FILES: u8 = 9;

/// Why GRUB does not go on.
pub(crate) enum Stop {
    /// A kernel is loaded, and is started.
    Boot,
    /// Nothing more happens.
    End(End),
    /// A file system cannot be read.
    Failed(Error),
}

impl From<crate::VolumeError> for Stop {
    fn from(error: crate::VolumeError) -> Self {
        Self::Failed(error.into())
    }
}

/// A kernel that was loaded.
#[derive(Debug, Clone)]
pub(crate) struct Loaded {
    pub(crate) file: String,
    pub(crate) bytes: Bytes,
    pub(crate) command_line: String,
    pub(crate) hand_over: HandOver,
    pub(crate) initrd_files: Vec<String>,
    pub(crate) initrd: Bytes,
    /// Who loads and starts it.
    pub(crate) starter: Starter,
}

/// GRUB, running.
pub(crate) struct Run<'r, 'a> {
    pub(crate) chain: &'r mut Chain<'a>,
    pub(crate) shim: Shim,
    pub(crate) core: Core,
    pub(crate) kernel: Option<Loaded>,
    /// What shim said about a kernel that it did not take.
    pub(crate) refused: Option<String>,
    /// Commands that modules on the disk have, and the modules.
    pub(crate) on_disk: BTreeMap<String, String>,
    /// Whether a list of file system modules was read: probing an unknown file system then tries them.
    pub(crate) tries_modules: bool,
    pub(crate) env: Environment,
    /// Snippets that Red Hat's `blscfg` has read, the newest first.
    pub(crate) snippets: Vec<Snippet>,
    /// What `search` found so far: by what, which, and where.
    pub(super) found: Vec<(By, String, String)>,
    functions: BTreeMap<String, (String, Rc<[Statement]>)>,
    /// What file systems were asked so far.
    pub(super) seen: Seen,
    file: String,
    line: usize,
    first_line: usize,
    pub(super) arguments: Vec<String>,
    pub(super) status: i32,
    returning: bool,
    functions_running: usize,
    commands: usize,
    /// How much text the commands so far had, in bytes.
    pub(super) text: usize,
    depth: usize,
    nested: usize,
    /// Whether normal mode began: only then a new prefix has its lists read (`normal/main.c`).
    pub(super) in_normal_mode: bool,
    /// Whether the terminal in graphics was asked for.
    pub(super) graphical: bool,
}

impl<'r, 'a> Run<'r, 'a> {
    pub(crate) fn new(chain: &'r mut Chain<'a>, shim: Shim, core: Core) -> Self {
        Self {
            chain,
            shim,
            core,
            kernel: None,
            refused: None,
            on_disk: BTreeMap::new(),
            tries_modules: false,
            env: Environment::default(),
            snippets: Vec::new(),
            found: Vec::new(),
            functions: BTreeMap::new(),
            seen: Seen::default(),
            file: String::new(),
            line: 0,
            first_line: 1,
            arguments: Vec::new(),
            status: 0,
            returning: false,
            functions_running: 0,
            commands: 0,
            text: 0,
            depth: 0,
            nested: 0,
            in_normal_mode: false,
            graphical: false,
        }
    }

    /// Puts an entry at the menu's end, which stands in this line where it does not say where it does.
    pub(crate) fn add_to_menu(&mut self, mut entry: MenuEntry) {
        if entry.file.is_empty() {
            (entry.file, entry.line) = (self.file.clone(), self.line);
        }
        self.env.add_to_menu(entry);
    }

    /// Says that what follows is because of this line.
    pub(crate) fn stand_at(&mut self, entry: &MenuEntry) {
        (self.file, self.line) = (entry.file.clone(), entry.line);
    }

    pub(crate) fn set_arguments(&mut self, arguments: Vec<String>) {
        self.arguments = arguments;
    }

    pub(crate) fn status(&self) -> i32 {
        self.status
    }

    /// `return`, which makes sense in a function only.
    pub(crate) fn return_with(&mut self, status: i32) -> Result<i32, Stop> {
        if self.functions_running == 0 {
            return self.unmodelled("`return` outside of a function is not modelled");
        }
        self.returning = true;
        Ok(status)
    }

    /// Ends the forecast with something that is not modelled, at the line that asks for it.
    pub(crate) fn unmodelled<T>(&mut self, why: &str) -> Result<T, Stop> {
        let what = format!("{} line {}", self.file, self.line);
        self.chain.unmodelled(Stage::Grub, &what, why, &[4, STRINGS, FILES]);
        Err(Stop::End(End { outcome: None, because: format!("{what}: {why}"), reported_by: None }))
    }

    pub(crate) fn measure_string(&mut self, prefix: &str, text: &str) {
        if !self.core.modules.contains("tpm") {
            return;
        }
        let from = Origin::Part { file: self.file.clone(), part: format!("line {}", self.line) };
        let shown: String = text.lines().next().unwrap_or_default().chars().take(60).collect();
        let what = format!("{prefix}: {shown}");
        self.chain.measure(Stage::Grub, STRINGS, kind::IPL, text.as_bytes(), &what, from);
    }

    /// The built-in configuration, whose commands are not measured.
    pub(crate) fn built_in(&mut self, text: &str) -> Result<(), Stop> {
        self.script(text, BUILT_IN, 1).map(drop)
    }

    /// Normal mode with the configuration that GRUB finds by itself.
    pub(crate) fn normal_mode<T>(&mut self) -> Result<T, Stop> {
        if !self.core.looks_around {
            return self.normal(Some(&format!("{}/grub.cfg", self.env.get("prefix"))));
        }
        for directory in ["fw_path", "prefix"] {
            let config = format!("{}/grub.cfg", self.env.get(directory));
            // Whether it is there is found out by opening it.
            if self.open(&config)?.is_some() {
                return self.normal(Some(&config));
            }
        }
        self.normal(None)
    }

    /// Normal mode with this configuration file. Nothing comes after it (`grub_enter_normal_mode`).
    pub(crate) fn normal<T>(&mut self, config: Option<&str>) -> Result<T, Stop> {
        self.in_normal_mode = true;
        let prefix = self.env.get("prefix").to_owned();
        self.read_lists(&prefix)?;
        // Without a file there is no menu.
        if let Some(config) = config
            && self.config(config)?
        {
            self.show_menu()?;
        }
        self.unmodelled("GRUB shows its command line and waits for somebody")
    }

    /// Reads and runs a configuration file: whether there is one.
    pub(crate) fn config(&mut self, name: &str) -> Result<bool, Stop> {
        let Some((label, bytes)) = self.open(name)? else { return Ok(false) };
        let Some(text) = std::str::from_utf8(&bytes).ok().filter(|text| !text.contains('\0')) else {
            return self.unmodelled(&format!("{label} is no text, which is not modelled"));
        };
        let full =
            if name.starts_with('(') { name.to_owned() } else { format!("({}){name}", self.env.get("root")) };
        let directory = full.rsplit_once('/').map_or("", |(directory, _)| directory).to_owned();
        let old = ["config_file", "config_directory"].map(|name| (name, self.env.get(name).to_owned()));
        for (name, value) in [("config_file", &full), ("config_directory", &directory)] {
            self.env.put(name, value);
            self.env.export(name);
        }
        self.script(text, &label, 1)?;
        for (name, value) in old {
            self.env.put(name, &value);
        }
        Ok(true)
    }

    /// `configfile`: an environment of its own, and its menu.
    pub(crate) fn config_with_menu(&mut self, name: &str) -> Result<(), Stop> {
        self.env.enter();
        self.config(name)?;
        self.show_menu()?;
        self.env.leave();
        Ok(())
    }

    /// One level deeper, as far as that goes.
    pub(crate) fn deeper(&mut self) -> Result<(), Stop> {
        self.depth += 1;
        match self.depth > DEEPEST {
            true => self.unmodelled("files, functions, menus or modules call one another too deeply"),
            false => Ok(()),
        }
    }

    /// Out of such a level.
    pub(crate) fn shallower(&mut self) {
        self.depth -= 1;
    }

    /// One command more, one turn of a loop, or one file that is opened.
    pub(super) fn counted(&mut self) -> Result<(), Stop> {
        self.commands += 1;
        match self.commands > MOST_COMMANDS {
            true => self.unmodelled("it runs in circles"),
            false => Ok(()),
        }
    }

    pub(crate) fn script(&mut self, text: &str, file: &str, first_line: usize) -> Result<i32, Stop> {
        self.deeper()?;
        self.grown(text.len())?;
        if self.is_red_hats() && text.contains("\\x") {
            return self.unmodelled("bytes written as `\\x` are not modelled");
        }
        let outer = (std::mem::replace(&mut self.file, file.to_owned()), self.first_line, self.line);
        self.first_line = first_line;
        let mut parser = Parser::new(text);
        let mut status = 0;
        loop {
            match parser.statement() {
                Ok(None) => break,
                Ok(Some(statement)) => status = self.statement(&statement)?,
                Err(Mistake { line, why }) => {
                    self.line = line + self.first_line - 1;
                    return self.unmodelled(why);
                }
            }
        }
        (self.file, self.first_line, self.line) = outer;
        self.shallower();
        Ok(status)
    }

    fn statements(&mut self, list: &[Statement]) -> Result<i32, Stop> {
        let mut status = 0;
        for statement in list {
            status = self.statement(statement)?;
            if self.returning {
                break;
            }
        }
        Ok(status)
    }

    fn statement(&mut self, statement: &Statement) -> Result<i32, Stop> {
        self.line = statement.line + self.first_line - 1;
        self.counted()?;
        self.nested += 1;
        if self.nested > DEEPEST_STATEMENT {
            return self.unmodelled("its statements stand in one another too deeply");
        }
        let status = match &statement.what {
            What::Command(words) => self.command(words)?,
            What::If { arms, otherwise } => {
                let mut chosen = otherwise;
                for (condition, body) in arms {
                    if self.statements(condition)? == 0 {
                        chosen = body;
                        break;
                    }
                }
                self.statements(chosen)?
            }
            What::For { name, words, body } => {
                let mut status = 0;
                for word in self.expand(words)? {
                    self.counted()?;
                    self.set(name, &word.text)?;
                    status = self.statements(body)?;
                    if self.returning {
                        break;
                    }
                }
                status
            }
            What::While { until, condition, body } => loop {
                self.counted()?;
                let status = self.statements(condition)?;
                if self.returning || (status == 0) == *until {
                    break status;
                }
                let status = self.statements(body)?;
                if self.returning {
                    break status;
                }
            },
            What::Function { name, body } => {
                self.functions.insert(name.clone(), (self.file.clone(), body.clone()));
                0
            }
        };
        self.nested -= 1;
        self.status = status;
        Ok(status)
    }

    fn command(&mut self, words: &[Word]) -> Result<i32, Stop> {
        let args = self.expand(words)?;
        let Some(name) = args.first().map(|arg| arg.text.clone()) else { return Ok(0) };
        if self.file != BUILT_IN {
            let joined = args.iter().map(|arg| arg.text.as_str()).collect::<Vec<_>>().join(" ");
            self.measure_string("grub_cmd", &joined);
        }
        if name == "!" {
            let Some(name) = args.get(1).map(|arg| arg.text.clone()) else { return Ok(1) };
            return Ok(i32::from(self.named(&name, &args[2..])? == 0));
        }
        self.named(&name, &args[1..])
    }

    fn named(&mut self, name: &str, args: &[Arg]) -> Result<i32, Stop> {
        // What a module on the disk has comes with the module (`normal/dyncmd.c`).
        if let Some(module) = self.on_disk.get(name).cloned()
            && !self.core.modules.contains(&module)
        {
            let status = self.insert_module(&module)?;
            if status != 0 {
                return Ok(if self.is_red_hats() && self.secure() { 0 } else { status });
            }
        }
        if let Some(status) = self.builtin(name, args)? {
            return Ok(status);
        }
        if let Some((file, body)) = self.functions.get(name).cloned() {
            return self.function(file, &body, args);
        }
        if self.on_disk.contains_key(name) {
            return self.unmodelled(&format!("the command {name} is not modelled"));
        }
        if let Some((variable, value)) = name.split_once('=') {
            self.set(variable, value)?;
        }
        Ok(0)
    }

    fn function(&mut self, file: String, body: &[Statement], args: &[Arg]) -> Result<i32, Stop> {
        self.deeper()?;
        let arguments = args.iter().map(|arg| arg.text.clone()).collect();
        let outer = std::mem::replace(&mut self.arguments, arguments);
        let outer_file = std::mem::replace(&mut self.file, file);
        let outer_first = std::mem::replace(&mut self.first_line, 1);
        self.functions_running += 1;
        let status = self.statements(body)?;
        (self.arguments, self.file, self.first_line) = (outer, outer_file, outer_first);
        self.returning = false;
        self.functions_running -= 1;
        self.shallower();
        Ok(status)
    }
}
