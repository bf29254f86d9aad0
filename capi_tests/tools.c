/* Host tools: a call is delivered once, to the right place, and answered once, by its token, from any thread, in any order;
 * an answer that is late, double or foreign changes nothing; a tool that never answers does not hang its run. */
#include "t.h"

#define GO "{\"agent\":\"a\",\"input\":\"x\"}"

static const char CALLS_ADD[] = "[{'tool_calls':[{'id':'c1','name':'add','input':{'a':1,'b':2}}]},"
                                "{'expect':{'last_message_contains':'3'},'text':'The sum is 3.'}]";

/* A runtime with the tool "add" (with these further keys) and the agent "a" that may use it. */
static par_runtime_t *adding(const char *turns, const char *tool_keys) {
    par_runtime_t *rt = mock(turns);
    tool(rt, "add", tool_keys);
    agent(rt, "a", "['add']");
    return rt;
}

static par_status_t complete(par_runtime_t *rt, uint64_t token, const char *result) {
    t_clear();
    return par_tool_complete(rt, token, result, PAR_NTS, &E);
}

static void add(void *rt, const char *event) {
    if (is(event, "tool_call"))
        CHECK_INT(PAR_OK, complete(rt, token_of(event), fmt("%d", (int)(json_int(event, "input.a") + json_int(event, "input.b")))));
}

static struct seen completed(par_stream_t *s, void (*answer)(void *, const char *), void *context) {
    struct seen seen = drive(s, answer, context);
    CHECK_WHOLE(seen, s);
    if (!CHECK_STR("completed", json_str(seen.terminal, "type"))) printf("    %s\n", seen.terminal ? seen.terminal : "no terminal");
    return seen;
}

/* ---- answering ------------------------------------------------------------------------------------------------------ */

TEST(answered_once) {
    par_runtime_t *rt = adding(CALLS_ADD, NULL);
    par_stream_t *s = start(rt, GO);
    struct seen seen = completed(s, add, rt);
    CHECK_STR("The sum is 3.", seen.text);
    par_stream_free(s);
    finish(rt);
}

TEST(any_json_is_an_answer) { /* a string gives its text, everything else its JSON */
    static const struct { const char *answer, *told; } cases[] = {
        {"'plain text'", "plain text"}, {"'a \\n line'", "line"}, {"3.5", "3.5"}, {"true", "true"}, {"null", "null"}, {"''", ""},
        {"{'sum':3,'ok':true}", "sum"}, {"[1,2]", "[1,2]"},
    };
    size_t i;
    for (i = 0; i < COUNT(cases); i++) {
        par_runtime_t *rt = adding(fmt("[{'tool_calls':[{'id':'c1','name':'add','input':{'a':1,'b':2}}]},"
                                       "{'expect':{'last_message_contains':'%s'},'text':'ok'}]", cases[i].told), NULL);
        par_stream_t *s = start(rt, GO);
        ST(PAR_OK, complete(rt, token_of(until(s, "tool_call")), js("%s", cases[i].answer)));
        completed(s, NULL, NULL);
        par_stream_free(s);
        finish(rt);
    }
}

TEST(answered_twice) {
    par_runtime_t *rt = adding(CALLS_ADD, NULL);
    par_stream_t *s = start(rt, GO);
    uint64_t token = token_of(until(s, "tool_call"));
    ST(PAR_OK, complete(rt, token, "3"));
    ST(PAR_ERR_STALE_TOKEN, complete(rt, token, "4"));
    ST(PAR_ERR_STALE_TOKEN, par_tool_fail(rt, token, "{\"message\":\"m\"}", PAR_NTS, &E));
    ST(PAR_ERR_STALE_TOKEN, par_tool_progress(rt, token, "50", PAR_NTS, &E));
    completed(s, NULL, NULL); /* the model was told 3 */
    ST(PAR_ERR_STALE_TOKEN, complete(rt, token, "3"));
    par_stream_free(s);
    finish(rt);
}

