/* Callbacks: always asynchronous, all on one thread of the runtime, never after their end; `destroy` exactly once for each
 * registration that succeeded; inside one every call works that does not block, and one that blocks says so. */
#include "t.h"

#define GO "{\"agent\":\"a\",\"input\":\"x\"}"

static const char CALLS_ADD[] = "[{'tool_calls':[{'id':'c1','name':'add','input':{'a':1,'b':2}}]},{'text':'The sum is 3.'}]";

static const char RETRIED[] = "[{'error':{'http_status':429,'retry_after_ms':1}},{'tool_calls':[{'id':'c1','name':'add','input':{'a':1,'b':2}}]},{'text':'x'}]";

/* The other side of a registration: what came, on which thread, and how often it was destroyed. */
struct probe {
    par_runtime_t *rt;
    int calls, destroyed, after_destroy, sleep_ms, inside, stop;
    pthread_t thread, destroyer;
    char last[4096];
};

static void count(uintptr_t context, uint64_t token, const char *json, size_t len) {
    struct probe *p = (struct probe *)context;
    (void)token;
    BUMP(p->inside);
    if (LOAD(p->destroyed)) BUMP(p->after_destroy);
    pthread_mutex_lock(&t_lock);
    snprintf(p->last, sizeof p->last, "%s", json);
    pthread_mutex_unlock(&t_lock);
    CHECK(strlen(json) == len);
    p->thread = pthread_self();
    if (p->sleep_ms) sleep_ms(p->sleep_ms);
    __atomic_sub_fetch(&p->inside, 1, __ATOMIC_SEQ_CST);
    BUMP(p->calls);
}

static void destroyed(uintptr_t context) {
    struct probe *p = (struct probe *)context;
    p->destroyer = pthread_self();
    BUMP(p->destroyed);
}

static void answer(uintptr_t context, uint64_t token, const char *json, size_t len) {
    struct probe *p = (struct probe *)context;
    count(context, token, json, len);
    if (token && is(json, "tool_call")) CHECK_INT(PAR_OK, par_tool_complete(p->rt, token, "3", 1, NULL));
}

static par_runtime_t *adding(void) {
    par_runtime_t *rt = mock(CALLS_ADD);
    tool(rt, "add", NULL);
    agent(rt, "a", "['add']");
    return rt;
}

static par_runtime_t *echoing(void) {
    par_runtime_t *rt = mock(NULL);
    agent(rt, "a", NULL);
    return rt;
}

static void approve(uintptr_t context, uint64_t token, const char *json, size_t len) {
    struct probe *p = (struct probe *)context;
    const char *id = json_str(json, "approval_id");
    count(context, token, json, len);
    CHECK_INT(0, token);
    if (id && is(json, "approval_request")) CHECK_INT(PAR_OK, par_approval_resolve(p->rt, id, PAR_NTS, "\"approve\"", PAR_NTS, NULL));
}

enum kind { ON_TOOL, ON_APPROVAL, ON_EVENT, ON_LOG, ON_WAKEUP, KINDS };

static par_status_t on(enum kind kind, par_runtime_t *rt, par_callback_t callback, struct probe *p) {
    par_destroy_t destroy = callback ? destroyed : NULL;
    t_clear();
    switch (kind) {
    case ON_TOOL: return par_on_tool(rt, callback, (uintptr_t)p, destroy, &E);
    case ON_APPROVAL: return par_on_approval(rt, callback, (uintptr_t)p, destroy, &E);
    case ON_EVENT: return par_on_event(rt, callback, (uintptr_t)p, destroy, &E);
    case ON_LOG: return par_on_log(rt, 5, callback, (uintptr_t)p, destroy, &E);
    default: return par_on_wakeup(rt, callback, (uintptr_t)p, destroy, &E);
    }
}

static void run_to_end(par_runtime_t *rt) {
    par_stream_t *s = start(rt, GO);
    struct seen seen = drive(s, NULL, NULL);
    CHECK_INT(PAR_END, seen.end);
    par_stream_free(s);
}

/* ---- each kind ------------------------------------------------------------------------------------------------------ */

