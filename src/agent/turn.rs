//! One model request of a run, with everything that stands around it: the window, middleware, budgets, retries.

use super::context;
use super::credentials::HostCredentials;
use super::setup::{Fallback, Setup};
use super::sink::{Joint, TurnSink};
use super::structured::{ANSWER_TOOL, Means, Structured};
use super::work::Work;
use crate::config::{CacheStrategy, ModelConfig, ModelProfile};
use crate::llm::{DeltaSink, ModelAnswer, ModelRequest, Provider, ToolChoice, generate};
use crate::middleware::{BeforeLlm, LlmCall, OnError, Scene};
use crate::types::{Category, Error, EventBody, FinishReason, Part, Result, Status, ToolSpec, Usage};
use std::borrow::Cow;
use std::sync::atomic::Ordering;

/// How one request differs from the others of its run.
#[derive(Default)]
pub struct Ask<'a> {
    /// The answer shall fit a schema.
    pub structured: Option<(&'a Structured, Means)>,
    /// It continues a text.
    pub joint: Option<&'a mut Joint>,
    /// No tool may be called any more.
    pub without_tools: bool,
    /// The most tokens, where it shall be another bound than the agent's.
    pub max_tokens: Option<u32>,
}

/// What came of it.
pub struct Answered {
    /// The answer, after middleware.
    pub answer: ModelAnswer,
    /// The number of its first event.
    pub first_seq: u64,
}

/// How often a conversation that the provider finds too long is shortened before that is an error.
const MOST_REACTIVE_COMPACTIONS: u32 = 2;

/// How often a host may ask for the same request once more.
const MOST_HOST_RETRIES: u32 = 3;

/// Asks the model. Cancel safe.
pub async fn ask(work: &mut Work<'_>, mut ask: Ask<'_>) -> Result<Answered> {
    let (mut compactions, mut retries) = (0, 0);
    loop {
        let setup = work.setup.clone();
        let mut system = work.system.clone();
        if let Some((structured, Means::Prompted)) = ask.structured {
            let directive = structured.directive();
            system = Some(system.map_or_else(|| directive.clone(), |system| format!("{system}\n\n{directive}")));
        }
        context::fit(work, system.as_deref(), false).await?;
        let specs = offered(&setup, &ask);
        let mut call = LlmCall { transcript: work.transcript(), tools: &specs, system, added: Vec::new() };
        let decided = setup.chain.before_llm(work.scene(), &mut call).await?;
        let LlmCall { system, added, .. } = call;
        // Asked again for the same request, a hook says the same again.
        for text in added.into_iter().filter(|_| compactions + retries == 0) {
            let text = vec![Part::text(setup.chain.mask(&text))];
            work.transcript_mut().push_user(text).map_err(|error| Error::internal(error.to_string()))?;
        }
        match decided {
            BeforeLlm::Go => {}
            BeforeLlm::Answer(text) => return Ok(given(work, text)),
            BeforeLlm::Block(why) => return Err(Error::new(Status::Guard, why).with_code("blocked")),
        }
        work.watch_prefix(system.as_deref());
        let Broken { error, first_seq } = match request(work, &mut ask, system.as_deref(), &specs).await {
            Ok(mut answered) => {
                setup.chain.after_llm(work.scene(), &mut answered.answer).await?;
                return Ok(answered);
            }
            Err(broken) => broken,
        };
        // What cannot be shortened is the provider's error.
        if error.status() == Status::ContextLength
            && compactions < MOST_REACTIVE_COMPACTIONS
            && context::fit(work, system.as_deref(), true).await?
        {
            compactions += 1;
            void(work, first_seq, compactions + retries + 1, &error);
            continue;
        }
        match setup.chain.on_error(work.scene(), &error).await? {
            OnError::Retry if retries < MOST_HOST_RETRIES => {
                retries += 1;
                void(work, first_seq, compactions + retries + 1, &error);
            }
            OnError::Answer(text) => {
                void(work, first_seq, compactions + retries + 1, &error);
                return Ok(given(work, text));
            }
            OnError::Retry | OnError::Fail => return Err(error),
        }
    }
}

/// The tools of this request.
fn offered<'s>(setup: &'s Setup, ask: &Ask<'_>) -> Cow<'s, [ToolSpec]> {
    let Some((structured, Means::Tool)) = ask.structured else { return Cow::Borrowed(&setup.specs) };
    let mut specs = setup.specs.clone();
    let at = specs.partition_point(|spec| spec.name.as_str() < ANSWER_TOOL);
    specs.insert(at, structured.tool());
    Cow::Owned(specs)
}

/// Asks the agent's model, and where it cannot be reached, the models of the fallback.
async fn request(
    work: &mut Work<'_>,
    ask: &mut Ask<'_>,
    system: Option<&str>,
    specs: &[ToolSpec],
) -> Result<Answered, Broken> {
    let setup = work.setup.clone();
    let mut number = 0;
    loop {
        let Some(candidate) = Candidate::of(&setup, number) else {
            return Err(Broken { error: Error::internal("no model was asked"), first_seq: None });
        };
        number += 1;
        let first_seq = work.emitter.next_seq();
        let (answer, has_emitted) = request_of(work, ask, system, specs, candidate).await;
        match (answer, Candidate::of(&setup, number)) {
            (Ok(answer), _) => return Ok(Answered { answer, first_seq }),
            (Err(error), Some(next)) if !has_emitted && leaves_hope(&error) => {
                let (from, to) = (candidate.name(), next.name());
                tracing::warn!("{from} cannot be reached, asking {to}: {error}");
                work.emitter.emit(&EventBody::Fallback { from: &from, to: &to, error: &error });
            }
            (Err(error), _) => return Err(Broken { error, first_seq: has_emitted.then_some(first_seq) }),
        }
    }
}