TEST(a_refused_answer_is_no_answer) { /* the token stays good until something well-formed came */
    par_runtime_t *rt = adding(CALLS_ADD, NULL);
    par_stream_t *s = start(rt, GO);
    uint64_t token = token_of(until(s, "tool_call"));
    ST(PAR_ERR_JSON, complete(rt, token, "{\"sum\":"));
    ST(PAR_ERR_UTF8, par_tool_complete(rt, token, "\"\xFF\"", 3, &E));
    ST(PAR_ERR_NULL_ARG, par_tool_complete(rt, token, NULL, 5, &E));
    ST(PAR_ERR_SCHEMA, par_tool_fail(rt, token, "{\"massage\":\"m\"}", PAR_NTS, &E));
    ST(PAR_OK, complete(rt, token, "3"));
    completed(s, NULL, NULL);
    par_stream_free(s);
    finish(rt);
}

TEST(tokens_that_never_were) {
    par_runtime_t *rt = adding(CALLS_ADD, NULL);
    par_stream_t *s = start(rt, GO);
    uint64_t token = token_of(until(s, "tool_call"));
    ST(PAR_ERR_STALE_TOKEN, complete(rt, 0, "3"));
    ST(PAR_ERR_STALE_TOKEN, complete(rt, token + 1000, "3"));
    ST(PAR_ERR_STALE_TOKEN, complete(rt, UINT64_MAX, "3"));
    ST(PAR_ERR_STALE_TOKEN, complete(rt, UINT64_C(1) << 53, "3"));
    ST(PAR_OK, complete(rt, token, "3"));
    completed(s, NULL, NULL);
    par_stream_free(s);
    finish(rt);
}

TEST(tokens_are_of_one_runtime) {
    par_runtime_t *mine = adding(CALLS_ADD, NULL), *other = adding(CALLS_ADD, NULL);
    par_stream_t *s = start(mine, GO), *t = start(other, GO);
    uint64_t token = token_of(until(s, "tool_call")), foreign = token_of(until(t, "tool_call"));
    CHECK(token != foreign); /* unique in the process */
    ST(PAR_ERR_STALE_TOKEN, complete(mine, foreign, "0"));
    ST(PAR_ERR_STALE_TOKEN, complete(other, token, "0"));
    ST(PAR_OK, complete(mine, token, "3"));
    ST(PAR_OK, complete(other, foreign, "3"));
    completed(s, NULL, NULL);
    completed(t, NULL, NULL);
    par_stream_free(s);
    par_stream_free(t);
    finish(mine);
    finish(other);
}

TEST(failed_tool) { /* the model reads the message and may try again */
    par_runtime_t *rt = adding("[{'tool_calls':[{'id':'c1','name':'add','input':{'a':1,'b':2}}]},"
                               "{'expect':{'last_message_contains':'out of fingers'},'text':'sorry'}]", NULL);
    par_stream_t *s = start(rt, GO);
    const char *result;
    ST(PAR_OK, par_tool_fail(rt, token_of(until(s, "tool_call")), "{\"message\":\"out of fingers\",\"retryable\":false}", PAR_NTS, &E));
    result = until(s, "tool_result");
    CHECK_STR("c1", json_str(result, "tool_call_id"));
    CHECK_STR("true", json_raw(result, "is_error"));
    CHECK_STR("sorry", completed(s, NULL, NULL).text);
    par_stream_free(s);
    finish(rt);
}

struct race { par_runtime_t *rt; uint64_t token; pthread_barrier_t *line; int won, lost, fail; };

static void *racer(void *context) {
    struct race *race = context;
    par_status_t st;
    pthread_barrier_wait(race->line);
    st = race->fail ? par_tool_fail(race->rt, race->token, "{\"message\":\"3\"}", PAR_NTS, NULL)
                    : par_tool_complete(race->rt, race->token, "3", 1, NULL);
    race->won = st == PAR_OK, race->lost = st == PAR_ERR_STALE_TOKEN;
    return NULL;
}

