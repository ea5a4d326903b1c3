//! The templates in `ci/`, held to the schemas that schemastore.org publishes for GitHub's and GitLab's files.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../../scenario/tests/common/wheel.rs"]
mod wheel;

use latchkey_images::Cache;
use rstest::rstest;
use wheel::Wheel;

const GITHUB: &str = include_str!("../../../ci/github.yml");
const GITLAB: &str = include_str!("../../../ci/gitlab.yml");

/// Has the schemas in it.
const CHECK_JSONSCHEMA: Wheel = Wheel {
    package: "check-jsonschema==0.39.0",
    sha256: "14ce5c94871c551268ea948ffe21e9f1464dc48fb20bf9a4c13deeaaf756cf9b",
    file: "check_jsonschema-0.39.0-py3-none-any.whl",
};

/// Writes the file `argv[2]` of the archive `argv[1]` to standard output.
const UNPACK: &str =
    "import sys, zipfile; sys.stdout.buffer.write(zipfile.ZipFile(sys.argv[1]).read(sys.argv[2]))";

/// The schema of the system called `name`, as check-jsonschema calls it.
fn schema(name: &str) -> jsonschema::Validator {
    let wheel = CHECK_JSONSCHEMA.ensure(&Cache::of_user().unwrap()).unwrap();
    let file = format!("check_jsonschema/builtin_schemas/vendor/{name}.json");
    let args = ["-c", UNPACK, wheel.to_str().unwrap(), &file];
    let schema = latchkey_supervise::run("python3", &args).unwrap().text();
    jsonschema::validator_for(&serde_json::from_str(&schema).unwrap()).unwrap()
}

/// A word of each template that its system would not take in the other's place shows that the schema is asked.
#[rstest]
#[case::github("github-workflows", GITHUB, "runs-on:", "runs-at:")]
#[case::gitlab("gitlab-ci", GITLAB, "when: always", "when: ever")]
fn a_template_is_what_its_system_reads(
    #[case] name: &str,
    #[case] template: &str,
    #[case] right: &str,
    #[case] wrong: &str,
) {
    let schema = schema(name);
    let errors = |text: &str| -> Vec<String> {
        let read: serde_json::Value = serde_norway::from_str(text).unwrap();
        schema.iter_errors(&read).map(|error| format!("{}: {error}", error.instance_path())).collect()
    };
    assert_eq!(errors(template), [] as [&str; 0]);
    assert_ne!(errors(&template.replacen(right, wrong, 1)), [] as [&str; 0]);
}

/// GitLab, `lib/gitlab/ci/config/entry/artifacts.rb`: `EXPOSE_AS_REGEX`, which the published schema does not have.
#[test]
fn what_gitlab_is_to_expose_is_called_as_it_allows() {
    let names: Vec<&str> =
        GITLAB.lines().filter_map(|line| line.trim().strip_prefix("expose_as: ")).collect();
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_- ".contains(c);
    assert!(!names.is_empty() && names.iter().all(|name| name.chars().all(allowed)), "{names:?}");
}
