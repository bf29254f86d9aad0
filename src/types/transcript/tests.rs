//! The transcript's rules, whatever is done to it.

use super::*;
use pretty_assertions::assert_eq;
use proptest::prelude::*;

fn text(text: &str) -> Part {
    Part::text(text)
}

fn call(id: &str) -> Part {
    Part::ToolCall(ToolCall { id: id.into(), name: "add".into(), arguments: "{}".into(), opaque: None })
}

#[test]
fn what_changed_is_told_once_and_rebuilds_the_same() {
    let mut transcript = Transcript::new();
    let mut kept: Vec<String> = Vec::new();
    let mut keep = |transcript: &mut Transcript| {
        let changes = transcript.take_changes()?;
        kept.truncate(changes.from);
        kept.extend(changes.entries);
        assert_eq!(&Transcript::from_entries(kept.iter().map(String::as_str)).unwrap(), transcript);
        Some(changes.from)
    };
    assert_eq!(keep(&mut transcript), None);
    transcript.push_user(vec![text("hi")]).unwrap();
    transcript.push_assistant(vec![call("a"), call("b")]).unwrap();
    assert_eq!(keep(&mut transcript), Some(0));
    transcript.answer(&"b".into(), ToolResult::ok("2")).unwrap();
    assert_eq!(keep(&mut transcript), Some(1));
    transcript.close_open_calls(|_| ToolResult::error("closed"));
    assert_eq!(keep(&mut transcript), Some(1));
    let mark = transcript.mark();
    transcript.push_user(vec![text("more")]).unwrap();
    transcript.compact(2, vec![text("so far")]).unwrap();
    assert_eq!(keep(&mut transcript), Some(2));
    assert_eq!(keep(&mut transcript), None);
    transcript.rewind(mark);
    assert_eq!(keep(&mut transcript), Some(2));
    transcript.rewrite(&mut |text| (text == "hi").then(|| "ho".into()));
    assert_eq!(keep(&mut transcript), Some(0));
    assert!(Transcript::from_entries(["[{\"role\":\"tool\",\"tool_call_id\":\"x\",\"content\":\"\"}]"]).is_err());
}

#[test]
fn results_stand_in_call_order_however_they_arrive() {
    let mut transcript = Transcript::new();
    transcript.push_user(vec![text("go")]).unwrap();
    transcript.push_assistant(vec![call("a"), text("and"), call("b")]).unwrap();
    assert_eq!(transcript.push_user(vec![text("too early")]), Err(TranscriptError::OpenCalls));
    transcript.answer(&"b".into(), ToolResult::ok("2")).unwrap();
    assert_eq!(transcript.answer(&"b".into(), ToolResult::ok("again")), Err(TranscriptError::NoSuchCall("b".into())));
    transcript.answer(&"a".into(), ToolResult::ok("1")).unwrap();
    let answers: Vec<_> = transcript
        .view()
        .filter_map(|view| match view {
            View::Tool(call, result) => Some((call.id.as_str(), result.content.as_str())),
            View::User(_) | View::Assistant(_) => None,
        })
        .collect();
    assert_eq!(answers, [("a", "1"), ("b", "2")]);
}

#[test]
fn ids_are_unique_within_and_across_messages() {
    let mut transcript = Transcript::new();
    assert_eq!(transcript.push_assistant(vec![call("a"), call("a")]), Err(TranscriptError::DuplicateCall("a".into())));
    transcript.push_assistant(vec![call("a")]).unwrap();
    transcript.answer(&"a".into(), ToolResult::ok("")).unwrap();
    assert_eq!(transcript.push_assistant(vec![call("a")]), Err(TranscriptError::DuplicateCall("a".into())));
}

#[test]
fn rewinding_frees_the_ids() {
    let mut transcript = Transcript::new();
    let mark = transcript.mark();
    transcript.push_assistant(vec![call("a")]).unwrap();
    transcript.rewind(mark);
    assert_eq!(transcript, Transcript::new());
}

#[test]
fn a_stored_history_that_breaks_a_rule_is_refused() {
    let orphan = r#"[{"role":"tool","tool_call_id":"x","content":"1"}]"#;
    assert!(serde_json::from_str::<Transcript>(orphan).unwrap_err().to_string().contains("no open tool call"));
}

#[derive(Clone, Debug)]
enum Step {
    User,
    Assistant(Vec<u8>),
    Answer(u8),
    Close,
    Rewind(usize),
    Compact(usize, bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        Just(Step::User),
        proptest::collection::vec(0u8..6, 0..4).prop_map(Step::Assistant),
        (0u8..6).prop_map(Step::Answer),
        Just(Step::Close),
        (0usize..8).prop_map(Step::Rewind),
        (0usize..12, any::<bool>()).prop_map(|(from, summary)| Step::Compact(from, summary)),
    ];
    proptest::collection::vec(step, 0..40)
}

/// What every provider demands, checked on the outside view alone.
fn assert_valid(transcript: &Transcript) {
    let mut open: Vec<ToolCallId> = Vec::new();
    let mut seen = HashSet::new();
    for view in transcript.view() {
        match view {
            View::User(_) => assert_eq!(open, [], "a user message before every result"),
            View::Assistant(parts) => {
                assert_eq!(open, [], "an assistant message before every result");
                open = tool_calls(parts).map(|call| call.id.clone()).collect();
                assert!(open.iter().all(|id| seen.insert(id.clone())), "an id twice");
            }
            View::Tool(call, _) => {
                // Results come in call order; those still missing are skipped only at the very end.
                let at = open.iter().position(|id| *id == call.id).expect("a result without its call");
                open.drain(..=at);
            }
        }
    }
}

proptest! {
    #[test]
    fn no_sequence_of_changes_breaks_it(steps in steps()) {
        let mut transcript = Transcript::new();
        let mut marks = vec![transcript.mark()];
        for step in steps {
            let _ = match step {
                Step::User => transcript.push_user(vec![text("hi")]),
                Step::Assistant(ids) => {
                    let mut parts = vec![text("ok")];
                    parts.extend(ids.iter().map(|id| call(&format!("c{id}"))));
                    transcript.push_assistant(parts)
                }
                Step::Answer(id) => transcript.answer(&format!("c{id}").into(), ToolResult::ok("r")),
                Step::Close => {
                    transcript.close_open_calls(|_| ToolResult::error("not executed"));
                    assert_eq!(transcript.open_calls().count(), 0);
                    Ok(())
                }
                Step::Rewind(at) => {
                    let at = at.min(marks.len() - 1);
                    transcript.rewind(marks[at]);
                    marks.truncate(at + 1);
                    Ok(())
                }
                Step::Compact(from, summary) => {
                    transcript.compact(from, if summary { vec![text("before")] } else { vec![] })
                }
            };
            marks.push(transcript.mark());
            assert_valid(&transcript);
        }
        let stored = serde_json::to_string(&transcript).unwrap();
        let back: Transcript = serde_json::from_str(&stored).unwrap();
        assert_eq!(serde_json::to_string(&back).unwrap(), stored);
    }
}
