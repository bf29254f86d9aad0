//! What the encoders of the wire families share: data that goes home, arguments as an object, and a clear refusal.

use super::lenient::Fields;
use crate::types::{Error, Opaque, Result, Status};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

/// The body of a request.
pub fn to_body(body: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(body).map_err(|error| Error::internal(format!("the request cannot be encoded: {error}")))
}

/// What a provider cannot take, and what it could instead.
pub fn unsupported(message: impl Into<String>, hint: impl Into<String>) -> Error {
    Error::new(Status::UnsupportedByProvider, message).with_hint(hint)
}

/// Data of `family`, as the JSON it is; nothing if another family made it.
pub fn own<'a>(opaque: Option<&'a Opaque>, family: &str) -> Result<Option<&'a RawValue>> {
    let Some(opaque) = opaque.filter(|opaque| opaque.family == family) else { return Ok(None) };
    serde_json::from_str(&opaque.data).map(Some).map_err(|error| {
        Error::new(Status::InvalidArg, format!("a part of the conversation has opaque data that is not JSON: {error}"))
            .with_hint("opaque data must come back as the provider sent it")
    })
}

/// The same, for a part that is sent with more fields than its own.
pub fn own_fields<'a>(opaque: Option<&'a Opaque>, family: &str) -> Result<Option<Fields<'a>>> {
    Ok(own(opaque, family)?.and_then(|json| Fields::read(json.get())))
}

/// Tells ids apart that begin alike, and is the same in every process (FNV-1a).
pub fn fingerprint(id: &str) -> u64 {
    id.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// Arguments of a call as the object that some APIs want; text that is none is shown to the model as what it was.
#[derive(Clone, Copy, Debug)]
pub struct ObjectArguments<'a>(pub &'a str);

impl Serialize for ObjectArguments<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match serde_json::from_str::<&RawValue>(self.0) {
            Ok(raw) if raw.get().starts_with('{') => raw.serialize(serializer),
            Ok(_) | Err(_) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("INVALID_JSON", self.0)?;
                map.end()
            }
        }
    }
}
