//! Clocks, processor time, memory and percentiles.

use std::collections::BTreeMap;
use std::time::Instant;

pub type Figures = BTreeMap<&'static str, f64>;

/// CLOCK_MONOTONIC, which is the server's clock too.
pub fn now_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is writable.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn cpu_us() -> f64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: getrusage fills it; zeroes are a valid value before.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    [usage.ru_utime, usage.ru_stime].iter().map(|time| time.tv_sec as f64 * 1e6 + time.tv_usec as f64).sum()
}

/// A line of /proc/self/status, in KB.
pub fn memory_kb(key: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(f64::NAN)
}

/// Wall and processor time from here on.
pub struct Watch(Instant, f64);

impl Watch {
    pub fn start() -> Self {
        Self(Instant::now(), cpu_us())
    }

    pub fn wall_us(&self) -> f64 {
        self.0.elapsed().as_secs_f64() * 1e6
    }

    pub fn cpu_us(&self) -> f64 {
        cpu_us() - self.1
    }

    /// Both, for each of `count`, and how many a second.
    pub fn each(&self, count: usize) -> Figures {
        let (wall, cpu) = (self.wall_us() / count as f64, self.cpu_us() / count as f64);
        Figures::from([("wall_us", wall), ("cpu_us", cpu), ("per_second", 1e6 / wall)])
    }
}

/// The time tokens took from the server to here, in microseconds; allocated beforehand so that it does not count.
pub struct Added(Vec<f32>, usize);

impl Added {
    pub fn with_room_for(tokens: usize) -> Self {
        Self(vec![1.0; tokens], 0)
    }

    /// A text that begins with `@` and the server's clock.
    pub fn token(&mut self, text: &str) {
        let Some(sent) = text.strip_prefix('@').and_then(|text| text.trim_end().parse::<u64>().ok()) else { return };
        if let Some(slot) = self.0.get_mut(self.1) {
            *slot = now_ns().saturating_sub(sent) as f32 / 1e3;
            self.1 += 1;
        }
    }

    pub fn percentiles(mut self) -> Figures {
        let seen = &mut self.0[..self.1];
        seen.sort_by(f32::total_cmp);
        let at = |part: f64| seen.get((seen.len() as f64 * part) as usize).copied().map_or(f64::NAN, f64::from);
        Figures::from([("added_p50_us", at(0.5)), ("added_p99_us", at(0.99)), ("tokens", seen.len() as f64)])
    }
}

/// The judgement of a crowd of streams.
pub fn crowd(watch: &Watch, before_kb: f64, streams: usize, late: usize, failed: usize) -> Figures {
    Figures::from([
        ("cpu_percent", 100.0 * watch.cpu_us() / watch.wall_us()),
        ("kb_per_stream", (memory_kb("VmHWM") - before_kb) / streams as f64),
        ("late", late as f64),
        ("failed", failed as f64),
    ])
}
