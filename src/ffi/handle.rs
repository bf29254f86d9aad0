//! Handles that survive double free, use after free, free during use, the wrong type and garbage.
//!
//! A handle is the address of a shell that is never given back to the allocator. A call finds the shell by its address
//! among those that exist, without touching the pointer, and clones what is inside; free takes it out. A freed shell
//! waits in a queue until many others were freed, so a stale handle stays an error and does not become somebody else's.
//! Nothing here is `unsafe`: an address that is not a shell's is simply not found.

use super::{par_runtime_t, par_stream_t};
use crate::runtime::{Runtime, Stream};
use crate::types::{Error, Result, Status};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

/// What a shell holds.
#[derive(Clone)]
enum Inside {
    Nothing,
    Runtime(Runtime),
    Stream(Arc<Stream>),
}

/// Large enough that its address is aligned for anything C might think it is.
#[repr(align(16))]
struct Shell(Mutex<Inside>);

/// Slab n holds `FIRST << n` shells.
const FIRST: usize = 64;
static SLABS: [OnceLock<Box<[Shell]>>; 24] = [const { OnceLock::new() }; 24];

/// How many shells rest before the first is used again.
const QUARANTINE: usize = 4096;
static FREED: Mutex<Pool> = Mutex::new(Pool { fresh: Vec::new(), resting: VecDeque::new(), slabs: 0 });

struct Pool {
    fresh: Vec<&'static Shell>,
    resting: VecDeque<&'static Shell>,
    slabs: usize,
}

pub(super) fn new_runtime(runtime: Runtime) -> Result<*mut par_runtime_t> {
    Ok(put(Inside::Runtime(runtime))?.cast())
}

pub(super) fn new_stream(stream: Stream) -> Result<*mut par_stream_t> {
    Ok(put(Inside::Stream(Arc::new(stream)))?.cast())
}

pub(super) fn runtime(handle: *const par_runtime_t) -> Result<Runtime> {
    match peek(handle.addr())? {
        Inside::Runtime(runtime) => Ok(runtime),
        Inside::Stream(_) => Err(bad("this is a stream, and a runtime is wanted")),
        Inside::Nothing => Err(bad("this runtime was freed")),
    }
}

pub(super) fn stream(handle: *const par_stream_t) -> Result<Arc<Stream>> {
    match peek(handle.addr())? {
        Inside::Stream(stream) => Ok(stream),
        Inside::Runtime(_) => Err(bad("this is a runtime, and a stream is wanted")),
        Inside::Nothing => Err(bad("this stream was freed")),
    }
}

/// Takes a runtime out of its shell; anything else is left alone.
pub(super) fn take_runtime(handle: *const par_runtime_t) -> Option<Runtime> {
    match take(handle.addr(), |inside| matches!(inside, Inside::Runtime(_)))? {
        Inside::Runtime(runtime) => Some(runtime),
        Inside::Stream(_) | Inside::Nothing => None,
    }
}

/// Takes a stream out of its shell; anything else is left alone.
pub(super) fn take_stream(handle: *const par_stream_t) -> Option<Arc<Stream>> {
    match take(handle.addr(), |inside| matches!(inside, Inside::Stream(_)))? {
        Inside::Stream(stream) => Some(stream),
        Inside::Runtime(_) | Inside::Nothing => None,
    }
}

fn bad(why: &str) -> Error {
    Error::new(Status::BadHandle, why)
        .with_hint("use a handle between its creation and its free, and only as what it is")
}

fn find(address: usize) -> Option<&'static Shell> {
    for slab in &SLABS {
        let slab = slab.get()?;
        let Some(offset) = address.checked_sub(slab.as_ptr().addr()) else { continue };
        if offset % size_of::<Shell>() == 0
            && let Some(shell) = slab.get(offset / size_of::<Shell>())
        {
            return Some(shell);
        }
    }
    None
}

fn peek(address: usize) -> Result<Inside> {
    if address == 0 {
        return Err(Error::new(Status::NullArg, "the handle is NULL"));
    }
    match find(address) {
        Some(shell) => Ok(shell.0.lock().clone()),
        None => Err(bad("this is not a handle of libpar")),
    }
}

fn put(inside: Inside) -> Result<*mut std::ffi::c_void> {
    let shell = {
        let mut pool = FREED.lock();
        if pool.fresh.is_empty() && pool.resting.len() > QUARANTINE {
            pool.resting.pop_front()
        } else {
            if pool.fresh.is_empty() {
                pool.grow()?;
            }
            pool.fresh.pop()
        }
    };
    let shell = shell.ok_or_else(|| Error::new(Status::Limit, "there are too many handles"))?;
    *shell.0.lock() = inside;
    Ok(std::ptr::from_ref(shell).cast_mut().cast())
}

fn take(address: usize, wanted: impl FnOnce(&Inside) -> bool) -> Option<Inside> {
    let shell = find(address)?;
    let taken = {
        let mut inside = shell.0.lock();
        wanted(&inside).then(|| std::mem::replace(&mut *inside, Inside::Nothing))
    }?;
    FREED.lock().resting.push_back(shell);
    Some(taken)
}

impl Pool {
    fn grow(&mut self) -> Result<()> {
        let too_many = || Error::new(Status::Limit, "there are too many handles");
        let slab = SLABS.get(self.slabs).ok_or_else(too_many)?;
        let shells = (0..FIRST << self.slabs).map(|_| Shell(Mutex::new(Inside::Nothing))).collect();
        self.fresh.extend(slab.get_or_init(|| shells).iter().rev());
        self.slabs += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;

    #[test]
    fn a_freed_handle_stays_an_error_while_thousands_come_and_go() {
        let first = new_runtime(Runtime::create(r#"{"persistence": "noop"}"#).unwrap()).unwrap();
        assert!(take_runtime(first).is_some());
        assert!(take_runtime(first).is_none());
        for _ in 0..QUARANTINE {
            let other = new_runtime(Runtime::create(r#"{"persistence": "noop"}"#).unwrap()).unwrap();
            assert_ne!(other, first);
            drop(take_runtime(other));
        }
        assert_eq!(runtime(first).err().unwrap().status(), Status::BadHandle);
    }

    #[test]
    fn what_is_no_handle_is_told() {
        let handle = new_runtime(Runtime::create(r#"{"persistence": "noop"}"#).unwrap()).unwrap();
        assert_eq!(stream(handle.cast()).err().unwrap().status(), Status::BadHandle);
        assert!(take_stream(handle.cast()).is_none());
        for wrong in [handle.addr() + 1, handle.addr() - 8, 1, usize::MAX] {
            assert_eq!(runtime(std::ptr::without_provenance(wrong)).err().unwrap().status(), Status::BadHandle);
        }
        assert_eq!(runtime(std::ptr::null()).err().unwrap().status(), Status::NullArg);
        drop(take_runtime(handle));
    }
}
