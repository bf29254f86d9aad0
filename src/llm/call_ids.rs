//! Ids for the tool calls of one answer: the server's own where it is new in the conversation, else one that is.

use crate::types::{ToolCallId, Transcript};
use std::collections::HashSet;

/// Hands out ids. Any number of calls takes time in proportion to it, whatever ids the server chose.
pub struct CallIds<'a> {
    transcript: &'a Transcript,
    taken: HashSet<ToolCallId>,
    /// How many messages the transcript has; counted for the first id that is made up.
    messages: Option<usize>,
    /// The last number that was tried. It only grows, so that no number is tried twice.
    last: usize,
}

impl<'a> CallIds<'a> {
    /// Ids for an answer that will be appended to `transcript`.
    pub fn new(transcript: &'a Transcript) -> Self {
        Self { transcript, taken: HashSet::new(), messages: None, last: 0 }
    }

    /// An id for a call that the server calls `wire_id`, at this place of the answer, counted from 1.
    pub fn mint(&mut self, wire_id: &str, place: usize) -> ToolCallId {
        if !wire_id.is_empty() {
            let id = ToolCallId::from(wire_id);
            if self.take(&id) {
                return id;
            }
        }
        let base = if wire_id.is_empty() { "call" } else { wire_id };
        let messages = *self.messages.get_or_insert_with(|| self.transcript.len());
        loop {
            self.last = (self.last + 1).max(place);
            let id = ToolCallId::from(format!("{base}_{}", messages + self.last));
            if self.take(&id) {
                return id;
            }
        }
    }

    /// Forgets the ids of this answer: the server began it again.
    pub fn restart(&mut self) {
        self.taken.clear();
        self.last = 0;
    }

    fn take(&mut self, id: &ToolCallId) -> bool {
        !self.transcript.has_call(id) && self.taken.insert(id.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;

    #[test]
    fn an_id_of_the_server_is_kept_where_it_is_new() {
        let transcript = Transcript::new();
        let mut ids = CallIds::new(&transcript);
        let minted: Vec<_> =
            ["a", "", "a", "call_4", "", "a"].iter().zip(1..).map(|(id, at)| ids.mint(id, at).to_string()).collect();
        assert_eq!(minted, ["a", "call_2", "a_3", "call_4", "call_5", "a_6"]);
        ids.restart();
        assert_eq!(ids.mint("a", 1).as_str(), "a");
    }

    #[test]
    fn numbers_that_the_server_took_are_passed_over_once() {
        let transcript = Transcript::new();
        let mut ids = CallIds::new(&transcript);
        let many = 200_000;
        for number in 1..=many {
            ids.mint(&format!("call_{}", many + number), number);
        }
        // Each of these would pass over all of the above again if a number were tried twice.
        for place in many + 1..=2 * many {
            ids.mint("", place);
        }
        assert_eq!(ids.last, 3 * many);
    }
}
