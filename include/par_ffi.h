/*
 * libpar: an agent runtime in one shared library.
 *
 * OBJECTS. A runtime (par_runtime_t) holds agents, tools, providers and sessions. A run of an agent is either one
 * blocking call (par_invoke) or a stream of events (par_stream_t). Requests, results, events and errors are JSON;
 * par_call(rt, "describe", ...) gives the JSON Schema of every shape.
 *
 * STATUS. Functions return par_status_t: PAR_OK is 0, states (PAR_PENDING, PAR_END, ...) are above, errors below.
 *
 * STRINGS IN are a pointer and a length in bytes, UTF-8; PAR_NTS as the length means NUL-terminated. NULL with length 0
 * is empty. They are copied before the call returns.
 * STRINGS OUT (char **out, size_t *out_len) are yours: NUL-terminated, out_len without the NUL, out_len may be NULL.
 * Give them back to par_free, never to free. Every output is NULL or 0 unless the call succeeded.
 *
 * ERRORS. Each function that can fail takes par_error_t **err, last; NULL is allowed. After a status below 0 it points
 * to an error of yours: par_error_message for people, par_error_json for programs, par_error_free at the end.
 *
 * HANDLES survive misuse: freed twice, used after free, of the wrong type, they give PAR_ERR_BAD_HANDLE. Free them in
 * any order. free never waits and is all a finalizer should call; par_runtime_close is the orderly end.
 *
 * THREADS. Every function may be called from any thread, at the same time, on the same handle. One thread at a time
 * reads from a stream or the inbox; a second gets PAR_ERR_BUSY. _poll never blocks, _wait does; nothing holds a lock
 * while it waits.
 *
 * HOST WORK. When the model calls a tool of yours there is a tool_call event with a token; answer the token once, by
 * par_tool_complete or par_tool_fail, whenever you like before its deadline. It comes (1) to the par_on_tool callback
 * if one is set, else (2) in the run's own stream, else (3) in the inbox.
 *
 * CALLBACKS are optional, run one at a time on one thread of the runtime, and may call everything that does not block;
 * what blocks gives PAR_ERR_WOULD_DEADLOCK. They must not throw or longjmp.
 *
 * EVENT LOOPS. par_stream_fd and par_inbox_fd are readable exactly while _poll has something. With "notify":"inbox" in
 * its request a stream announces itself in the inbox: one descriptor for any number of streams.
 *
 * THE PROCESS. No signal handlers, no output, no change of environment, directory or locale, no global logger. Threads
 * of the library have all signals blocked. exit() without close is fine. dlclose does nothing.
 *
 * FORK. Create runtimes after fork: in a child of a process that has created one, every call gives PAR_ERR_FORKED
 * at once (chapters 1 and 2 and the free functions work).
 *
 * THE LOOP, on one thread, without callbacks, tools included:
 *
 *     par_stream_t *s; par_error_t *e = NULL; char *ev; size_t n; par_status_t st;
 *     if (par_stream_start(rt, request, PAR_NTS, &s, &e) < 0) goto fail;
 *     while ((st = par_stream_wait(s, PAR_WAIT_FOREVER, &ev, &n, &e)) != PAR_END) {
 *         if (st < 0) goto fail;
 *         if (st == PAR_OK) { handle(rt, ev, n); par_free(ev); }
 *     }
 *     st = par_stream_result(s, &ev, &n, &e);
 *     par_stream_free(s);
 *
 * where handle() answers a tool_call by par_tool_complete(rt, token, "{...}", PAR_NTS, &e).
 */

#ifndef PAR_FFI_H
#define PAR_FFI_H

/* Generated from src/ffi/ by cbindgen; do not edit. */

#include <stddef.h>
#include <stdint.h>

#ifndef PAR_EXPORT
#if defined(_WIN32) && !defined(PAR_STATIC)
#define PAR_EXPORT __declspec(dllimport)
#elif defined(__GNUC__) && !defined(_WIN32)
#define PAR_EXPORT __attribute__((visibility("default")))
#else
#define PAR_EXPORT
#endif
#endif

