/* The contract of each single call: what it does with NULL, with lengths, with bytes that are no text, with text that is
 * no JSON, with JSON it does not know; and that after a failure every output is zero, whatever was in it before. */
#include "t.h"

#include <sys/mman.h>

/* Outputs, poisoned before each call. Which of them a call was given is read off its own text. */
static struct { char *text; size_t len; par_error_t *err; par_stream_t *stream; par_runtime_t *rt; intptr_t fd; } o;

static void poison(void) { memset(&o, 0xA5, sizeof o); }

static int poisoned(const void *field, size_t size) {
    const unsigned char *p = field;
    while (size && *p == 0xA5) p++, size--;
    return size == 0;
}

static void outputs(const char *file, int line, const char *call, par_status_t want, par_status_t got) {
    par_error_t *err = strstr(call, "&o.err") ? o.err : NULL;
    if (strstr(call, "&o.err") && poisoned(&o.err, sizeof o.err)) {
        t_fail(file, line, call, "expected", "*err written", "actual", "*err untouched", NULL);
        err = NULL;
    }
    t_clear();
    E = err;
    t_status(file, line, call, want, got);
    if (got < 0 && strstr(call, "&o.err") && !err) t_fail(file, line, call, "expected", "an error object", "actual", "NULL", NULL);
    if (got == PAR_OK) return;
    if (strstr(call, "&o.text") && o.text) t_fail(file, line, call, "expected", "*out == NULL", "actual", fmt("%p", (void *)o.text), NULL);
    if (strstr(call, "&o.len") && o.len) t_fail(file, line, call, "expected", "*out_len == 0", "actual", fmt("%zu", o.len), NULL);
    if (strstr(call, "&o.stream") && o.stream) t_fail(file, line, call, "expected", "*out == NULL", "actual", fmt("%p", (void *)o.stream), NULL);
    if (strstr(call, "&o.rt") && o.rt) t_fail(file, line, call, "expected", "*out == NULL", "actual", fmt("%p", (void *)o.rt), NULL);
    if (strstr(call, "&o.fd") && o.fd != 0 && o.fd != -1) t_fail(file, line, call, "expected", "*out_fd zeroed", "actual", fmt("%ld", (long)o.fd), NULL);
}

/* The call returns `want` and leaves its outputs as the contract says; E holds its error. */
#define RETURNS(want, call) (poison(), outputs(__FILE__, __LINE__, #call, want, (call)))
#define IS_NULL_ARG(call) RETURNS(PAR_ERR_NULL_ARG, call)

static const char ECHO_AGENT[] = "{\"id\":\"a\",\"model\":\"mock/m\"}";
static const char HELLO[] = "{\"agent\":\"a\",\"input\":\"hello\"}";

static par_runtime_t *with_agent(void) {
    par_runtime_t *rt = mock(NULL);
    ST(PAR_OK, par_register_agent(rt, ECHO_AGENT, PAR_NTS, &E));
    return rt;
}

/* ---- versions, names, errors ------------------------------------------------------------------------------------- */

TEST(versions) {
    int major = -1, minor = -1, patch = -1;
    CHECK_INT(PAR_ABI_VERSION, par_abi_version());
    CHECK_INT(3, sscanf(par_version(), "%d.%d.%d", &major, &minor, &patch));
    CHECK(par_version() == par_version());
    CHECK_HAS(par_build_info(), "'panic':'unwind'");
    CHECK(json_at(par_build_info(), "target") != NULL);
    CHECK(json_at(par_build_info(), "features") != NULL);
}

TEST(status_names) {
    static const struct { par_status_t status; const char *name; } known[] = {
#define NAMED(code) {code, #code}
        NAMED(PAR_OK), NAMED(PAR_PENDING), NAMED(PAR_TIMEOUT), NAMED(PAR_END), NAMED(PAR_WOKEN),
        NAMED(PAR_ERR_NULL_ARG), NAMED(PAR_ERR_INVALID_ARG), NAMED(PAR_ERR_UTF8), NAMED(PAR_ERR_JSON), NAMED(PAR_ERR_SCHEMA),
        NAMED(PAR_ERR_TOO_LARGE), NAMED(PAR_ERR_ABI), NAMED(PAR_ERR_UNSUPPORTED), NAMED(PAR_ERR_BAD_HANDLE),
        NAMED(PAR_ERR_CLOSED), NAMED(PAR_ERR_BUSY), NAMED(PAR_ERR_WOULD_DEADLOCK), NAMED(PAR_ERR_FORKED),
        NAMED(PAR_ERR_STALE_TOKEN), NAMED(PAR_ERR_NO_HANDLER), NAMED(PAR_ERR_NOT_FOUND), NAMED(PAR_ERR_EXISTS),
        NAMED(PAR_ERR_LIMIT), NAMED(PAR_ERR_CANCELLED), NAMED(PAR_ERR_DEADLINE), NAMED(PAR_ERR_PROVIDER),
        NAMED(PAR_ERR_RATE_LIMITED), NAMED(PAR_ERR_AUTH), NAMED(PAR_ERR_NETWORK), NAMED(PAR_ERR_TOOL), NAMED(PAR_ERR_GUARD),
        NAMED(PAR_ERR_CONTENT_FILTER), NAMED(PAR_ERR_CONTEXT_LENGTH), NAMED(PAR_ERR_PERSISTENCE), NAMED(PAR_ERR_MCP),
        NAMED(PAR_ERR_WORKFLOW), NAMED(PAR_ERR_APPROVAL), NAMED(PAR_ERR_UNSUPPORTED_BY_PROVIDER),
        NAMED(PAR_ERR_INVALID_OUTPUT), NAMED(PAR_ERR_INTERNAL), NAMED(PAR_ERR_PANIC), NAMED(PAR_ERR_OUT_OF_MEMORY),
        NAMED(PAR_ERR_IO),
    };
    static const par_status_t numbers[] = {0, 1, 2, 3, 4, -1, -2, -3, -4, -5, -6, -7, -8, -30, -31, -32, -33, -34, -35, -36,
        -37, -38, -39, -60, -61, -62, -63, -64, -65, -66, -67, -68, -69, -70, -71, -72, -73, -74, -75, -90, -91, -92, -93};
    static const par_status_t unknown[] = {5, 77, -9, -40, -76, -94, INT32_MAX, INT32_MIN};
    size_t i;
    CHECK_INT(COUNT(numbers), COUNT(known));
    for (i = 0; i < COUNT(known); i++) {
        CHECK_STR(known[i].name, par_status_name(known[i].status));
        CHECK_INT(numbers[i], known[i].status);
    }
    for (i = 0; i < COUNT(unknown); i++) CHECK_STR("PAR_ERR_UNKNOWN", par_status_name(unknown[i]));
    CHECK_INT(4, sizeof(par_status_t));
}

