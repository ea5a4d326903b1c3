//! Prints event logs and the register values that they come to.
//!
//! `cargo run -p latchkey-measure --example eventlog -- [--cc] [--quiet] FILE...`; with `--cc` the logs are
//! those of confidential computing (ACPI table CCEL), with `--quiet` only the sums are printed.

use std::process::ExitCode;

use latchkey_measure::HashAlg;
use latchkey_measure::eventlog::{End, EventLog, Format};

fn main() -> ExitCode {
    let (flags, files): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|argument| argument.starts_with("--"));
    let has = |flag: &str| flags.iter().any(|f| f == flag);
    let mut code = ExitCode::SUCCESS;
    for file in files {
        match std::fs::read(&file) {
            Ok(bytes) => show(&file, &bytes, has("--cc"), has("--quiet")),
            Err(error) => {
                eprintln!("reading {file}: {error}");
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

fn show(file: &str, bytes: &[u8], confidential: bool, quiet: bool) {
    let log = EventLog::parse(bytes);
    let format = match &log.format {
        Format::Legacy => "legacy".to_owned(),
        Format::Agile(spec) => {
            let banks: Vec<String> = spec.algorithms.iter().map(|(id, _)| format!("{id:#06x}")).collect();
            format!("crypto-agile with {}", banks.join(", "))
        }
    };
    println!("{file}: {format}, {} events of {} bytes, end: {:?}", log.events.len(), bytes.len(), log.end);
    if !quiet {
        for (index, event) in log.events.iter().enumerate() {
            println!("  {index:3} {:2} {:35} {}", event.register, event.kind, event.decode());
        }
    }
    let findings = if confidential {
        let replay = log.replay_cc(HashAlg::Sha384);
        for (register, value) in &replay.registers {
            println!("  {register} {value}");
        }
        replay.findings
    } else {
        let replay = log.replay();
        for (bank, values) in replay.banks.all() {
            for (pcr, value) in &values.0 {
                if *value != pcr.start_value(*bank) {
                    println!("  PCR {pcr:2} {value}");
                }
            }
        }
        replay.findings
    };
    for finding in findings {
        println!("  {finding}");
    }
    // What was read whole is written as it was read.
    let whole = match log.end {
        End::Complete => bytes.len(),
        End::Padding { at, .. } | End::Damaged { at, .. } => at,
    };
    match log.to_bytes() {
        Ok(written) if written == bytes[..whole] => println!("  written again: the same bytes"),
        Ok(written) => println!("  written again: {} bytes, not the same {whole}", written.len()),
        Err(error) => println!("  written again: {error}"),
    }
}