TEST(on_tool) {
    struct probe p = {.rt = adding()};
    int i;
    ST(PAR_OK, on(ON_TOOL, p.rt, answer, &p));
    for (i = 1; i <= 3; i++) {
        CHECK_STR("The sum is 3.", json_str(invoke(p.rt, GO), "text"));
        CHECK_INT(i, LOAD(p.calls));
    }
    CHECK_STR("tool_call", json_str(p.last, "type"));
    CHECK_STR("add", json_str(p.last, "name"));
    CHECK_INT(1, json_int(p.last, "input.a"));
    CHECK(json_int(p.last, "deadline_ms") > 0);
    CHECK(!pthread_equal(p.thread, pthread_self()));
    finish(p.rt);
    CHECK_INT(1, LOAD(p.destroyed));
}

TEST(on_tool_is_told_of_a_cancel) {
    struct probe p = {.rt = adding()};
    par_stream_t *s;
    ST(PAR_OK, on(ON_TOOL, p.rt, count, &p)); /* never answers */
    s = start(p.rt, GO);
    EVENTUALLY(5000, LOAD(p.calls) == 1);
    ST(PAR_OK, par_stream_cancel(s, NULL, 0, &E));
    EVENTUALLY(5000, LOAD(p.calls) == 2);
    CHECK_STR("tool_cancelled", json_str(p.last, "type"));
    par_stream_free(s);
    finish(p.rt);
}

TEST(on_approval) {
    struct probe worker = {.rt = mock(CALLS_ADD)}, p = {.rt = worker.rt};
    int i;
    tool(p.rt, "add", ",'permission':'confirm'");
    agent(p.rt, "a", "['add']");
    ST(PAR_OK, on(ON_TOOL, p.rt, answer, &worker));
    ST(PAR_OK, on(ON_APPROVAL, p.rt, approve, &p));
    for (i = 1; i <= 3; i++) {
        CHECK_STR("The sum is 3.", json_str(invoke(p.rt, GO), "text"));
        CHECK_INT(i, LOAD(p.calls));
        CHECK_INT(i, LOAD(worker.calls));
    }
    CHECK_STR("approval_request", json_str(p.last, "type"));
    CHECK_STR("add", json_str(p.last, "name"));
    CHECK_INT(1, json_int(p.last, "input.a"));
    CHECK(json_int(p.last, "deadline_ms") > 0);
    CHECK(!pthread_equal(p.thread, pthread_self()));
    finish(p.rt);
    CHECK_INT(1, LOAD(p.destroyed));
}

TEST(approvals_are_given_by_their_callback_or_later) { /* from another thread, when it has long returned */
    struct probe p = {.rt = mock(CALLS_ADD)};
    par_stream_t *s;
    tool(p.rt, "add", ",'permission':'confirm'");
    agent(p.rt, "a", "['add']");
    ST(PAR_OK, on(ON_APPROVAL, p.rt, count, &p));
    s = start(p.rt, GO);
    EVENTUALLY(3000, LOAD(p.calls) == 1);
    ST(PAR_OK, par_approval_resolve(p.rt, json_str(p.last, "approval_id"), PAR_NTS, "\"approve\"", PAR_NTS, &E));
    CHECK_SAID("The sum is 3.", record(p.rt, s, "3"));
    finish(p.rt);
}

struct history { int started, completed, wrong_run; };

static void note_event(uintptr_t context, uint64_t token, const char *json, size_t len) {
    struct history *h = (struct history *)context;
    (void)token, (void)len;
    if (json_has(json, "\"type\":\"run_started\"")) BUMP(h->started);
    if (json_has(json, "\"type\":\"completed\"")) BUMP(h->completed);
    if (json_has(json, "run_started") && !json_has(json, "\"run_id\":\"r")) BUMP(h->wrong_run);
}

TEST(on_event) { /* every run of the runtime, blocking and streaming */
    par_runtime_t *rt = echoing();
    struct history h = {0, 0, 0};
    par_stream_t *s;
    ST(PAR_OK, par_on_event(rt, note_event, (uintptr_t)&h, NULL, &E));
    invoke(rt, js("{'agent':'a','input':'x','run_id':'r1'}"));
    s = start(rt, js("{'agent':'a','input':'x','run_id':'r2'}"));
    drive(s, NULL, NULL);
    EVENTUALLY(5000, LOAD(h.started) == 2 && LOAD(h.completed) == 2);
    CHECK_INT(2, LOAD(h.started));
    CHECK_INT(2, LOAD(h.completed));
    CHECK_INT(0, LOAD(h.wrong_run));
    par_stream_free(s);
    finish(rt);
}

