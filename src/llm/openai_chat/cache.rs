//! How a server of this API is told what to cache. OpenAI's models from GPT-5.6 on take a breakpoint on a content block of the
//! system prompt or of the user; OpenRouter takes Anthropic's form.

use crate::config::{CachePointForm, ModelProfile};
use crate::llm::CacheRules;
use crate::llm::cache::{ANTHROPIC_TTLS, CacheControl};
use crate::types::CacheTtl;
use serde::Serialize;

/// The end of what OpenAI caches.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CacheMark {
    mode: &'static str,
}

impl CacheMark {
    /// The only one there is.
    pub const EXPLICIT: Self = Self { mode: "explicit" };
}

/// That nothing but what is marked shall be cached.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CacheOptions {
    mode: &'static str,
    ttl: &'static str,
}

impl CacheOptions {
    /// For as long as it can be.
    pub const EXPLICIT: Self = Self { mode: "explicit", ttl: "30m" };
}

/// What OpenAI takes.
pub fn openai_cache_rules(points: u32) -> CacheRules {
    CacheRules { points, ttls: &[CacheTtl::ThirtyMinutes], marks_tools: false }
}

/// What a server takes that is told in this form.
pub(super) fn rules(form: CachePointForm, profile: &ModelProfile) -> Option<CacheRules> {
    match form {
        CachePointForm::Never => None,
        CachePointForm::PromptCacheBreakpoint => profile.cache_points.map(openai_cache_rules),
        CachePointForm::CacheControl => {
            Some(CacheRules { points: profile.cache_points.unwrap_or(4), ttls: ANTHROPIC_TTLS, marks_tools: false })
        }
    }
}

/// A mark on a content block: the field that says it.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Mark {
    PromptCacheBreakpoint(CacheMark),
    CacheControl(CacheControl),
}

impl Mark {
    pub fn of(form: CachePointForm, ttl: CacheTtl) -> Option<Self> {
        match form {
            CachePointForm::Never => None,
            CachePointForm::PromptCacheBreakpoint => Some(Self::PromptCacheBreakpoint(CacheMark::EXPLICIT)),
            CachePointForm::CacheControl => Some(Self::CacheControl(ttl.into())),
        }
    }
}
