//! What the benchmark's exchanges cost without libpar: `bench-floor reqwest|raw SCENARIO PORT COUNT` prints one line of
//! JSON, with the keys that `c/bench.c` prints too.

mod bare;
mod measure;
mod raw;
mod wire;

use measure::Figures;

/// One scenario as `run.py` names it; `…-sse` is the same over an event stream.
pub struct Scenario {
    pub name: String,
    pub sse: bool,
    pub port: u16,
    /// Invokes, loops or streams, as the scenario counts.
    pub count: usize,
    /// The chunks of a stream, or the milliseconds of an idle one.
    pub size: usize,
}

/// Invokes in flight at once.
pub const IN_FLIGHT: usize = 64;
/// A stream is late when it ends this much after its last token was due.
pub const LATE_MS: u64 = 500;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, client, name, numbers @ ..] = &arguments[..] else {
        panic!("bench-floor reqwest|raw SCENARIO PORT COUNT [SIZE]")
    };
    let number = |n: usize| numbers.get(n).and_then(|text| text.parse::<usize>().ok()).unwrap_or(0);
    let scenario = Scenario {
        name: name.trim_end_matches("-sse").to_owned(),
        sse: name.ends_with("-sse") || ["burst", "spaced", "crowd", "idle"].contains(&name.as_str()),
        port: number(0) as u16,
        count: number(1),
        size: number(2),
    };
    let figures: Figures = if client == "raw" { raw::run(&scenario) } else { bare::run(&scenario) };
    println!("{}", serde_json::to_string(&figures).expect("numbers"));
}

impl Scenario {
    /// The model that makes the server play it.
    pub fn model(&self) -> String {
        match &*self.name {
            "tools" => "tools-3x3".into(),
            "burst" => format!("stream-{}", self.size),
            "spaced" => format!("stream-20ms-{}", self.size),
            "crowd" => format!("stream-50ms-{}", self.size),
            "idle" => format!("idle-{}ms", self.size),
            _ => "text".into(),
        }
    }
}
