/* Every function, declared a second time as the contract has it (docs/ABI.md): a compiler accepts a second declaration only
 * when it says the same. A change of the generated header that would break a binding does not compile here. */
#include "par_ffi.h"

#ifdef __cplusplus
extern "C" {
#endif

uint32_t par_abi_version(void);
const char *par_version(void);
const char *par_build_info(void);
const char *par_status_name(par_status_t s);
void par_free(void *p);
par_status_t par_error_status(const par_error_t *e);
const char *par_error_message(const par_error_t *e);
const char *par_error_json(const par_error_t *e);
void par_error_free(par_error_t *e);
par_status_t par_runtime_create(uint32_t abi_version, const char *config, size_t config_len, par_runtime_t **out,
    par_error_t **err);
par_status_t par_runtime_info(par_runtime_t *rt, char **out, size_t *out_len, par_error_t **err);
par_status_t par_runtime_close(par_runtime_t *rt, int64_t timeout_ms, par_error_t **err);
void par_runtime_free(par_runtime_t *rt);
par_status_t par_register_agent(par_runtime_t *rt, const char *def, size_t def_len, par_error_t **err);
par_status_t par_unregister_agent(par_runtime_t *rt, const char *name, size_t name_len, par_error_t **err);
par_status_t par_register_tool(par_runtime_t *rt, const char *def, size_t def_len, par_error_t **err);
par_status_t par_unregister_tool(par_runtime_t *rt, const char *name, size_t name_len, par_error_t **err);
par_status_t par_list(par_runtime_t *rt, const char *kind, size_t kind_len, char **out, size_t *out_len,
    par_error_t **err);
par_status_t par_invoke(par_runtime_t *rt, const char *request, size_t request_len, int64_t timeout_ms, char **out,
    size_t *out_len, par_error_t **err);
par_status_t par_call(par_runtime_t *rt, const char *method, size_t method_len, const char *params,
    size_t params_len, int64_t timeout_ms, char **out, size_t *out_len, par_error_t **err);
par_status_t par_call_start(par_runtime_t *rt, const char *method, size_t method_len, const char *params,
    size_t params_len, par_stream_t **out, par_error_t **err);
par_status_t par_stream_start(par_runtime_t *rt, const char *request, size_t request_len, par_stream_t **out,
    par_error_t **err);
par_status_t par_stream_poll(par_stream_t *s, char **out, size_t *out_len, par_error_t **err);
par_status_t par_stream_wait(par_stream_t *s, int64_t timeout_ms, char **out, size_t *out_len, par_error_t **err);
par_status_t par_stream_drain(par_stream_t *s, uint32_t max, char **out, size_t *out_len, par_error_t **err);
par_status_t par_stream_result(par_stream_t *s, char **out, size_t *out_len, par_error_t **err);
par_status_t par_stream_info(par_stream_t *s, char **out, size_t *out_len, par_error_t **err);
par_status_t par_stream_cancel(par_stream_t *s, const char *reason, size_t reason_len, par_error_t **err);
par_status_t par_stream_wake(par_stream_t *s);
par_status_t par_stream_fd(par_stream_t *s, intptr_t *out_fd, par_error_t **err);
void par_stream_free(par_stream_t *s);
par_status_t par_run_cancel(par_runtime_t *rt, const char *run_id, size_t run_id_len, const char *reason,
    size_t reason_len, par_error_t **err);
par_status_t par_run_steer(par_runtime_t *rt, const char *run_id, size_t run_id_len, const char *message,
    size_t message_len, par_error_t **err);
par_status_t par_run_status(par_runtime_t *rt, const char *run_id, size_t run_id_len, char **out, size_t *out_len,
    par_error_t **err);
par_status_t par_tool_complete(par_runtime_t *rt, uint64_t token, const char *result, size_t result_len,
    par_error_t **err);
par_status_t par_tool_fail(par_runtime_t *rt, uint64_t token, const char *error, size_t error_len, par_error_t **err);
par_status_t par_tool_progress(par_runtime_t *rt, uint64_t token, const char *note, size_t note_len,
    par_error_t **err);
par_status_t par_approval_resolve(par_runtime_t *rt, const char *approval_id, size_t approval_id_len,
    const char *decision, size_t decision_len, par_error_t **err);
par_status_t par_inbox_poll(par_runtime_t *rt, char **out, size_t *out_len, par_error_t **err);
par_status_t par_inbox_wait(par_runtime_t *rt, int64_t timeout_ms, char **out, size_t *out_len, par_error_t **err);
par_status_t par_inbox_drain(par_runtime_t *rt, uint32_t max, char **out, size_t *out_len, par_error_t **err);
par_status_t par_inbox_wake(par_runtime_t *rt);
par_status_t par_inbox_fd(par_runtime_t *rt, intptr_t *out_fd, par_error_t **err);
par_status_t par_on_approval(par_runtime_t *rt, par_callback_t cb, uintptr_t user_data, par_destroy_t destroy,
    par_error_t **err);
par_status_t par_on_tool(par_runtime_t *rt, par_callback_t cb, uintptr_t user_data, par_destroy_t destroy,
    par_error_t **err);
par_status_t par_on_event(par_runtime_t *rt, par_callback_t cb, uintptr_t user_data, par_destroy_t destroy,
    par_error_t **err);
par_status_t par_on_log(par_runtime_t *rt, int32_t level, par_callback_t cb, uintptr_t user_data,
    par_destroy_t destroy, par_error_t **err);
par_status_t par_on_wakeup(par_runtime_t *rt, par_callback_t cb, uintptr_t user_data, par_destroy_t destroy,
    par_error_t **err);
par_status_t par_echo(const char *json, size_t json_len, char **out, size_t *out_len, par_error_t **err);

#ifdef __cplusplus
}
#endif