/// A request that came to nothing.
struct Broken {
    error: Error,
    /// The number of its first event, if anybody has read of it.
    first_seq: Option<u64>,
}

/// What was told of a broken request counts no more.
fn void(work: &Work<'_>, first_seq: Option<u64>, attempt: u32, error: &Error) {
    if let Some(discard_from_seq) = first_seq {
        work.emitter.emit(&EventBody::TurnRetried { attempt, delay_ms: 0, discard_from_seq, error });
    }
}

/// A model that may answer.
#[derive(Clone, Copy)]
struct Candidate<'s> {
    model: &'s ModelConfig,
    provider: &'s dyn Provider,
    profile: &'s ModelProfile,
}

impl<'s> Candidate<'s> {
    /// The agent's own model, then those of its fallback.
    fn of(setup: &'s Setup, number: usize) -> Option<Self> {
        match number.checked_sub(1) {
            None => Some(Self { model: &setup.config.model, provider: &*setup.provider, profile: &setup.profile }),
            Some(at) => {
                let Fallback { model, provider, profile } = setup.fallback.get(at)?;
                Some(Self { model, provider: &**provider, profile })
            }
        }
    }

    fn name(&self) -> String {
        format!("{}/{}", self.provider.name(), self.model.model_name)
    }
}

/// Whether another model may fare better: what is wrong with the request would be wrong there, too.
fn leaves_hope(error: &Error) -> bool {
    matches!(error.status(), Status::Network | Status::RateLimited)
        || matches!(
            error.category(),
            Category::Timeout | Category::Unavailable | Category::ExternalFailure | Category::Truncated
        )
}

/// One model's answer, and whether anybody has read of it.
async fn request_of(
    work: &mut Work<'_>,
    ask: &mut Ask<'_>,
    system: Option<&str>,
    specs: &[ToolSpec],
    candidate: Candidate<'_>,
) -> (Result<ModelAnswer>, bool) {
    let setup = work.setup.clone();
    let Candidate { model, provider, profile } = candidate;
    let quota = setup.quota.as_ref().and_then(|quota| quota.config.max_tokens_per_turn);
    let wanted = match (ask.max_tokens.or(model.max_tokens), quota.or(work.spec.max_tokens_per_turn)) {
        (Some(wanted), Some(most)) => Some(wanted.min(most)),
        (wanted, most) => wanted.or(most),
    };
    let estimated = context::estimate(work, system);
    let characters = work.characters(system);
    let reservation = match work.reserve(model, profile, estimated, wanted) {
        Ok(reservation) => reservation,
        Err(error) => return (Err(error), false),
    };
    let output = match ask.structured {
        Some((structured, Means::Native)) => Some(structured.native()),
        Some((_, Means::Tool | Means::Prompted)) | None => None,
    };
    let tool_choice = match ask.structured {
        Some((_, Means::Tool)) if ask.without_tools || specs.len() == 1 => ToolChoice::Tool(ANSWER_TOOL),
        Some((_, Means::Tool)) => ToolChoice::Required,
        Some((_, Means::Native | Means::Prompted)) | None if ask.without_tools => ToolChoice::None,
        Some((_, Means::Native | Means::Prompted)) | None => ToolChoice::Auto,
    };
    let requests_made = work.requests_to(provider.name());
    if requests_made.load(Ordering::Relaxed) == 0
        && matches!(setup.config.cache_strategy, CacheStrategy::Explicit { .. })
        && provider.cache_rules(profile).is_none()
    {
        let message = format!("{} is told of no cache points; it caches as it likes", candidate.name());
        work.emitter.emit(&EventBody::Warning { code: "cache_points_skipped", message: message.into() });
    }
    let credentials = HostCredentials { emitter: work.emitter, desk: &work.spec.desk };
    let request = ModelRequest {
        model,
        system,
        transcript: work.transcript(),
        tools: specs,
        tool_choice,
        output: output.as_ref(),
        cache: setup.config.cache_strategy,
        profile,
        max_tokens: reservation.output_limit(),
        cache_key: work.spec.session.as_ref().map(|session| session.as_str()),
        credentials: &credentials,
        http: work.http,
        requests_made: &requests_made,
    };
    let scene = Scene { provider: provider.name(), model: &model.model_name, ..work.scene() };
    let policy = setup.chain.policy(scene, setup.retry.as_ref());
    let mut sink =
        TurnSink::new(work.emitter, &setup.chain).with_value(ask.structured).continuing(ask.joint.as_deref_mut());
    let answer = generate(provider, &request, &policy, &mut sink).await;
    let has_emitted = sink.has_emitted();
    sink.finish();
    if let Ok(answer) = &answer {
        work.calibrate(characters, &answer.usage);
        work.book(reservation, &answer.usage, profile);
    }
    (answer, has_emitted)
}

/// An answer that no model gave.
fn given(work: &mut Work<'_>, text: String) -> Answered {
    let first_seq = work.emitter.next_seq();
    let text = work.setup.chain.mask(&text).into_owned();
    work.emitter.emit_text(&text, false);
    let answer = ModelAnswer {
        parts: vec![Part::text(text)],
        finish_reason: FinishReason::Stop,
        usage: Usage::default(),
        model: work.setup.config.model.model_name.clone(),
    };
    Answered { answer, first_seq }
}