TEST(error_objects) {
    par_error_t *err = NULL;
    char *out;
    CHECK_INT(PAR_ERR_SCHEMA, par_runtime_create(PAR_ABI_VERSION, "{\"thread\":1}", PAR_NTS, (par_runtime_t **)&out, &err));
    CHECK_INT(PAR_ERR_SCHEMA, par_error_status(err));
    CHECK(*par_error_message(err) && !strchr(par_error_message(err), '\n'));
    CHECK_INT(PAR_ERR_SCHEMA, json_int(par_error_json(err), "status"));
    CHECK_STR("PAR_ERR_SCHEMA", json_str(par_error_json(err), "name"));
    CHECK_STR("invalid_input", json_str(par_error_json(err), "category"));
    CHECK_STR("false", json_raw(par_error_json(err), "retryable"));
    CHECK_HAS(json_str(par_error_json(err), "path"), "thread");
    CHECK_HAS(par_error_json(err), "threads"); /* the nearest key is named */
    CHECK_HAS(par_error_message(err), json_str(par_error_json(err), "message")); /* the line has the path and the hint too */
    CHECK(par_error_json(err) == par_error_json(err));
    par_error_free(err);
}

TEST(error_accessors_take_null) {
    CHECK_INT(PAR_OK, par_error_status(NULL));
    CHECK(par_error_message(NULL) != NULL);
    CHECK(par_error_json(NULL) != NULL);
    par_error_free(NULL);
}

/* ---- NULL in every pointer position ------------------------------------------------------------------------------ */

TEST(frees_take_null) {
    par_free(NULL);
    par_error_free(NULL);
    par_stream_free(NULL);
    par_runtime_free(NULL);
}

TEST(null_runtime) {
    IS_NULL_ARG(par_runtime_info(NULL, &o.text, &o.len, &o.err));
    IS_NULL_ARG(par_runtime_close(NULL, 0, &o.err));
    IS_NULL_ARG(par_register_agent(NULL, ECHO_AGENT, PAR_NTS, &o.err));
    IS_NULL_ARG(par_unregister_agent(NULL, "a", PAR_NTS, &o.err));
    IS_NULL_ARG(par_register_tool(NULL, "{}", PAR_NTS, &o.err));
    IS_NULL_ARG(par_unregister_tool(NULL, "a", PAR_NTS, &o.err));
    IS_NULL_ARG(par_list(NULL, "agents", PAR_NTS, &o.text, &o.len, &o.err));
    IS_NULL_ARG(par_invoke(NULL, HELLO, PAR_NTS, 0, &o.text, &o.len, &o.err));
    IS_NULL_ARG(par_call(NULL, "describe", PAR_NTS, NULL, 0, 0, &o.text, &o.len, &o.err));
    IS_NULL_ARG(par_call_start(NULL, "describe", PAR_NTS, NULL, 0, &o.stream, &o.err));
    IS_NULL_ARG(par_stream_start(NULL, HELLO, PAR_NTS, &o.stream, &o.err));
    IS_NULL_ARG(par_run_cancel(NULL, "r", PAR_NTS, NULL, 0, &o.err));
    IS_NULL_ARG(par_run_steer(NULL, "r", PAR_NTS, "\"x\"", PAR_NTS, &o.err));
    IS_NULL_ARG(par_run_status(NULL, "r", PAR_NTS, &o.text, &o.len, &o.err));
    IS_NULL_ARG(par_tool_complete(NULL, 1, "1", PAR_NTS, &o.err));
    IS_NULL_ARG(par_tool_fail(NULL, 1, "{\"message\":\"m\"}", PAR_NTS, &o.err));
    IS_NULL_ARG(par_tool_progress(NULL, 1, "1", PAR_NTS, &o.err));
    IS_NULL_ARG(par_approval_resolve(NULL, "a", PAR_NTS, "\"approve\"", PAR_NTS, &o.err));
    IS_NULL_ARG(par_inbox_poll(NULL, &o.text, &o.len, &o.err));
    IS_NULL_ARG(par_inbox_wait(NULL, 0, &o.text, &o.len, &o.err));
    IS_NULL_ARG(par_inbox_drain(NULL, 1, &o.text, &o.len, &o.err));
    IS_NULL_ARG(par_inbox_wake(NULL));
    IS_NULL_ARG(par_inbox_fd(NULL, &o.fd, &o.err));
    IS_NULL_ARG(par_on_tool(NULL, NULL, 0, NULL, &o.err));
    IS_NULL_ARG(par_on_approval(NULL, NULL, 0, NULL, &o.err));
    IS_NULL_ARG(par_on_event(NULL, NULL, 0, NULL, &o.err));
    IS_NULL_ARG(par_on_log(NULL, 3, NULL, 0, NULL, &o.err));
    IS_NULL_ARG(par_on_wakeup(NULL, NULL, 0, NULL, &o.err));
}

TEST(null_stream) {
    IS_NULL_ARG(par_stream_poll(NULL, &o.text, &o.len, &o.err));
    IS_NULL_ARG(par_stream_wait(NULL, 0, &o.text, &o.len, &o.err));
    IS_NULL_ARG(par_stream_drain(NULL, 1, &o.text, &o.len, &o.err));
    IS_NULL_ARG(par_stream_result(NULL, &o.text, &o.len, &o.err));
    IS_NULL_ARG(par_stream_info(NULL, &o.text, &o.len, &o.err));
    IS_NULL_ARG(par_stream_cancel(NULL, NULL, 0, &o.err));
    IS_NULL_ARG(par_stream_wake(NULL));
    IS_NULL_ARG(par_stream_fd(NULL, &o.fd, &o.err));
}

TEST(null_output) {
    par_runtime_t *rt = with_agent();
    par_stream_t *s = start(rt, HELLO);
    IS_NULL_ARG(par_runtime_create(PAR_ABI_VERSION, "{}", PAR_NTS, NULL, &o.err));
    IS_NULL_ARG(par_runtime_info(rt, NULL, &o.len, &o.err));
    IS_NULL_ARG(par_list(rt, "agents", PAR_NTS, NULL, &o.len, &o.err));
    IS_NULL_ARG(par_invoke(rt, HELLO, PAR_NTS, 1000, NULL, &o.len, &o.err));
    IS_NULL_ARG(par_call(rt, "describe", PAR_NTS, NULL, 0, 1000, NULL, &o.len, &o.err));
    IS_NULL_ARG(par_call_start(rt, "describe", PAR_NTS, NULL, 0, NULL, &o.err));
    IS_NULL_ARG(par_stream_start(rt, HELLO, PAR_NTS, NULL, &o.err));
    IS_NULL_ARG(par_stream_poll(s, NULL, &o.len, &o.err));
    IS_NULL_ARG(par_stream_wait(s, 0, NULL, &o.len, &o.err));
    IS_NULL_ARG(par_stream_drain(s, 1, NULL, &o.len, &o.err));
    IS_NULL_ARG(par_stream_result(s, NULL, &o.len, &o.err));
    IS_NULL_ARG(par_stream_info(s, NULL, &o.len, &o.err));
    IS_NULL_ARG(par_stream_fd(s, NULL, &o.err));
    IS_NULL_ARG(par_run_status(rt, "r", PAR_NTS, NULL, &o.len, &o.err));
    IS_NULL_ARG(par_inbox_poll(rt, NULL, &o.len, &o.err));
    IS_NULL_ARG(par_inbox_wait(rt, 0, NULL, &o.len, &o.err));
    IS_NULL_ARG(par_inbox_drain(rt, 1, NULL, &o.len, &o.err));
    IS_NULL_ARG(par_inbox_fd(rt, NULL, &o.err));
    IS_NULL_ARG(par_echo("{}", PAR_NTS, NULL, &o.len, &o.err));
    struct seen seen = drive(s, NULL, NULL); /* nothing of the above consumed an event */
    CHECK_WHOLE(seen, s);
    CHECK_STR("hello", seen.text);
    par_stream_free(s);
    finish(rt);
}