TEST(two_threads_race_to_answer) {
    par_runtime_t *rt = adding(CALLS_ADD, NULL);
    int round, rounds = fast() ? 10 : 200;
    for (round = 0; round < rounds; round++) {
        par_stream_t *s = start(rt, GO);
        pthread_barrier_t line;
        struct race a = {rt, token_of(until(s, "tool_call")), &line, 0, 0, 0}, b = a;
        pthread_t thread;
        b.fail = round % 2;
        pthread_barrier_init(&line, NULL, 2);
        thread = spawn(racer, &a);
        racer(&b);
        join(thread);
        pthread_barrier_destroy(&line);
        CHECK_INT(1, a.won + b.won);
        CHECK_INT(1, a.lost + b.lost);
        completed(s, NULL, NULL);
        par_stream_free(s);
    }
    finish(rt);
}

/* ---- deadlines, progress, cancel ------------------------------------------------------------------------------------- */

TEST(never_answered) { /* fails by its deadline; the model is told; the run ends */
    par_runtime_t *rt = adding("[{'tool_calls':[{'id':'c1','name':'add','input':{'a':1,'b':2}}]},{'text':'no answer'}]", ",'timeout':0.2");
    par_stream_t *s = start(rt, GO);
    const char *event = until(s, "tool_call"), *cancelled;
    uint64_t token = token_of(event);
    CHECK(json_int(event, "deadline_ms") > 0 && json_int(event, "deadline_ms") <= 200);
    TAKES(150, 500, cancelled = until(s, "tool_cancelled"));
    CHECK_INT(token, token_of(cancelled));
    CHECK_STR("c1", json_str(cancelled, "tool_call_id"));
    CHECK_STR("add", json_str(cancelled, "name"));
    CHECK(json_str(cancelled, "reason") != NULL);
    ST(PAR_ERR_STALE_TOKEN, complete(rt, token, "3"));
    CHECK_STR("no answer", completed(s, NULL, NULL).text);
    par_stream_free(s);
    finish(rt);
}

TEST(progress_extends_the_deadline) {
    par_runtime_t *rt = adding(CALLS_ADD, ",'timeout':0.3");
    par_stream_t *s = start(rt, GO);
    uint64_t token = token_of(until(s, "tool_call"));
    struct seen seen;
    int i;
    for (i = 0; i < 5; i++) {
        sleep_ms(150);
        ST(PAR_OK, par_tool_progress(rt, token, js("{'step':%d}", i), PAR_NTS, &E));
    }
    ST(PAR_OK, par_tool_progress(rt, token, "null", PAR_NTS, &E)); /* a bare heartbeat */
    ST(PAR_OK, complete(rt, token, "3"));                  /* 750 ms after a deadline of 300 */
    seen = completed(s, NULL, NULL);
    CHECK_HAS(seen.types, " tool_progress ");
    CHECK_LACKS(seen.types, " tool_cancelled ");
    par_stream_free(s);
    finish(rt);
}

TEST(cancel_makes_the_token_stale) {
    par_runtime_t *rt = adding(CALLS_ADD, NULL);
    par_stream_t *s = start(rt, GO);
    uint64_t token = token_of(until(s, "tool_call"));
    struct seen seen;
    ST(PAR_OK, par_stream_cancel(s, "enough", PAR_NTS, &E));
    CHECK_INT(token, token_of(until(s, "tool_cancelled")));
    seen = drive(s, NULL, NULL);
    CHECK_WHOLE(seen, s);
    CHECK(is(seen.terminal, "cancelled"));
    ST(PAR_ERR_STALE_TOKEN, complete(rt, token, "3"));
    ST(PAR_ERR_STALE_TOKEN, par_tool_progress(rt, token, "1", PAR_NTS, &E));
    par_stream_free(s);
    finish(rt);
}

