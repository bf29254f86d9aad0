/* Nothing that can be configured is ignored: each key of the runtime's configuration, and what it does. Bounds first: what
 * is reached is an error or is counted, never silence, and what was refused works again when there is room. */
#include "t.h"

#define GO "{\"agent\":\"a\",\"input\":\"x\"}"

static const char ENDLESS[] = "[{'text':'x','delay_ms':20000}]";
static const char CALLS_ADD[] = "[{'tool_calls':[{'id':'c1','name':'add','input':{'a':1,'b':2}}]},{'text':'The sum is 3.'}]";
static const char CALLS_TWICE[] = "[{'tool_calls':[{'id':'c1','name':'add','input':{'a':1,'b':2}},{'id':'c2','name':'add','input':{'a':1,'b':2}}]},{'text':'x'}]";

/* A runtime with these keys, its mock provider with these turns, the tool "add" and the agent "a" that may use it. */
static par_runtime_t *with(const char *keys, const char *turns) {
    par_runtime_t *rt = runtime(js("{%s,'llm_providers':{'mock':{'type':'mock','turns':%s}}}", keys, turns));
    tool(rt, "add", NULL);
    agent(rt, "a", "['add']");
    return rt;
}

static const char *many_chunks(int n, int size) {
    char *chunks = NULL;
    const char *turns;
    int i;
    for (i = 0; i < n; i++) cat(&chunks, fmt("%s'%0*d'", i ? "," : "", size, i));
    turns = fmt("[{'chunks':[%s]}]", chunks);
    free(chunks);
    return turns;
}

static void refused(const char *config, const char *path) {
    par_runtime_t *rt = NULL;
    ST(PAR_ERR_SCHEMA, par_runtime_create(PAR_ABI_VERSION, js("%s", config), PAR_NTS, &rt, &E));
    CHECK(rt == NULL);
    CHECK_HAS(json_str(par_error_json(E), "path"), path);
    par_runtime_free(rt);
}

TEST(impossible_values_are_refused) {
    refused("{'threads':0}", "threads");
    refused("{'threads':100000}", "threads");
    refused("{'threads':1.5}", "threads");
    refused("{'persistence':'sqlight:par.db'}", "persistence");
    refused("{'limits':{'stream_queue_events':0}}", "limits.stream_queue_events");
    refused("{'limits':{'max_input_bytes':-1}}", "limits.max_input_bytes");
    refused("{'shutdown':{'drain_timeout':-1}}", "shutdown.drain_timeout");
    refused("{'inbox':{'log_level':'loud'}}", "inbox.log_level");
    refused("{'inbox':{'events':1}}", "inbox.events");
    refused("{'llm_providers':{'p':{'type':'oracle'}}}", "llm_providers.p");
    refused("{'llm_providers':{'p':{}}}", "llm_providers.p");
    refused("{'llm_providers':{'p':{'type':'openai','api_key':'k','base_url':'not a url'}}}", "llm_providers.p.base_url");
    refused("{'llm_providers':{'p':{'type':'openai','api_key':'k','retry':{'max_attempts':'many'}}}}", "llm_providers.p.retry.max_attempts");
    refused("{'llm_providers':{'p':{'type':'openai','api_key':'k','timeouts':{'idle':1}}}}", "llm_providers.p.timeouts.idle");
}

TEST(threads) {
    static const int counts[] = {1, 2, 8};
    size_t i;
    for (i = 0; i < COUNT(counts); i++) {
        par_runtime_t *rt = with(fmt("'threads':%d", counts[i]), ENDLESS);
        par_stream_t *s = start(rt, GO);
        CHECK_INT(counts[i], json_int(info(rt), "threads"));
        CHECK(thread_count() <= 1 + counts[i] + 2);
        par_stream_free(s);
        finish(rt);
    }
}

TEST(persistence_noop) {
    par_runtime_t *rt = with("'persistence':'noop'", "[{'text':'x'}]");
    inbox(rt, 0);
    CHECK_STR("x", json_str(invoke(rt, GO), "text"));
    finish(rt);
}

TEST(parallel_tool_execution) { /* of the runtime; an agent may say otherwise */
    par_runtime_t *rt = with("'parallel_tool_execution':false", CALLS_TWICE);
    par_stream_t *s = start(rt, GO);
    const char *event;
    until(s, "tool_call");
    while ((event = next(s, 80)) != NULL) CHECK(!is(event, "tool_call"));
    par_stream_free(s);
    ST(PAR_OK, par_register_agent(rt, js("{'id':'b','model':'mock/m','tools':['add'],'parallel_tool_execution':true}"), PAR_NTS, &E));
    s = start(rt, js("{'agent':'b','input':'x'}"));
    until(s, "tool_call");
    until(s, "tool_call");
    par_stream_free(s);
    finish(rt);
}

