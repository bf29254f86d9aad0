//! `write`: a file of the workspace, whole.

use super::{Builtin, Kit, Reach};
use crate::config::Effect;
use crate::tools::{Helpers, Invocation, ToolFailure, WorkspaceSlot};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// See the module's head.
pub struct Write {
    workspace: Arc<WorkspaceSlot>,
    helpers: Helpers,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// The file, from the root of the workspace.
    path: String,
    /// Its whole content.
    content: String,
    /// Whether missing folders are made. Default false.
    #[serde(default)]
    create_dirs: bool,
}

#[derive(Serialize, JsonSchema)]
pub struct Output {
    path: String,
    bytes: usize,
    /// `created` or `overwritten`.
    action: &'static str,
}

impl Builtin for Write {
    const NAME: &'static str = "write";
    const DESCRIPTION: &'static str =
        "Writes a file of the workspace, whole: what was in it before is gone. To change a part of a file use edit.";
    const REACH: Reach = Reach::WritesFiles;
    const EFFECT: Effect = Effect::Idempotent;
    const TIMEOUT: f64 = 30.0;
    type Input = Input;
    type Output = Output;

    fn new(kit: &Kit) -> Self {
        Self { workspace: Arc::clone(&kit.workspace), helpers: kit.helpers.clone() }
    }

    async fn run<'a>(&'a self, input: Input, call: Invocation<'a>) -> Result<Output, ToolFailure> {
        let workspace = self.workspace.of(call.workspace)?;
        self.helpers
            .run(&call.cancel, move |_| {
                let Input { path, content, create_dirs } = input;
                let was_there = workspace.write(&path, content.as_bytes(), create_dirs)?;
                let action = if was_there { "overwritten" } else { "created" };
                Ok(Output { path, bytes: content.len(), action })
            })
            .await
    }
}
