//! Prompt caching where the host says what is cached: the tools and the system prompt by the agent's `cache_strategy`,
//! anything else by a cache point behind it.
//!
//! A request's own points are checked before its run begins ([`check_cache_points`]). Those of earlier turns stay in the
//! conversation, and of them only as many of the newest are sent as the provider takes: what they cover begins with what
//! the older ones do.

use super::outgoing::unsupported;
use crate::config::CacheStrategy;
use crate::types::{CachePoint, CacheTtl, Error, Part, Result, Transcript, View};
use serde::Serialize;

/// How long what Anthropic caches is kept.
pub const ANTHROPIC_TTLS: &[CacheTtl] = &[CacheTtl::FiveMinutes, CacheTtl::OneHour];

/// What a provider takes.
#[derive(Clone, Copy, Debug)]
pub struct CacheRules {
    /// Points in one request, those behind the tools and the system prompt included.
    pub points: u32,
    /// How long it can be told to keep them; the first where nobody says.
    pub ttls: &'static [CacheTtl],
    /// Whether a point can stand behind the tools alone.
    pub marks_tools: bool,
}

impl CacheRules {
    fn ttl(&self, wanted: Option<CacheTtl>) -> CacheTtl {
        let known = wanted.filter(|wanted| self.ttls.contains(wanted));
        known.or(self.ttls.first().copied()).unwrap_or_default()
    }
}

/// A cache point as Anthropic writes it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CacheControl {
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<&'static str>,
}

impl From<CacheTtl> for CacheControl {
    fn from(ttl: CacheTtl) -> Self {
        let ttl = match ttl {
            // What holds where nothing is said.
            CacheTtl::FiveMinutes => None,
            CacheTtl::ThirtyMinutes | CacheTtl::OneHour => Some(ttl.as_str()),
        };
        Self { r#type: "ephemeral", ttl }
    }
}

/// The points of a request that a provider is told of.
#[derive(Clone, Copy, Debug)]
pub struct CacheMarks {
    /// Behind the tools.
    pub tools: Option<CacheTtl>,
    /// Behind the system prompt.
    pub system: Option<CacheTtl>,
    rules: CacheRules,
    ttl: Option<CacheTtl>,
    /// The older points, which are not told any more.
    skipped: usize,
}

impl CacheMarks {
    /// The plan of a request; none where nothing is marked by the host.
    pub fn plan(strategy: CacheStrategy, rules: Option<CacheRules>, transcript: &Transcript) -> Option<Self> {
        let (CacheStrategy::Explicit { ttl, tools, system }, Some(rules)) = (strategy, rules) else { return None };
        let mark = |wanted: bool| wanted.then(|| rules.ttl(ttl));
        let mut marks = Self { tools: mark(tools && rules.marks_tools), system: mark(system), rules, ttl, skipped: 0 };
        let users = transcript.view().filter_map(|view| match view {
            View::User(parts) => Some(parts),
            View::Assistant(_) | View::Tool(..) => None,
        });
        let points: Vec<CacheTtl> = users.flat_map(points_of).map(|(_, point)| marks.ttl_of(point)).collect();
        let room = (rules.points as usize).saturating_sub(marks.own());
        let mut newer = CacheTtl::FiveMinutes;
        let told = points.iter().rev().take(room).take_while(|ttl| {
            // What is kept longer must stand before what is kept for less.
            let fits = **ttl >= newer;
            newer = **ttl;
            fits
        });
        marks.skipped = points.len() - told.count();
        Some(marks)
    }

    /// How long the next point is kept, if it is told at all. To be asked for every point, in order.
    pub fn next(&mut self, point: &CachePoint) -> Option<CacheTtl> {
        match self.skipped.checked_sub(1) {
            Some(left) => {
                self.skipped = left;
                None
            }
            None => Some(self.ttl_of(point)),
        }
    }

    /// The points that stand before the conversation.
    fn own(&self) -> usize {
        usize::from(self.tools.is_some()) + usize::from(self.system.is_some())
    }