TEST(on_log) { /* a retry is worth a warning */
    par_runtime_t *rt = mock("[{'error':{'http_status':429,'retry_after_ms':1}},{'text':'x'}]");
    struct probe p = {.rt = rt};
    static const char *const levels[] = {"error", "warn", "info", "debug", "trace"};
    const char *level;
    size_t i, known = 0;
    agent(rt, "a", NULL);
    ST(PAR_OK, par_on_log(rt, 5, count, (uintptr_t)&p, destroyed, &E));
    run_to_end(rt);
    EVENTUALLY(3000, LOAD(p.calls) > 0);
    ST(PAR_OK, par_on_log(rt, 1, NULL, 0, NULL, &E));
    EVENTUALLY(3000, LOAD(p.destroyed) == 1);
    CHECK_STR("log", json_str(p.last, "type"));
    CHECK(json_str(p.last, "message") != NULL && json_str(p.last, "target") != NULL);
    CHECK(json_int(p.last, "at_ms") > 0);
    for (i = 0, level = json_str(p.last, "level"); level && i < COUNT(levels); i++) known += !strcmp(level, levels[i]);
    CHECK_INT(1, known);
    ST(PAR_ERR_INVALID_ARG, par_on_log(rt, 6, count, (uintptr_t)&p, destroyed, &E));
    ST(PAR_ERR_INVALID_ARG, par_on_log(rt, -1, count, (uintptr_t)&p, destroyed, &E));
    sleep_ms(50);
    CHECK_INT(1, LOAD(p.destroyed));
    finish(rt);
}

TEST(on_log_keeps_its_level) { /* a healthy run says nothing at level "error" */
    par_runtime_t *rt = echoing();
    struct probe p = {.rt = rt};
    ST(PAR_OK, par_on_log(rt, 1, count, (uintptr_t)&p, destroyed, &E));
    run_to_end(rt);
    finish(rt);
    CHECK_INT(0, LOAD(p.calls));
    CHECK_INT(1, LOAD(p.destroyed));
}

TEST(on_wakeup) { /* once per filling of a queue */
    par_runtime_t *rt = adding();
    struct probe p = {.rt = rt};
    par_stream_t *s;
    const char *event;
    uint64_t token = 0;
    int calls;
    ST(PAR_OK, on(ON_WAKEUP, rt, count, &p));
    s = start(rt, js("{'agent':'a','input':'x','run_id':'r1'}"));
    EVENTUALLY(5000, LOAD(p.calls) == 1);
    sleep_ms(100); /* more events came; nobody read one */
    CHECK_INT(1, LOAD(p.calls));
    CHECK_STR("wakeup", json_str(p.last, "type"));
    CHECK_STR("r1", json_str(p.last, "run_id"));
    while ((event = next(s, 50)) != NULL)
        if (is(event, "tool_call")) token = token_of(event);
    calls = LOAD(p.calls);
    ST(PAR_OK, par_tool_complete(rt, token, "3", PAR_NTS, &E));
    EVENTUALLY(5000, LOAD(p.calls) > calls);
    drive(s, NULL, NULL);
    par_stream_free(s);
    finish(rt);
    CHECK_INT(1, LOAD(p.destroyed));
}

TEST(on_wakeup_of_the_inbox) {
    par_runtime_t *rt = adding();
    struct probe p = {.rt = rt};
    par_stream_t *s;
    inbox(rt, 0);
    ST(PAR_OK, on(ON_WAKEUP, rt, count, &p));
    s = start(rt, js("{'agent':'a','input':'x','notify':'inbox'}"));
    EVENTUALLY(5000, LOAD(p.calls) >= 2 || json_has(p.last, "\"inbox\":true"));
    CHECK(is(inbox(rt, 1000), "ready"));
    par_stream_free(s);
    finish(rt);
}

