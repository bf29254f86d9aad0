//! The format of a cassette: one exchange a line, as JSON.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// A request, and what it was answered.
#[derive(Debug, Serialize, Deserialize)]
pub struct Exchange {
    /// Exchanges are written when they end, and numbered when they begin.
    pub n: u64,
    /// Key of `llm_providers`.
    pub provider: String,
    /// The wire family, which reads the answer.
    pub family: String,
    /// How that family was set up.
    pub settings: Value,
    /// What was sent.
    pub request: Request,
    /// What came.
    pub response: Response,
}

/// What was sent.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    pub method: String,
    pub url: String,
    pub headers: BTreeMap<String, String>,
    pub body: Value,
}

/// What came.
#[derive(Debug, Serialize, Deserialize)]
pub struct Response {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub chunks: Vec<Piece>,
    #[serde(default)]
    pub end: End,
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// It was read to its end.
    #[default]
    Complete,
    /// The connection broke.
    Broken,
    /// Nobody read on.
    Dropped,
}

/// A piece of the body, as it came.
#[derive(Debug, Serialize, Deserialize)]
pub struct Piece {
    /// Milliseconds since the request was sent.
    pub at_ms: u64,
    #[serde(flatten)]
    pub bytes: Bytes,
}

/// Text where it is text.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bytes {
    Text(String),
    Base64(String),
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        String::from_utf8(bytes).map_or_else(|error| Self::Base64(STANDARD.encode(error.as_bytes())), Self::Text)
    }
}

impl Bytes {
    /// The bytes; none if they are not what they are said to be.
    pub fn into_bytes(self) -> Option<Vec<u8>> {
        match self {
            Self::Text(text) => Some(text.into_bytes()),
            Self::Base64(text) => STANDARD.decode(text).ok(),
        }
    }
}