/* NULL text: an error with any length but 0, which means "empty". */
TEST(null_text) {
    static const size_t lengths[] = {5, 1, PAR_NTS};
    par_runtime_t *rt = with_agent();
    par_stream_t *s = start(rt, HELLO);
    size_t i;
    for (i = 0; i < COUNT(lengths); i++) {
        size_t n = lengths[i];
        IS_NULL_ARG(par_runtime_create(PAR_ABI_VERSION, NULL, n, &o.rt, &o.err));
        IS_NULL_ARG(par_register_agent(rt, NULL, n, &o.err));
        IS_NULL_ARG(par_unregister_agent(rt, NULL, n, &o.err));
        IS_NULL_ARG(par_register_tool(rt, NULL, n, &o.err));
        IS_NULL_ARG(par_unregister_tool(rt, NULL, n, &o.err));
        IS_NULL_ARG(par_list(rt, NULL, n, &o.text, &o.len, &o.err));
        IS_NULL_ARG(par_invoke(rt, NULL, n, 0, &o.text, &o.len, &o.err));
        IS_NULL_ARG(par_call(rt, NULL, n, "{}", 2, 0, &o.text, &o.len, &o.err));
        IS_NULL_ARG(par_call(rt, "describe", PAR_NTS, NULL, n, 0, &o.text, &o.len, &o.err));
        IS_NULL_ARG(par_call_start(rt, NULL, n, "{}", 2, &o.stream, &o.err));
        IS_NULL_ARG(par_call_start(rt, "describe", PAR_NTS, NULL, n, &o.stream, &o.err));
        IS_NULL_ARG(par_stream_start(rt, NULL, n, &o.stream, &o.err));
        IS_NULL_ARG(par_stream_cancel(s, NULL, n, &o.err));
        IS_NULL_ARG(par_run_cancel(rt, NULL, n, NULL, 0, &o.err));
        IS_NULL_ARG(par_run_cancel(rt, "r", 1, NULL, n, &o.err));
        IS_NULL_ARG(par_run_steer(rt, NULL, n, "\"x\"", PAR_NTS, &o.err));
        IS_NULL_ARG(par_run_steer(rt, "r", 1, NULL, n, &o.err));
        IS_NULL_ARG(par_run_status(rt, NULL, n, &o.text, &o.len, &o.err));
        IS_NULL_ARG(par_tool_complete(rt, 1, NULL, n, &o.err));
        IS_NULL_ARG(par_tool_fail(rt, 1, NULL, n, &o.err));
        IS_NULL_ARG(par_tool_progress(rt, 1, NULL, n, &o.err));
        IS_NULL_ARG(par_approval_resolve(rt, NULL, n, "\"approve\"", PAR_NTS, &o.err));
        IS_NULL_ARG(par_approval_resolve(rt, "a", 1, NULL, n, &o.err));
        IS_NULL_ARG(par_echo(NULL, n, &o.text, &o.len, &o.err));
    }
    RETURNS(PAR_OK, par_call(rt, "describe", PAR_NTS, NULL, 0, 5000, &o.text, &o.len, &o.err)); /* NULL + 0 is {} */
    par_free(o.text);
    RETURNS(PAR_OK, par_call(rt, "describe", PAR_NTS, "x", 0, 5000, &o.text, &o.len, &o.err)); /* and so is ptr + 0 */
    par_free(o.text);
    RETURNS(PAR_ERR_JSON, par_register_agent(rt, NULL, 0, &o.err)); /* params may be left out, a definition may not */
    RETURNS(PAR_ERR_JSON, par_invoke(rt, NULL, 0, 0, &o.text, &o.len, &o.err));
    RETURNS(PAR_ERR_NOT_FOUND, par_run_cancel(rt, "r", 1, NULL, 0, &o.err));
    RETURNS(PAR_ERR_JSON, par_run_steer(rt, "r", 1, NULL, 0, &o.err));
    RETURNS(PAR_ERR_JSON, par_approval_resolve(rt, "a", 1, NULL, 0, &o.err));
    RETURNS(PAR_OK, par_stream_cancel(s, NULL, 0, &o.err));
    par_stream_free(s);
    finish(rt);
}

TEST(null_len_and_null_error) {
    par_runtime_t *rt = with_agent();
    par_stream_t *s;
    char *out;
    intptr_t fd;
    CHECK_INT(PAR_OK, par_runtime_info(rt, &out, NULL, NULL)), par_free(out);
    CHECK_INT(PAR_OK, par_list(rt, "agents", PAR_NTS, &out, NULL, NULL)), par_free(out);
    CHECK_INT(PAR_OK, par_invoke(rt, HELLO, PAR_NTS, 5000, &out, NULL, NULL)), par_free(out);
    CHECK_INT(PAR_OK, par_call(rt, "describe", PAR_NTS, NULL, 0, 5000, &out, NULL, NULL)), par_free(out);
    CHECK_INT(PAR_OK, par_echo("[]", PAR_NTS, &out, NULL, NULL)), par_free(out);
    CHECK_INT(PAR_OK, par_stream_start(rt, HELLO, PAR_NTS, &s, NULL));
    CHECK_INT(PAR_OK, par_stream_info(s, &out, NULL, NULL)), par_free(out);
    CHECK_INT(PAR_OK, par_stream_fd(s, &fd, NULL));
    while (par_stream_wait(s, 1000, &out, NULL, NULL) == PAR_OK) par_free(out);
    CHECK_INT(PAR_END, par_stream_poll(s, &out, NULL, NULL));
    CHECK_INT(PAR_END, par_stream_drain(s, 1, &out, NULL, NULL));
    CHECK_INT(PAR_OK, par_stream_result(s, &out, NULL, NULL)), par_free(out);
    CHECK_INT(PAR_OK, par_stream_cancel(s, NULL, 0, NULL));
    par_stream_free(s);
    CHECK_INT(PAR_PENDING, par_inbox_poll(rt, &out, NULL, NULL));
    CHECK_INT(PAR_ERR_NOT_FOUND, par_run_status(rt, "r", 1, &out, NULL, NULL));
    CHECK_INT(PAR_ERR_STALE_TOKEN, par_tool_complete(rt, 1, "1", 1, NULL));
    CHECK_INT(PAR_ERR_NOT_FOUND, par_run_steer(rt, "r", 1, "\"x\"", PAR_NTS, NULL));
    CHECK_INT(PAR_ERR_NOT_FOUND, par_approval_resolve(rt, "a", 1, "\"approve\"", PAR_NTS, NULL));
    CHECK_INT(PAR_OK, par_on_approval(rt, NULL, 0, NULL, NULL));
    CHECK_INT(PAR_ERR_JSON, par_register_tool(rt, "{", 1, NULL));
    CHECK_INT(PAR_ERR_NULL_ARG, par_runtime_info(NULL, NULL, NULL, NULL));
    CHECK_INT(PAR_OK, par_runtime_close(rt, 5000, NULL));
    par_runtime_free(rt);
}

