//! The fuzz targets on the stable toolchain: each body over its corpus, and over mutations of it.

#[path = "../fuzz/bodies.rs"]
mod bodies;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::path::Path;
use std::time::{Duration, Instant};

/// What all targets together may take; on a slow machine there are fewer cases.
const BUDGET: Duration = Duration::from_secs(24);

/// A change of some bytes; places are fractions of the length, in 2^16ths.
#[derive(Clone, Debug)]
enum Mutation {
    Set(u16, u8),
    Delete(u16, u8),
    Repeat(u16, u8),
    Insert(u16, &'static str),
    Cut(u16),
    /// What another file of the corpus has from there on.
    Splice(u16, u16),
}

/// What decoders look for.
const WORDS: &[&str] = &[
    "null",
    "true",
    "-1",
    "1e999",
    "18446744073709551616",
    "\"\"",
    "{}",
    "[]",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "\\",
    "\\u0000",
    "\\ud800",
    ",",
    ":",
    "\n\n",
    "\r",
    "data:",
    "event:",
    "[DONE]",
    "\u{feff}",
    "é",
    "\"index\":7",
    "\"type\":",
    "\"error\":{}",
    "\"id\":null",
    "\"content\":",
];

fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        (any::<u16>(), any::<u8>()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        (any::<u16>(), any::<u8>()).prop_map(|(at, length)| Mutation::Delete(at, length)),
        (any::<u16>(), any::<u8>()).prop_map(|(at, length)| Mutation::Repeat(at, length)),
        (any::<u16>(), prop::sample::select(WORDS)).prop_map(|(at, word)| Mutation::Insert(at, word)),
        any::<u16>().prop_map(Mutation::Cut),
        (any::<u16>(), any::<u16>()).prop_map(|(at, from)| Mutation::Splice(at, from)),
    ]
}

fn mutate(bytes: &mut Vec<u8>, mutation: &Mutation, other: &[u8]) {
    let place = |at: u16, length: usize| usize::from(at) * length / (1 << 16);
    let length = bytes.len();
    let end = |at: usize, count: u8| (at + usize::from(count)).min(length);
    match *mutation {
        _ if bytes.is_empty() => {}
        Mutation::Set(at, byte) => bytes[place(at, length)] = byte,
        Mutation::Delete(at, count) => drop(bytes.drain(place(at, length)..end(place(at, length), count))),
        Mutation::Repeat(at, count) => {
            let at = place(at, length);
            let again = bytes[at..end(at, count)].to_vec();
            bytes.splice(at..at, again);
        }
        Mutation::Insert(at, word) => drop(bytes.splice(place(at, length)..place(at, length), word.bytes())),
        Mutation::Cut(at) => bytes.truncate(place(at, length)),
        Mutation::Splice(at, from) => {
            bytes.truncate(place(at, length));
            bytes.extend_from_slice(&other[place(from, other.len())..]);
        }
    }
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{}", folder.display());
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

#[test]
fn every_target_holds_over_mutations_of_its_corpus() {
    let share = BUDGET / u32::try_from(bodies::TARGETS.len()).unwrap();
    for (target, body) in bodies::TARGETS {
        let corpus = corpus(target);
        corpus.iter().for_each(|seed| body(seed));
        let began = Instant::now();
        let mut runner = TestRunner::new(Config { cases: 10_000, failure_persistence: None, ..Config::default() });
        let places = (any::<prop::sample::Index>(), any::<prop::sample::Index>());
        let strategy = (places, prop::collection::vec(mutation(), 1..6));
        let result = runner.run(&strategy, |((seed, other), mutations)| {
            if began.elapsed() < share {
                let mut bytes = seed.get(&corpus).to_vec();
                mutations.iter().for_each(|mutation| mutate(&mut bytes, mutation, other.get(&corpus).as_slice()));
                let caught = std::panic::catch_unwind(|| body(&bytes));
                prop_assert!(caught.is_ok(), "{target}: {:?}", String::from_utf8_lossy(&bytes));
            }
            Ok(())
        });
        if let Err(failure) = result {
            panic!("{target}: {failure}");
        }
    }
}

#[test]
fn every_target_has_its_door() {
    let manifest = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/Cargo.toml")).unwrap();
    for (target, _) in bodies::TARGETS {
        assert!(manifest.contains(&format!("path = \"targets/{target}.rs\"")), "{target}");
    }
    assert_eq!(manifest.matches("[[bin]]").count(), bodies::TARGETS.len());
}

/// A corpus of what is refused at once would try nothing.
#[test]
fn the_conversations_of_the_corpus_are_some() {
    for bytes in corpus("transcript_load") {
        serde_json::from_slice::<par::types::Transcript>(&bytes).unwrap();
    }
}
