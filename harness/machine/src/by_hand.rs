//! How a person starts a machine that was kept.

use std::ffi::OsStr;

use latchkey_host::Host;
use latchkey_supervise::quoted;

use crate::machine::{Machine, TPM};
use crate::qemu::{Parts, TPM_SOCKET, Wiring, arguments};

/// A script for `sh` that starts swtpm and QEMU with the console on the terminal.
pub(crate) fn script(machine: &Machine, host: &Host) -> String {
    let (disk, variables) = (machine.disk(), machine.variables());
    let access = machine.access();
    let parts = Parts { disk: Some(&disk), variables: &variables, strings: vec![&access] };
    let qemu = arguments(host, machine.hardware(), &parts, Wiring::Terminal);
    // From the directory that the script goes to: a comma in a path would end the option.
    let tpm = format!("dir=../{TPM}");
    let control = format!("type=unixio,path={TPM_SOCKET}");
    let swtpm = ["socket", "--tpm2", "--tpmstate", &tpm, "--ctrl", &control, "--terminate"];
    let run = machine.run_dir();
    format!(
        "# Ctrl-A C switches between the console and QEMU's monitor, where `info usernet` shows the port of:\n\
         #   ssh -i {key} -p PORT root@127.0.0.1\n\
         mkdir -p {run} && cd {run} && rm -f {TPM_SOCKET} || exit\n{swtpm} {} &\n\
         tpm=$!\ntrap 'kill $tpm 2>/dev/null' EXIT\n\
         while ! [ -S {TPM_SOCKET} ]; do kill -0 $tpm || exit; sleep 0.1; done\n{qemu} {}\n",
        words(swtpm.iter().map(OsStr::new)),
        words(qemu.iter().map(AsRef::as_ref)),
        key = quoted(machine.key().as_os_str()),
        run = quoted(run.as_os_str()),
        swtpm = quoted(host.tools.swtpm.path.as_os_str()),
        qemu = quoted(host.tools.qemu.path.as_os_str()),
    )
}

fn words<'a>(words: impl Iterator<Item = &'a OsStr>) -> String {
    words.map(quoted).collect::<Vec<_>>().join(" ")
}