/* A state is no error: outputs are zeroed too, and *err is NULL. */
TEST(states_zero_their_outputs) {
    par_runtime_t *rt = mock("[{'text':'x','delay_ms':10000}]");
    par_stream_t *s;
    agent(rt, "a", NULL);
    s = start(rt, HELLO);
    while (next(s, 200)) {}
    CHECK_INT(PAR_TIMEOUT, status);
    RETURNS(PAR_PENDING, par_stream_poll(s, &o.text, &o.len, &o.err));
    RETURNS(PAR_TIMEOUT, par_stream_wait(s, 0, &o.text, &o.len, &o.err));
    RETURNS(PAR_PENDING, par_stream_drain(s, 9, &o.text, &o.len, &o.err));
    RETURNS(PAR_PENDING, par_stream_result(s, &o.text, &o.len, &o.err));
    RETURNS(PAR_OK, par_stream_wake(s));
    RETURNS(PAR_WOKEN, par_stream_wait(s, 5000, &o.text, &o.len, &o.err));
    RETURNS(PAR_OK, par_stream_cancel(s, "enough", PAR_NTS, &o.err));
    CHECK(o.err == NULL);
    struct seen seen = drive(s, NULL, NULL);
    CHECK_WHOLE(seen, s);
    RETURNS(PAR_END, par_stream_poll(s, &o.text, &o.len, &o.err));
    RETURNS(PAR_END, par_stream_wait(s, -1, &o.text, &o.len, &o.err));
    RETURNS(PAR_END, par_stream_drain(s, 9, &o.text, &o.len, &o.err));
    RETURNS(PAR_ERR_CANCELLED, par_stream_result(s, &o.text, &o.len, &o.err));
    par_stream_free(s);
    RETURNS(PAR_PENDING, par_inbox_poll(rt, &o.text, &o.len, &o.err));
    RETURNS(PAR_TIMEOUT, par_inbox_wait(rt, 0, &o.text, &o.len, &o.err));
    RETURNS(PAR_PENDING, par_inbox_drain(rt, 9, &o.text, &o.len, &o.err));
    finish(rt);
}

TEST(errors_of_a_good_handle_zero_their_outputs) {
    par_runtime_t *rt = with_agent();
    RETURNS(PAR_ERR_NOT_FOUND, par_list(rt, "agent", PAR_NTS, &o.text, &o.len, &o.err));
    CHECK_HAS(par_error_json(E), "agents"); /* the nearest kind */
    RETURNS(PAR_ERR_NOT_FOUND, par_call(rt, "tool.list", PAR_NTS, NULL, 0, 0, &o.text, &o.len, &o.err));
    CHECK_HAS(par_error_json(E), "tools.list");
    RETURNS(PAR_ERR_NOT_FOUND, par_call_start(rt, "nope", PAR_NTS, NULL, 0, &o.stream, &o.err));
    RETURNS(PAR_ERR_NOT_FOUND, par_invoke(rt, "{\"agent\":\"b\",\"input\":\"x\"}", PAR_NTS, 0, &o.text, &o.len, &o.err));
    RETURNS(PAR_ERR_NOT_FOUND, par_stream_start(rt, "{\"agent\":\"b\",\"input\":\"x\"}", PAR_NTS, &o.stream, &o.err));
    RETURNS(PAR_ERR_NOT_FOUND, par_run_status(rt, "r", PAR_NTS, &o.text, &o.len, &o.err));
    RETURNS(PAR_ERR_NOT_FOUND, par_unregister_agent(rt, "b", PAR_NTS, &o.err));
    RETURNS(PAR_ERR_NOT_FOUND, par_unregister_tool(rt, "b", PAR_NTS, &o.err));
    RETURNS(PAR_ERR_EXISTS, par_register_agent(rt, ECHO_AGENT, PAR_NTS, &o.err));
    RETURNS(PAR_ERR_STALE_TOKEN, par_tool_complete(rt, UINT64_MAX, "1", PAR_NTS, &o.err));
    RETURNS(PAR_ERR_NOT_FOUND, par_run_steer(rt, "r", PAR_NTS, "\"x\"", PAR_NTS, &o.err));
    RETURNS(PAR_ERR_NOT_FOUND, par_approval_resolve(rt, "a", PAR_NTS, "\"approve\"", PAR_NTS, &o.err));
    RETURNS(PAR_ERR_INVALID_ARG, par_on_log(rt, 99, NULL, 0, NULL, &o.err));
    finish(rt);
}

/* ---- lengths, bytes ---------------------------------------------------------------------------------------------- */

TEST(lengths) {
    static const char padded[] = "{\"a\":1}}}} this is not part of it";
    char *out;
    size_t len;
    ST(PAR_OK, par_echo(padded, 7, &out, &len, &E));
    CHECK_STR("{\"a\":1}", out);
    CHECK_INT(7, len);
    par_free(out);
    ST(PAR_OK, par_echo("{\"a\":1}", PAR_NTS, &out, &len, &E));
    CHECK_STR("{\"a\":1}", out);
    CHECK_INT(strlen(out), len);
    par_free(out);
    ST(PAR_ERR_JSON, par_echo(padded, PAR_NTS, &out, &len, &E));
    ST(PAR_ERR_JSON, par_echo("[1]\0", 4, &out, &len, &E)); /* the length counts, not the NUL */
    ST(PAR_ERR_JSON, par_echo("[\"a\0b\"]", 7, &out, &len, &E));
}

