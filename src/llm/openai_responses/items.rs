//! The items of a response, found by what an event says of them: the index, else the id, else the last one.

use crate::llm::BlockId;
use std::collections::HashMap;

/// What kind of item it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// Words.
    Message,
    /// Reasoning.
    Reasoning,
    /// A call.
    Call,
    /// Kept as JSON.
    Unknown,
}

/// An item that may still grow.
pub struct Item {
    /// `output_index`, where the server sends one.
    index: Option<u64>,
    /// Its block of the answer.
    pub block: BlockId,
    /// Which paragraph of a reasoning item is being written.
    pub paragraph: u64,
}

/// The items in the order they came in. Each is found at a constant cost.
#[derive(Default)]
pub struct Items {
    items: Vec<Item>,
    by_index: HashMap<(Shape, u64), usize>,
    all: ById,
    /// Those that came without an index.
    unindexed: ById,
}

/// The newest items, by their place in [`Items`].
#[derive(Default)]
struct ById {
    last: HashMap<Shape, usize>,
    /// An item without an id stands under the empty one.
    by_id: HashMap<Shape, HashMap<String, usize>>,
}

impl ById {
    fn push(&mut self, shape: Shape, id: &str, at: usize) {
        self.last.insert(shape, at);
        self.by_id.entry(shape).or_default().insert(id.to_owned(), at);
    }

    /// The newest one that may have this id.
    fn find(&self, shape: Shape, id: &str) -> Option<usize> {
        if id.is_empty() {
            return self.last.get(&shape).copied();
        }
        let by_id = self.by_id.get(&shape)?;
        by_id.get(id).max(by_id.get("")).copied()
    }
}

impl Items {
    /// Adds an item.
    pub fn push(&mut self, index: Option<u64>, id: &str, block: BlockId, shape: Shape) {
        let at = self.items.len();
        self.items.push(Item { index, block, paragraph: 0 });
        self.all.push(shape, id, at);
        match index {
            Some(index) => {
                self.by_index.insert((shape, index), at);
            }
            None => self.unindexed.push(shape, id, at),
        }
    }

    /// The block of an item.
    pub fn find(&self, index: Option<u64>, id: &str, shape: Shape) -> Option<BlockId> {
        self.items.get(self.place(index, id, shape)?).map(|item| item.block)
    }

    /// An item.
    pub fn find_mut(&mut self, index: Option<u64>, id: &str, shape: Shape) -> Option<&mut Item> {
        let at = self.place(index, id, shape)?;
        self.items.get_mut(at)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The blocks in the order of their indexes; none if they came in it.
    pub fn order(&mut self) -> Option<impl Iterator<Item = BlockId>> {
        if self.items.is_sorted_by_key(|item| item.index) {
            return None;
        }
        self.items.sort_by_key(|item| item.index);
        Some(self.items.iter().map(|item| item.block))
    }

    fn place(&self, index: Option<u64>, id: &str, shape: Shape) -> Option<usize> {
        match index {
            Some(index) => self.by_index.get(&(shape, index)).copied().max(self.unindexed.find(shape, id)),
            None => self.all.find(shape, id),
        }
    }
}
