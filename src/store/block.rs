//! Events as they are stored: in blocks of one run's consecutive events, chained by hash.
//!
//! A block's body is a byte that says how the rest is written, and the events, one JSON object a line: 0 plain, 1 an LZ4
//! block (lz4 block format, its length in front as four bytes, little-endian). Its hash is the SHA-256 of the hash of the
//! block before (32 zero bytes before the first), of `first_seq`, `last_seq`, `first_at_ms`, `last_at_ms` and `types` as
//! eight bytes each, big-endian, and of the body. So a changed, missing or exchanged block breaks the chain.

use crate::types::{Error, Result, Status};
use lz4_flex::block::{CompressTable, compress_into_with_table, get_maximum_output_size};
use sha2::{Digest, Sha256};
use std::cell::RefCell;

/// A block. See the module's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventBlock {
    /// What it is about.
    pub head: BlockHead,
    /// The events.
    pub body: Vec<u8>,
    /// What the next block is chained to.
    pub hash: [u8; 32],
}

/// What a block is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockHead {
    /// Number of its first event.
    pub first_seq: u64,
    /// Number of its last event.
    pub last_seq: u64,
    /// When the first happened.
    pub first_at_ms: u64,
    /// When the last happened.
    pub last_at_ms: u64,
    /// The set of their types.
    pub types: u64,
}

/// Below this, compressing saves nothing.
const WORTH_COMPRESSING: usize = 256;

const PLAIN: u8 = 0;
const LZ4: u8 = 1;
/// What stands before compressed lines: how they are written, and their length.
const HEAD: usize = 5;

impl EventBlock {
    /// The block of these lines, behind the block whose hash is `chain`.
    pub fn new(head: BlockHead, lines: &[u8], chain: &[u8; 32]) -> Self {
        let body = compressed(lines).unwrap_or_else(|| [&[PLAIN], lines].concat());
        let hash = hash(&head, &body, chain);
        Self { head, body, hash }
    }
}

/// The body of a block that is worth compressing.
fn compressed(lines: &[u8]) -> Option<Vec<u8>> {
    thread_local! {
        /// Emptied for each block: as large as many blocks, and not to be allocated for each.
        static TABLE: RefCell<CompressTable> = RefCell::new(CompressTable::small());
    }
    let size = u32::try_from(lines.len()).ok().filter(|_| lines.len() >= WORTH_COMPRESSING)?;
    let most = HEAD + get_maximum_output_size(lines.len());
    let mut body = Vec::with_capacity(most);
    body.push(LZ4);
    body.extend_from_slice(&size.to_le_bytes());
    body.resize(most, 0);
    let packed = body.get_mut(HEAD..)?;
    let written = TABLE.with_borrow_mut(|table| compress_into_with_table(lines, packed, table)).ok()?;
    body.truncate(HEAD + written);
    Some(body)
}

/// The hash of a block.
pub fn hash(head: &BlockHead, body: &[u8], chain: &[u8; 32]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(chain);
    for number in [head.first_seq, head.last_seq, head.first_at_ms, head.last_at_ms, head.types] {
        hasher.update(number.to_be_bytes());
    }
    hasher.update(body);
    hasher.finalize().into()
}

/// Follows the blocks of one run, and tells where its chain is broken.
#[derive(Debug, Default)]
pub struct ChainCheck {
    /// The number of the last event, and the hash of its block.
    last: Option<(u64, [u8; 32])>,
}

impl ChainCheck {
    /// Looks at the next block.
    pub fn next(&mut self, block: &EventBlock) -> std::result::Result<(), String> {
        let head = &block.head;
        let before = match self.last {
            Some((_, hash)) => Some(hash),
            // The run's first, unless those before were too old.
            None => (head.first_seq == 1).then_some([0; 32]),
        };
        let is_next = self.last.is_none_or(|(seq, _)| head.first_seq == seq + 1);
        self.last = Some((head.last_seq, block.hash));
        if !is_next || head.last_seq < head.first_seq {
            return Err(format!("events before {} are missing", head.first_seq));
        }
        let is_blank = block.body.is_empty();
        if let Some(before) = before.filter(|_| !is_blank)
            && hash(head, &block.body, &before) != block.hash
        {
            return Err(format!(
                "events {} to {} were changed, or those before them are missing",
                head.first_seq, head.last_seq
            ));
        }
        Ok(())
    }

    /// Whether the run ends as it should. A run without any block may be one whose blocks were too old.
    pub fn end(self, last_seq: u64, chain: &[u8; 32]) -> Option<String> {
        let (seq, hash) = self.last?;
        (seq != last_seq || hash != *chain).then(|| format!("its events end with {seq} and should end with {last_seq}"))
    }
}

/// The lines of a block.
pub fn lines(body: &[u8]) -> Result<Vec<u8>> {
    /// No block is larger; a damaged length must not take all memory.
    const MOST: u32 = 1 << 30;
    let damaged = |what: &str| {
        Error::new(Status::Persistence, format!("a block of events cannot be read: {what}"))
            .with_code("store_corrupt")
            .with_hint("store.verify tells what else is damaged; restore a backup")
    };
    match body.split_first() {
        Some((&PLAIN, lines)) => Ok(lines.to_vec()),
        Some((&LZ4, packed)) => {
            let size = packed.first_chunk::<4>().map(|size| u32::from_le_bytes(*size));
            // A byte of LZ4 stands for 255 at most.
            let possible = (packed.len() as u64).saturating_mul(255);
            if size.is_none_or(|size| size > MOST || u64::from(size) > possible) {
                return Err(damaged("its length is wrong"));
            }
            lz4_flex::block::decompress_size_prepended(packed).map_err(|error| damaged(&error.to_string()))
        }
        Some((other, _)) => Err(damaged(&format!("its form {other} is not known"))),
        None => Err(damaged("it is empty")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_block_reads_back_and_any_change_breaks_its_hash(
            text in prop::collection::vec(any::<u8>(), 0..2_000), repeat in 1usize..4, at in any::<prop::sample::Index>(),
        ) {
            let all = text.repeat(repeat);
            let head = BlockHead { first_seq: 1, last_seq: 9, first_at_ms: 5, last_at_ms: 6, types: 3 };
            let block = EventBlock::new(head, &all, &[7; 32]);
            prop_assert_eq!(lines(&block.body).unwrap(), all);
            let mut changed = block.body.clone();
            let at = at.index(changed.len());
            changed[at] ^= 1;
            prop_assert_ne!(hash(&head, &changed, &[7; 32]), block.hash);
            let _ = lines(&changed);
        }
    }

    #[test]
    fn the_head_and_the_block_before_are_part_of_the_hash() {
        let head = BlockHead { first_seq: 1, last_seq: 9, first_at_ms: 5, last_at_ms: 6, types: 3 };
        let block = EventBlock::new(head, b"{}\n", &[7; 32]);
        let other = BlockHead { last_seq: 10, ..head };
        assert_ne!(hash(&other, &block.body, &[7; 32]), block.hash);
        assert_ne!(hash(&head, &block.body, &[8; 32]), block.hash);
        assert_eq!(hash(&head, &block.body, &[7; 32]), block.hash);
    }

    #[test]
    fn damage_is_told() {
        for body in [
            &[][..],
            &[9, 1],
            &[LZ4, 1],
            &[LZ4, 255, 255, 255, 255, 0],
            &[LZ4, 0, 0, 0, 63, 0, 0, 0],
            &[LZ4, 4, 0, 0, 0, 200],
        ] {
            assert_eq!(lines(body).unwrap_err().code(), Some("store_corrupt"), "{body:?}");
        }
    }
}