TEST(names_with_a_nul_are_names) {
    par_runtime_t *rt = with_agent();
    char *out;
    ST(PAR_ERR_NOT_FOUND, par_unregister_agent(rt, "a\0b", 3, &E));
    ST(PAR_ERR_NOT_FOUND, par_list(rt, "agents\0", 7, &out, NULL, &E));
    ST(PAR_OK, par_unregister_agent(rt, "ab", 1, &E));
    finish(rt);
}

/* The bytes end where a page ends and the next one may not be touched: proves there is no read past the length. */
TEST(page_edge) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), n = strlen(HELLO);
    char *base = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *edge, *out;
    par_runtime_t *rt = with_agent();
    par_stream_t *s;
    size_t cut;
    CHECK(base != MAP_FAILED);
    mprotect(base + page, page, PROT_NONE);
    edge = memcpy(base + page - n, HELLO, n);
    ST(PAR_OK, par_invoke(rt, edge, n, 5000, &out, NULL, &E));
    par_free(out);
    ST(PAR_OK, par_stream_start(rt, edge, n, &s, &E));
    par_stream_free(s);
    ST(PAR_OK, par_echo(edge, n, &out, NULL, &E));
    par_free(out);
    for (cut = 1; cut < n; cut++) { /* every prefix, flush with the edge, and every suffix */
        memcpy(base + page - cut, HELLO, cut);
        ST(PAR_ERR_JSON, par_echo(base + page - cut, cut, &out, NULL, &E));
    }
    memcpy(base + page - 3, "\"\xE2\x82", 3); /* a UTF-8 sequence cut by the edge */
    ST(PAR_ERR_UTF8, par_echo(base + page - 3, 3, &out, NULL, &E));
    if (par_echo(base + page, 0, &out, NULL, NULL) == PAR_OK) par_free(out); /* no bytes: nothing is read */
    memcpy(base + page - 3, "[]", 3); /* PAR_NTS: the NUL is the last byte of the page */
    ST(PAR_OK, par_echo(base + page - 3, PAR_NTS, &out, NULL, &E));
    par_free(out);
    munmap(base, 2 * page);
    finish(rt);
}

TEST(bad_utf8) {
    static const struct { const char *bytes; size_t len, offset; } bad[] = {
        {"\xFF\"aaaaaaaaaaaaaaaa\"", 19, 0},
        {"\"aaaaaaaaaaaa\xC0\xAF" "aa\"", 18, 13},   /* overlong */
        {"\"aaaaaaaaaaaa\xED\xA0\x80" "aa\"", 19, 13}, /* a surrogate */
        {"\"aaaaaaaaaaaa\xF4\x90\x80\x80\"", 18, 13}, /* above U+10FFFF */
        {"\"aaaaaaaaaaaaaaaa\"\x80", 19, 18},
        {"\"aaaaaaaaaaaaaaaaa\xE2", 19, 18},
    };
    par_runtime_t *rt = with_agent();
    par_stream_t *s = start(rt, HELLO);
    size_t i;
    for (i = 0; i < COUNT(bad); i++) {
        RETURNS(PAR_ERR_UTF8, par_echo(bad[i].bytes, bad[i].len, &o.text, &o.len, &o.err));
        CHECK_HAS(par_error_message(E), fmt("%zu", bad[i].offset));
    }
    for (i = 0; i < COUNT(bad); i++) {
        const char *p = bad[i].bytes;
        size_t n = bad[i].len;
        RETURNS(PAR_ERR_UTF8, par_runtime_create(PAR_ABI_VERSION, p, n, &o.rt, &o.err));
        RETURNS(PAR_ERR_UTF8, par_register_agent(rt, p, n, &o.err));
        RETURNS(PAR_ERR_UTF8, par_unregister_agent(rt, p, n, &o.err));
        RETURNS(PAR_ERR_UTF8, par_register_tool(rt, p, n, &o.err));
        RETURNS(PAR_ERR_UTF8, par_unregister_tool(rt, p, n, &o.err));
        RETURNS(PAR_ERR_UTF8, par_list(rt, p, n, &o.text, &o.len, &o.err));
        RETURNS(PAR_ERR_UTF8, par_invoke(rt, p, n, 0, &o.text, &o.len, &o.err));
        RETURNS(PAR_ERR_UTF8, par_call(rt, p, n, NULL, 0, 0, &o.text, &o.len, &o.err));
        RETURNS(PAR_ERR_UTF8, par_call(rt, "describe", PAR_NTS, p, n, 0, &o.text, &o.len, &o.err));
        RETURNS(PAR_ERR_UTF8, par_call_start(rt, "describe", PAR_NTS, p, n, &o.stream, &o.err));
        RETURNS(PAR_ERR_UTF8, par_stream_start(rt, p, n, &o.stream, &o.err));
        RETURNS(PAR_ERR_UTF8, par_stream_cancel(s, p, n, &o.err));
        RETURNS(PAR_ERR_UTF8, par_run_cancel(rt, p, n, NULL, 0, &o.err));
        RETURNS(PAR_ERR_UTF8, par_run_cancel(rt, "r", PAR_NTS, p, n, &o.err));
        RETURNS(PAR_ERR_UTF8, par_run_steer(rt, p, n, "\"x\"", PAR_NTS, &o.err));
        RETURNS(PAR_ERR_UTF8, par_run_steer(rt, "r", PAR_NTS, p, n, &o.err));
        RETURNS(PAR_ERR_UTF8, par_run_status(rt, p, n, &o.text, &o.len, &o.err));
        RETURNS(PAR_ERR_UTF8, par_tool_complete(rt, 1, p, n, &o.err));
        RETURNS(PAR_ERR_UTF8, par_tool_fail(rt, 1, p, n, &o.err));
        RETURNS(PAR_ERR_UTF8, par_tool_progress(rt, 1, p, n, &o.err));
        RETURNS(PAR_ERR_UTF8, par_approval_resolve(rt, p, n, "\"approve\"", PAR_NTS, &o.err));
        RETURNS(PAR_ERR_UTF8, par_approval_resolve(rt, "a", PAR_NTS, p, n, &o.err));
    }
    struct seen seen = drive(s, NULL, NULL); /* a refused cancel cancels nothing */
    CHECK_WHOLE(seen, s);
    CHECK(is(seen.terminal, "completed"));
    par_stream_free(s);
    finish(rt);
}

/* ---- JSON -------------------------------------------------------------------------------------------------------- */