TEST(one_thread_for_all) { /* and it is not ours */
    par_runtime_t *rt = mock(RETRIED);
    struct probe p[KINDS] = {{0}};
    int kind;
    tool(rt, "add", ",'permission':'confirm'");
    agent(rt, "a", "['add']");
    for (kind = 0; kind < KINDS; kind++) {
        p[kind].rt = rt;
        ST(PAR_OK, on((enum kind)kind, rt, kind == ON_TOOL ? answer : kind == ON_APPROVAL ? approve : count, &p[kind]));
    }
    run_to_end(rt);
    EVENTUALLY(3000, LOAD(p[ON_TOOL].calls) && LOAD(p[ON_APPROVAL].calls) && LOAD(p[ON_EVENT].calls) && LOAD(p[ON_LOG].calls) && LOAD(p[ON_WAKEUP].calls));
    finish(rt);
    for (kind = 0; kind < KINDS; kind++) {
        CHECK(pthread_equal(p[kind].thread, p[ON_TOOL].thread));
        CHECK(pthread_equal(p[kind].destroyer, p[ON_TOOL].thread)); /* destroy runs there too */
        CHECK(!pthread_equal(p[kind].thread, pthread_self()));
        CHECK_INT(1, LOAD(p[kind].destroyed));
        CHECK_INT(0, LOAD(p[kind].after_destroy));
    }
}

/* ---- destroy, exactly once ------------------------------------------------------------------------------------------- */

TEST(destroy_on_replace_unregister_close) {
    int kind;
    for (kind = 0; kind < KINDS; kind++) {
        par_runtime_t *rt = adding();
        struct probe first = {.rt = rt}, second = {.rt = rt}, third = {.rt = rt};
        ST(PAR_OK, on((enum kind)kind, rt, count, &first));
        ST(PAR_OK, on((enum kind)kind, rt, count, &second)); /* replaces */
        EVENTUALLY(3000, LOAD(first.destroyed) == 1);
        CHECK_INT(0, LOAD(second.destroyed));
        ST(PAR_OK, on((enum kind)kind, rt, NULL, NULL)); /* unregisters */
        EVENTUALLY(3000, LOAD(second.destroyed) == 1);
        ST(PAR_OK, on((enum kind)kind, rt, NULL, NULL)); /* nothing to unregister */
        ST(PAR_OK, on((enum kind)kind, rt, count, &third));
        finish(rt);
        CHECK_INT(1, LOAD(third.destroyed)); /* close: done when it returns */
        sleep_ms(20);
        CHECK_INT(1, LOAD(first.destroyed));
        CHECK_INT(1, LOAD(second.destroyed));
        CHECK_INT(1, LOAD(third.destroyed));
    }
}

TEST(destroy_on_free_without_close) {
    static struct probe p[KINDS];
    int kind;
    for (kind = 0; kind < KINDS; kind++) {
        par_runtime_t *rt = adding();
        p[kind].rt = rt;
        ST(PAR_OK, on((enum kind)kind, rt, count, &p[kind]));
        par_runtime_free(rt);
        EVENTUALLY(5000, LOAD(p[kind].destroyed) == 1);
    }
    sleep_ms(50);
    for (kind = 0; kind < KINDS; kind++) CHECK_INT(1, LOAD(p[kind].destroyed));
}

TEST(no_destroy_after_a_failed_registration) {
    par_runtime_t *rt = adding();
    struct probe p = {.rt = rt};
    int kind;
    for (kind = 0; kind < KINDS; kind++) ST(PAR_ERR_NULL_ARG, on((enum kind)kind, NULL, count, &p));
    ST(PAR_ERR_INVALID_ARG, par_on_log(rt, 99, count, (uintptr_t)&p, destroyed, &E));
    ST(PAR_OK, par_runtime_close(rt, 10000, &E));
    for (kind = 0; kind < KINDS; kind++) ST(PAR_ERR_CLOSED, on((enum kind)kind, rt, count, &p));
    par_runtime_free(rt);
    for (kind = 0; kind < KINDS; kind++) ST(PAR_ERR_BAD_HANDLE, on((enum kind)kind, rt, count, &p));
    sleep_ms(100);
    CHECK_INT(0, LOAD(p.destroyed));
    CHECK_INT(0, LOAD(p.calls));
}

