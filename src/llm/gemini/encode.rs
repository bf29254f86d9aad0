//! A [`ModelRequest`] → the body of a request. Pure: no I/O, no clock, no ids, so equal requests are equal bytes. What
//! stays the same from turn to turn stands in front. The model's name is not in the body but in the URL.
//!
//! Source: Gemini API reference, `generateContent`; "Thought signatures"; "Function calling". Schemas are sent as JSON
//! Schema (`parametersJsonSchema`, `responseJsonSchema`), not in Google's own dialect.

use super::FAMILY;
use crate::llm::lenient::Fields;
use crate::llm::outgoing::{ObjectArguments, own, own_fields, to_body, unsupported};
use crate::llm::{ModelRequest, ToolChoice};
use crate::types::{Media, MediaSource, Part, Result, ToolCall, ToolResult, ToolSpec, View};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

/// What differs between models and settings. Whether the answer is streamed is a matter of the URL.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dialect {
    /// Gemini 3 and later: a turn's first call must be signed, and tools go with structured output.
    pub is_gemini_3: bool,
    /// How much the model thinks.
    pub thinking: Option<Thinking>,
    /// Whether it shows summaries of its thoughts.
    pub include_thoughts: bool,
}

/// How much the model thinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thinking {
    /// Tokens, before Gemini 3: 0 is not at all, -1 as the model likes.
    Budget(i32),
    /// From Gemini 3 on.
    Level(ThinkingLevel),
}

/// How much a Gemini 3 model thinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ThinkingLevel {
    /// Hardly.
    Minimal,
    /// A little.
    Low,
    /// Some.
    Medium,
    /// Much.
    High,
}

/// Stands for the signature of a call that this API has not made; documented for histories from elsewhere.
const FOREIGN_SIGNATURE: &str = "skip_thought_signature_validator";

/// The body of a request, as JSON.
pub fn encode(request: &ModelRequest<'_>, dialect: &Dialect) -> Result<Vec<u8>> {
    let model = request.model;
    if request.output.is_some() && !request.tools.is_empty() && !dialect.is_gemini_3 {
        return Err(unsupported(
            "Gemini before 3 takes no response schema beside tools",
            "use a Gemini 3 model, or have the schema kept by a tool",
        ));
    }
    let thinking = ThinkingConfig {
        thinking_budget: match dialect.thinking {
            Some(Thinking::Budget(budget)) => Some(budget),
            Some(Thinking::Level(_)) | None => None,
        },
        thinking_level: match dialect.thinking {
            Some(Thinking::Level(level)) => Some(level),
            Some(Thinking::Budget(_)) | None => None,
        },
        include_thoughts: dialect.include_thoughts.then_some(true),
    };
    let generation = GenerationConfig {
        temperature: model.temperature,
        top_p: model.top_p,
        max_output_tokens: request.output_limit(),
        stop_sequences: &model.stop_sequences,
        response_mime_type: request.output.map(|_| "application/json"),
        response_json_schema: request.output.map(|output| &*output.schema),
        thinking_config: (!thinking.is_empty()).then_some(thinking),
    };
    let body = Body {
        generation_config: (!generation.is_empty()).then_some(generation),
        tool_config: (!request.tools.is_empty()).then(|| tool_config(request.tool_choice)).flatten(),
        tools: (!request.tools.is_empty()).then_some([Tools { function_declarations: Declarations(request.tools) }]),
        system_instruction: request
            .system
            .filter(|system| !system.trim().is_empty())
            .map(|text| System { parts: [PlainText { text }] }),
        contents: contents(request, dialect)?,
    };
    to_body(&body)
}

