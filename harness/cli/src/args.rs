//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::jobs::Shard;

/// Proves, by booting it, that a confidential VM can be opened again.
///
/// Boots real images with real firmware, shim, TPM and LUKS under QEMU, does to them what locks people out, and
/// tells whether they unlock by themselves, ask for a passphrase, or are lost.
#[derive(Debug, Parser)]
#[command(name = "latchkey", version, max_term_width = 100, after_help = after_help())]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

fn after_help() -> String {
    crate::environment::help() + "\n" + AFTER
}

/// No line is longer than a narrow terminal is wide: where it is broken, the rest begins at the left edge.
const AFTER: &str = "\
Exit codes:
    0  all as expected
    1  a verdict failed
       of `scenario check|explain`, `forecast --all`: not what is expected
       of `diff`: something changed
       of `bench --check`: a ratio is worse
    2  the command line, a scenario file or an image is wrong
       nothing could be run, and so nothing was proven
       of `run --plan`: nothing would be run
       of `image inspect`: it can be neither run nor forecast
    3  infrastructure: a tool, the disk, the host
       Counts before 1 in a run that has both, since it then says too little
       of `report --rows`: a row is missing
       of `report --into`: rows were not reached, and nothing failed
    4  set-up is incomplete: run `cargo xtask setup`
  130  interrupted
NO_COLOR turns colours off.";

#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Where images, test keys and probes are kept [default: $LATCHKEY_CACHE, else $XDG_CACHE_HOME/latchkey, else
    /// ~/.cache/latchkey]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) cache: Option<PathBuf>,
    /// Tell what is done; twice for every command that is started
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Print JSON, and nothing else, on standard output
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run scenarios on real machines and judge every boot
    Run(RunArgs),
    /// Measure what the harness adds to a boot and what forks save, as ratios; minutes
    Bench(BenchArgs),
    /// Tell what the next boot of a machine measures and comes to, without booting; images that are not there are built first
    Forecast(ForecastArgs),
    /// Write, check and explain scenarios
    #[command(subcommand)]
    Scenario(ScenarioVerb),
    /// Make the reports of a run again, from its results.json and the files beside it; or, with --into, one report of several
    /// runs, which ends as a run with all of their rows would
    Report {
        /// The run's directory; with --into those of several, such as the shards of one
        #[arg(value_name = "RUN_DIR", required = true)]
        runs: Vec<PathBuf>,
        /// Put the rows of all these runs, with what was recorded of them, into this directory as one run
        #[arg(long, value_name = "DIR")]
        into: Option<PathBuf>,
        /// With --into: the rows that have to be there, as `run --list --rows` writes them; lines that begin with # are remarks.
        /// One that none of these runs has is an infrastructure error in the report
        #[arg(long, value_name = "FILE", requires = "into")]
        rows: Option<PathBuf>,
    },
    /// Tell what changed between two runs: rows, verdicts, outcomes, PCRs; exit code 1 when something did
    Diff {
        /// The earlier run's directory
        #[arg(value_name = "RUN_DIR")]
        one: PathBuf,
        /// The later run's
        #[arg(value_name = "RUN_DIR")]
        other: PathBuf,
    },
    /// The disk images that machines are made of
    #[command(subcommand)]
    Image(ImageVerb),
    /// Show the QEMU, swtpm and firmware that were found, and the accelerator that really works
    Probe {
        /// Do not believe an earlier answer
        #[arg(long)]
        refresh: bool,
    },
    /// Print a JSON schema
    Schema {
        /// Of what
        of: SchemaOf,
    },
    /// Print shell completions
    Completions {
        /// For which shell
        shell: Shell,
    },
}

/// A PCR's number, as an option has it.
fn pcr(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| *number < 24);
    number.ok_or_else(|| format!("`{text}` is no PCR: give one number, 0 to 23"))
}