TEST(any_user_data_comes_back) { /* it is a number, never looked at */
    static const uintptr_t data[] = {0, 1, UINTPTR_MAX};
    size_t i;
    for (i = 0; i < COUNT(data); i++) {
        par_runtime_t *rt = echoing();
        ST(PAR_OK, par_on_event(rt, NULL, data[i], NULL, &E));
        finish(rt);
    }
}

static void nothing(uintptr_t data, uint64_t token, const char *json, size_t len) { (void)data, (void)token, (void)json, (void)len; }

TEST(destroy_may_be_null) {
    par_runtime_t *rt = echoing();
    ST(PAR_OK, par_on_event(rt, nothing, 1, NULL, &E));
    ST(PAR_OK, par_on_event(rt, nothing, UINTPTR_MAX, NULL, &E));
    run_to_end(rt);
    finish(rt);
}

/* ---- the barrier ------------------------------------------------------------------------------------------------------ */

static void *keep_running(void *context) {
    struct probe *p = context;
    char *out;
    while (!LOAD(p->stop))
        if (par_invoke(p->rt, GO, PAR_NTS, 5000, &out, NULL, NULL) == PAR_OK) par_free(out);
    return NULL;
}

TEST(unregistering_is_a_barrier) { /* when it returns no callback runs or will run */
    int round, rounds = fast() ? 5 : 100;
    struct probe load = {.rt = echoing()};
    pthread_t thread = spawn(keep_running, &load);
    for (round = 0; round < rounds; round++) {
        struct probe p = {.rt = load.rt, .sleep_ms = round % 3};
        int calls;
        ST(PAR_OK, on(ON_EVENT, load.rt, count, &p));
        EVENTUALLY(5000, LOAD(p.calls) > round % 4);
        ST(PAR_OK, on(ON_EVENT, load.rt, NULL, NULL));
        CHECK_INT(0, LOAD(p.inside));
        calls = LOAD(p.calls);
        sleep_ms(3);
        CHECK_INT(calls, LOAD(p.calls));
        CHECK_INT(0, LOAD(p.after_destroy));
        EVENTUALLY(1000, LOAD(p.destroyed) == 1);
    }
    STORE(load.stop, 1);
    join(thread);
    finish(load.rt);
}

static void unregister_inside(uintptr_t context, uint64_t token, const char *json, size_t len) {
    struct probe *p = (struct probe *)context;
    count(context, token, json, len);
    CHECK_INT(PAR_OK, par_on_event(p->rt, NULL, 0, NULL, NULL)); /* deferred to the end of this call */
    CHECK_INT(0, LOAD(p->destroyed));
}

static void replace_inside(uintptr_t context, uint64_t token, const char *json, size_t len) {
    struct probe *p = (struct probe *)context;
    count(context, token, json, len);
    CHECK_INT(PAR_OK, par_on_event(p->rt, count, (uintptr_t)(p + 1), destroyed, NULL));
    CHECK_INT(0, LOAD(p->destroyed));
}

TEST(unregister_from_within) {
    struct probe p = {.rt = echoing()};
    ST(PAR_OK, par_on_event(p.rt, unregister_inside, (uintptr_t)&p, destroyed, &E));
    run_to_end(p.rt);
    EVENTUALLY(3000, LOAD(p.destroyed) == 1);
    run_to_end(p.rt);
    CHECK_INT(1, LOAD(p.calls));
    finish(p.rt);
    CHECK_INT(1, LOAD(p.destroyed));
}

TEST(replace_from_within) {
    struct probe p[2] = {{.rt = echoing()}, {0}};
    p[1].rt = p[0].rt;
    ST(PAR_OK, par_on_event(p[0].rt, replace_inside, (uintptr_t)p, destroyed, &E));
    run_to_end(p[0].rt);
    EVENTUALLY(3000, LOAD(p[0].destroyed) == 1 && LOAD(p[1].calls) > 0);
    CHECK_INT(1, LOAD(p[0].calls));
    finish(p[0].rt);
    CHECK_INT(1, LOAD(p[0].destroyed));
    CHECK_INT(1, LOAD(p[1].destroyed));
}