fn tool_config(choice: ToolChoice<'_>) -> Option<ToolConfig<'_>> {
    let (mode, allowed_function_names) = match choice {
        ToolChoice::Auto => return None,
        ToolChoice::None => ("NONE", None),
        ToolChoice::Required => ("ANY", None),
        ToolChoice::Tool(name) => ("ANY", Some([name])),
    };
    Some(ToolConfig { function_calling_config: CallingConfig { mode, allowed_function_names } })
}

fn contents<'a>(request: &ModelRequest<'a>, dialect: &Dialect) -> Result<Vec<Content<'a>>> {
    let mut contents: Vec<Content<'a>> = Vec::new();
    // What tools showed besides stands behind all of their answers: those must follow their calls at once.
    let mut shown = Vec::new();
    for view in request.transcript.view() {
        let (kind, parts) = match view {
            View::User(parts) => (Kind::User, user(parts)?),
            View::Assistant(parts) => (Kind::Model, assistant(parts, dialect)?),
            View::Tool(call, result) => {
                shown.extend(user(&result.parts)?);
                (Kind::Answers, vec![answer(call, result)])
            }
        };
        if !matches!(view, View::Tool(..)) && !shown.is_empty() {
            contents.push(Content { kind: Kind::User, parts: std::mem::take(&mut shown) });
        }
        if parts.is_empty() {
            continue;
        }
        if contents.is_empty() && kind == Kind::Model {
            // What came before is not in sight any more, and the API wants the user to begin.
            contents.push(Content { kind: Kind::User, parts: vec![Wire::text("(continued)")] });
        }
        match contents.last_mut().filter(|last| last.kind == kind) {
            Some(last) => last.parts.extend(parts),
            None => contents.push(Content { kind, parts }),
        }
    }
    if !shown.is_empty() {
        contents.push(Content { kind: Kind::User, parts: shown });
    }
    Ok(contents)
}

fn user(parts: &[Part]) -> Result<Vec<Wire<'_>>> {
    let mut wire = Vec::with_capacity(parts.len());
    for part in parts {
        match part {
            Part::Text { text, .. } if text.is_empty() => {}
            Part::Text { text, .. } => wire.push(Wire::text(text)),
            Part::Image(item) | Part::Document(item) | Part::Audio(item) => wire.push(media(item)),
            Part::Opaque(opaque) => wire.extend(own(Some(opaque), FAMILY)?.map(Wire::Raw)),
            // A user neither reasons nor calls, and the API caches by itself.
            Part::Reasoning { .. } | Part::ToolCall(_) | Part::CachePoint(_) => {}
        }
    }
    Ok(wire)
}

fn assistant<'a>(parts: &'a [Part], dialect: &Dialect) -> Result<Vec<Wire<'a>>> {
    let mut wire = Vec::with_capacity(parts.len());
    let mut needs_signature = dialect.is_gemini_3;
    for part in parts {
        match part {
            Part::Text { text, opaque } => {
                let extra = own_fields(opaque.as_deref(), FAMILY)?;
                if !text.is_empty() || extra.is_some() {
                    wire.push(Wire::Text { text, thought: None, extra: extra.unwrap_or_default() });
                }
            }
            Part::Reasoning { text, opaque } => {
                // What is not signed is a summary for people, or another model's.
                if let Some(extra) = own_fields(opaque.as_deref(), FAMILY)? {
                    wire.push(Wire::Text { text, thought: Some(true), extra });
                }
            }
            Part::ToolCall(call) => {
                let data = own_fields(call.opaque.as_deref(), FAMILY)?.unwrap_or_default();
                let is_signed = data.get("thoughtSignature").is_some();
                let thought_signature = (needs_signature && !is_signed).then_some(FOREIGN_SIGNATURE);
                needs_signature = false;
                let id = data.get("id");
                let function_call = Call { id, name: &call.name, args: ObjectArguments(&call.arguments) };
                wire.push(Wire::Call { function_call, thought_signature, extra: data.without(&["id"]) });
            }
            Part::Image(item) | Part::Document(item) | Part::Audio(item) => wire.push(media(item)),
            Part::Opaque(opaque) => wire.extend(own(Some(opaque), FAMILY)?.map(Wire::Raw)),
            Part::CachePoint(_) => {}
        }
    }
    Ok(wire)
}

