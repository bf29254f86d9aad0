/* Several runtimes live in one process and know nothing of each other: agents, tools, tokens, sessions, limits, callbacks
 * and the end of one are its own. */
#include "t.h"

#include "server.h"

#define GO "{\"agent\":\"a\",\"input\":\"x\"}"

static const char CALLS_ADD[] = "[{'tool_calls':[{'id':'c1','name':'add','input':{'a':1,'b':2}}]},{'text':'The sum is 3.'}]";

static void add(void *rt, const char *event) {
    if (is(event, "tool_call")) ST(PAR_OK, par_tool_complete(rt, token_of(event), "3", PAR_NTS, &E));
}

TEST(names_are_their_own) {
    par_runtime_t *one = mock("[{'text':'I am one'}]"), *two = mock("[{'text':'I am two'}]");
    char *out;
    agent(one, "a", NULL);
    ST(PAR_ERR_NOT_FOUND, par_invoke(two, GO, PAR_NTS, 1000, &out, NULL, &E));
    agent(two, "a", NULL);
    tool(one, "add", NULL);
    tool(two, "add", ",'permission':'deny'");
    CHECK_STR("I am one", json_str(invoke(one, GO), "text"));
    CHECK_STR("I am two", json_str(invoke(two, GO), "text"));
    ST(PAR_OK, par_unregister_agent(one, "a", PAR_NTS, &E));
    CHECK_STR("I am two", json_str(invoke(two, GO), "text"));
    finish(one);
    finish(two);
}

TEST(run_ids_and_limits_are_their_own) {
    par_runtime_t *one = runtime(js("{'limits':{'max_input_bytes':2000},'llm_providers':{'mock':{'type':'mock','turns':[{'text':'x','delay_ms':10000}]}}}"));
    par_runtime_t *two = mock("[{'text':'x','delay_ms':10000}]");
    const char *request = js("{'agent':'a','input':'x','run_id':'same'}");
    par_stream_t *s, *t;
    struct seen seen;
    char *out;
    agent(one, "a", NULL);
    agent(two, "a", NULL);
    s = start(one, request), t = start(two, request);
    ST(PAR_OK, par_run_cancel(one, "same", PAR_NTS, NULL, 0, &E));
    seen = drive(s, NULL, NULL);
    CHECK_WHOLE(seen, s);
    ST(PAR_OK, par_run_status(two, "same", PAR_NTS, &out, NULL, &E));
    par_free(out);
    while (next(t, 50)) {}
    CHECK_INT(PAR_TIMEOUT, status); /* still running */
    ST(PAR_ERR_TOO_LARGE, par_register_agent(one, js("{'id':'long','system_prompt':'%02000d','model':'mock/m'}", 1), PAR_NTS, &E));
    ST(PAR_OK, par_register_agent(two, js("{'id':'long','system_prompt':'%02000d','model':'mock/m'}", 1), PAR_NTS, &E));
    par_stream_free(s);
    par_stream_free(t);
    finish(one);
    finish(two);
}

TEST(the_end_of_one_is_not_the_end_of_the_other) {
    par_runtime_t *one = mock(CALLS_ADD), *two = mock(CALLS_ADD);
    par_stream_t *s, *t;
    struct seen seen;
    uint64_t token;
    tool(one, "add", NULL), agent(one, "a", "['add']");
    tool(two, "add", NULL), agent(two, "a", "['add']");
    s = start(one, GO), t = start(two, GO);
    until(s, "tool_call");
    token = token_of(until(t, "tool_call"));
    finish(one);
    ST(PAR_OK, par_tool_complete(two, token, "3", PAR_NTS, &E));
    seen = drive(t, NULL, NULL);
    CHECK_WHOLE(seen, t);
    CHECK_STR("The sum is 3.", seen.text);
    seen = drive(s, NULL, NULL);
    CHECK(is(seen.terminal, "cancelled"));
    par_stream_free(s);
    par_stream_free(t);
    finish(two);
}

static void count(uintptr_t counter, uint64_t token, const char *json, size_t len) {
    (void)token, (void)json, (void)len;
    BUMP(*(int *)counter);
}

TEST(callbacks_and_inboxes_are_their_own) {
    par_runtime_t *one = mock(NULL), *two = mock(NULL);
    int events = 0, logs = 0;
    par_stream_t *s;
    agent(one, "a", NULL), agent(two, "a", NULL);
    ST(PAR_OK, par_on_event(one, count, (uintptr_t)&events, NULL, &E));
    ST(PAR_OK, par_on_log(one, 5, count, (uintptr_t)&logs, NULL, &E));
    sleep_ms(100);
    events = logs = 0;
    inbox(one, 0);
    s = start(two, js("{'agent':'a','input':'x','notify':'inbox'}"));
    drive(s, NULL, NULL);
    sleep_ms(100);
    CHECK_INT(0, LOAD(events));
    CHECK_INT(0, LOAD(logs));
    inbox(one, 0);
    CHECK_INT(PAR_TIMEOUT, status);
    CHECK(is(inbox(two, 1000), "ready"));
    par_stream_free(s);
    finish(one);
    finish(two);
}

