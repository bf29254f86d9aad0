//! What a filter of streamed text is: text goes in by pieces and comes out filtered, as late as it must and as soon as it
//! can.

/// A filter of text that arrives piece by piece.
///
/// However a text is cut into pieces, what comes out is the same.
pub trait StreamFilter: Send {
    /// Takes the next piece and appends to `out` what can no longer change.
    fn push(&mut self, text: &str, out: &mut String);

    /// The text has ended: appends what was held back. The filter is then as new, ready for another text.
    fn finish(&mut self, out: &mut String);
}
