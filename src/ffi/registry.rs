//! Chapter 4: what runs can use. Definitions are copied; a name that is taken is an error.

use super::error::par_error_t;
use super::guard::guard;
use super::handle;
use super::text::{OutText, input};
use super::{par_runtime_t, par_status_t};
use crate::runtime::Runtime;
use crate::types::{Result, Status};
use libc::size_t;
use std::ffi::c_char;

/// Register an agent.
///
/// @param  def  JSON: id, system_prompt, model, tools, max_iterations, ...
/// @return PAR_OK, or PAR_ERR_EXISTS, PAR_ERR_NOT_FOUND (its provider, a tool), PAR_ERR_SCHEMA, ...
/// @thread any    @blocks never    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_register_agent(
    rt: *mut par_runtime_t,
    def: *const c_char,
    def_len: size_t,
    err: *mut *mut par_error_t,
) -> par_status_t {
    // SAFETY: the header demands it of every input.
    guard(err, || unsafe { with_text(rt, def, def_len, "agent", Runtime::register_agent) })
}

/// Remove an agent. Its runs go on.
///
/// @thread any    @blocks never    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_unregister_agent(
    rt: *mut par_runtime_t,
    name: *const c_char,
    name_len: size_t,
    err: *mut *mut par_error_t,
) -> par_status_t {
    // SAFETY: the header demands it of every input.
    guard(err, || unsafe { with_text(rt, name, name_len, "name", Runtime::unregister_agent) })
}

/// Register a tool that the host runs.
///
/// @param  def  JSON: name, description, input_schema, output_schema, permission, timeout, concurrency_limit, effect
/// @thread any    @blocks never    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_register_tool(
    rt: *mut par_runtime_t,
    def: *const c_char,
    def_len: size_t,
    err: *mut *mut par_error_t,
) -> par_status_t {
    // SAFETY: the header demands it of every input.
    guard(err, || unsafe { with_text(rt, def, def_len, "tool", Runtime::register_tool) })
}

/// Remove a tool. Runs that have it go on with it.
///
/// @thread any    @blocks never    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_unregister_tool(
    rt: *mut par_runtime_t,
    name: *const c_char,
    name_len: size_t,
    err: *mut *mut par_error_t,
) -> par_status_t {
    // SAFETY: the header demands it of every input.
    guard(err, || unsafe { with_text(rt, name, name_len, "name", Runtime::unregister_tool) })
}

/// Register a model provider.
///
/// @param  def  JSON: name, type, and what llm_providers takes
/// @return PAR_OK, or PAR_ERR_EXISTS, PAR_ERR_SCHEMA, ...
/// @thread any    @blocks never    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_register_provider(
    rt: *mut par_runtime_t,
    def: *const c_char,
    def_len: size_t,
    err: *mut *mut par_error_t,
) -> par_status_t {
    // SAFETY: the header demands it of every input.
    guard(err, || unsafe { with_text(rt, def, def_len, "provider", Runtime::register_provider_config) })
}

/// List what there is.
///
/// @param  kind  "agents", "tools", "providers", "sessions", "runs" or "subscriptions"
/// @out    out   owned JSON {"items":[...]}, free with par_free
/// @thread any    @blocks never    @returns owned    @since 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn par_list(
    rt: *mut par_runtime_t,
    kind: *const c_char,
    kind_len: size_t,
    out: *mut *mut c_char,
    out_len: *mut size_t,
    err: *mut *mut par_error_t,
) -> par_status_t {
    // SAFETY: the header demands it of every output.
    let out = unsafe { OutText::cleared(out, out_len) };
    guard(err, || {
        let runtime = handle::runtime(rt)?;
        out.check()?;
        // SAFETY: the header demands it of every input.
        let kind = unsafe { input(kind, kind_len, "kind", runtime.limits().max_input_bytes) }?;
        out.set(runtime.list(kind)?.as_bytes())
    })
}

/// # Safety
/// As for [`input`].
unsafe fn with_text(
    rt: *mut par_runtime_t,
    text: *const c_char,
    len: size_t,
    name: &str,
    act: impl FnOnce(&Runtime, &str) -> Result<()>,
) -> Result<Status> {
    let runtime = handle::runtime(rt)?;
    // SAFETY: as the caller promises.
    let text = unsafe { input(text, len, name, runtime.limits().max_input_bytes) }?;
    act(&runtime, text)?;
    Ok(Status::Ok)
}