TEST(close_makes_the_token_stale) {
    par_runtime_t *rt = adding(CALLS_ADD, NULL);
    par_stream_t *s = start(rt, GO);
    uint64_t token = token_of(until(s, "tool_call"));
    struct seen seen;
    ST(PAR_OK, par_runtime_close(rt, 10000, &E));
    seen = drive(s, NULL, NULL);
    CHECK_WHOLE(seen, s);
    CHECK_HAS(seen.types, " tool_cancelled ");
    ST(PAR_ERR_STALE_TOKEN, complete(rt, token, "3"));
    par_stream_free(s);
    par_runtime_free(rt);
}

TEST(a_freed_consumer_makes_the_token_stale) {
    par_runtime_t *rt = adding(CALLS_ADD, NULL);
    par_stream_t *s = start(rt, GO);
    uint64_t token = token_of(until(s, "tool_call"));
    par_stream_free(s);
    EVENTUALLY(1000, complete(rt, token, "3") == PAR_ERR_STALE_TOKEN);
    finish(rt);
}

/* ---- several at once --------------------------------------------------------------------------------------------------- */

static const char THREE[] = "[{'tool_calls':[{'id':'c1','name':'add','input':{'a':1,'b':0}},{'id':'c2','name':'add','input':{'a':2,'b':0}},"
                            "{'id':'c3','name':'add','input':{'a':3,'b':0}}]},{'expect':{'last_message_contains':'result three'},'text':'done'}]";

TEST(three_at_once_answered_in_reverse) {
    par_runtime_t *rt = adding(THREE, NULL);
    par_stream_t *s = start(rt, js("{'agent':'a','input':'x','session':'s'}"));
    uint64_t token[3];
    const char *ids[] = {"c1", "c2", "c3"}, *answers[] = {"'result one'", "'result two'", "'result three'"}, *session;
    char *result = NULL;
    int i;
    for (i = 0; i < 3; i++) { /* all three are asked before one is answered, in call order */
        const char *event = until(s, "tool_call");
        token[i] = token_of(event);
        CHECK_STR(ids[i], json_str(event, "tool_call_id"));
    }
    CHECK(token[0] < token[1] && token[1] < token[2]);
    for (i = 2; i >= 0; i--) ST(PAR_OK, complete(rt, token[i], js("%s", answers[i])));
    completed(s, NULL, NULL); /* the last message was result three: call order, not answering order */
    ST(PAR_OK, par_stream_result(s, &result, NULL, &E));
    for (i = 0; i < 3; i++) CHECK_STR(ids[i], json_str(result, fmt("tool_calls.%d.tool_call_id", i)));
    par_free(result);
    session = ask(rt, "sessions.get", js("{'session':'s'}")); /* and so it is in the conversation */
    CHECK_INT(PAR_OK, status);
    if (CHECK_HAS(session, "result one") && CHECK_HAS(session, "result two") && CHECK_HAS(session, "result three"))
        CHECK(strstr(session, "result one") < strstr(session, "result two") && strstr(session, "result two") < strstr(session, "result three"));
    par_stream_free(s);
    finish(rt);
}

TEST(concurrency_limit) { /* the second is not asked while the first works */
    par_runtime_t *rt = adding(THREE, ",'concurrency_limit':1");
    par_stream_t *s = start(rt, GO);
    const char *answers[] = {"'result one'", "'result two'", "'result three'"};
    int i;
    for (i = 0; i < 3; i++) {
        uint64_t token = token_of(until(s, "tool_call"));
        const char *event;
        while ((event = next(s, 80)) != NULL) CHECK(!is(event, "tool_call"));
        ST(PAR_OK, complete(rt, token, js("%s", answers[i])));
    }
    completed(s, NULL, NULL);
    par_stream_free(s);
    finish(rt);
}