/// What a scenario's machine is made of.
#[derive(Debug, Args)]
pub(crate) struct Machines {
    /// Of several images that a scenario is for, only this one; with --image the one that it stands for, where a scenario
    /// tells them apart, which has to start what it starts: a UKI or GRUB
    #[arg(long, value_name = "IMAGE")]
    pub(crate) on: Option<String>,
    /// This disk image (qcow2, raw or fixed VHD) instead of the scenario's; it is never written to
    #[arg(long, value_name = "PATH")]
    pub(crate) image: Option<PathBuf>,
    /// Start new machines from these UEFI variables instead of those of their image: a VARS.fd of this firmware, or the
    /// event log of a boot (binary_bios_measurements), which tells what its firmware trusts
    #[arg(long, value_name = "PATH")]
    pub(crate) variables: Option<PathBuf>,
    /// Take this file where a scenario puts NAME on the machine, such as `uki-signed-by-vendor`; a program, but for
    /// `initrd-without-tpm`
    #[arg(long = "artefact", value_name = "NAME=PATH")]
    pub(crate) artefacts: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Names of the project's scenarios, or paths of your own; all of the project's when none is given
    #[arg(value_name = "SCENARIO")]
    pub(crate) scenarios: Vec<String>,
    /// The whole catalogue, as when no scenario is given
    #[arg(long, conflicts_with = "scenarios")]
    pub(crate) all: bool,
    /// List the scenarios that would be run, with their images, and stop
    #[arg(long, conflicts_with_all = ["plan", "keep"])]
    pub(crate) list: bool,
    /// With --list: a line for each scenario and image, as scenarios/rows.txt keeps them
    #[arg(long, requires = "list")]
    pub(crate) rows: bool,
    #[command(flatten)]
    pub(crate) machines: Machines,
    /// Leave the machines in place, and tell how to enter them; nothing is shared then
    #[arg(long)]
    pub(crate) keep: bool,
    /// Show what would be booted, shared, saved and taken from runs before, and how long that takes, and stop
    #[arg(long)]
    pub(crate) plan: bool,
    /// How many machines run at once [default: one more than there are processors]; each also waits for memory
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) jobs: Option<u16>,
    /// Run every row from its provisioning on, instead of forking machines where rows part
    #[arg(long)]
    pub(crate) no_fork: bool,
    /// Run every row, also where a verdict on the same inputs is known
    #[arg(long)]
    pub(crate) fresh: bool,
    /// Of all rows only the Kth part of N: a row is in the same part whatever other rows there are
    #[arg(long, value_name = "K/N")]
    pub(crate) shard: Option<Shard>,
    /// Where the run's directory is made
    #[arg(long, value_name = "DIR", default_value = "target/latchkey")]
    pub(crate) results: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Exit with 1 when a ratio is worse than the recorded one by more than a fifth, or misses its target where none is
    /// recorded
    #[arg(long)]
    pub(crate) check: bool,
    /// Record the ratios, of three pairs at least, unless --check would fail
    #[arg(long, conflicts_with = "check")]
    pub(crate) record: bool,
    /// With --record: record them also where they got worse
    #[arg(long, requires = "record")]
    pub(crate) worse: bool,
    /// Where they are recorded
    #[arg(long, value_name = "FILE", default_value = "docs/bench.json")]
    pub(crate) recorded: PathBuf,
    /// How many boots by the harness, and as many without it
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) pairs: u16,
    /// A run with two jobs, and with --fresh, whose time is compared with the sum of its steps
    #[arg(long, value_name = "RUN_DIR")]
    pub(crate) suite: Option<PathBuf>,
    /// Where the bench's own record is kept
    #[arg(long, value_name = "DIR", default_value = "target/latchkey")]
    pub(crate) results: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ForecastArgs {
    /// A kept machine's directory; or a recipe's name or a disk image, for the first boot of a machine made of it. A disk
    /// that is encrypted already is taken to belong to the TPM that sealed its key
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub(crate) machine: Option<String>,
    /// Show the first event that differs from this one's
    #[arg(long, value_name = "MACHINE", conflicts_with = "explain")]
    pub(crate) diff: Option<String>,
    /// Hold it against the event log of a boot of that machine (/sys/kernel/security/tpm0/binary_bios_measurements):
    /// where it parts from it, by PCR, the file behind that, and whether the disk's tokens were sealed to that boot.
    /// Unless --variables has others, what the firmware trusts is taken from it
    #[arg(long, value_name = "LOG", conflicts_with_all = ["all", "diff"])]
    pub(crate) log: Option<PathBuf>,
    /// Show how this PCR comes to its value
    #[arg(long, value_name = "PCR", value_parser = pcr)]
    pub(crate) explain: Option<u32>,
    /// Every boot of every scenario on every image instead, held against what the scenario expects
    #[arg(long, conflicts_with_all = ["diff", "explain"])]
    pub(crate) all: bool,
    /// With --all: only this scenario, by name or path; may be given several times
    #[arg(long = "scenario", value_name = "SCENARIO")]
    pub(crate) scenarios: Vec<String>,
    #[command(flatten)]
    pub(crate) machines: Machines,
    /// With --all: hold them against the boots of this run as well, outcomes and PCRs
    #[arg(long, value_name = "RUN_DIR")]
    pub(crate) against: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ScenarioVerb {
    /// Write a new scenario to begin from
    New {
        /// Its file, such as mine.toml
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Tell whether scenarios are sound, and come to what they expect by their forecasts; nothing is booted, but images that are
    /// not there are built first
    Check {
        /// Names of the project's scenarios, or paths; all of the project's when none is given
        #[arg(value_name = "SCENARIO")]
        scenarios: Vec<String>,
        #[command(flatten)]
        machines: Machines,
    },
    /// Print the catalogue as a page in Markdown: scenarios/README.md
    Catalogue,
    /// Tell in words what a scenario does, and what each of its boots would come to, and why
    Explain {
        /// A name of the project's scenarios, or a path
        scenario: String,
        #[command(flatten)]
        machines: Machines,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageVerb {
    /// The reference images, and which are built
    List,
    /// Build reference images now
    Build {
        /// Which; all without a name
        recipes: Vec<String>,
        /// Look for newer packages; without it the versions of the last build are used again
        #[arg(long)]
        refresh: bool,
    },
    /// Describe a disk image: partitions, shim, SBAT, UKI or GRUB, certificates, keyslots, tokens; exit code 2 when it can be
    /// neither run nor forecast
    Inspect {
        /// A recipe's name, or the path of a qcow2, raw or fixed VHD file
        image: String,
    },
    /// Remove what no recipe makes any more, and saved machines that no run uses (verdicts stay)
    Prune,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SchemaOf {
    /// results.json
    Results,
    /// Scenario files
    Scenario,
}