/* ---- limits --------------------------------------------------------------------------------------------------------- */

TEST(max_runs) {
    par_runtime_t *rt = with("'limits':{'max_runs':2}", ENDLESS);
    par_stream_t *s = start(rt, GO), *t = start(rt, GO), *u = NULL;
    char *out = NULL;
    inbox(rt, 0);
    ST(PAR_ERR_LIMIT, par_stream_start(rt, GO, PAR_NTS, &u, &E));
    CHECK_HAS(par_error_json(E), "max_runs");
    ST(PAR_ERR_LIMIT, par_invoke(rt, GO, PAR_NTS, 1000, &out, NULL, &E));
    par_stream_free(s);
    EVENTUALLY(2000, par_stream_start(rt, GO, PAR_NTS, &u, NULL) == PAR_OK);
    par_stream_free(t);
    par_stream_free(u);
    finish(rt);
}

TEST(max_sessions) {
    par_runtime_t *rt = with("'limits':{'max_sessions':1}", "[{'text':'x'}]");
    char *out = NULL;
    inbox(rt, 0);
    invoke(rt, js("{'agent':'a','input':'x','session':'s1'}"));
    ST(PAR_ERR_LIMIT, par_invoke(rt, js("{'agent':'a','input':'x','session':'s2'}"), PAR_NTS, 5000, &out, NULL, &E));
    invoke(rt, js("{'agent':'a','input':'x','session':'s1'}"));
    ask(rt, "sessions.delete", js("{'session':'s1'}"));
    invoke(rt, js("{'agent':'a','input':'x','session':'s2'}"));
    finish(rt);
}

TEST(finished_runs) {
    par_runtime_t *rt = with("'limits':{'finished_runs':2}", "[{'text':'x'}]");
    const char *list;
    int i;
    inbox(rt, 0);
    for (i = 0; i < 4; i++) invoke(rt, js("{'agent':'a','input':'x','run_id':'r%d'}", i));
    list = ask(rt, "runs.list", "{}");
    CHECK_HAS(list, "'r3'");
    CHECK_HAS(list, "'r2'");
    CHECK_LACKS(list, "'r1'");
    finish(rt);
}

TEST(max_tool_result_bytes) { /* the token waits for an answer that fits */
    par_runtime_t *rt = with("'limits':{'max_tool_result_bytes':1024}", CALLS_ADD);
    par_stream_t *s = start(rt, GO);
    uint64_t token = token_of(until(s, "tool_call"));
    ST(PAR_ERR_TOO_LARGE, par_tool_complete(rt, token, js("'%02000d'", 1), PAR_NTS, &E));
    CHECK_HAS(par_error_json(E), "max_tool_result_bytes");
    ST(PAR_OK, par_tool_complete(rt, token, js("'%0900d'", 1), PAR_NTS, &E));
    CHECK(until(s, "completed") != NULL);
    par_stream_free(s);
    finish(rt);
}

TEST(stream_queue_bytes) { /* few big events fill a queue as many small ones do */
    par_runtime_t *rt = with("'limits':{'stream_queue_bytes':2048}", many_chunks(40, 500));
    par_stream_t *s = start(rt, GO);
    struct seen seen;
    sleep_ms(100);
    CHECK_INT(PAR_PENDING, result_status(s));
    CHECK(json_int(stream_info(s), "queued") <= 8);
    seen = drive(s, NULL, NULL);
    CHECK_WHOLE(seen, s);
    CHECK_INT(40 * 500, strlen(seen.text));
    par_stream_free(s);
    finish(rt);
}

/* ---- the inbox ------------------------------------------------------------------------------------------------------ */

TEST(inbox_events) {
    par_runtime_t *rt = with("'inbox':{'events':true}", "[{'text':'x'}]");
    const char *message;
    int started = 0, completed = 0;
    inbox(rt, 0);
    invoke(rt, js("{'agent':'a','input':'x','run_id':'r1'}"));
    while ((message = inbox(rt, 100)) != NULL) {
        CHECK_STR("r1", json_str(message, "run_id"));
        started += is(message, "run_started"), completed += is(message, "completed");
    }
    CHECK_INT(1, started);
    CHECK_INT(1, completed);
    finish(rt);
}

TEST(inbox_log_level) {
    static const struct { const char *level; int expected; } cases[] = {{"warn", 1}, {"error", 0}, {"off", 0}};
    size_t i;
    for (i = 0; i < COUNT(cases); i++) {
        par_runtime_t *rt = with(fmt("'inbox':{'log_level':'%s'}", cases[i].level), "[{'error':{'http_status':429,'retry_after_ms':1}},{'text':'x'}]");
        const char *message;
        int logs = 0;
        inbox(rt, 0);
        invoke(rt, GO);
        while ((message = inbox(rt, 50)) != NULL) {
            logs += is(message, "log");
            CHECK_STR("warn", json_str(message, "level"));
        }
        CHECK_INT(cases[i].expected, logs > 0);
        finish(rt);
    }
}

