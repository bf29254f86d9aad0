//! Large texts, named by what they contain.

use sha2::{Digest, Sha256};
use std::fmt;

/// The SHA-256 of a blob, in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlobId(String);

impl BlobId {
    /// The id of this content.
    pub fn of(content: &[u8]) -> Self {
        let mut hex = String::with_capacity(64);
        for byte in Sha256::digest(content) {
            hex.push_str(&format!("{byte:02x}"));
        }
        Self(hex)
    }

    /// Reads `par://blob/<hash>`, or the hash alone.
    pub fn from_handle(handle: &str) -> Option<Self> {
        let hash = handle.trim().trim_start_matches("par://blob/");
        let legal = hash.len() == 64 && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        legal.then(|| Self(hash.to_owned()))
    }
}

impl fmt::Display for BlobId {
    /// As a model is given it: `par://blob/<hash>`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "par://blob/{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;

    #[test]
    fn a_handle_leads_back() {
        let id = BlobId::of(b"abc");
        assert_eq!(id.to_string(), "par://blob/ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(BlobId::from_handle(&id.to_string()), Some(id));
        assert_eq!(BlobId::from_handle("par://blob/../../etc/passwd"), None);
    }
}