/* The ABI this header describes: major << 16 | minor. Pass it to par_runtime_create. */
#define PAR_ABI_VERSION 0x00010000u
/* As the length of an input: it is NUL-terminated. */
#define PAR_NTS ((size_t)-1)
/* As a timeout in milliseconds: for ever. */
#define PAR_WAIT_FOREVER ((int64_t)-1)


#define PAR_OK                               0  /* Success. */
#define PAR_PENDING                          1  /* Nothing is there yet. */
#define PAR_TIMEOUT                          2  /* The wait ran out; try again. */
#define PAR_END                              3  /* The terminal event was taken; nothing will ever follow. */
#define PAR_WOKEN                            4  /* A wake call ended the wait. */
#define PAR_ERR_NULL_ARG                  (-1)  /* A required pointer is NULL. */
#define PAR_ERR_INVALID_ARG               (-2)  /* An argument has a value it cannot have. */
#define PAR_ERR_UTF8                      (-3)  /* Input is not UTF-8. */
#define PAR_ERR_JSON                      (-4)  /* Input is not JSON. */
#define PAR_ERR_SCHEMA                    (-5)  /* JSON of the wrong shape; `path` says where. */
#define PAR_ERR_TOO_LARGE                 (-6)  /* Input exceeds a limit. */
#define PAR_ERR_ABI                       (-7)  /* Header and library do not fit together. */
#define PAR_ERR_UNSUPPORTED               (-8)  /* Not part of this library. */
#define PAR_ERR_BAD_HANDLE               (-30)  /* The handle is not, or no longer, one of ours. */
#define PAR_ERR_CLOSED                   (-31)  /* The runtime is closed. */
#define PAR_ERR_BUSY                     (-32)  /* Someone else is consuming. */
#define PAR_ERR_WOULD_DEADLOCK           (-33)  /* A blocking call from a thread of libpar. */
#define PAR_ERR_FORKED                   (-34)  /* The process was forked after a runtime was created. */
#define PAR_ERR_STALE_TOKEN              (-35)  /* The token was answered, cancelled, or never ours. */
#define PAR_ERR_NO_HANDLER               (-36)  /* Host work has nowhere to go. */
#define PAR_ERR_NOT_FOUND                (-37)  /* Nothing has that name. */
#define PAR_ERR_EXISTS                   (-38)  /* The name is taken. */
#define PAR_ERR_LIMIT                    (-39)  /* A configured bound was reached. */
#define PAR_ERR_CANCELLED                (-60)  /* The run was cancelled. */
#define PAR_ERR_DEADLINE                 (-61)  /* The run took longer than allowed. */
#define PAR_ERR_PROVIDER                 (-62)  /* The model provider failed. */
#define PAR_ERR_RATE_LIMITED             (-63)  /* The model provider wants us to slow down. */
#define PAR_ERR_AUTH                     (-64)  /* The model provider refused the key. */
#define PAR_ERR_NETWORK                  (-65)  /* The model provider could not be reached. */
#define PAR_ERR_TOOL                     (-66)  /* A tool failed in a way that ended the run. */
#define PAR_ERR_GUARD                    (-67)  /* A guard stopped the run. */
#define PAR_ERR_CONTENT_FILTER           (-68)  /* The provider filtered the content. */
#define PAR_ERR_CONTEXT_LENGTH           (-69)  /* The conversation does not fit the model. */
#define PAR_ERR_PERSISTENCE              (-70)  /* The store failed. */
#define PAR_ERR_MCP                      (-71)  /* An MCP server failed. */
#define PAR_ERR_WORKFLOW                 (-72)  /* A workflow failed. */
#define PAR_ERR_APPROVAL                 (-73)  /* An approval could not be resolved. */
#define PAR_ERR_UNSUPPORTED_BY_PROVIDER  (-74)  /* The provider cannot do that. */
#define PAR_ERR_INVALID_OUTPUT           (-75)  /* The model never gave output of the asked shape. */
#define PAR_ERR_INTERNAL                 (-90)  /* A bug in libpar. */
#define PAR_ERR_PANIC                    (-91)  /* A panic in libpar, caught. */
#define PAR_ERR_OUT_OF_MEMORY            (-92)  /* Memory ran out. */
#define PAR_ERR_IO                       (-93)  /* The operating system refused. */