TEST(truncated_at_every_byte) {
    const char *request = js("{'agent':'a','input':[{'type':'text','text':'h\xC3\xA9\\u00e9'}],'timeout_ms':1000,'tag':'t'}");
    const char *tool_def = js("{'name':'t','description':'d','input_schema':{'type':'object','properties':{}},'timeout':1.5}");
    const char *config = js("{'llm_providers':{'mock':{'type':'mock','turns':[{'text':'x','chunks':['x']}]}},'threads':2}");
    const char *decision = js("{'type':'edit','input':{'a':[1]},'approver':'hÃ©'}"), *message = js("{'input':[{'type':'text','text':'hÃ©'}],'when':'now'}");
    par_runtime_t *rt = with_agent();
    char *out;
    size_t n;
#define FOR_EACH_PREFIX(text, call)                                                                       \
    for (n = 1; n < strlen(text); n++) {                                                                  \
        char *cut = memcpy(malloc(n), text, n); /* exactly as long as it says: sanitizers see any over-read */ \
        par_status_t want = (text[n] & 0xC0) == 0x80 ? PAR_ERR_UTF8 : PAR_ERR_JSON;                       \
        RETURNS(want, call);                                                                              \
        free(cut);                                                                                        \
    }
    FOR_EACH_PREFIX(request, par_invoke(rt, cut, n, 0, &o.text, &o.len, &o.err))
    FOR_EACH_PREFIX(request, par_stream_start(rt, cut, n, &o.stream, &o.err))
    FOR_EACH_PREFIX(request, par_call(rt, "describe", PAR_NTS, cut, n, 0, &o.text, &o.len, &o.err))
    FOR_EACH_PREFIX(ECHO_AGENT, par_register_agent(rt, cut, n, &o.err))
    FOR_EACH_PREFIX(tool_def, par_register_tool(rt, cut, n, &o.err))
    FOR_EACH_PREFIX(decision, par_approval_resolve(rt, "a", PAR_NTS, cut, n, &o.err))
    FOR_EACH_PREFIX(message, par_run_steer(rt, "r", PAR_NTS, cut, n, &o.err))
    FOR_EACH_PREFIX(config, par_runtime_create(PAR_ABI_VERSION, cut, n, &o.rt, &o.err))
    FOR_EACH_PREFIX(request, par_echo(cut, n, &o.text, &o.len, &o.err))
    ST(PAR_OK, par_invoke(rt, request, PAR_NTS, 5000, &out, NULL, &E));
    CHECK_STR("h\xC3\xA9\xC3\xA9", json_str(out, "text"));
    par_free(out);
    finish(rt);
}

static char *nested(int depth, char open, char close) {
    char *text = t_alloc((size_t)depth * 2);
    memset(text, open, (size_t)depth);
    memset(text + depth, close, (size_t)depth);
    return text;
}

TEST(what_is_not_json) {
    static const char *const bad[] = {
        " ", "nul", "tru", "{", "}", "[1,]", "{'a':1,}", "{'a'}", "{a:1}", "[1 2]", "{} {}", "[01]", "[1.]", "[.5]", "[+1]",
        "NaN", "[NaN]", "[Infinity]", "[-Infinity]", "['\\x41']", "['\\u12']", "['\t']", "['a", "// no\n{}", "[\"\\ud83d\"]",
        "[\"\\ude00\"]", "[\"\\ud83dx\"]", "[\"\\ud83d\\u0041\"]", "{'\\ud800':1}", "{'a':1,'a':2}", "{'o':{'a':1,'b':2,'a':1}}",
        "[{'x':[{'k':1,'\\u006b':2}]}]", "\xEF\xBB\xBF{}",
    };
    char *out;
    size_t i;
    for (i = 0; i < COUNT(bad); i++) {
        RETURNS(PAR_ERR_JSON, par_echo(js("%s", bad[i]), PAR_NTS, &o.text, &o.len, &o.err));
        if (par_error_status(E) != PAR_ERR_JSON) printf("    for %s\n", bad[i]);
    }
    ST(PAR_OK, par_echo(nested(80, '[', ']'), PAR_NTS, &out, NULL, &E)), par_free(out);
    RETURNS(PAR_ERR_JSON, par_echo(nested(81, '[', ']'), PAR_NTS, &o.text, &o.len, &o.err));
    RETURNS(PAR_ERR_JSON, par_echo(nested(200000, '[', ']'), PAR_NTS, &o.text, &o.len, &o.err));
    RETURNS(PAR_ERR_JSON, par_echo(nested(200000, '[', ' '), PAR_NTS, &o.text, &o.len, &o.err));
    RETURNS(PAR_ERR_JSON, par_runtime_create(PAR_ABI_VERSION, nested(81, '[', ']'), PAR_NTS, &o.rt, &o.err));
}

TEST(a_json_error_says_where) {
    ST(PAR_ERR_JSON, par_echo("{\"a\":1,\"b\":tru}", PAR_NTS, &o.text, NULL, &E));
    CHECK(strpbrk(par_error_message(E), "0123456789") != NULL);
}

TEST(echo_keeps_what_it_got) {
    static const char *const same[] = {
        "{}", "[]", "null", "true", "0", "-1", "\"\"", "{'a':1,'b':[true,false,null,'x',-2.5]}", "9007199254740991", "-9007199254740991",
        "['\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80']", "{'b':1,'a':2}", "{'':''}", "['\xEF\xBF\xBF']",
    };
    char *out, *big;
    size_t i, len, n = 1 << 20;
    for (i = 0; i < COUNT(same); i++) {
        const char *text = js("%s", same[i]);
        ST(PAR_OK, par_echo(text, PAR_NTS, &out, &len, &E));
        CHECK_STR(text, out);
        CHECK_INT(strlen(text), len);
        par_free(out);
    }
    ST(PAR_OK, par_echo("[\"\\u0000\\u00e9\\ud83d\\ude00\\/\"]", PAR_NTS, &out, &len, &E));
    CHECK_INT(strlen(out), len); /* no raw U+0000 */
    CHECK_HAS(out, "\\u0000");
    par_free(out);
    if (par_echo("[9007199254740993,1e400]", PAR_NTS, &out, &len, NULL) == PAR_OK) { /* refused or kept, never changed */
        CHECK_HAS(out, "9007199254740993");
        par_free(out);
    }
    big = malloc(n);
    memset(big, 'x', n);
    big[0] = big[n - 1] = '"';
    ST(PAR_OK, par_echo(big, n, &out, &len, &E));
    CHECK_INT(n, len);
    CHECK(!memcmp(out, big, n) && out[n] == 0);
    par_free(out);
    free(big);
}

/* ---- unknown keys, wrong types ----------------------------------------------------------------------------------- */