/* ---- two runtimes --------------------------------------------------------------------------------------------------- */

struct pair { par_runtime_t *own, *other; int *inside, done; par_status_t status; };

static void unregister_the_other(uintptr_t context, uint64_t token, const char *json, size_t len) {
    struct pair *p = (struct pair *)context;
    int64_t until = now_ms() + slack(5000);
    (void)token, (void)json, (void)len;
    if (LOAD(p->done)) return;
    BUMP(*p->inside);
    while (LOAD(*p->inside) < 2 && now_ms() < until) sleep_ms(1); /* both callbacks run at the same time */
    p->status = par_on_event(p->other, NULL, 0, NULL, NULL);
    STORE(p->done, 1);
}

TEST(callbacks_of_two_runtimes_unregister_each_other) { /* refused: each would wait for the other */
    int inside = 0, i;
    struct pair p[2] = {{.own = echoing(), .inside = &inside}, {.own = echoing(), .inside = &inside}};
    p[0].other = p[1].own, p[1].other = p[0].own;
    for (i = 0; i < 2; i++) ST(PAR_OK, par_on_event(p[i].own, unregister_the_other, (uintptr_t)&p[i], NULL, &E));
    for (i = 0; i < 2; i++) invoke(p[i].own, GO);
    for (i = 0; i < 2; i++) {
        EVENTUALLY(10000, LOAD(p[i].done));
        CHECK_INT(PAR_ERR_WOULD_DEADLOCK, p[i].status);
    }
    for (i = 0; i < 2; i++) ST(PAR_OK, par_on_event(p[i].own, NULL, 0, NULL, &E)); /* a thread of the host may */
    for (i = 0; i < 2; i++) finish(p[i].own);
}

/* ---- calls from within ------------------------------------------------------------------------------------------------- */

static struct { par_runtime_t *rt; par_stream_t *s; int done; } within;