struct worker { int number, done; };

static void *own_runtime(void *context) { /* create, run, close, over and over, beside seven others */
    struct worker *w = context;
    int round, i, rounds = fast() ? 2 : 10;
    for (round = 0; round < rounds; round++) {
        par_runtime_t *rt = mock(fmt("[{'tool_calls':[{'id':'c1','name':'add','input':{'a':1,'b':2}}]},{'text':'worker %d','chunks':['worker ','%d']}]", w->number, w->number));
        tool(rt, "add", NULL);
        agent(rt, "a", "['add']");
        for (i = 0; i < 10; i++) {
            par_stream_t *s = start(rt, GO);
            struct seen seen = drive(s, add, rt);
            CHECK_WHOLE(seen, s);
            CHECK_STR(fmt("worker %d", w->number), seen.text);
            par_stream_free(s);
            BUMP(w->done);
        }
        finish(rt);
    }
    t_clear();
    return NULL;
}

TEST_FOR(60, eight_threads_with_a_runtime_each) {
    struct worker workers[8] = {{0, 0}};
    pthread_t threads[8];
    int threads_before = thread_count(), fds_before = fd_count(), i;
    for (i = 0; i < 8; i++) workers[i].number = i, threads[i] = spawn(own_runtime, &workers[i]);
    for (i = 0; i < 8; i++) join(threads[i]), CHECK_INT(fast() ? 20 : 100, workers[i].done);
    EVENTUALLY(5000, thread_count() <= threads_before);
    EVENTUALLY(5000, fd_count() <= fds_before);
}

static par_runtime_t *common;

static void *common_runtime(void *context) { /* all on one handle, streaming and blocking mixed */
    struct worker *w = context;
    int i;
    for (i = 0; i < (fast() ? 10 : 100); i++) {
        const char *request = js("{'agent':'a','input':'thread %d round %d'}", w->number, i), *want = json_str(request, "input");
        if (i % 2) {
            CHECK_STR(want, json_str(invoke(common, request), "text"));
        } else {
            par_stream_t *s = start(common, request);
            struct seen seen = drive(s, NULL, NULL);
            CHECK_WHOLE(seen, s);
            CHECK_STR(want, seen.text);
            par_stream_free(s);
        }
        BUMP(w->done);
    }
    t_clear();
    return NULL;
}

TEST_FOR(60, eight_threads_on_one_runtime) {
    struct worker workers[8] = {{0, 0}};
    pthread_t threads[8];
    int i;
    common = mock(NULL);
    agent(common, "a", NULL);
    for (i = 0; i < 8; i++) workers[i].number = i, threads[i] = spawn(common_runtime, &workers[i]);
    for (i = 0; i < 8; i++) join(threads[i]), CHECK_INT(fast() ? 10 : 100, workers[i].done);
    finish(common);
}

TEST(an_error_crosses_threads) { /* made here, read and freed there */
    par_runtime_t *rt = mock(NULL);
    par_error_t *err = NULL;
    CHECK_INT(PAR_ERR_NOT_FOUND, par_unregister_agent(rt, "nope", PAR_NTS, &err));
    finish(rt);
    CHECK_HAS(par_error_message(err), "nope");
    par_error_free(err);
}

/* ---- sessions ------------------------------------------------------------------------------------------------------- */

static int contains_in_order(const char *text, const char *first, const char *second) {
    const char *a = text ? strstr(text, first) : NULL;
    return a && strstr(a, second);
}

TEST(a_session_continues) {
    par_runtime_t *rt = mock(NULL);
    const char *session;
    agent(rt, "a", NULL);
    CHECK_STR("s1", json_str(invoke(rt, js("{'agent':'a','input':'my name is Ada','session':'s1'}")), "session"));
    CHECK_STR("what is my name", json_str(invoke(rt, js("{'agent':'a','input':'what is my name','session':'s1'}")), "text"));
    session = ask(rt, "sessions.get", js("{'session':'s1'}"));
    CHECK_INT(PAR_OK, status);
    CHECK(contains_in_order(session, "my name is Ada", "what is my name"));
    invoke(rt, js("{'agent':'a','input':'a stranger','session':'s2'}"));
    CHECK_LACKS(ask(rt, "sessions.get", js("{'session':'s2'}")), "Ada");
    CHECK_LACKS(ask(rt, "sessions.get", js("{'session':'s1'}")), "stranger");
    session = ask(rt, "sessions.list", "{}");
    CHECK_HAS(session, "'s1'");
    CHECK_HAS(session, "'s2'");
    ask(rt, "sessions.delete", js("{'session':'s1'}"));
    CHECK_INT(PAR_OK, status);
    CHECK_LACKS(ask(rt, "sessions.list", "{}"), "'s1'");
    ask(rt, "sessions.get", js("{'session':'s1'}"));
    CHECK_INT(PAR_ERR_NOT_FOUND, status);
    finish(rt);
}

