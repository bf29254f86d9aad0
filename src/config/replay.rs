//! Cassettes: files of recorded exchanges with providers, and providers that play them.

use super::RetryConfig;
use crate::types::{Error, Result};
use schemars::JsonSchema;
use serde::Deserialize;

/// Where every exchange with a provider is written down.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RecordConfig {
    /// A file; what it has already stays. Keys are not written into it.
    pub path: String,
}

impl RecordConfig {
    pub(super) fn check(&self, path: &str) -> Result<()> {
        check_file(&self.path, path)
    }
}

/// A provider that answers as another one did when it was recorded.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplayConfig {
    /// The file that was recorded.
    pub path: String,
    /// Which of its providers to play. Default: the only one there is.
    #[serde(default)]
    pub provider: Option<String>,
    /// Whether answers come as slowly as they came then. Default false: at once.
    #[serde(default)]
    pub keep_timing: bool,
    /// How failed requests are tried again: as when it was recorded, or there are too many or too few.
    #[serde(default)]
    pub retry: RetryConfig,
}

impl ReplayConfig {
    pub(super) fn check(&self, path: &str) -> Result<()> {
        check_file(&self.path, path)?;
        self.retry.check(path)
    }
}

fn check_file(file: &str, path: &str) -> Result<()> {
    match file {
        "" => Err(Error::schema(format!("{path}.path"), "the name of the file is empty")),
        _ => Ok(()),
    }
}