fn answer<'a>(call: &'a ToolCall, result: &'a ToolResult) -> Wire<'a> {
    // The call's own id, where the server gave it one; otherwise order and name tell.
    let id = own_fields(call.opaque.as_deref(), FAMILY).ok().flatten().and_then(|fields| fields.get("id"));
    let response = match result.is_error {
        true => Response { output: None, error: Some(&result.content) },
        false => Response { output: Some(&result.content), error: None },
    };
    Wire::Answer { function_response: FunctionResponse { id, name: &call.name, response } }
}

fn media(media: &Media) -> Wire<'_> {
    match &media.source {
        MediaSource::Url { url, media_type } => {
            Wire::File { file_data: File { mime_type: media_type.as_deref(), file_uri: url } }
        }
        MediaSource::Data { media_type, data } => Wire::Inline { inline_data: Inline { mime_type: media_type, data } },
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    generation_config: Option<GenerationConfig<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_config: Option<ToolConfig<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tools: Option<[Tools<'a>; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system_instruction: Option<System<'a>>,
    contents: Vec<Content<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GenerationConfig<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_output_tokens: Option<u32>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stop_sequences: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    response_mime_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_json_schema: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking_config: Option<ThinkingConfig>,
}

impl GenerationConfig<'_> {
    fn is_empty(&self) -> bool {
        self.temperature.is_none()
            && self.top_p.is_none()
            && self.max_output_tokens.is_none()
            && self.stop_sequences.is_empty()
            && self.response_json_schema.is_none()
            && self.thinking_config.is_none()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ThinkingConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking_budget: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking_level: Option<ThinkingLevel>,
    #[serde(skip_serializing_if = "Option::is_none")]
    include_thoughts: Option<bool>,
}

impl ThinkingConfig {
    fn is_empty(&self) -> bool {
        self.thinking_budget.is_none() && self.thinking_level.is_none() && self.include_thoughts.is_none()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ToolConfig<'a> {
    function_calling_config: CallingConfig<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CallingConfig<'a> {
    mode: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed_function_names: Option<[&'a str; 1]>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Tools<'a> {
    function_declarations: Declarations<'a>,
}

struct Declarations<'a>(&'a [ToolSpec]);

impl Serialize for Declarations<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Declaration<'a> {
            name: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            description: &'a str,
            parameters_json_schema: &'a RawValue,
        }
        serializer.collect_seq(self.0.iter().map(|tool| Declaration {
            name: &tool.name,
            description: &tool.description,
            parameters_json_schema: &tool.input_schema,
        }))
    }
}

#[derive(Serialize)]
struct System<'a> {
    parts: [PlainText<'a>; 1],
}

#[derive(Serialize)]
struct PlainText<'a> {
    text: &'a str,
}

#[derive(Serialize)]
struct Content<'a> {
    #[serde(rename = "role")]
    kind: Kind,
    parts: Vec<Wire<'a>>,
}

/// Who speaks. Answers of tools are the user's, but stand in a content of their own.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
enum Kind {
    #[serde(rename = "user")]
    User,
    #[serde(rename = "model")]
    Model,
    #[serde(rename = "user")]
    Answers,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Wire<'a> {
    Text {
        text: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        thought: Option<bool>,
        #[serde(flatten)]
        extra: Fields<'a>,
    },
    #[serde(rename_all = "camelCase")]
    Call {
        function_call: Call<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        thought_signature: Option<&'static str>,
        #[serde(flatten)]
        extra: Fields<'a>,
    },
    #[serde(rename_all = "camelCase")]
    Answer {
        function_response: FunctionResponse<'a>,
    },
    #[serde(rename_all = "camelCase")]
    Inline {
        inline_data: Inline<'a>,
    },
    #[serde(rename_all = "camelCase")]
    File {
        file_data: File<'a>,
    },
    Raw(&'a RawValue),
}

impl<'a> Wire<'a> {
    fn text(text: &'a str) -> Self {
        Self::Text { text, thought: None, extra: Fields::default() }
    }
}

#[derive(Serialize)]
struct Call<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a RawValue>,
    name: &'a str,
    args: ObjectArguments<'a>,
}