TEST(the_model_sees_the_session) { /* asked of a server: the second request carries the first conversation */
    struct server server;
    par_runtime_t *rt;
    open_server(&server, ANSWER);
    rt = on_server(&server);
    CHECK_STR("from the server", json_str(invoke(rt, js("{'agent':'a','input':'my name is Ada','session':'s1'}")), "text"));
    CHECK_LACKS(server.body, "from the server");
    invoke(rt, js("{'agent':'a','input':'what is my name','session':'s1'}"));
    CHECK(contains_in_order(server.body, "my name is Ada", "from the server"));
    CHECK(contains_in_order(server.body, "from the server", "what is my name"));
    invoke(rt, js("{'agent':'a','input':'a stranger','session':'s2'}"));
    CHECK_LACKS(server.body, "Ada");
    invoke(rt, js("{'agent':'a','input':'no session'}"));
    CHECK_LACKS(server.body, "Ada");
    CHECK_LACKS(server.body, "stranger");
    finish(rt);
    close_server(&server);
}

TEST(sessions_are_of_one_runtime) {
    par_runtime_t *one = mock(NULL), *two = mock(NULL);
    agent(one, "a", NULL), agent(two, "a", NULL);
    invoke(one, js("{'agent':'a','input':'secret','session':'s1'}"));
    ask(two, "sessions.get", js("{'session':'s1'}"));
    CHECK_INT(PAR_ERR_NOT_FOUND, status);
    invoke(two, js("{'agent':'a','input':'public','session':'s1'}"));
    CHECK_LACKS(ask(two, "sessions.get", js("{'session':'s1'}")), "secret");
    finish(one);
    finish(two);
}

TEST(a_session_after_a_tool_and_after_a_cancel) { /* what was cut off leaves a conversation that can go on */
    par_runtime_t *rt = mock(CALLS_ADD);
    const char *request = js("{'agent':'a','input':'add','session':'s1'}");
    par_stream_t *s;
    struct seen seen;
    int i;
    tool(rt, "add", NULL);
    agent(rt, "a", "['add']");
    for (i = 0; i < 4; i++) {
        s = start(rt, request);
        if (i % 2 == 0) { /* cancelled while its tool works */
            until(s, "tool_call");
            ST(PAR_OK, par_stream_cancel(s, NULL, 0, &E));
            seen = drive(s, NULL, NULL);
            CHECK(is(seen.terminal, "cancelled"));
        } else {
            seen = drive(s, add, rt);
            CHECK_WHOLE(seen, s);
            CHECK_STR("The sum is 3.", seen.text);
        }
        par_stream_free(s);
    }
    finish(rt);
}

TEST(two_runs_of_one_session_at_once) { /* never mixed up: the second waits, or is refused */
    par_runtime_t *rt = mock("[{'text':'abc','chunks':['a','b','c'],'delay_ms':50}]");
    const char *request = js("{'agent':'a','input':'x','session':'s1'}");
    par_stream_t *s, *t = NULL;
    par_status_t st;
    struct seen seen;
    agent(rt, "a", NULL);
    s = start(rt, request);
    t_clear();
    st = par_stream_start(rt, request, PAR_NTS, &t, &E);
    CHECK(st == PAR_OK || st == PAR_ERR_BUSY || st == PAR_ERR_EXISTS);
    seen = drive(s, NULL, NULL);
    CHECK_WHOLE(seen, s);
    CHECK_STR("abc", seen.text);
    if (t) seen = drive(t, NULL, NULL), CHECK_WHOLE(seen, t);
    par_stream_free(s);
    par_stream_free(t);
    finish(rt);
}

TEST(runs_are_listed) {
    par_runtime_t *rt = mock("[{'text':'x','delay_ms':10000}]");
    par_stream_t *s;
    agent(rt, "a", NULL);
    s = start(rt, js("{'agent':'a','input':'x','run_id':'r1'}"));
    CHECK_HAS(ask(rt, "runs.list", "{}"), "'r1'");
    CHECK_HAS(ask(rt, "runs.get", js("{'run_id':'r1'}")), "'r1'");
    ask(rt, "runs.get", js("{'run_id':'r9'}"));
    CHECK_INT(PAR_ERR_NOT_FOUND, status);
    par_stream_free(s);
    finish(rt);
}
