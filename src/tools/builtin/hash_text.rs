//! `hash_text`: the digest of a text.

use super::{Builtin, Kit, Reach};
use crate::tools::{Invocation, ToolFailure};
use md5::Md5;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};
use std::fmt::Write;

/// See the module's head.
pub struct HashText;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// The text; its UTF-8 bytes are hashed.
    text: String,
    /// How. Default sha256; md5 and sha1 only to compare with old digests.
    #[serde(default)]
    algorithm: Algorithm,
}

#[derive(Clone, Copy, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    Md5,
    Sha1,
    #[default]
    Sha256,
    Sha512,
}

#[derive(Serialize, JsonSchema)]
pub struct Output {
    /// The digest in hexadecimal, lower case.
    hash: String,
    algorithm: Algorithm,
}

impl Builtin for HashText {
    const NAME: &'static str = "hash_text";
    const DESCRIPTION: &'static str = "The digest of a text in hexadecimal: sha256, sha512, sha1 or md5.";
    const REACH: Reach = Reach::Nothing;
    const TIMEOUT: f64 = 2.0;
    type Input = Input;
    type Output = Output;

    fn new(_: &Kit) -> Self {
        Self
    }

    async fn run<'a>(&'a self, Input { text, algorithm }: Input, _: Invocation<'a>) -> Result<Output, ToolFailure> {
        let hash = match algorithm {
            Algorithm::Md5 => hex(&Md5::digest(&text)),
            Algorithm::Sha1 => hex(&Sha1::digest(&text)),
            Algorithm::Sha256 => hex(&Sha256::digest(&text)),
            Algorithm::Sha512 => hex(&Sha512::digest(&text)),
        };
        Ok(Output { hash, algorithm })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a text cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
