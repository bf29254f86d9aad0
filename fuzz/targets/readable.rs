//! `cargo +nightly fuzz run readable`: see ../README.md.
#![no_main]

#[path = "../bodies.rs"]
#[allow(dead_code)]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::readable_text(data));