#define CALL_INSIDE(call, blocks)                                                                                        \
    {                                                                                                                    \
        int64_t began_ = now_ms();                                                                                       \
        par_status_t got_ = call;                                                                                        \
        if ((got_ == PAR_ERR_WOULD_DEADLOCK) != (blocks))                                                                \
            t_fail(__FILE__, __LINE__, #call, "expected", blocks ? "PAR_ERR_WOULD_DEADLOCK" : "anything but PAR_ERR_WOULD_DEADLOCK", \
                   "actual", par_status_name(got_), "error", par_error_message(err), NULL);                              \
        if (now_ms() - began_ > slack(500)) t_fail(__FILE__, __LINE__, #call, "actual", "it blocked", NULL);             \
        par_error_free(err), err = NULL;                                                                                 \
        par_free(out), out = NULL;                                                                                       \
        par_stream_free(s2), s2 = NULL;                                                                                  \
    }

static void call_everything(uintptr_t unused, uint64_t token, const char *json, size_t json_len) {
    par_runtime_t *rt = within.rt;
    par_stream_t *s = within.s, *s2 = NULL;
    par_error_t *err = NULL;
    char *out = NULL;
    size_t len = 0;
    intptr_t fd = -1;
    (void)unused, (void)token, (void)json, (void)json_len;
    if (LOAD(within.done)) return;
    EVERY_RUNTIME_CALL(CALL_INSIDE)
    EVERY_STREAM_CALL(CALL_INSIDE)
    CALL_INSIDE(par_runtime_close(rt, 1000, &err), 1)
    CALL_INSIDE(par_echo("[]", 2, &out, &len, &err), 0)
    CHECK_INT(PAR_ABI_VERSION, par_abi_version());
    STORE(within.done, 1);
}

TEST(every_call_from_within_a_callback) {
    within.rt = mock("[{'text':'x','delay_ms':50}]");
    agent(within.rt, "a", NULL);
    within.s = start(within.rt, GO);
    ST(PAR_OK, par_on_wakeup(within.rt, call_everything, 0, NULL, &E));
    run_to_end(within.rt);
    EVENTUALLY(5000, LOAD(within.done) == 1);
    par_stream_free(within.s);
    finish(within.rt);
}

static void close_inside_destroy(uintptr_t context) {
    struct probe *p = (struct probe *)context;
    CHECK_INT(PAR_ERR_WOULD_DEADLOCK, par_runtime_close(p->rt, 100, NULL));
    BUMP(p->destroyed);
}

TEST(destroy_may_call_too) {
    struct probe p = {.rt = echoing()};
    ST(PAR_OK, par_on_event(p.rt, count, (uintptr_t)&p, close_inside_destroy, &E));
    ST(PAR_OK, par_on_event(p.rt, NULL, 0, NULL, &E));
    EVENTUALLY(3000, LOAD(p.destroyed) == 1);
    finish(p.rt);
}

static void free_inside(uintptr_t context, uint64_t token, const char *json, size_t len) {
    struct probe *p = (struct probe *)context;
    count(context, token, json, len);
    par_runtime_free(p->rt);
}

TEST(free_from_within) {
    static struct probe p;
    par_stream_t *s;
    p.rt = echoing();
    s = start(p.rt, GO);
    until(s, "completed"); /* what follows is the next run's doing */
    ST(PAR_OK, par_on_wakeup(p.rt, free_inside, (uintptr_t)&p, destroyed, &E));
    ST(PAR_OK, par_on_event(p.rt, free_inside, (uintptr_t)&p, NULL, &E));
    par_stream_free(start(p.rt, GO));
    EVENTUALLY(5000, LOAD(p.calls) > 0);
    EVENTUALLY(5000, LOAD(p.destroyed) == 1);
    CHECK_INT(PAR_ERR_BAD_HANDLE, par_runtime_close(p.rt, 0, NULL));
    par_stream_free(s);
}

/* ---- a slow one --------------------------------------------------------------------------------------------------------- */

TEST(a_slow_callback_stalls_nobody) {
    par_runtime_t *rt = echoing();
    struct probe p = {.rt = rt, .sleep_ms = 1500};
    ST(PAR_OK, on(ON_EVENT, rt, count, &p));
    run_to_end(rt);
    EVENTUALLY(1000, LOAD(p.inside));
    TAKES(0, 400, run_to_end(rt));
    TAKES(0, 400, (void)invoke(rt, GO));
    CHECK_INT(1, LOAD(p.inside));
    TAKES(0, 3000, ST(PAR_OK, on(ON_EVENT, rt, NULL, NULL))); /* waits for the one that runs, not for the queue */
    finish(rt);
}

TEST(close_gives_up_on_a_callback_that_does_not_return) {
    static struct probe p;
    par_runtime_t *rt = echoing();
    p.rt = rt, p.sleep_ms = 1000;
    ST(PAR_OK, on(ON_EVENT, rt, count, &p));
    run_to_end(rt);
    EVENTUALLY(1000, LOAD(p.inside));
    TAKES(150, 700, ST(PAR_TIMEOUT, par_runtime_close(rt, 200, &E)));
    TAKES(0, 10000, ST(PAR_OK, par_runtime_close(rt, 10000, &E)));
    CHECK_INT(1, LOAD(p.destroyed));
    par_runtime_free(rt);
}

static void answer_slowly(uintptr_t context, uint64_t token, const char *json, size_t len) {
    sleep_ms(2);
    answer(context, token, json, len);
}

TEST(tool_calls_are_never_dropped) { /* many at once through one slow callback */
    enum { N = 40 };
    struct probe p = {.rt = runtime(js("{'limits':{'callback_queue_events':4},'llm_providers':{'mock':{'type':'mock','turns':%s}}}", CALLS_ADD))};
    par_stream_t *s[N];
    int i;
    tool(p.rt, "add", NULL);
    agent(p.rt, "a", "['add']");
    ST(PAR_OK, on(ON_TOOL, p.rt, answer_slowly, &p));
    for (i = 0; i < N; i++) s[i] = start(p.rt, GO);
    for (i = 0; i < N; i++) {
        struct seen seen = drive(s[i], NULL, NULL);
        CHECK_ENDED(seen, s[i]);
        CHECK_STR("The sum is 3.", seen.text);
        par_stream_free(s[i]);
    }
    CHECK_INT(N, LOAD(p.calls));
    finish(p.rt);
}
