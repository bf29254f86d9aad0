//! The folder that file tools and the shell work in: `workspace` of the runtime and of a request.

use crate::types::{Error, Result};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

/// A folder. May be written as its bare path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkspaceConfig {
    /// The folder; nothing outside of it is touched.
    pub root: PathBuf,
    /// What becomes of files that have a second name, which may be outside.
    pub hard_links: HardLinks,
}

/// What becomes of files that have a second name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HardLinks {
    /// They are not read.
    #[default]
    Refuse,
    /// They are read like others. For folders in which programs share files by links, as package stores do.
    Allow,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Whole {
    /// The folder; nothing outside of it is touched.
    root: PathBuf,
    /// What becomes of files that have a second name, which may be outside.
    #[serde(default)]
    hard_links: HardLinks,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
#[allow(dead_code, reason = "it only describes")]
enum Shape {
    /// The folder.
    Root(String),
    Whole(Whole),
}

impl WorkspaceConfig {
    /// A folder by its path alone.
    pub fn at(root: impl AsRef<Path>) -> Self {
        Self { root: root.as_ref().to_owned(), hard_links: HardLinks::default() }
    }

    /// Checks what can be known without looking.
    pub fn check(&self, path: &str) -> Result<()> {
        if self.root.as_os_str().is_empty() {
            return Err(Error::schema(path, "a folder is needed").with_hint("\".\" is the current one"));
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for WorkspaceConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PathOrObject;
        impl<'de> Visitor<'de> for PathOrObject {
            type Value = WorkspaceConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a folder's path or an object with \"root\"")
            }

            fn visit_str<E: serde::de::Error>(self, root: &str) -> Result<WorkspaceConfig, E> {
                Ok(WorkspaceConfig::at(root))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<WorkspaceConfig, A::Error> {
                let Whole { root, hard_links } = Whole::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                Ok(WorkspaceConfig { root, hard_links })
            }
        }
        deserializer.deserialize_struct("workspace", &[], PathOrObject)
    }
}

impl JsonSchema for WorkspaceConfig {
    fn schema_name() -> Cow<'static, str> {
        "WorkspaceConfig".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        Shape::json_schema(generator)
    }
}