TEST(unknown_keys_have_a_path) {
    static const struct { const char *what, *json, *path, *hint; } bad[] = {
        {"config", "{'thread':2}", "thread", "threads"},
        {"config", "{'llm_providers':{'mock':{'type':'mock','turnz':[]}}}", "llm_providers.mock.turnz", "turns"},
        {"config", "{'llm_providers':{'mock':{'type':'mock','turns':[{'text':'x'},{'txt':'y'}]}}}", "llm_providers.mock.turns[1].txt", "text"},
        {"config", "{'limits':{'max_input_byte':1}}", "limits.max_input_byte", "max_input_bytes"},
        {"config", "{'shutdown':{'drain_timeoutt':1}}", "shutdown.drain_timeoutt", "drain_timeout"},
        {"agent", "{'id':'b','model':'mock/m','tool':[]}", "tool", "tools"},
        {"agent", "{'id':'b','model':{'provider':'mock','model_name':'m','temprature':1}}", "model.temprature", "temperature"},
        {"tool", "{'name':'t','description':'d','input_schema':{'type':'object'},'time_out':1}", "time_out", "timeout"},
        {"request", "{'agent':'a','input':'x','timeoutms':1}", "timeoutms", "timeout_ms"},
        {"request", "{'agent':'a','input':[{'type':'text','text':'x'},{'type':'text','txt':'x'}]}", "input[1].txt", "text"},
    };
    par_runtime_t *rt = with_agent();
    size_t i;
    for (i = 0; i < COUNT(bad); i++) {
        const char *json = js("%s", bad[i].json);
        int before = t_failures;
        switch (bad[i].what[0]) {
        case 'c': RETURNS(PAR_ERR_SCHEMA, par_runtime_create(PAR_ABI_VERSION, json, PAR_NTS, &o.rt, &o.err)); break;
        case 'a': RETURNS(PAR_ERR_SCHEMA, par_register_agent(rt, json, PAR_NTS, &o.err)); break;
        case 't': RETURNS(PAR_ERR_SCHEMA, par_register_tool(rt, json, PAR_NTS, &o.err)); break;
        default:
            RETURNS(PAR_ERR_SCHEMA, par_invoke(rt, json, PAR_NTS, 0, &o.text, &o.len, &o.err));
            RETURNS(PAR_ERR_SCHEMA, par_stream_start(rt, json, PAR_NTS, &o.stream, &o.err));
        }
        CHECK_HAS(json_str(par_error_json(E), "path"), bad[i].path);
        CHECK_HAS(par_error_json(E), fmt("%s\\'", bad[i].hint)); /* did you mean "..."? */
        if (t_failures != before) printf("    for %s\n", json);
    }
    finish(rt);
}

TEST(wrong_types_have_a_path) {
    static const struct { const char *json, *path; } bad[] = {
        {"[]", ""}, {"1", ""}, {"'x'", ""}, {"{'input':'x'}", "agent"}, {"{'agent':1,'input':'x'}", "agent"},
        {"{'agent':'a','input':1}", "input"}, {"{'agent':'a','input':'x','timeout_ms':'soon'}", "timeout_ms"},
        {"{'agent':'a','input':'x','overflow':'drop'}", "overflow"}, {"{'agent':'a','input':'x','notify':'fd'}", "notify"},
        {"{'agent':'a','input':[{'type':'txt','text':'x'}]}", "input[0]"}, {"{'agent':'a','input':[{'type':'text'}]}", "input[0]"},
        {"{'agent':'a','input':'x','run_id':5}", "run_id"}, {"{'agent':'a','input':'x','session':[]}", "session"},
    };
    par_runtime_t *rt = with_agent();
    size_t i;
    for (i = 0; i < COUNT(bad); i++) {
        int before = t_failures;
        RETURNS(PAR_ERR_SCHEMA, par_stream_start(rt, js("%s", bad[i].json), PAR_NTS, &o.stream, &o.err));
        if (*bad[i].path) CHECK_HAS(par_error_json(E), bad[i].path);
        if (t_failures != before) printf("    for %s\n", bad[i].json);
    }
    RETURNS(PAR_ERR_NOT_FOUND, par_register_agent(rt, js("{'id':'b','model':'mock/m','tools':['nope']}"), PAR_NTS, &o.err));
    CHECK_HAS(json_str(par_error_json(E), "path"), "tools[0]");
    finish(rt);
}

TEST(numbers_and_nulls) { /* 0 and 0.0 alike; null means absent */
    par_runtime_t *rt = runtime(js("{'threads':2.0,'llm_providers':{'mock':{'type':'mock','turns':null}},'limits':null}"));
    ST(PAR_OK, par_register_agent(rt, js("{'id':'a','tools':null,'max_iterations':3.0,'model':{'provider':'mock','model_name':'m','temperature':0}}"), PAR_NTS, &E));
    CHECK_STR("x", json_str(invoke(rt, js("{'agent':'a','input':'x','session':null,'timeout_ms':5000.0}")), "text"));
    finish(rt);
}

TEST(empty_config_works) {
    par_runtime_t *rt;
    RETURNS(PAR_OK, par_runtime_create(PAR_ABI_VERSION, NULL, 0, &o.rt, &o.err));
    rt = o.rt;
    ST(PAR_OK, par_register_agent(rt, ECHO_AGENT, PAR_NTS, &E)); /* "mock" is there without being configured */
    CHECK_STR("hello", json_str(invoke(rt, HELLO), "text"));
    finish(rt);
    finish(runtime("{}"));
}

/* ---- sizes, versions, copies ------------------------------------------------------------------------------------- */

TEST(over_the_size_cap) {
    par_runtime_t *rt = runtime(js("{'limits':{'max_input_bytes':2000}}"));
    char *big = t_alloc(3000), *out;
    agent(rt, "a", NULL);
    memset(big, ' ', 2001);
    memcpy(big, HELLO, strlen(HELLO));
    ST(PAR_OK, par_invoke(rt, big, 2000, 5000, &out, NULL, &E)), par_free(out);
    RETURNS(PAR_ERR_TOO_LARGE, par_invoke(rt, big, 2001, 5000, &o.text, &o.len, &o.err));
    RETURNS(PAR_ERR_TOO_LARGE, par_invoke(rt, big, PAR_NTS, 5000, &o.text, &o.len, &o.err));
    RETURNS(PAR_ERR_TOO_LARGE, par_stream_start(rt, big, 2001, &o.stream, &o.err));
    RETURNS(PAR_ERR_TOO_LARGE, par_register_agent(rt, big, 2001, &o.err));
    RETURNS(PAR_ERR_TOO_LARGE, par_register_tool(rt, big, 2001, &o.err));
    RETURNS(PAR_ERR_TOO_LARGE, par_tool_complete(rt, 1, big, 2001, &o.err));
    RETURNS(PAR_ERR_TOO_LARGE, par_call(rt, "describe", PAR_NTS, big, 2001, 0, &o.text, &o.len, &o.err));
    /* Refused by the number alone: were a byte of these read, this would crash. */
    RETURNS(PAR_ERR_TOO_LARGE, par_echo(HELLO, ((size_t)64 << 20) + 1, &o.text, &o.len, &o.err));
    RETURNS(PAR_ERR_TOO_LARGE, par_echo(HELLO, PAR_NTS - 1, &o.text, &o.len, &o.err));
    RETURNS(PAR_ERR_TOO_LARGE, par_runtime_create(PAR_ABI_VERSION, HELLO, SIZE_MAX / 2, &o.rt, &o.err));
    CHECK_HAS(par_error_message(E), "67108864"); /* the cap is named */
    finish(rt);
}

