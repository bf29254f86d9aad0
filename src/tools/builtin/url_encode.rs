//! `url_encode`: percent-encoding, both ways.

use super::{Builtin, Kit, Reach};
use crate::tools::{Invocation, ToolFailure};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use schemars::JsonSchema;
use serde::Deserialize;

/// See the module's head.
pub struct UrlEncode;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// The text.
    text: String,
    /// Decodes instead. Default false.
    #[serde(default)]
    decode: bool,
}

/// All but the unreserved characters of RFC 3986.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

impl Builtin for UrlEncode {
    const NAME: &'static str = "url_encode";
    const DESCRIPTION: &'static str = "Percent-encodes a text to be a part of a URL, or decodes one.";
    const REACH: Reach = Reach::Nothing;
    const TIMEOUT: f64 = 1.0;
    type Input = Input;
    type Output = String;

    fn new(_: &Kit) -> Self {
        Self
    }

    async fn run<'a>(&'a self, Input { text, decode }: Input, _: Invocation<'a>) -> Result<String, ToolFailure> {
        if !decode {
            return Ok(utf8_percent_encode(&text, RESERVED).to_string());
        }
        percent_decode_str(&text).decode_utf8().map(Into::into).map_err(|error| {
            ToolFailure::new(format!("what the text decodes to is not UTF-8: {error}")).with_code("not_utf8")
        })
    }
}