TEST(inbox_queue_events) { /* the oldest events are dropped and counted; host work never is */
    par_runtime_t *rt = with("'limits':{'inbox_queue_events':4},'inbox':{'events':true}", many_chunks(100, 3));
    const char *message;
    int events = 0;
    inbox(rt, 0);
    invoke(rt, GO);
    while ((message = inbox(rt, 50)) != NULL) events++;
    CHECK(events <= 5);
    CHECK(json_int(info(rt), "inbox.dropped") > 90);
    finish(rt);
}

struct blocked { par_runtime_t *rt; par_status_t status; };

static void *invoke_blocking(void *context) {
    struct blocked *b = context;
    char *out = NULL;
    b->status = par_invoke(b->rt, GO, PAR_NTS, 15000, &out, NULL, NULL);
    par_free(out);
    return NULL;
}

TEST(a_full_inbox_keeps_host_work) {
    enum { N = 8 };
    par_runtime_t *rt = with("'limits':{'inbox_queue_events':2},'inbox':{'events':true}", CALLS_ADD);
    struct blocked b[N];
    pthread_t threads[N];
    int i, answered = 0;
    int64_t deadline = now_ms() + slack(10000);
    inbox(rt, 0);
    for (i = 0; i < N; i++) b[i].rt = rt, threads[i] = spawn(invoke_blocking, &b[i]);
    sleep_ms(200); /* eight questions, and events by the dozen, in a queue of two */
    while (answered < N && now_ms() < deadline) {
        const char *message = inbox(rt, 500);
        if (message && is(message, "tool_call")) answered += par_tool_complete(rt, token_of(message), "3", 1, NULL) == PAR_OK;
    }
    CHECK_INT(N, answered);
    for (i = 0; i < N; i++) join(threads[i]), CHECK_INT(PAR_OK, b[i].status);
    finish(rt);
}

TEST(inbox_events_do_not_repeat_host_work) { /* a host that serves its inbox must not run a tool twice */
    par_runtime_t *rt = with("'inbox':{'events':true}", CALLS_ADD);
    struct blocked b = {rt, PAR_OK};
    pthread_t thread;
    const char *message;
    par_stream_t *s;
    int calls = 0;
    inbox(rt, 0);
    thread = spawn(invoke_blocking, &b);
    while ((message = inbox(rt, 500)) != NULL)
        if (is(message, "tool_call") && calls++ == 0) ST(PAR_OK, par_tool_complete(rt, token_of(message), "3", 1, &E));
    join(thread);
    CHECK_INT(PAR_OK, b.status);
    CHECK_INT(1, calls);
    calls = 0;
    s = start(rt, GO); /* and what its stream delivers is no work of the inbox */
    until(s, "tool_call");
    while ((message = inbox(rt, 100)) != NULL) calls += is(message, "tool_call");
    CHECK_INT(0, calls);
    par_stream_free(s);
    finish(rt);
}

static void *wait_in_inbox(void *rt) {
    char *out = NULL;
    par_status_t st = par_inbox_wait(rt, 10000, &out, NULL, NULL);
    par_free(out);
    return (void *)(intptr_t)st;
}

TEST(the_inbox_has_one_consumer) {
    par_runtime_t *rt = with("'threads':1", "[{'text':'x'}]");
    pthread_t first = spawn(wait_in_inbox, rt);
    char *out;
    void *got;
    sleep_ms(100);
    ST(PAR_ERR_BUSY, par_inbox_poll(rt, &out, NULL, &E));
    TAKES(0, 100, ST(PAR_ERR_BUSY, par_inbox_wait(rt, 5000, &out, NULL, &E)));
    ST(PAR_ERR_BUSY, par_inbox_drain(rt, 5, &out, NULL, &E));
    ST(PAR_OK, par_inbox_wake(rt));
    pthread_join(first, &got);
    CHECK_INT(PAR_WOKEN, (intptr_t)got);
    finish(rt);
}

/* ---- callbacks ------------------------------------------------------------------------------------------------------- */

struct listener { int events, dropped, slow; };

static void listen_slowly(uintptr_t context, uint64_t token, const char *json, size_t len) {
    struct listener *l = (struct listener *)context;
    (void)token, (void)len;
    if (BUMP(l->events) == 1) sleep_ms(300);
    if (json_int(json, "dropped") > 0) __atomic_add_fetch(&l->dropped, (int)json_int(json, "dropped"), __ATOMIC_SEQ_CST);
}

