//! `cargo +nightly fuzz run stored_block`: see ../README.md.
#![no_main]

#[path = "../bodies.rs"]
#[allow(dead_code)]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::stored_block(data));