TEST(one_after_the_other) { /* parallel_tool_execution: false */
    par_runtime_t *rt = mock(THREE);
    par_stream_t *s;
    const char *answers[] = {"'result one'", "'result two'", "'result three'"};
    int i;
    tool(rt, "add", NULL);
    ST(PAR_OK, par_register_agent(rt, js("{'id':'a','model':'mock/m','tools':['add'],'parallel_tool_execution':false}"), PAR_NTS, &E));
    s = start(rt, GO);
    for (i = 0; i < 3; i++) {
        uint64_t token = token_of(until(s, "tool_call"));
        const char *event;
        while ((event = next(s, 80)) != NULL) CHECK(!is(event, "tool_call"));
        ST(PAR_OK, complete(rt, token, js("%s", answers[i])));
    }
    completed(s, NULL, NULL);
    par_stream_free(s);
    finish(rt);
}

TEST(rounds) { /* a tool call in each of many turns */
    par_runtime_t *rt;
    par_stream_t *s;
    char *turns = NULL;
    struct seen seen;
    int i;
    for (i = 0; i < 10; i++) cat(&turns, fmt("%s{'tool_calls':[{'id':'c%d','name':'add','input':{'a':%d,'b':1}}]}", i ? "," : "", i, i));
    rt = adding(fmt("[%s,{'expect':{'last_message_contains':'10'},'text':'ten'}]", turns), NULL);
    free(turns);
    s = start(rt, GO);
    seen = completed(s, add, rt);
    CHECK_INT(11, json_int(seen.terminal, "iterations"));
    par_stream_free(s);
    finish(rt);
}

TEST(max_iterations_ends_a_run) {
    par_runtime_t *rt = mock("[{'tool_calls':[{'id':'c1','name':'add','input':{'a':1,'b':2}}]},{'tool_calls':[{'id':'c2','name':'add','input':{'a':1,'b':2}}]},"
                             "{'tool_calls':[{'id':'c3','name':'add','input':{'a':1,'b':2}}]},{'text':'never'}]");
    par_stream_t *s;
    struct seen seen;
    tool(rt, "add", NULL);
    ST(PAR_OK, par_register_agent(rt, js("{'id':'a','model':'mock/m','tools':['add'],'max_iterations':2}"), PAR_NTS, &E));
    s = start(rt, GO);
    seen = drive(s, add, rt);
    CHECK_WHOLE(seen, s);
    CHECK_LACKS(seen.text, "never");
    par_stream_free(s);
    finish(rt);
}

/* ---- what never reaches the host --------------------------------------------------------------------------------------- */

static void never(void *unused, const char *event) {
    (void)unused;
    CHECK(!is(event, "tool_call"));
}

TEST(invalid_arguments) { /* the model gets the validator's words */
    static const char *const inputs[] = {"{'a':'one','b':2}", "{'a':1}", "[]", "{'a':1.5,'b':2}"};
    size_t i;
    for (i = 0; i < COUNT(inputs); i++) {
        par_runtime_t *rt = adding(fmt("[{'tool_calls':[{'id':'c1','name':'add','input':%s}]},{'text':'I see'}]", inputs[i]), NULL);
        par_stream_t *s = start(rt, GO);
        const char *event = NULL;
        CHECK((event = until(s, "tool_result")) != NULL);
        CHECK_STR("true", json_raw(event, "is_error"));
        completed(s, never, NULL);
        par_stream_free(s);
        finish(rt);
    }
}

TEST(validator_names_the_argument) {
    par_runtime_t *rt = adding("[{'tool_calls':[{'id':'c1','name':'add','input':{'a':'uno','b':2}}]},"
                               "{'expect':{'last_message_contains':'integer'},'text':'I see'}]", NULL);
    par_stream_t *s = start(rt, GO);
    completed(s, never, NULL);
    par_stream_free(s);
    finish(rt);
}

TEST(unknown_tool) {
    par_runtime_t *rt = adding("[{'tool_calls':[{'id':'c1','name':'ad','input':{}}]},{'expect':{'last_message_contains':'add'},'text':'I see'}]", NULL);
    par_stream_t *s = start(rt, GO);
    completed(s, never, NULL); /* the model was told which tools there are */
    par_stream_free(s);
    finish(rt);
}

