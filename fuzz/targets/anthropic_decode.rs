//! `cargo +nightly fuzz run anthropic_decode`: see ../README.md.
#![no_main]

#[path = "../bodies.rs"]
#[allow(dead_code)]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::anthropic_decode(data));
