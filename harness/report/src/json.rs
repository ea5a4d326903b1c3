//! `results.json` and its schema.

use latchkey_record::RunResults;

/// The results as indented JSON with a newline at its end.
///
/// # Errors
/// When a value cannot be written as JSON, which for these types is a bug.
pub fn results(results: &RunResults) -> Result<String, serde_json::Error> {
    Ok(serde_json::to_string_pretty(results)? + "\n")
}

/// The JSON schema of `results.json`.
#[must_use]
pub fn schema() -> serde_json::Value {
    latchkey_record::results::schema()
}