TEST(denied_tool) {
    par_runtime_t *rt = adding("[{'tool_calls':[{'id':'c1','name':'add','input':{'a':1,'b':2}}]},{'text':'I see'}]", ",'permission':'deny'");
    par_stream_t *s = start(rt, GO);
    completed(s, never, NULL);
    par_stream_free(s);
    finish(rt);
}

/* ---- where a call is delivered: callback, else the run's stream, else the inbox ------------------------------------------ */

TEST(nobody_to_ask) { /* said at the start, not at the first call */
    par_runtime_t *rt = adding("[{'text':'calls nothing'}]", NULL);
    par_stream_t *s;
    char *out;
    TAKES(0, 500, ST(PAR_ERR_NO_HANDLER, par_invoke(rt, GO, PAR_NTS, 5000, &out, NULL, &E)));
    CHECK_HAS(par_error_message(E), "add");
    s = start(rt, GO); /* a stream is somebody to ask */
    completed(s, NULL, NULL);
    par_stream_free(s);
    inbox(rt, 0); /* and so is an inbox that was ever looked into */
    CHECK_STR("calls nothing", json_str(invoke(rt, GO), "text"));
    finish(rt);
}

struct server { par_runtime_t *rt; int calls, stop; };

static void *serve_inbox(void *context) {
    struct server *server = context;
    while (!LOAD(server->stop)) {
        char *out;
        par_status_t st = par_inbox_wait(server->rt, 100, &out, NULL, NULL);
        if (st == PAR_END || st < 0) break;
        if (st != PAR_OK) continue;
        if (strstr(out, "\"type\":\"tool_call\"")) BUMP(server->calls), add(server->rt, out);
        par_free(out);
    }
    return NULL;
}

TEST(blocking_invoke_served_from_the_inbox) {
    struct server server = {adding(CALLS_ADD, NULL), 0, 0};
    pthread_t thread;
    int i;
    inbox(server.rt, 0);
    thread = spawn(serve_inbox, &server);
    for (i = 0; i < 5; i++) CHECK_STR("The sum is 3.", json_str(invoke(server.rt, GO), "text"));
    STORE(server.stop, 1);
    join(thread);
    CHECK_INT(5, server.calls);
    finish(server.rt);
}

static void on_tool(uintptr_t context, uint64_t token, const char *json, size_t len) {
    struct server *server = (struct server *)context;
    BUMP(server->calls);
    CHECK(strlen(json) == len);
    CHECK_INT(token_of(json), token);
    if (is(json, "tool_call")) add(server->rt, json);
}

TEST(blocking_invoke_served_by_a_callback) {
    struct server server = {adding(CALLS_ADD, NULL), 0, 0};
    int i;
    ST(PAR_OK, par_on_tool(server.rt, on_tool, (uintptr_t)&server, NULL, &E));
    for (i = 0; i < 5; i++) CHECK_STR("The sum is 3.", json_str(invoke(server.rt, GO), "text"));
    CHECK_INT(5, LOAD(server.calls));
    ST(PAR_OK, par_on_tool(server.rt, NULL, 0, NULL, &E));
    finish(server.rt);
}

TEST(priority_callback_then_stream_then_inbox) {
    struct server server = {adding(CALLS_ADD, NULL), 0, 0};
    par_runtime_t *rt = server.rt;
    par_stream_t *s;
    struct seen seen;
    const char *message;
    inbox(rt, 0);
    ST(PAR_OK, par_on_tool(rt, on_tool, (uintptr_t)&server, NULL, &E));
    s = start(rt, GO); /* callback before stream */
    seen = drive(s, never, NULL);
    CHECK_ENDED(seen, s);
    CHECK_STR("The sum is 3.", seen.text);
    par_stream_free(s);
    CHECK_INT(1, LOAD(server.calls));
    ST(PAR_OK, par_on_tool(rt, NULL, 0, NULL, &E));
    s = start(rt, GO); /* stream before inbox */
    CHECK_HAS(completed(s, add, rt).types, " tool_call ");
    par_stream_free(s);
    CHECK_INT(1, LOAD(server.calls));
    while ((message = inbox(rt, 20)) != NULL) CHECK(!is(message, "tool_call"));
    finish(rt);
}