#[derive(Serialize)]
struct FunctionResponse<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a RawValue>,
    name: &'a str,
    response: Response<'a>,
}

#[derive(Serialize)]
struct Response<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Inline<'a> {
    mime_type: &'a str,
    data: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct File<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    mime_type: Option<&'a str>,
    file_uri: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::OutputSchema;
    use crate::llm::testing::{Asked, call, data, raw, tool, url};
    use crate::types::{Opaque, Status};
    use pretty_assertions::assert_eq;
    use serde_json::{Value, json};

    const PLAIN: Dialect = Dialect { is_gemini_3: false, thinking: None, include_thoughts: false };
    const THREE: Dialect = Dialect { is_gemini_3: true, thinking: None, include_thoughts: false };

    fn body(asked: &Asked, dialect: &Dialect) -> Value {
        serde_json::from_slice(&encode(&asked.request(), dialect).unwrap()).unwrap()
    }

    fn text(asked: &Asked, dialect: &Dialect) -> String {
        String::from_utf8(encode(&asked.request(), dialect).unwrap()).unwrap()
    }

    fn ours(data: &str) -> Option<Box<Opaque>> {
        Some(Box::new(Opaque { family: "gemini".into(), data: data.into() }))
    }

    fn signed_call(id: &str, data: &str) -> Part {
        let arguments = r#"{"x": 1.0}"#.into();
        Part::ToolCall(ToolCall { id: id.into(), name: "add".into(), arguments, opaque: ours(data) })
    }

    #[test]
    fn a_conversation_becomes_contents() {
        let mut asked = Asked::of("gemini");
        let transcript = &mut asked.transcript;
        transcript.push_user(vec![Part::text("look"), Part::Audio(data("audio/wav"))]).unwrap();
        transcript
            .push_assistant(vec![
                Part::reasoning("a summary"),
                Part::Text { text: String::new(), opaque: ours(r#"{"thoughtSignature":"s0"}"#) },
                Part::text("I add."),
                signed_call("a", r#"{"thoughtSignature":"s1","id":"wire"}"#),
                call("b", "add", "not json"),
            ])
            .unwrap();
        let mut seen = ToolResult::ok("3");
        seen.parts = vec![Part::Image(url("https://h/i.png"))];
        transcript.answer(&"a".into(), seen).unwrap();
        transcript.answer(&"b".into(), ToolResult::error("bad")).unwrap();
        transcript.push_user(vec![Part::text("and?")]).unwrap();
        assert_eq!(
            body(&asked, &THREE)["contents"],
            json!([
                {"role": "user", "parts": [
                    {"text": "look"}, {"inlineData": {"mimeType": "audio/wav", "data": "aGk="}}]},
                {"role": "model", "parts": [
                    {"text": "", "thoughtSignature": "s0"},
                    {"text": "I add."},
                    {"functionCall": {"id": "wire", "name": "add", "args": {"x": 1.0}}, "thoughtSignature": "s1"},
                    {"functionCall": {"name": "add", "args": {"INVALID_JSON": "not json"}}}]},
                {"role": "user", "parts": [
                    {"functionResponse": {"id": "wire", "name": "add", "response": {"output": "3"}}},
                    {"functionResponse": {"name": "add", "response": {"error": "bad"}}}]},
                {"role": "user", "parts": [{"fileData": {"fileUri": "https://h/i.png"}}, {"text": "and?"}]}])
        );
    }

    #[test]
    fn the_body_has_what_was_asked_for_and_nothing_else() {
        let mut asked = Asked::of("gemini");
        asked.transcript.push_user(vec![Part::text("hi")]).unwrap();
        assert_eq!(text(&asked, &PLAIN), r#"{"contents":[{"role":"user","parts":[{"text":"hi"}]}]}"#);
        asked.model.temperature = Some(0.5);
        asked.model.top_p = Some(0.9);
        asked.model.stop_sequences = vec!["END".into()];
        asked.max_tokens = Some(10);
        asked.system = Some("S");
        asked.tools = vec![tool("add")];
        asked.tool_choice = ToolChoice::Tool("add");
        asked.output = Some(OutputSchema { name: "o".into(), schema: raw(r#"{"type":"object"}"#) });
        let dialect = Dialect { thinking: Some(Thinking::Level(ThinkingLevel::Low)), include_thoughts: true, ..THREE };
        assert_eq!(
            text(&asked, &dialect),
            concat!(
                r#"{"generationConfig":{"temperature":0.5,"topP":0.9,"maxOutputTokens":10,"stopSequences":["END"],"#,
                r#""responseMimeType":"application/json","responseJsonSchema":{"type":"object"},"#,
                r#""thinkingConfig":{"thinkingLevel":"low","includeThoughts":true}},"#,
                r#""toolConfig":{"functionCallingConfig":{"mode":"ANY","allowedFunctionNames":["add"]}},"#,
                r#""tools":[{"functionDeclarations":[{"name":"add","description":"Does add.","#,
                r#""parametersJsonSchema":{"type":"object"}}]}],"#,
                r#""systemInstruction":{"parts":[{"text":"S"}]},"#,
                r#""contents":[{"role":"user","parts":[{"text":"hi"}]}]}"#
            )
        );
        let error = encode(&asked.request(), &PLAIN).unwrap_err();
        assert_eq!(error.status(), Status::UnsupportedByProvider);
        assert!(error.hint().is_some());
        let budget = Dialect { thinking: Some(Thinking::Budget(-1)), ..THREE };
        assert_eq!(body(&asked, &budget)["generationConfig"]["thinkingConfig"], json!({"thinkingBudget": -1}));
    }

    #[test]
    fn only_the_first_call_of_a_foreign_turn_gets_the_placeholder() {
        let mut asked = Asked::of("gemini");
        asked.transcript.push_assistant(vec![call("a", "add", "{}"), call("b", "add", "{}")]).unwrap();
        asked.transcript.close_open_calls(|_| ToolResult::ok(""));
        let contents = body(&asked, &THREE)["contents"].take();
        assert_eq!(contents[0], json!({"role": "user", "parts": [{"text": "(continued)"}]}));
        assert_eq!(contents[1]["parts"][0]["thoughtSignature"], FOREIGN_SIGNATURE);
        assert_eq!(contents[1]["parts"][1].get("thoughtSignature"), None);
        assert!(!text(&asked, &PLAIN).contains("thoughtSignature"));
    }

    #[test]
    fn opaque_parts_go_back_byte_for_byte_and_only_home() {
        let part = r#"{"executableCode" : {"code":"1 \u003c 2"}}"#;
        let mut asked = Asked::of("gemini");
        asked.transcript.push_user(vec![Part::text("a")]).unwrap();
        let own = Opaque { family: "gemini".into(), data: part.into() };
        let foreign = Opaque { family: "anthropic".into(), data: r#"{"x":1}"#.into() };
        let reasoning = Part::Reasoning { text: "hm".into(), opaque: Some(Box::new(foreign.clone())) };
        asked.transcript.push_assistant(vec![reasoning, Part::Opaque(foreign), Part::Opaque(own)]).unwrap();
        let body = text(&asked, &PLAIN);
        assert!(body.contains(&format!(r#"{{"role":"model","parts":[{part}]}}"#)), "{body}");
    }
}
