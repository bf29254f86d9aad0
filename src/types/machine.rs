//! The machine that the process runs on, and its limits.

use futures_util::FutureExt;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::OnceLock;

/// How many threads can run at the same time. Asked of the system once: the answer costs dozens of system calls.
pub fn parallelism() -> usize {
    static PARALLELISM: OnceLock<usize> = OnceLock::new();
    *PARALLELISM.get_or_init(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
}

/// The addresses of a host, as the operating system resolves it.
pub async fn lookup(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    // The lookup runs on a thread of its own, and tokio panics if there is none to be had.
    let found = AssertUnwindSafe(tokio::net::lookup_host((host, port))).catch_unwind().await;
    match found {
        Ok(found) => Ok(found?.collect()),
        Err(_) => Err(io::Error::new(
            io::ErrorKind::WouldBlock,
            "the system allows no more threads, and a name lookup needs one: raise RLIMIT_NPROC or the pids limit",
        )),
    }
}
