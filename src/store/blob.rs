//! Large texts, named by what they contain.

use sha2::{Digest, Sha256};
use std::fmt;

/// The SHA-256 of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlobId([u8; 32]);

impl BlobId {
    /// The id of this content.
    pub fn of(content: &[u8]) -> Self {
        Self(Sha256::digest(content).into())
    }

    /// The hash.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads `par://blob/<hash>`, or the hash alone.
    pub fn from_handle(handle: &str) -> Option<Self> {
        let hex = handle.trim().trim_start_matches("par://blob/");
        let legal = hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let mut hash = [0; 32];
        for (byte, digits) in hash.iter_mut().zip(hex.as_bytes().chunks_exact(2)).filter(|_| legal) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        legal.then_some(Self(hash))
    }
}

impl fmt::Display for BlobId {
    /// As a model is given it: `par://blob/<hash>`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("par://blob/")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
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
