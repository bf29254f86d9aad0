//! The machine that the process runs on.

use std::sync::OnceLock;

/// How many threads can run at the same time. Asked of the system once: the answer costs dozens of system calls.
pub fn parallelism() -> usize {
    static PARALLELISM: OnceLock<usize> = OnceLock::new();
    *PARALLELISM.get_or_init(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
}
