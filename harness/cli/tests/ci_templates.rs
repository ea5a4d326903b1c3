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

fn read(template: &str) -> serde_json::Value {
    serde_norway::from_str(template).unwrap()
}

/// Whether they name keys and images in a cache.
fn are_shared(paths: &serde_json::Value) -> bool {
    let text = paths.to_string();
    ["images", "pki"].iter().all(|part| text.contains(&format!(".cache/latchkey/{part}")))
}

/// With keys and images of its own a shard's rows would be of other images than the next one's.
#[test]
fn one_job_of_github_makes_keys_and_images_for_all_shards() {
    let jobs = &read(GITHUB)["jobs"];
    let caches = |job: &str, how: &str| -> Vec<serde_json::Value> {
        let uses = |step: &&serde_json::Value| {
            step["uses"].as_str().is_some_and(|uses| uses.starts_with(&format!("actions/cache/{how}@")))
        };
        let steps = jobs[job]["steps"].as_array().unwrap().iter().filter(uses);
        steps.map(|step| step["with"].clone()).collect()
    };
    let shared = |job: &str, how: &str| -> Vec<serde_json::Value> {
        caches(job, how).into_iter().filter(|with| are_shared(&with["path"])).collect()
    };
    assert_eq!((shared("images", "save").len(), shared("run", "save").len()), (1, 0));
    let restored = shared("run", "restore");
    assert_eq!((restored.len(), &jobs["run"]["needs"]), (1, &"images".into()));
    assert_eq!(restored[0]["key"], "${{ needs.images.outputs.key }}");
    assert_eq!(restored[0]["fail-on-cache-miss"], true);
    // A cache is found by its paths as well.
    assert_eq!(restored[0]["path"], shared("images", "save")[0]["path"]);
    assert_eq!(restored[0]["path"], shared("images", "restore")[0]["path"]);
    assert!(caches("run", "save").iter().all(|with| !with["path"].to_string().contains("images")));
}

#[test]
fn one_job_of_gitlab_makes_keys_and_images_for_all_shards() {
    let jobs = read(GITLAB);
    let shared = |job: &str| -> Vec<serde_json::Value> {
        let caches = jobs[job]["cache"].as_array().unwrap().iter();
        caches.filter(|cache| are_shared(&cache["paths"])).cloned().collect()
    };
    let (made, found) = (shared("latchkey-images"), shared("latchkey"));
    assert_eq!((made.len(), found.len()), (1, 1));
    assert_eq!((&made[0]["policy"], &found[0]["policy"]), (&serde_json::Value::Null, &"pull".into()));
    assert_eq!((&made[0]["key"], &made[0]["paths"]), (&found[0]["key"], &found[0]["paths"]));
    // It is there before the shards begin.
    let stages = jobs["stages"].as_array().unwrap();
    let stage = |job: &str| stages.iter().position(|stage| *stage == jobs[job]["stage"]).unwrap();
    assert!(stage("latchkey-images") < stage("latchkey"));
}
