//! The head of an event, and how the two are written as one JSON object.

use super::{EventBody, RunId, now_ms};
use serde::Serialize;
use serde_json::value::RawValue;
use std::io::Write;
use std::sync::Arc;

/// The head of every event of one run, encoded once: addressing without work per event.
///
/// Wire form: `{"v":1,"seq":n,"at_ms":t,"run_id":"…","parent_run_id"?:…,"path"?:[…],"tag"?:…,"type":…}` (json.md, "A run").
#[derive(Clone, Debug)]
pub struct Envelope {
    /// `,"run_id":"…"` and what else is the same in every event of the run.
    constant: Arc<[u8]>,
}

impl Envelope {
    /// The envelope of a run.
    pub fn new(run_id: &RunId, tag: Option<&RawValue>) -> Self {
        let mut constant = Vec::with_capacity(64);
        constant.extend_from_slice(br#","run_id":"#);
        write_json(&mut constant, run_id);
        if let Some(tag) = tag {
            constant.extend_from_slice(br#","tag":"#);
            constant.extend_from_slice(tag.get().as_bytes());
        }
        Self { constant: constant.into() }
    }

    /// The envelope of a run below another one.
    pub fn below(run_id: &RunId, parent: &RunId, path: &[String], tag: Option<&RawValue>) -> Self {
        let mut constant = Vec::with_capacity(128);
        constant.extend_from_slice(br#","run_id":"#);
        write_json(&mut constant, run_id);
        constant.extend_from_slice(br#","parent_run_id":"#);
        write_json(&mut constant, parent);
        constant.extend_from_slice(br#","path":"#);
        write_json(&mut constant, &path);
        if let Some(tag) = tag {
            constant.extend_from_slice(br#","tag":"#);
            constant.extend_from_slice(tag.get().as_bytes());
        }
        Self { constant: constant.into() }
    }

    /// Whether both are the envelope of the same run.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.constant, &other.constant)
    }

    /// Appends the event to `out` as one JSON object.
    pub fn write(&self, seq: u64, body: &EventBody<'_>, out: &mut Vec<u8>) {
        self.write_merged(seq, seq, now_ms(), body, out);
    }

    /// Appends an event that stands for all from `first_seq` to `seq`: the pieces of one text.
    pub fn write_merged(&self, first_seq: u64, seq: u64, at_ms: u64, body: &EventBody<'_>, out: &mut Vec<u8>) {
        // Writing to a vector cannot fail.
        let _ = write!(out, r#"{{"v":1,"seq":{seq}"#);
        if first_seq != seq {
            let _ = write!(out, r#","first_seq":{first_seq}"#);
        }
        let _ = write!(out, r#","at_ms":{at_ms}"#);
        out.extend_from_slice(&self.constant);
        let brace = out.len();
        write_json(out, body);
        // The body is an object: its opening brace becomes the comma that joins it to the head.
        if let Some(byte) = out.get_mut(brace) {
            *byte = b',';
        }
    }
}

/// Appends a value of our own types, which cannot fail to serialize.
fn write_json<T: Serialize>(out: &mut Vec<u8>, value: &T) {
    let start = out.len();
    if serde_json::to_writer(&mut *out, value).is_err() {
        out.truncate(start);
        out.extend_from_slice(b"{}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{FinishReason, Part, RunResult, Usage};
    use pretty_assertions::assert_eq;
    use serde_json::{Value, json};

    #[test]
    fn head_and_body_make_one_object() {
        let tag = RawValue::from_string(r#"{"a":1}"#.into()).unwrap();
        let envelope = Envelope::new(&"r1".into(), Some(&tag));
        let mut out = Vec::new();
        envelope.write(1, &EventBody::TextDelta { text: "a \"quote\"\n" }, &mut out);
        let mut event: Value = serde_json::from_slice(&out).unwrap();
        assert!(event["at_ms"].take().as_u64().unwrap() > 1_700_000_000_000);
        assert_eq!(
            event,
            json!({"v": 1, "seq": 1, "at_ms": null, "run_id": "r1", "tag": {"a": 1}, "type": "text_delta",
                   "text": "a \"quote\"\n"})
        );
    }

    #[test]
    fn a_completed_run_carries_its_result_once() {
        let result = RunResult {
            text: "hi".into(),
            parts: vec![Part::text("hi")],
            tool_calls: vec![],
            output: None,
            finish_reason: FinishReason::Stop,
            usage: Usage::default(),
            cost_usd: None,
            agent: "a".into(),
            model: "m".into(),
            iterations: 1,
            duration_ms: 5,
            session: None,
        };
        let mut out = Vec::new();
        Envelope::new(&"r1".into(), None).write(1, &EventBody::Completed(&result), &mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.matches("run_id").count(), 1);
        let event: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&event["type"], &event["text"], &event["finish_reason"]),
            (&json!("completed"), &json!("hi"), &json!("stop"))
        );
    }
}