/* An error. Immutable; freed by par_error_free; may be kept, and used on any thread. */
typedef struct par_error_t par_error_t;

/* A runtime. Any thread may use it, at the same time. */
typedef struct par_runtime_t par_runtime_t;

/* A run that was started, or a method. Any thread may use it; one at a time may read from it. */
typedef struct par_stream_t par_stream_t;

/* The type of every status: never a C enum, so width and unknown values stay defined. 0 and above are states, below 0
 * errors.
 */
typedef int32_t par_status_t;

/* A callback: user_data as registered, a token or 0, and a JSON object that lives until it returns. It must not unwind. */
typedef void (*par_callback_t)(uintptr_t user_data, uint64_t token, const char *json, size_t json_len);

/* Called once for each registration that succeeded, after its last callback, on the callback thread. */
typedef void (*par_destroy_t)(uintptr_t user_data);

#ifdef __cplusplus
extern "C" {
#endif /* __cplusplus */

/* ---- 1. Version and memory: never fail, and work after a fork -------------------------------------------- */

/* The ABI of the loaded library; compare with PAR_ABI_VERSION, the header's.
 *
 * @return major << 16 | minor
 * @thread any    @blocks never    @since 0.1
 */
PAR_EXPORT uint32_t par_abi_version(void);

/* The version of the loaded library, such as "0.1.0".
 *
 * @return static text
 * @thread any    @blocks never    @since 0.1
 */
PAR_EXPORT const char *par_version(void);

/* How the library was built.
 *
 * @return static JSON: version, abi_version, target, profile, commit, panic, tls, features
 * @thread any    @blocks never    @since 0.1
 */
PAR_EXPORT const char *par_build_info(void);

/* The name of a status, such as "PAR_ERR_UTF8".
 *
 * @return static text, never NULL; "PAR_ERR_UNKNOWN" for a number that is none
 * @thread any    @blocks never    @since 0.1
 */
PAR_EXPORT const char *par_status_name(par_status_t status);

/* Frees what this library returned through an out parameter. NULL is ignored.
 *
 * @thread any    @blocks never    @since 0.1
 */
PAR_EXPORT void par_free(void *p);

/* ---- 2. Errors: immutable, owned by the caller, may change threads --------------------------------------- */

/* The status of an error; PAR_OK for NULL.
 *
 * @thread any    @blocks never    @since 0.1
 */
PAR_EXPORT par_status_t par_error_status(const par_error_t *error);

/* One English line: where, what, and what to do.
 *
 * @return text that lives until par_error_free; "" for NULL
 * @thread any    @blocks never    @since 0.1
 */
PAR_EXPORT const char *par_error_message(const par_error_t *error);

/* The whole error: status, name, category, code, message, hint, path, retryable, retry_after_ms, provider, run_id.
 *
 * @return JSON that lives until par_error_free; "{}" for NULL
 * @thread any    @blocks never    @since 0.1
 */
PAR_EXPORT const char *par_error_json(const par_error_t *error);

/* Frees an error. NULL is ignored.
 *
 * @thread any    @blocks never    @since 0.1
 */
PAR_EXPORT void par_error_free(par_error_t *error);

/* ---- 3. Runtime ------------------------------------------------------------------------------------------ */

/* Create a runtime.
 *
 * @param  abi_version  PAR_ABI_VERSION: what the caller was compiled against
 * @param  config       JSON; {} is valid
 * @out    out          the runtime; end it with par_runtime_close, then par_runtime_free
 * @return PAR_OK, or PAR_ERR_ABI, PAR_ERR_JSON, PAR_ERR_SCHEMA, PAR_ERR_FORKED, ...
 * @thread any    @blocks never    @since 0.1
 */
PAR_EXPORT par_status_t par_runtime_create(uint32_t abi_version,
                                           const char *config,
                                           size_t config_len,
                                           par_runtime_t **out,
                                           par_error_t **err);

/* Health, counts, open handles and bounds. Works on a closed runtime too, and then says how closing went.
 *
 * @out    out  owned JSON, free with par_free
 * @thread any    @blocks never    @returns owned    @since 0.1
 */
PAR_EXPORT par_status_t par_runtime_info(par_runtime_t *rt, char **out, size_t *out_len, par_error_t **err);

/* Close a runtime: refuse new work, let runs end by themselves, suspend or cancel those that do not, join, write, report.
 * Idempotent. Streams stay readable to their end.
 *
 * Runs may go on for shutdown.drain_timeout seconds (30 by default), or for most of timeout_ms if that is shorter. Then a stored
 * run is suspended: its stream ends with the event "suspended", and runs.resume continues it, in this process or another. A run
 * that is not stored is cancelled. A later call with a shorter timeout shortens the wait.
 *
 * @param  timeout_ms  how long to wait; below 0 for ever
 * @return PAR_OK when closed; PAR_TIMEOUT when it goes on in the background (call again to wait on); PAR_ERR_PERSISTENCE when
 * closed, and something could not be written; PAR_ERR_PROVIDER when closed, and a mock provider with assert_complete
 * was not played to its end
 * @thread any but a thread of libpar, which gets PAR_ERR_WOULD_DEADLOCK    @blocks    @since 0.1
 */
PAR_EXPORT par_status_t par_runtime_close(par_runtime_t *rt,
                                          int64_t timeout_ms,
                                          par_error_t **err);

/* Free a runtime. One that was not closed is closed in the background. NULL is ignored.
 *
 * @thread any    @blocks never    @since 0.1
 */
PAR_EXPORT void par_runtime_free(par_runtime_t *rt);

/* ---- 4. Registry ----------------------------------------------------------------------------------------- */

/* Register an agent.
 *
 * @param  def  JSON: id, system_prompt, model, tools, max_iterations, ...
 * @return PAR_OK, or PAR_ERR_EXISTS, PAR_ERR_NOT_FOUND (its provider, a tool), PAR_ERR_SCHEMA, ...
 * @thread any    @blocks never    @since 0.1
 */
PAR_EXPORT par_status_t par_register_agent(par_runtime_t *rt,
                                           const char *def,
                                           size_t def_len,
                                           par_error_t **err);

/* Remove an agent. Its runs go on.
 *
 * @thread any    @blocks never    @since 0.1
 */
PAR_EXPORT par_status_t par_unregister_agent(par_runtime_t *rt,
                                             const char *name,
                                             size_t name_len,
                                             par_error_t **err);

/* Register a tool that the host runs.
 *
 * @param  def  JSON: name, description, input_schema, output_schema, permission, timeout, concurrency_limit, effect
 * @thread any    @blocks never    @since 0.1
 */
PAR_EXPORT par_status_t par_register_tool(par_runtime_t *rt,
                                          const char *def,
                                          size_t def_len,
                                          par_error_t **err);

/* Remove a tool. Runs that have it go on with it.
 *
 * @thread any    @blocks never    @since 0.1
 */
PAR_EXPORT par_status_t par_unregister_tool(par_runtime_t *rt,
                                            const char *name,
                                            size_t name_len,
                                            par_error_t **err);

/* Register a model provider.
 *
 * @param  def  JSON: name, type, and what llm_providers takes
 * @return PAR_OK, or PAR_ERR_EXISTS, PAR_ERR_SCHEMA, ...
 * @thread any    @blocks never    @since 0.1
 */
PAR_EXPORT par_status_t par_register_provider(par_runtime_t *rt,
                                              const char *def,
                                              size_t def_len,
                                              par_error_t **err);

/* List what there is.
 *
 * @param  kind  "agents", "tools", "providers", "sessions", "runs" or "subscriptions"
 * @out    out   owned JSON {"items":[...]}, free with par_free
 * @thread any    @blocks never    @returns owned    @since 0.1
 */
PAR_EXPORT par_status_t par_list(par_runtime_t *rt,
                                 const char *kind,
                                 size_t kind_len,
                                 char **out,
                                 size_t *out_len,
                                 par_error_t **err);

/* ---- 5. Request and response ----------------------------------------------------------------------------- */

/* Run an agent and wait for its result. The calling thread drives the I/O itself.
 *
 * @param  request     JSON: agent, input, session, timeout_ms, run_id, tag
 * @param  timeout_ms  then PAR_ERR_DEADLINE; below 0 for ever
 * @out    out         owned JSON, the result; free with par_free
 * @return PAR_OK, or how the run failed
 * @thread any but a thread of libpar    @blocks    @returns owned    @since 0.1
 */
PAR_EXPORT par_status_t par_invoke(par_runtime_t *rt,
                                   const char *request,
                                   size_t request_len,
                                   int64_t timeout_ms,
                                   char **out,
                                   size_t *out_len,
                                   par_error_t **err);

/* Call a method: everything that needs no handle and no token. "describe" lists them.
 *
 * @param  params      JSON; NULL with length 0 is {}
 * @param  timeout_ms  then PAR_ERR_DEADLINE; below 0 for ever
 * @out    out         owned JSON, the answer; free with par_free
 * @thread any but a thread of libpar    @blocks    @returns owned    @since 0.1
 */
PAR_EXPORT par_status_t par_call(par_runtime_t *rt,
                                 const char *method,
                                 size_t method_len,
                                 const char *params,
                                 size_t params_len,
                                 int64_t timeout_ms,
                                 char **out,
                                 size_t *out_len,
                                 par_error_t **err);

/* Start a method: a stream with one terminal event, and the answer as its result.
 *
 * @out    out  the stream, free with par_stream_free
 * @thread any    @blocks never    @since 0.1
 */
PAR_EXPORT par_status_t par_call_start(par_runtime_t *rt,
                                       const char *method,
                                       size_t method_len,
                                       const char *params,
                                       size_t params_len,
                                       par_stream_t **out,
                                       par_error_t **err);

/* ---- 6. Streams and runs --------------------------------------------------------------------------------- */

/* Start an agent. What is wrong with the request is an error now; what goes wrong later is an event.
 *
 * @param  request  JSON: agent, input, session, timeout_ms, run_id, tag, overflow, notify, events
 * @out    out      the stream, free with par_stream_free
 * @thread any    @blocks never    @since 0.1
 */
PAR_EXPORT par_status_t par_stream_start(par_runtime_t *rt,
                                         const char *request,
                                         size_t request_len,
                                         par_stream_t **out,
                                         par_error_t **err);

/* Take the next event without waiting.
 *
 * @out    out  owned JSON, one event; free with par_free
 * @return PAR_OK with an event; PAR_PENDING when there is none yet; PAR_END after the terminal event was taken
 * @thread any; one consumer at a time, else PAR_ERR_BUSY    @blocks never    @returns owned    @since 0.1
 */
PAR_EXPORT par_status_t par_stream_poll(par_stream_t *s, char **out, size_t *out_len, par_error_t **err);

/* Take the next event, waiting for it.
 *
 * @param  timeout_ms  below 0 for ever, 0 not at all
 * @out    out         owned JSON, one event; free with par_free
 * @return PAR_OK with an event; PAR_TIMEOUT; PAR_WOKEN after par_stream_wake; PAR_END after the terminal event
 * @thread any but a thread of libpar; one consumer at a time, else PAR_ERR_BUSY    @blocks    @returns owned    @since 0.1
 */
PAR_EXPORT par_status_t par_stream_wait(par_stream_t *s,
                                        int64_t timeout_ms,
                                        char **out,
                                        size_t *out_len,
                                        par_error_t **err);

/* Take up to max events at once, without waiting: one crossing for many tokens.
 *
 * @param  max  0 for all
 * @out    out  owned JSON array of events; free with par_free
 * @return as par_stream_poll
 * @thread any; one consumer at a time, else PAR_ERR_BUSY    @blocks never    @returns owned    @since 0.1
 */
PAR_EXPORT par_status_t par_stream_drain(par_stream_t *s,
                                         uint32_t max,
                                         char **out,
                                         size_t *out_len,
                                         par_error_t **err);

/* The result of the run or method. May be asked as often as wanted.
 *
 * @out    out  owned JSON; free with par_free
 * @return PAR_PENDING until the terminal event can be read; then PAR_OK with the result, or how it failed, the same error as in
 * the event. Once this is not PAR_PENDING, par_stream_poll never is, and the descriptor is readable
 * @thread any    @blocks never    @returns owned    @since 0.1
 */
PAR_EXPORT par_status_t par_stream_result(par_stream_t *s,
                                          char **out,
                                          size_t *out_len,
                                          par_error_t **err);

/* How a stream stands.
 *
 * @out    out  owned JSON {run_id, state, queued, dropped}; free with par_free
 * @thread any    @blocks never    @returns owned    @since 0.1
 */
PAR_EXPORT par_status_t par_stream_info(par_stream_t *s, char **out, size_t *out_len, par_error_t **err);

/* End a run early. It still has exactly one terminal event. Idempotent; no effect on a run that ended.
 *
 * @param  reason  told in the event; may be empty
 * @thread any    @blocks never    @since 0.1
 */
PAR_EXPORT par_status_t par_stream_cancel(par_stream_t *s,
                                          const char *reason,
                                          size_t reason_len,
                                          par_error_t **err);

/* End a wait on the stream, or the next one if nobody waits.
 *
 * @thread any    @blocks never    @since 0.1
 */
PAR_EXPORT par_status_t par_stream_wake(par_stream_t *s);

/* A descriptor that is readable exactly while par_stream_poll would return PAR_OK or PAR_END. For poll, epoll, select,
 * kqueue and everything built on them. Only wait on it: never read, write or close it.
 *
 * @out    out_fd  borrowed; lives until par_stream_free
 * @thread any    @blocks never    @since 0.1
 */
PAR_EXPORT par_status_t par_stream_fd(par_stream_t *s,
                                      intptr_t *out_fd,
                                      par_error_t **err);

/* Free a stream. A run that lives is cancelled. NULL is ignored.
 *
 * @thread any    @blocks never    @since 0.1
 */
PAR_EXPORT void par_stream_free(par_stream_t *s);

/* End a living run by its id, a blocking one too.
 *
 * @param  reason  told in the event and the error; may be empty
 * @return PAR_OK, or PAR_ERR_NOT_FOUND when no such run lives
 * @thread any    @blocks never    @since 0.1
 */
PAR_EXPORT par_status_t par_run_cancel(par_runtime_t *rt,
                                       const char *run_id,
                                       size_t run_id_len,
                                       const char *reason,
                                       size_t reason_len,
                                       par_error_t **err);

/* Say something to a living run: at the next safe point, or when it has answered.
 *
 * @param  message  JSON: a text, or {"input", "when": "now" | "follow_up"}
 * @return PAR_OK; PAR_ERR_NOT_FOUND when the run has ended or is ending; PAR_ERR_LIMIT when too much waits
 * @thread any    @blocks never    @since 0.1
 */
PAR_EXPORT par_status_t par_run_steer(par_runtime_t *rt,
                                      const char *run_id,
                                      size_t run_id_len,
                                      const char *message,
                                      size_t message_len,
                                      par_error_t **err);

/* How a run stands, living or lately ended.
 *
 * @out    out  owned JSON {run_id, agent, session, status, started_at_ms, ended_at_ms, error}; free with par_free
 * @thread any    @blocks never    @returns owned    @since 0.1
 */
PAR_EXPORT par_status_t par_run_status(par_runtime_t *rt,
                                       const char *run_id,
                                       size_t run_id_len,
                                       char **out,
                                       size_t *out_len,
                                       par_error_t **err);

/* ---- 7. Host work: answered by token, once, from any thread ---------------------------------------------- */

/* Answer a tool call with its result.
 *
 * @param  token   from the tool_call event
 * @param  result  any JSON; a string is told to the model as its text, anything else as its JSON
 * @return PAR_OK; PAR_ERR_STALE_TOKEN when it was answered, cancelled, timed out or is another runtime's;
 * PAR_ERR_JSON, PAR_ERR_TOO_LARGE, or PAR_ERR_SCHEMA for content parts that no model could be shown, after which the
 * token still waits
 * @thread any    @blocks never    @since 0.1
 */
PAR_EXPORT par_status_t par_tool_complete(par_runtime_t *rt,
                                          uint64_t token,
                                          const char *result,
                                          size_t result_len,
                                          par_error_t **err);

/* Answer a tool call with a failure. The model is told and may act on it.
 *
 * @param  error  JSON {"message", "code"?, "retryable"?}
 * @return as par_tool_complete
 * @thread any    @blocks never    @since 0.1
 */
PAR_EXPORT par_status_t par_tool_fail(par_runtime_t *rt,
                                      uint64_t token,
                                      const char *error,
                                      size_t error_len,
                                      par_error_t **err);

/* Tell how far a tool call is. It gets its whole time anew.
 *
 * @param  note  any JSON, passed on in a tool_progress event
 * @return as par_tool_complete; PAR_ERR_LIMIT when too many notes wait
 * @thread any    @blocks never    @since 0.1
 */
PAR_EXPORT par_status_t par_tool_progress(par_runtime_t *rt,
                                          uint64_t token,
                                          const char *note,
                                          size_t note_len,
                                          par_error_t **err);

/* Answer an approval request. An approved call then really runs.
 *
 * @param  approval_id  from the approval_request event
 * @param  decision     JSON: "approve", or {"type": "approve" | "reject" | "edit", "reason"?, "input"?, "approver"?}
 * @return PAR_OK; PAR_ERR_NOT_FOUND when it was answered, has expired, or its run has ended; PAR_ERR_SCHEMA when edited
 * arguments do not fit, after which it still waits
 * @thread any    @blocks never    @since 0.1
 */
PAR_EXPORT par_status_t par_approval_resolve(par_runtime_t *rt,
                                             const char *approval_id,
                                             size_t approval_id_len,
                                             const char *decision,
                                             size_t decision_len,
                                             par_error_t **err);

/* ---- 8. Inbox -------------------------------------------------------------------------------------------- */

/* Take the next message without waiting. The first use of any inbox function opens the inbox.
 *
 * @out    out  owned JSON, one message; free with par_free
 * @return PAR_OK with a message; PAR_PENDING; PAR_END after {"type":"closed"} was taken
 * @thread any; one consumer at a time, else PAR_ERR_BUSY    @blocks never    @returns owned    @since 0.1
 */
PAR_EXPORT par_status_t par_inbox_poll(par_runtime_t *rt, char **out, size_t *out_len, par_error_t **err);

/* Take the next message, waiting for it.
 *
 * @param  timeout_ms  below 0 for ever, 0 not at all
 * @out    out         owned JSON, one message; free with par_free
 * @return PAR_OK with a message; PAR_TIMEOUT; PAR_WOKEN after par_inbox_wake; PAR_END
 * @thread any but a thread of libpar; one consumer at a time, else PAR_ERR_BUSY    @blocks    @returns owned    @since 0.1
 */
PAR_EXPORT par_status_t par_inbox_wait(par_runtime_t *rt,
                                       int64_t timeout_ms,
                                       char **out,
                                       size_t *out_len,
                                       par_error_t **err);

/* Take up to max messages at once, without waiting.
 *
 * @param  max  0 for all
 * @out    out  owned JSON array of messages; free with par_free
 * @return as par_inbox_poll
 * @thread any; one consumer at a time, else PAR_ERR_BUSY    @blocks never    @returns owned    @since 0.1
 */
PAR_EXPORT par_status_t par_inbox_drain(par_runtime_t *rt,
                                        uint32_t max,
                                        char **out,
                                        size_t *out_len,
                                        par_error_t **err);

/* End a wait on the inbox, or the next one if nobody waits.
 *
 * @thread any    @blocks never    @since 0.1
 */
PAR_EXPORT par_status_t par_inbox_wake(par_runtime_t *rt);

/* A descriptor that is readable exactly while par_inbox_poll would return PAR_OK or PAR_END. Only wait on it.
 *
 * @out    out_fd  borrowed; lives until par_runtime_free
 * @thread any    @blocks never    @since 0.1
 */
PAR_EXPORT par_status_t par_inbox_fd(par_runtime_t *rt, intptr_t *out_fd, par_error_t **err);

/* ---- 9. Callbacks: optional ------------------------------------------------------------------------------ */

/* Take host tools: called with the token and the tool_call event; answered by par_tool_complete or par_tool_fail, at
 * once or later. Goes before streams and the inbox.
 *
 * @param  cb       NULL unregisters
 * @param  destroy  may be NULL
 * @thread any; another runtime's callbacks cannot unregister: PAR_ERR_WOULD_DEADLOCK
 * @blocks when unregistering: until a running callback returns    @since 0.1
 */
PAR_EXPORT par_status_t par_on_tool(par_runtime_t *rt,
                                    par_callback_t cb,
                                    uintptr_t user_data,
                                    par_destroy_t destroy,
                                    par_error_t **err);

/* Take approval requests: called with token 0 and the approval_request event; answered by par_approval_resolve, at once or
 * later. Goes before streams and the inbox.
 *
 * @param  cb       NULL unregisters
 * @param  destroy  may be NULL
 * @thread any; another runtime's callbacks cannot unregister: PAR_ERR_WOULD_DEADLOCK
 * @blocks when unregistering: until a running callback returns    @since 0.1
 */
PAR_EXPORT par_status_t par_on_approval(par_runtime_t *rt,
                                        par_callback_t cb,
                                        uintptr_t user_data,
                                        par_destroy_t destroy,
                                        par_error_t **err);

/* Take the events of every run. When the host is slow the oldest are dropped, and the next has "dropped": how many.
 *
 * @param  cb       NULL unregisters
 * @param  destroy  may be NULL
 * @thread any; another runtime's callbacks cannot unregister: PAR_ERR_WOULD_DEADLOCK
 * @blocks when unregistering: until a running callback returns    @since 0.1
 */
PAR_EXPORT par_status_t par_on_event(par_runtime_t *rt,
                                     par_callback_t cb,
                                     uintptr_t user_data,
                                     par_destroy_t destroy,
                                     par_error_t **err);

/* Take log messages. When the host is slow the oldest are dropped, and the next has "dropped": how many.
 *
 * @param  level    1 error, 2 warn, 3 info, 4 debug, 5 trace: this and worse
 * @param  cb       NULL unregisters
 * @param  destroy  may be NULL
 * @thread any; another runtime's callbacks cannot unregister: PAR_ERR_WOULD_DEADLOCK
 * @blocks when unregistering: until a running callback returns    @since 0.1
 */
PAR_EXPORT par_status_t par_on_log(par_runtime_t *rt,
                                   int32_t level,
                                   par_callback_t cb,
                                   uintptr_t user_data,
                                   par_destroy_t destroy,
                                   par_error_t **err);

/* Be told when the inbox or a stream started from now on goes from empty to not empty: for loops without descriptors.
 *
 * @param  cb       NULL unregisters; gets {"type":"wakeup","run_id":...} or {"type":"wakeup","inbox":true}
 * @param  destroy  may be NULL
 * @thread any; another runtime's callbacks cannot unregister: PAR_ERR_WOULD_DEADLOCK
 * @blocks when unregistering: until a running callback returns    @since 0.1
 */
PAR_EXPORT par_status_t par_on_wakeup(par_runtime_t *rt,
                                      par_callback_t cb,
                                      uintptr_t user_data,
                                      par_destroy_t destroy,
                                      par_error_t **err);

/* ---- 10. Aid for the tests of bindings ------------------------------------------------------------------- */

/* Parse JSON as strictly as every other input and give it back: what a binding's strings survive.
 *
 * @out    out  owned JSON; free with par_free
 * @thread any    @blocks never    @returns owned    @since 0.1
 */
PAR_EXPORT par_status_t par_echo(const char *json,
                                 size_t json_len,
                                 char **out,
                                 size_t *out_len,
                                 par_error_t **err);

#ifdef __cplusplus
} /* extern "C" */
#endif /* __cplusplus */

#endif  /* PAR_FFI_H */