    fn ttl_of(&self, point: &CachePoint) -> CacheTtl {
        let ttl = self.rules.ttl(point.ttl.or(self.ttl));
        self.tools.or(self.system).map_or(ttl, |before| ttl.min(before))
    }
}

fn points_of(parts: &[Part]) -> impl Iterator<Item = (usize, &CachePoint)> {
    parts.iter().enumerate().filter_map(|(index, part)| match part {
        Part::CachePoint(point) => Some((index, point)),
        Part::Text { .. }
        | Part::Image(_)
        | Part::Document(_)
        | Part::Audio(_)
        | Part::Reasoning { .. }
        | Part::ToolCall(_)
        | Part::Opaque(_) => None,
    })
}

/// Checks the cache points of an input, given at `path`, against the strategy of its agent and what its provider takes.
/// A provider that takes none is no mistake: it is told of nothing.
pub fn check_cache_points(
    input: &[Part],
    strategy: CacheStrategy,
    rules: Option<CacheRules>,
    path: &str,
) -> Result<()> {
    let at = |index: usize| format!("{path}[{index}]");
    let CacheStrategy::Explicit { ttl, tools, system } = strategy else {
        return match points_of(input).next() {
            None => Ok(()),
            Some((index, _)) => Err(Error::schema(at(index), "the agent's cache_strategy is not \"explicit\"")
                .with_hint("give the agent \"cache_strategy\": \"explicit\", or leave the cache point out")),
        };
    };
    let Some(rules) = rules else { return Ok(()) };
    if tools && !system && !rules.marks_tools {
        return Err(unsupported(
            "the provider takes no cache point behind the tools alone",
            "mark the system prompt, too",
        )
        .with_path("agent.cache_strategy.tools"));
    }
    let check_ttl = |ttl: Option<CacheTtl>, path: &dyn Fn() -> String| match ttl {
        Some(ttl) if !rules.ttls.contains(&ttl) => {
            let known: Vec<_> = rules.ttls.iter().map(|ttl| ttl.as_str()).collect();
            let message = format!("the provider cannot be told to keep its cache for {}", ttl.as_str());
            Err(unsupported(message, format!("it keeps it for {}", known.join(" or "))).with_path(path()))
        }
        Some(_) | None => Ok(()),
    };
    check_ttl(ttl, &|| "agent.cache_strategy.ttl".into())?;
    let own = usize::from(tools && rules.marks_tools) + usize::from(system);
    let mut before = (own > 0).then(|| rules.ttl(ttl));
    for (number, (index, point)) in points_of(input).enumerate() {
        if own + number >= rules.points as usize {
            return Err(unsupported(
                format!("the provider takes {} cache points in a request, and this is one more", rules.points),
                match own {
                    0 => "leave some out: the last one covers everything before it".to_owned(),
                    own => format!("{own} stand behind the tools and the system prompt; leave some of the others out"),
                },
            )
            .with_path(at(index)));
        }
        check_ttl(point.ttl, &|| format!("{}.ttl", at(index)))?;
        let ttl = rules.ttl(point.ttl.or(ttl));
        if before.is_some_and(|before| ttl > before) {
            return Err(unsupported(
                format!("what is kept for {} would stand behind what is kept for less", ttl.as_str()),
                "give earlier cache points, and the agent's cache_strategy, the longer time",
            )
            .with_path(format!("{}.ttl", at(index))));
        }
        before = Some(ttl);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Status;
    use pretty_assertions::assert_eq;

    const ANTHROPIC: CacheRules =
        CacheRules { points: 4, ttls: &[CacheTtl::FiveMinutes, CacheTtl::OneHour], marks_tools: true };
    const OPENAI: CacheRules = CacheRules { points: 4, ttls: &[CacheTtl::ThirtyMinutes], marks_tools: false };
    const HOUR: Option<CacheTtl> = Some(CacheTtl::OneHour);

    fn explicit(ttl: Option<CacheTtl>, tools: bool, system: bool) -> CacheStrategy {
        CacheStrategy::Explicit { ttl, tools, system }
    }

    /// A text and a point behind it, for each.
    fn marked(ttls: &[Option<CacheTtl>]) -> Vec<Part> {
        ttls.iter().flat_map(|ttl| [Part::text("x"), Part::CachePoint(CachePoint { ttl: *ttl })]).collect()
    }

    fn transcript(turns: &[&[Option<CacheTtl>]]) -> Transcript {
        let mut transcript = Transcript::new();
        for turn in turns {
            transcript.push_user(marked(turn)).unwrap();
            transcript.push_assistant(vec![Part::text("ok")]).unwrap();
        }
        transcript
    }

    fn told(strategy: CacheStrategy, rules: CacheRules, turns: &[&[Option<CacheTtl>]]) -> Vec<Option<&'static str>> {
        let transcript = transcript(turns);
        let mut marks = CacheMarks::plan(strategy, Some(rules), &transcript).unwrap();
        let points = turns.iter().flat_map(|turn| turn.iter());
        points.map(|ttl| marks.next(&CachePoint { ttl: *ttl }).map(CacheTtl::as_str)).collect()
    }

    #[test]
    fn the_newest_points_are_told_as_many_as_there_is_room_for() {
        let turns: &[&[_]] = &[&[None], &[None, None], &[None, None]];
        let five = Some("5m");
        assert_eq!(told(explicit(None, false, false), ANTHROPIC, turns), [None, five, five, five, five]);
        assert_eq!(told(explicit(None, true, true), ANTHROPIC, turns), [None, None, None, five, five]);
        assert_eq!(
            told(explicit(HOUR, true, true), OPENAI, turns),
            [None, None, Some("30m"), Some("30m"), Some("30m")]
        );
    }

    #[test]
    fn what_is_kept_longer_stands_first() {
        let (hour, five) = (Some("1h"), Some("5m"));
        let turns: &[&[_]] = &[&[None], &[HOUR], &[None]];
        assert_eq!(told(explicit(None, false, false), ANTHROPIC, turns), [None, hour, five]);
        // Behind an agent's five minutes there is no hour.
        assert_eq!(told(explicit(None, false, true), ANTHROPIC, turns), [five, five, five]);
    }

    #[test]
    fn what_is_not_told_has_no_plan() {
        let transcript = transcript(&[&[None]]);
        assert!(CacheMarks::plan(explicit(None, true, true), None, &transcript).is_none());
        assert!(CacheMarks::plan(CacheStrategy::None, Some(ANTHROPIC), &transcript).is_none());
    }

    #[test]
    fn what_a_provider_does_not_take_is_told_with_its_place() {
        let wrong = |ttls: &[Option<CacheTtl>], strategy, rules| {
            let error = check_cache_points(&marked(ttls), strategy, Some(rules), "request.input").unwrap_err();
            assert!(error.hint().is_some(), "{error}");
            (error.status(), error.path().unwrap().to_owned())
        };
        let plain = explicit(None, false, false);
        let unsupported = |path: &str| (Status::UnsupportedByProvider, path.to_owned());
        assert_eq!(wrong(&[None; 5], plain, ANTHROPIC), unsupported("request.input[9]"));
        assert_eq!(wrong(&[None; 3], explicit(None, true, true), ANTHROPIC), unsupported("request.input[5]"));
        assert_eq!(wrong(&[HOUR], plain, OPENAI), unsupported("request.input[1].ttl"));
        assert_eq!(wrong(&[], explicit(HOUR, false, true), OPENAI), unsupported("agent.cache_strategy.ttl"));
        assert_eq!(wrong(&[], explicit(None, true, false), OPENAI), unsupported("agent.cache_strategy.tools"));
        assert_eq!(wrong(&[None, HOUR], plain, ANTHROPIC), unsupported("request.input[3].ttl"));
        assert_eq!(wrong(&[HOUR], explicit(None, false, true), ANTHROPIC), unsupported("request.input[1].ttl"));
        assert_eq!(wrong(&[None], CacheStrategy::None, ANTHROPIC), (Status::Schema, "request.input[1]".to_owned()));
    }

    #[test]
    fn what_it_takes_is_accepted() {
        let check = |ttls: &[Option<CacheTtl>], strategy, rules| {
            check_cache_points(&marked(ttls), strategy, rules, "request.input").unwrap();
        };
        check(&[None; 4], explicit(None, false, false), Some(ANTHROPIC));
        check(&[HOUR, None], explicit(HOUR, true, true), Some(ANTHROPIC));
        check(&[None; 3], explicit(None, true, true), Some(OPENAI));
        check(&[HOUR; 9], explicit(HOUR, true, true), None);
        check(&[], CacheStrategy::None, Some(ANTHROPIC));
    }
}
