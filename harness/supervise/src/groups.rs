//! What becomes of the children's own children when this process is killed.
//!
//! The signal that the kernel sends when a parent dies (`PR_SET_PDEATHSIG`) reaches the child alone: what a shell, `unshare`
//! or `rpmbuild` started goes on. So one shell beside this process knows the process group of every child that runs, and
//! kills them all when its pipe ends, which it does however this process ends.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Lines `+ GROUP` and `- GROUP`, until the pipe ends.
const GUARD: &str = r#"groups=' '
while read -r what group; do
    case $what in
        +) groups="$groups$group " ;;
        -) case $groups in *" $group "*) groups="${groups%% $group *} ${groups#* $group }" ;; esac ;;
    esac
done
for group in $groups; do kill -KILL "-$group"; done"#;

/// The guardian's pipe; `None` where there is none.
static GUARDIAN: OnceLock<Mutex<Option<ChildStdin>>> = OnceLock::new();

fn guard() -> io::Result<ChildStdin> {
    let mut guardian = Command::new("sh")
        .args(["-c", GUARD, "latchkey-groups"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("/")
        // Out of reach of a Ctrl-C and of a kill of the run's process group.
        .process_group(0)
        .spawn()?;
    guardian.stdin.take().ok_or_else(|| io::Error::other("it has no pipe"))
}

/// The process group `group` is to end with this process.
pub(crate) fn begins(group: u32) {
    tell(&format!("+ {group}\n"));
}

/// The process group `group` is over: its number may be another's soon.
pub(crate) fn is_over(group: u32) {
    tell(&format!("- {group}\n"));
}

fn tell(line: &str) {
    let guardian = GUARDIAN.get_or_init(|| {
        let begun = guard();
        if let Err(error) = &begun {
            tracing::warn!("nobody will end what children started, should this process be killed: {error}");
        }
        Mutex::new(begun.ok())
    });
    let mut pipe = guardian.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(Err(error)) = pipe.as_mut().map(|pipe| pipe.write_all(line.as_bytes())) {
        // Somebody ended it. The signal that the kernel sends is left.
        tracing::debug!("telling the guardian of process groups: {error}");
        *pipe = None;
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::os::unix::process::ExitStatusExt;
    use std::process::Child;

    use super::*;

    fn sleeps() -> Child {
        Command::new("sleep").arg("1000").process_group(0).spawn().unwrap()
    }

    #[test]
    fn those_that_are_not_over_end_with_the_pipe() {
        let mut children = [(); 4].map(|()| sleeps());
        let mut pipe = guard().unwrap();
        for child in &children {
            writeln!(pipe, "+ {}", child.id()).unwrap();
        }
        // The first, one between others, and one that nobody told of.
        writeln!(pipe, "- {}\n- {}\n- 1", children[0].id(), children[2].id()).unwrap();
        drop(pipe);
        for number in [1, 3] {
            assert_eq!(children[number].wait().unwrap().signal(), Some(9));
        }
        for number in [0, 2] {
            assert!(children[number].try_wait().unwrap().is_none());
            children[number].kill().unwrap();
            children[number].wait().unwrap();
        }
    }
}
