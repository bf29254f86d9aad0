//! `cargo +nightly fuzz run strict_json`: see ../README.md.
#![no_main]

#[path = "../bodies.rs"]
#[allow(dead_code)]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::strict_json(data));
