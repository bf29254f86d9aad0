//! Large texts, named by what they contain and the scope that they belong to.

use crate::types::Scope;
use sha2::{Digest, Sha256};
use std::fmt;

/// The SHA-256 of a blob: of its scope and its content. So the same text has another name in each scope, and a name that became
/// known outside its scope leads nowhere there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlobId([u8; 32]);

impl BlobId {
    /// The id of this content in a scope. In the default scope it is the hash of the content alone.
    pub fn of(scope: &Scope, content: &[u8]) -> Self {
        let mut hasher = Sha256::new();
        if *scope != Scope::default() {
            hasher.update(b"scope\0");
            hasher.update((scope.as_str().len() as u64).to_be_bytes());
            hasher.update(scope.as_str());
        }
        hasher.update(content);
        Self(hasher.finalize().into())
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
        let id = BlobId::of(&Scope::default(), b"abc");
        assert_eq!(id.to_string(), "par://blob/ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(BlobId::from_handle(&id.to_string()), Some(id));
        assert_eq!(BlobId::from_handle("par://blob/../../etc/passwd"), None);
    }

    #[test]
    fn the_same_text_has_another_name_in_each_scope() {
        let names = ["", "a", "b", "ab"].map(|scope| BlobId::of(&scope.into(), b"abc"));
        let unique: std::collections::HashSet<_> = names.iter().collect();
        assert_eq!(unique.len(), names.len());
    }
}