TEST(callback_queue_events) {
    par_runtime_t *rt = with("'limits':{'callback_queue_events':4}", many_chunks(100, 3));
    struct listener l = {0, 0, 0};
    inbox(rt, 0);
    ST(PAR_OK, par_on_event(rt, listen_slowly, (uintptr_t)&l, NULL, &E));
    invoke(rt, GO);
    sleep_ms(400);
    finish(rt);
    CHECK(LOAD(l.events) <= 8);
    CHECK(LOAD(l.dropped) > 90); /* what was not delivered was counted */
}

/* ---- shutdown -------------------------------------------------------------------------------------------------------- */

TEST(drain_timeout) { /* seconds that running work may take to end by itself */
    par_runtime_t *rt = with("'shutdown':{'drain_timeout':5}", "[{'text':'x','delay_ms':300}]");
    par_stream_t *s = start(rt, GO), *t = NULL;
    struct seen seen;
    until(s, "turn_started");
    TAKES(100, 2000, ST(PAR_OK, par_runtime_close(rt, 10000, &E)));
    seen = drive(s, NULL, NULL);
    CHECK_WHOLE(seen, s);
    CHECK_STR("x", seen.text);
    CHECK_INT(0, json_int(info(rt), "close.runs_cancelled"));
    par_stream_free(s);
    par_runtime_free(rt);

    rt = with("'shutdown':{'drain_timeout':0.2}", ENDLESS);
    s = start(rt, GO);
    until(s, "turn_started");
    TAKES(190, 2000, ST(PAR_OK, par_runtime_close(rt, 10000, &E)));
    CHECK(until(s, "cancelled") != NULL);
    CHECK_INT(1, json_int(info(rt), "close.runs_cancelled"));
    par_stream_free(s);
    par_runtime_free(rt);

    rt = with("'shutdown':{'drain_timeout':5}", ENDLESS);
    s = start(rt, GO);
    TAKES(70, 2000, ST(PAR_OK, par_runtime_close(rt, 100, &E))); /* most of the timeout: the rest is for the end */
    CHECK_INT(1, json_int(info(rt), "close.runs_cancelled"));
    par_stream_free(s);
    par_runtime_free(rt);

    rt = with("'shutdown':{'drain_timeout':5}", ENDLESS);
    s = start(rt, GO);
    TAKES(0, 1000, ST(PAR_TIMEOUT, par_runtime_close(rt, 0, &E)));    /* goes on behind us */
    ST(PAR_ERR_CLOSED, par_stream_start(rt, GO, PAR_NTS, &t, &E));    /* nothing new meanwhile */
    par_stream_free(s);
    TAKES(0, 2000, ST(PAR_OK, par_runtime_close(rt, 10000, &E)));
    par_runtime_free(rt);
}

/* ---- providers ------------------------------------------------------------------------------------------------------- */

static void remember(uintptr_t context, uint64_t token, const char *json, size_t len) {
    char **said = (char **)context;
    (void)token, (void)len;
    pthread_mutex_lock(&t_lock);
    cat(said, json);
    pthread_mutex_unlock(&t_lock);
}

TEST(secrets_are_never_shown) {
    static const char SECRET[] = "sk-very-secret-0123456789";
    par_runtime_t *rt;
    par_error_t *err = NULL;
    char *said = NULL, *out = NULL;
    cat(&said, "");
    setenv("PAR_TEST_SECRET", SECRET, 1);
    rt = runtime(js("{'llm_providers':{'p':{'type':'openai','api_key':'%s','base_url':'http://127.0.0.1:1/v1','retry':{'max_attempts':2,'initial_delay_ms':1}},"
                    "'q':{'type':'openai','api_key':{'env':'PAR_TEST_SECRET'},'base_url':'http://127.0.0.1:1/v1','headers':{'x-key':'%s'}}}}", SECRET, SECRET));
    ST(PAR_OK, par_on_log(rt, 5, remember, (uintptr_t)&said, NULL, &E));
    ST(PAR_OK, par_register_agent(rt, js("{'id':'a','model':'p/m'}"), PAR_NTS, &E));
    ST(PAR_OK, par_register_agent(rt, js("{'id':'b','model':'q/m'}"), PAR_NTS, &E));
    CHECK_INT(PAR_ERR_NETWORK, par_invoke(rt, GO, PAR_NTS, 5000, &out, NULL, &err));
    CHECK_LACKS(par_error_json(err), SECRET);
    par_error_free(err);
    CHECK_LACKS(info(rt), SECRET);
    CHECK_LACKS(ask(rt, "providers.list", "{}"), SECRET);
    ST(PAR_OK, par_list(rt, "agents", PAR_NTS, &out, NULL, &E));
    CHECK_LACKS(keep(out), SECRET);
    finish(rt);
    CHECK_LACKS(said, SECRET);
    free(said);
}