TEST(a_stream_has_no_gaps_although_a_callback_takes_its_calls) { /* a host that checks seq must not see losses */
    struct server server = {adding(CALLS_ADD, NULL), 0, 0};
    par_stream_t *s;
    struct seen seen;
    ST(PAR_OK, par_on_tool(server.rt, on_tool, (uintptr_t)&server, NULL, &E));
    s = start(server.rt, GO);
    seen = drive(s, never, NULL);
    CHECK_WHOLE(seen, s);
    par_stream_free(s);
    finish(server.rt);
}

TEST(an_answer_from_another_thread_while_we_wait) {
    par_runtime_t *rt = adding(CALLS_ADD, NULL);
    par_stream_t *s = start(rt, GO);
    pthread_barrier_t line;
    struct race late = {rt, token_of(until(s, "tool_call")), &line, 0, 0, 0};
    pthread_t thread;
    pthread_barrier_init(&line, NULL, 2);
    thread = spawn(racer, &late);
    pthread_barrier_wait(&line);
    completed(s, NULL, NULL);
    join(thread);
    pthread_barrier_destroy(&line);
    CHECK(late.won);
    par_stream_free(s);
    finish(rt);
}

TEST(a_blocked_invoke_is_cancelled_by_its_run_id) {
    struct server server = {adding(CALLS_ADD, NULL), 0, 0};
    const char *message;
    par_stream_t *s;
    uint64_t token;
    inbox(server.rt, 0);
    s = start(server.rt, js("{'agent':'a','input':'x','run_id':'blocked'}")); /* same delivery, seen from the stream */
    token = token_of(until(s, "tool_call"));
    ST(PAR_OK, par_run_cancel(server.rt, "blocked", PAR_NTS, "by id", PAR_NTS, &E));
    CHECK_INT(token, token_of(until(s, "tool_cancelled")));
    CHECK(until(s, "cancelled") != NULL);
    ST(PAR_ERR_STALE_TOKEN, complete(server.rt, token, "3"));
    while ((message = inbox(server.rt, 20)) != NULL) CHECK(!is(message, "tool_call"));
    par_stream_free(s);
    finish(server.rt);
}

static void *cancel_on_call(void *context) {
    struct server *server = context;
    int64_t deadline = now_ms() + 10000;
    while (now_ms() < deadline) {
        const char *message = inbox(server->rt, 100);
        if (message && is(message, "tool_call")) {
            CHECK_INT(PAR_OK, par_run_cancel(server->rt, "blocked", PAR_NTS, NULL, 0, NULL));
            break;
        }
    }
    t_clear();
    return NULL;
}

TEST(a_blocked_invoke_is_cancelled_from_another_thread) {
    struct server server = {adding(CALLS_ADD, NULL), 0, 0};
    pthread_t thread;
    const char *message = NULL;
    char *out;
    inbox(server.rt, 0);
    thread = spawn(cancel_on_call, &server);
    TAKES(0, 3000, ST(PAR_ERR_CANCELLED, par_invoke(server.rt, js("{'agent':'a','input':'x','run_id':'blocked'}"), PAR_NTS, 15000, &out, NULL, &E)));
    join(thread);
    while ((message = inbox(server.rt, 500)) != NULL && !is(message, "tool_cancelled")) {}
    CHECK(message != NULL); /* the host is told that nobody wants the answer any more */
    finish(server.rt);
}

/* ---- the other keys of a tool ------------------------------------------------------------------------------------------ */