TEST(abi_versions) {
    const uint32_t major = PAR_ABI_VERSION >> 16, minor = PAR_ABI_VERSION & 0xFFFF;
    RETURNS(PAR_ERR_ABI, par_runtime_create((major + 1) << 16, "{}", PAR_NTS, &o.rt, &o.err));
    CHECK_HAS(par_error_message(E), fmt("%u", (unsigned)major + 1));
    CHECK_HAS(par_error_message(E), fmt("%u", (unsigned)major));
    RETURNS(PAR_ERR_ABI, par_runtime_create((major << 16) + minor + 1, "{}", PAR_NTS, &o.rt, &o.err));
    RETURNS(PAR_ERR_ABI, par_runtime_create(0, "{}", PAR_NTS, &o.rt, &o.err));
    RETURNS(PAR_ERR_ABI, par_runtime_create(UINT32_MAX, NULL, 5, &o.rt, &o.err)); /* before anything else is looked at */
    if (minor) {
        RETURNS(PAR_OK, par_runtime_create(major << 16, "{}", PAR_NTS, &o.rt, &o.err));
        finish(o.rt);
    }
}

static char *scribble(char *text) { /* an input the caller reuses right after the call */
    memset(text, '#', strlen(text));
    return text;
}

static void scribble_answer(void *rt, const char *event) {
    char result[] = "\"seven\"";
    if (!is(event, "tool_call")) return;
    ST(PAR_OK, par_tool_complete(rt, token_of(event), result, sizeof result - 1, &E));
    scribble(result);
}

TEST(inputs_are_copied) {
    char config[] = "{\"llm_providers\":{\"mock\":{\"type\":\"mock\",\"turns\":[{\"tool_calls\":[{\"id\":\"c\",\"name\":\"t\",\"input\":{}}]},"
                    "{\"expect\":{\"last_message_contains\":\"seven\"},\"text\":\"done\",\"chunks\":[\"do\",\"ne\"]}]}}}";
    char tool_def[] = "{\"name\":\"t\",\"description\":\"d\",\"input_schema\":{\"type\":\"object\"}}";
    char agent_def[] = "{\"id\":\"a\",\"model\":\"mock/m\",\"tools\":[\"t\"]}";
    char request[] = "{\"agent\":\"a\",\"input\":\"x\",\"tag\":\"my tag\",\"run_id\":\"my run\"}";
    par_runtime_t *rt = runtime(config);
    par_stream_t *s;
    struct seen seen;
    scribble(config);
    ST(PAR_OK, par_register_tool(rt, tool_def, PAR_NTS, &E)), scribble(tool_def);
    ST(PAR_OK, par_register_agent(rt, agent_def, PAR_NTS, &E)), scribble(agent_def);
    s = start(rt, request), scribble(request);
    seen = drive(s, scribble_answer, rt);
    CHECK_WHOLE(seen, s);
    CHECK_STR("done", seen.text);
    CHECK_STR("my tag", json_str(seen.terminal, "tag"));
    CHECK_STR("my run", json_str(seen.terminal, "run_id"));
    par_stream_free(s);
    finish(rt);
}

TEST(outputs_belong_to_the_caller) { /* later calls and the end of the runtime do not touch them */
    par_runtime_t *rt = with_agent();
    char *first, *second;
    par_error_t *err;
    size_t len;
    CHECK_INT(PAR_OK, par_invoke(rt, HELLO, PAR_NTS, 5000, &first, &len, NULL));
    CHECK_INT(PAR_OK, par_invoke(rt, "{\"agent\":\"a\",\"input\":\"other\"}", PAR_NTS, 5000, &second, NULL, NULL));
    CHECK_INT(PAR_ERR_NOT_FOUND, par_unregister_agent(rt, "nope", PAR_NTS, &err));
    finish(rt);
    CHECK_STR("hello", json_str(first, "text"));
    CHECK_STR("other", json_str(second, "text"));
    CHECK_INT(strlen(first), len);
    CHECK_STR("PAR_ERR_NOT_FOUND", json_str(par_error_json(err), "name"));
    par_free(first), par_free(second), par_error_free(err);
}

TEST(registry) {
    par_runtime_t *rt = mock(NULL);
    char *out;
    static const char *const kinds[] = {"agents", "tools", "providers", "sessions", "runs"};
    size_t i;
    tool(rt, "add", NULL);
    agent(rt, "a", "['add']");
    for (i = 0; i < COUNT(kinds); i++) {
        ST(PAR_OK, par_list(rt, kinds[i], PAR_NTS, &out, NULL, &E));
        CHECK(json_at(out, "items") != NULL);
        if (i < 3) CHECK_HAS(out, i == 0 ? "'a'" : i == 1 ? "'add'" : "mock");
        par_free(out);
    }
    ST(PAR_ERR_EXISTS, par_register_tool(rt, js("{'name':'add','description':'d','input_schema':{'type':'object'}}"), PAR_NTS, &E));
    ST(PAR_OK, par_unregister_agent(rt, "a", PAR_NTS, &E));
    ST(PAR_OK, par_unregister_tool(rt, "add", PAR_NTS, &E));
    ST(PAR_ERR_NOT_FOUND, par_unregister_tool(rt, "add", PAR_NTS, &E));
    tool(rt, "add", NULL);
    agent(rt, "a", "['add']");
    ST(PAR_ERR_SCHEMA, par_register_tool(rt, js("{'name':'bad','description':'d','input_schema':{'type':'objekt'}}"), PAR_NTS, &E));
    finish(rt);
}

TEST(call_and_call_start_answer_the_same) {
    static const char *const methods[] = {"describe", "tools.list", "providers.list", "sessions.list", "runs.list", "metrics.snapshot"};
    par_runtime_t *rt = with_agent();
    size_t i;
    for (i = 0; i < COUNT(methods); i++) {
        const char *answer = ask(rt, methods[i], "{}");
        par_stream_t *s = NULL;
        char *result = NULL;
        struct seen seen;
        CHECK_INT(PAR_OK, status);
        ST(PAR_OK, par_call_start(rt, methods[i], PAR_NTS, NULL, 0, &s, &E));
        seen = drive(s, NULL, NULL);
        CHECK_WHOLE(seen, s);
        CHECK(is(seen.terminal, "completed"));
        ST(PAR_OK, par_stream_result(s, &result, NULL, &E));
        CHECK_STR(result, json_raw(seen.terminal, "result"));
        if (i < 4) CHECK_STR(answer, result); /* the others count the calls themselves */
        par_free(result);
        par_stream_free(s);
        ask(rt, methods[i], js("{'no_such_key':1}"));
        CHECK_INT(PAR_ERR_SCHEMA, status);
    }
    finish(rt);
}
