//! Tools that come with the library: enabled by their names in an agent's `tools`.

mod read_blob;

use super::{Registered, Runner};
use crate::config::ToolConfig;
use crate::store::Store;
use crate::types::Result;
use std::sync::Arc;

/// Every built-in tool.
pub fn all(store: &Arc<Store>) -> Result<Vec<Registered>> {
    let read_blob = Arc::new(read_blob::ReadBlob::new(Arc::clone(store)));
    Ok(vec![Registered::new(ToolConfig::from_json(read_blob::DEFINITION)?, Runner::Native(read_blob))?])
}