TEST(output_schema) { /* a result that does not fit is the host's mistake: the model is told, the run goes on */
    par_runtime_t *rt = adding("[{'tool_calls':[{'id':'c1','name':'add','input':{'a':1,'b':2}}]},{'text':'ok'}]", ",'output_schema':{'type':'integer'}");
    par_stream_t *s = start(rt, GO);
    ST(PAR_OK, complete(rt, token_of(until(s, "tool_call")), "3"));
    CHECK_STR("false", json_raw(until(s, "tool_result"), "is_error"));
    par_stream_free(s);
    s = start(rt, GO);
    complete(rt, token_of(until(s, "tool_call")), "\"three\"");
    CHECK_STR("true", json_raw(until(s, "tool_result"), "is_error"));
    completed(s, NULL, NULL);
    par_stream_free(s);
    finish(rt);
}

TEST(concurrency_limit_over_all_runs) {
    par_runtime_t *rt = adding(CALLS_ADD, ",'concurrency_limit':1");
    par_stream_t *s = start(rt, GO), *t;
    uint64_t token = token_of(until(s, "tool_call"));
    const char *event;
    t = start(rt, GO);
    while ((event = next(t, 100)) != NULL) CHECK(!is(event, "tool_call"));
    ST(PAR_OK, complete(rt, token, "3"));
    ST(PAR_OK, complete(rt, token_of(until(t, "tool_call")), "3"));
    completed(s, NULL, NULL);
    completed(t, NULL, NULL);
    par_stream_free(s);
    par_stream_free(t);
    finish(rt);
}

TEST(a_waiting_call_is_cancelled_too) { /* one that waits for its turn under a concurrency limit */
    par_runtime_t *rt = adding(CALLS_ADD, ",'concurrency_limit':1");
    par_stream_t *s = start(rt, GO), *t;
    struct seen seen;
    until(s, "tool_call");
    t = start(rt, GO);
    until(t, "usage_update"); /* its turn is over: now it waits */
    ST(PAR_OK, par_stream_cancel(t, NULL, 0, &E));
    seen = drive(t, NULL, NULL);
    CHECK_WHOLE(seen, t);
    CHECK(is(seen.terminal, "cancelled"));
    par_stream_free(t);
    par_stream_free(s); /* its token goes stale, and the place is free again */
    s = start(rt, GO);
    ST(PAR_OK, complete(rt, token_of(until(s, "tool_call")), "3"));
    completed(s, NULL, NULL);
    par_stream_free(s);
    finish(rt);
}

TEST(unregistered_while_in_use) { /* the run keeps what it began with; a new agent cannot have it */
    par_runtime_t *rt = adding(CALLS_ADD, NULL);
    par_stream_t *s = start(rt, GO);
    uint64_t token = token_of(until(s, "tool_call"));
    ST(PAR_OK, par_unregister_tool(rt, "add", PAR_NTS, &E));
    ST(PAR_OK, par_unregister_agent(rt, "a", PAR_NTS, &E));
    ST(PAR_ERR_NOT_FOUND, par_register_agent(rt, js("{'id':'b','model':'mock/m','tools':['add']}"), PAR_NTS, &E));
    ST(PAR_OK, complete(rt, token, "3"));
    completed(s, NULL, NULL);
    par_stream_free(s);
    finish(rt);
}

TEST(a_flood_of_progress) { /* is slowed down or taken, and never lost to the answer behind it */
    par_runtime_t *rt = adding(CALLS_ADD, NULL);
    par_stream_t *s = start(rt, GO);
    uint64_t token = token_of(until(s, "tool_call"));
    int i, refused = 0;
    for (i = 0; i < 5000; i++) {
        par_status_t st = par_tool_progress(rt, token, "1", 1, NULL);
        if (st == PAR_ERR_LIMIT) refused++;
        else CHECK_INT(PAR_OK, st);
    }
    CHECK(refused < 5000);
    ST(PAR_OK, complete(rt, token, "3"));
    CHECK_STR("The sum is 3.", completed(s, NULL, NULL).text);
    par_stream_free(s);
    finish(rt);
}
