/* The host's hand on a run, and runs that start others: cancelling, detaching, steering, handing over, sub-agents, several runs
 * at once. Whatever happens, a stream has one terminal event, every tool call is answered, and what was consumed is counted. */
#include "server.h"

#define GO "{\"agent\":\"a\",\"input\":\"x\",\"run_id\":\"r\"}"
#define IN_S "{\"agent\":\"a\",\"input\":\"x\",\"run_id\":\"r\",\"session\":\"s\"}"
#define CALL_ADD "{'tool_calls':[{'id':'c1','name':'add','input':{'a':1,'b':2}}]}"

static par_runtime_t *adding(const char *turns, const char *tool_keys) {
    par_runtime_t *rt = mock(turns);
    tool(rt, "add", tool_keys);
    agent(rt, "a", "['add']");
    return rt;
}

/* Two mock providers: "p" for the agent "a", "q" for the agent "b"; further keys of each. */
static par_runtime_t *two(const char *p, const char *q, const char *a, const char *b) {
    par_runtime_t *rt = runtime(js("{'llm_providers':{'p':{'type':'mock','turns':%s},'q':{'type':'mock','turns':%s}}}", p, q));
    tool(rt, "add", NULL);
    ST(PAR_OK, par_register_agent(rt, js("{'id':'b','model':'q/m','system_prompt':'You are b.'%s}", b), PAR_NTS, &E));
    ST(PAR_OK, par_register_agent(rt, js("{'id':'a','model':'p/m','system_prompt':'You are a.'%s}", a), PAR_NTS, &E));
    return rt;
}

static par_status_t steer(par_runtime_t *rt, const char *message) {
    t_clear();
    return par_run_steer(rt, "r", PAR_NTS, js("%s", message), PAR_NTS, &E);
}

/* ---- cancel now ------------------------------------------------------------------------------------------------------- */

static void cancelled_within_50_ms(enum manners manners) {
    struct server server;
    par_runtime_t *rt;
    par_stream_t *s;
    const char *event;
    open_server(&server, manners);
    rt = on_server(&server);
    s = start(rt, IN_S);
    EVENTUALLY(3000, LOAD(server.stalled) == 1);
    if (manners == STALL_AFTER_DELTA) until(s, "text_delta");
    sleep_ms(50);
    ST(PAR_OK, par_run_cancel(rt, "r", PAR_NTS, "enough", PAR_NTS, &E));
    TAKES(0, 50, event = until(s, "cancelled"));
    CHECK_STR("enough", json_str(event, "reason"));
    CHECK_INT(0, json_int(event, "usage.output_tokens"));
    next(s, 0);
    CHECK_INT(PAR_END, status);
    CHECK_INT(PAR_ERR_CANCELLED, result_status(s));
    EVENTUALLY(500, LOAD(server.left) == 1); /* the connection is given up, too */
    par_stream_free(s);
    finish(rt);
    close_server(&server);
}

TEST(cancel_now_a_server_that_never_answers) { cancelled_within_50_ms(STALL); }
TEST(cancel_now_a_server_that_stopped_in_the_middle) { cancelled_within_50_ms(STALL_AFTER_DELTA); }

struct invoking { par_runtime_t *rt; par_status_t status; int64_t ended; };

static void *invoking(void *context) {
    struct invoking *invoking = context;
    char *out = NULL;
    invoking->status = par_invoke(invoking->rt, GO, PAR_NTS, 20000, &out, NULL, NULL);
    invoking->ended = now_ms();
    par_free(out);
    return NULL;
}

TEST(cancel_now_a_blocked_call) {
    struct server server;
    struct invoking call = {NULL, PAR_OK, 0};
    pthread_t thread;
    int64_t began;
    open_server(&server, STALL);
    call.rt = on_server(&server);
    thread = spawn(invoking, &call);
    EVENTUALLY(3000, LOAD(server.stalled) == 1);
    sleep_ms(20);
    began = now_ms();
    ST(PAR_OK, par_run_cancel(call.rt, "r", PAR_NTS, NULL, 0, &E));
    join(thread);
    CHECK_INT(PAR_ERR_CANCELLED, call.status);
    CHECK(call.ended - began <= slack(50));
    finish(call.rt);
    close_server(&server);
}

TEST(cancel_by_method) {
    par_runtime_t *rt = adding("[{'text':'late','delay_ms':5000}]", NULL);
    par_stream_t *s = start(rt, GO);
    until(s, "turn_started");
    ask(rt, "runs.cancel", js("{'run_id':'r','reason':'by method'}"));
    CHECK_INT(PAR_OK, status);
    TAKES(0, 50, CHECK_STR("by method", json_str(until(s, "cancelled"), "reason")));
    par_stream_free(s);
    ask(rt, "runs.cancel", js("{'run_id':'r'}"));
    CHECK_INT(PAR_ERR_NOT_FOUND, status);
    ask(rt, "runs.cancel", js("{'run_id':'r','when':'soon'}"));
    CHECK_INT(PAR_ERR_SCHEMA, status);
    CHECK_PATH("params.when");
    finish(rt);
}

static const char THREE[] = "[{'text':'Let me see.','usage':{'input_tokens':10,'output_tokens':5},'tool_calls':[{'id':'c1','name':'add','input':{'a':1,'b':0}},"
                            "{'id':'c2','name':'add','input':{'a':2,'b':0}},{'id':'c3','name':'add','input':{'a':3,'b':0}}]},"
                            "{'expect':{'contains':'The run was interrupted','last_message_contains':'x'},'text':'ok'}]";

TEST(a_cancelled_run_tells_honestly_what_happened) { /* done, perhaps done, not done; and the conversation goes on */
    par_runtime_t *rt = runtime(js("{'llm_providers':{'mock':{'type':'mock','scope':'provider','turns':%s}}}", THREE));
    par_stream_t *s;
    struct tape *t;
    tool(rt, "add", ",'concurrency_limit':1");
    agent(rt, "a", "['add']");
    s = start(rt, IN_S);
    ST(PAR_OK, par_tool_complete(rt, token_of(until(s, "tool_call")), "\"result one\"", PAR_NTS, &E));
    until(s, "tool_call"); /* the second; the third waits for its turn */
    ST(PAR_OK, par_stream_cancel(s, "enough", PAR_NTS, &E));
    t = record(rt, s, NULL);
    CHECK(is(t->end, "cancelled"));
    CHECK_INT(1, count_of(t, "tool_cancelled"));
    CHECK_INT(5, json_int(t->end, "usage.output_tokens"));
    CHECK_INT(5, elements(t->end, "messages"));
    valid(t->end, "messages");
    CHECK_STR("result one", json_str(t->end, "messages.2.content"));
    CHECK_HAS(json_str(t->end, "messages.3.content"), "may have taken effect");
    CHECK_HAS(json_str(t->end, "messages.4.content"), "not executed");
    valid(session_of(rt, "s"), "messages");
    CHECK_SAID("ok", run(rt, IN_S, NULL));
    finish(rt);
}

TEST(a_failed_run_tells_what_was_said) {
    par_runtime_t *rt = adding("[{'usage':{'input_tokens':10,'output_tokens':5},'tool_calls':[{'id':'c1','name':'add','input':{'a':1,'b':0}}]},"
                               "{'error':{'http_status':400}}]", NULL);
    struct tape *t = run(rt, IN_S, "37");
    CHECK_FAILED(PAR_ERR_PROVIDER, NULL, t);
    CHECK_INT(10, json_int(t->end, "usage.input_tokens"));
    CHECK_INT(3, elements(t->end, "messages"));
    valid(t->end, "messages");
    CHECK_STR("37", json_str(t->end, "messages.2.content"));
    CHECK_INT(3, elements(session_of(rt, "s"), "messages")); /* kept: its tools have run */
    finish(rt);
}

TEST(a_run_that_came_to_nothing_leaves_no_trace) { /* so that the same request can simply be made again */
    par_runtime_t *rt = runtime(js("{'llm_providers':{'mock':{'type':'mock','scope':'provider',"
                                   "'turns':[{'text':'one'},{'error':{'http_status':400}},{'expect':{'messages':3},'text':'two'}]}}}"));
    agent(rt, "a", NULL);
    CHECK_SAID("one", run(rt, IN_S, NULL));
    CHECK_FAILED(PAR_ERR_PROVIDER, NULL, run(rt, IN_S, NULL));
    CHECK_INT(2, elements(session_of(rt, "s"), "messages"));
    CHECK_SAID("two", run(rt, IN_S, NULL));
    finish(rt);
}

/* ---- cancel after the turn, detach ---------------------------------------------------------------------------------------- */

TEST(cancel_after_the_turn) { /* its tools still run, and then no request is made */
    par_runtime_t *rt = adding("[" CALL_ADD ",{'text':'never'}]", NULL);
    par_stream_t *s = start(rt, IN_S);
    uint64_t token = token_of(until(s, "tool_call"));
    struct tape *t;
    ask(rt, "runs.cancel", js("{'run_id':'r','reason':'after this','when':'after_turn'}"));
    CHECK_INT(PAR_OK, status);
    while (next(s, 100)) CHECK(0); /* nothing ends while the tool works */
    ST(PAR_OK, par_tool_complete(rt, token, "37", PAR_NTS, &E));
    t = record(rt, s, NULL);
    CHECK(is(t->end, "cancelled"));
    CHECK_STR("after this", json_str(t->end, "reason"));
    CHECK_INT(0, count_of(t, "tool_cancelled") + count_of(t, "turn_started"));
    CHECK_INT(3, elements(t->end, "messages"));
    CHECK_STR("37", json_str(t->end, "messages.2.content"));
    valid(session_of(rt, "s"), "messages");
    finish(rt);
}

TEST(cancel_after_the_last_turn_keeps_the_answer) {
    par_runtime_t *rt = adding("[{'chunks':['o','k'],'delay_ms':100}]", NULL);
    par_stream_t *s = start(rt, GO);
    until(s, "turn_started");
    ask(rt, "runs.cancel", js("{'run_id':'r','when':'after_turn'}"));
    CHECK_SAID("ok", record(rt, s, NULL));
    finish(rt);
}

TEST(cancel_after_the_turn_and_then_now) {
    par_runtime_t *rt = adding("[" CALL_ADD ",{'text':'never'}]", NULL);
    par_stream_t *s = start(rt, GO);
    until(s, "tool_call");
    ask(rt, "runs.cancel", js("{'run_id':'r','reason':'politely','when':'after_turn'}"));
    ask(rt, "runs.cancel", js("{'run_id':'r','reason':'at once'}"));
    TAKES(0, 50, CHECK_STR("at once", json_str(until(s, "cancelled"), "reason")));
    par_stream_free(s);
    finish(rt);
}

static const char *status_of(par_runtime_t *rt, const char *id) {
    const char *run = ask(rt, "runs.get", js("{'run_id':'%s'}", id)), *is = json_str(run, "status");
    return is ? is : "none";
}

TEST(detach) { /* the run goes on without its stream, and its result is kept */
    par_runtime_t *rt = adding("[{'chunks':['on',' my',' own'],'delay_ms':60}]", NULL);
    par_stream_t *s = start(rt, IN_S);
    const char *run;
    until(s, "turn_started");
    ask(rt, "runs.detach", js("{'run_id':'r'}"));
    CHECK_INT(PAR_OK, status);
    par_stream_free(s);
    CHECK_STR("running", status_of(rt, "r"));
    EVENTUALLY(3000, !strcmp(status_of(rt, "r"), "completed"));
    run = ask(rt, "runs.get", js("{'run_id':'r'}"));
    CHECK_STR("on my own", json_str(run, "result.text"));
    CHECK_INT(2, elements(session_of(rt, "s"), "messages"));
    ask(rt, "runs.detach", js("{'run_id':'r'}"));
    CHECK_INT(PAR_ERR_NOT_FOUND, status);
    finish(rt);
}

TEST(without_detach_a_freed_stream_ends_its_run) {
    par_runtime_t *rt = adding("[{'text':'late','delay_ms':5000}]", NULL);
    par_stream_t *s = start(rt, GO);
    until(s, "turn_started");
    par_stream_free(s);
    EVENTUALLY(1000, !strcmp(status_of(rt, "r"), "cancelled"));
    finish(rt);
}

TEST(a_detached_run_can_be_cancelled) {
    par_runtime_t *rt = adding("[{'text':'late','delay_ms':5000}]", NULL);
    par_stream_t *s = start(rt, GO);
    until(s, "turn_started");
    ask(rt, "runs.detach", js("{'run_id':'r'}"));
    par_stream_free(s);
    ST(PAR_OK, par_run_cancel(rt, "r", PAR_NTS, NULL, 0, &E));
    EVENTUALLY(200, !strcmp(status_of(rt, "r"), "cancelled"));
    finish(rt);
}

TEST(a_detached_run_calls_its_host_at_the_inbox) { /* its own stream is no more */
    par_runtime_t *rt = adding("[{'text':'w','delay_ms':150,'tool_calls':[{'id':'c1','name':'add','input':{'a':1,'b':2}}]},{'text':'done'}]", NULL);
    par_stream_t *s;
    const char *message;
    int64_t deadline = now_ms() + slack(3000);
    inbox(rt, 0);
    s = start(rt, GO);
    until(s, "turn_started");
    ask(rt, "runs.detach", js("{'run_id':'r'}"));
    par_stream_free(s);
    while (!is(message = inbox(rt, 100), "tool_call") && now_ms() < deadline) {}
    if (CHECK(is(message, "tool_call"))) ST(PAR_OK, par_tool_complete(rt, token_of(message), "3", PAR_NTS, &E));
    EVENTUALLY(1000, !strcmp(status_of(rt, "r"), "completed"));
    finish(rt);
}

TEST(a_detached_run_without_any_host_goes_on) {
    par_runtime_t *rt = adding("[{'text':'w','delay_ms':100,'tool_calls':[{'id':'c1','name':'add','input':{'a':1,'b':2}}]},{'text':'done'}]", NULL);
    par_stream_t *s = start(rt, GO);
    until(s, "turn_started");
    ask(rt, "runs.detach", js("{'run_id':'r'}"));
    par_stream_free(s);
    EVENTUALLY(3000, !strcmp(status_of(rt, "r"), "completed"));
    finish(rt);
}

TEST(a_token_outlives_a_detached_stream) {
    par_runtime_t *rt = adding("[" CALL_ADD ",{'expect':{'last_message_contains':'37'},'text':'done'}]", NULL);
    par_stream_t *s = start(rt, GO);
    uint64_t token = token_of(until(s, "tool_call"));
    ask(rt, "runs.detach", js("{'run_id':'r'}"));
    par_stream_free(s);
    sleep_ms(30);
    ST(PAR_OK, par_tool_complete(rt, token, "37", PAR_NTS, &E));
    EVENTUALLY(1000, !strcmp(status_of(rt, "r"), "completed"));
    finish(rt);
}

/* ---- steering ----------------------------------------------------------------------------------------------------------------- */

TEST(steer_now) { /* told behind the results of the tools that run */
    par_runtime_t *rt = adding("[" CALL_ADD ",{'expect':{'contains':'37','last_message_contains':'in Roman numerals','messages':4},'text':'XXXVII'}]", NULL);
    par_stream_t *s = start(rt, IN_S);
    uint64_t token = token_of(until(s, "tool_call"));
    struct tape *t;
    CHECK_INT(PAR_OK, steer(rt, "'in Roman numerals'"));
    ST(PAR_OK, par_tool_complete(rt, token, "37", PAR_NTS, &E));
    t = record(rt, s, NULL);
    CHECK_SAID("XXXVII", t);
    CHECK_INT(1, json_int(nth(t, "steered", 0), "messages"));
    CHECK_STR("now", json_str(nth(t, "steered", 0), "when"));
    CHECK_HAS(session_of(rt, "s"), "in Roman numerals");
    finish(rt);
}

TEST(steer_in_every_form) {
    par_runtime_t *rt = adding("[" CALL_ADD ",{'expect':{'contains':'first','media':1,'messages':6,'last_message_contains':'third'},'text':'ok'}]", NULL);
    par_stream_t *s = start(rt, GO);
    uint64_t token = token_of(until(s, "tool_call"));
    struct tape *t;
    CHECK_INT(PAR_OK, steer(rt, "'first'"));
    CHECK_INT(PAR_OK, steer(rt, "[{'type':'text','text':'second'},{'type':'image','media_type':'image/png','data':'AAAA'}]"));
    CHECK_INT(PAR_OK, steer(rt, "{'input':'third','when':'now'}"));
    ST(PAR_OK, par_tool_complete(rt, token, "37", PAR_NTS, &E));
    t = record(rt, s, NULL);
    CHECK_SAID("ok", t);
    CHECK_INT(3, json_int(nth(t, "steered", 0), "messages"));
    finish(rt);
}

TEST(steer_now_while_the_model_answers) { /* it goes on with it */
    par_runtime_t *rt = adding("[{'chunks':['first ','answer'],'delay_ms':80},"
                               "{'expect':{'contains':'first answer','last_message_contains':'and now?'},'text':'second answer'}]", NULL);
    par_stream_t *s = start(rt, GO);
    struct tape *t;
    until(s, "text_delta");
    CHECK_INT(PAR_OK, steer(rt, "'and now?'"));
    t = record(rt, s, NULL);
    CHECK_SAID("second answer", t);
    CHECK_INT(2, json_int(t->end, "iterations"));
    finish(rt);
}

TEST(follow_up) { /* one after the other, each when the one before is answered; what is for now goes first */
    par_runtime_t *rt = adding("[" CALL_ADD ",{'expect':{'last_message_contains':'now'},'text':'one'},{'expect':{'last_message_contains':'then'},'text':'two'},"
                               "{'expect':{'last_message_contains':'at last','messages':8},'text':'three'}]", NULL);
    par_stream_t *s = start(rt, IN_S);
    uint64_t token = token_of(until(s, "tool_call"));
    struct tape *t;
    CHECK_INT(PAR_OK, steer(rt, "{'input':'then','when':'follow_up'}"));
    CHECK_INT(PAR_OK, steer(rt, "{'input':'at last','when':'follow_up'}"));
    CHECK_INT(PAR_OK, steer(rt, "'now'"));
    ST(PAR_OK, par_tool_complete(rt, token, "37", PAR_NTS, &E));
    t = record(rt, s, NULL);
    CHECK_SAID("three", t);
    CHECK_INT(3, count_of(t, "steered"));
    CHECK_STR("follow_up", json_str(nth(t, "steered", 1), "when"));
    CHECK_INT(1, json_int(nth(t, "steered", 1), "messages"));
    CHECK_INT(9, elements(session_of(rt, "s"), "messages"));
    finish(rt);
}

TEST(steering_has_a_bound) {
    par_runtime_t *rt = mock_and("[" CALL_ADD ",{'text':'ok'},{'text':'ok'}]", ",'limits':{'max_steering_messages':2}");
    par_stream_t *s;
    tool(rt, "add", NULL);
    agent(rt, "a", "['add']");
    s = start(rt, GO);
    until(s, "tool_call");
    CHECK_INT(PAR_OK, steer(rt, "'one'"));
    CHECK_INT(PAR_OK, steer(rt, "{'input':'two','when':'follow_up'}"));
    CHECK_INT(PAR_ERR_LIMIT, steer(rt, "'three'"));
    CHECK_STR("true", json_raw(par_error_json(E), "retryable"));
    par_stream_free(s);
    finish(rt);
}

TEST(steering_the_last_turn) { /* there is no turn left to tell it in: it is not lost in silence */
    par_runtime_t *rt = mock("[" CALL_ADD ",{'chunks':['so ','far'],'delay_ms':80}]");
    par_stream_t *s;
    struct tape *t;
    par_status_t st;
    tool(rt, "add", NULL);
    agent_and(rt, "a", ",'tools':['add'],'max_iterations':1,'early_stopping_method':'generate'");
    s = start(rt, IN_S);
    ST(PAR_OK, par_tool_complete(rt, token_of(until(s, "tool_call")), "3", PAR_NTS, &E));
    until(s, "text_delta");
    st = steer(rt, "'too late?'");
    t = record(rt, s, NULL);
    CHECK_SAID("so far", t);
    CHECK(st == PAR_ERR_NOT_FOUND || count_of(t, "warning") > 0 || count_of(t, "steered") > 0);
    finish(rt);
}

TEST(steering_what_is_not_there) {
    par_runtime_t *rt = adding("[{'text':'ok'}]", NULL);
    CHECK_INT(PAR_ERR_NOT_FOUND, steer(rt, "'too early'"));
    run(rt, GO, NULL);
    CHECK_INT(PAR_ERR_NOT_FOUND, steer(rt, "'too late'"));
    finish(rt);
}

TEST(steering_is_never_lost) { /* what was taken is told, or refused: even in the moment the run ends */
    par_runtime_t *rt = mock(NULL);
    int round, rounds = fast() ? 20 : 300;
    agent(rt, "a", NULL);
    for (round = 0; round < rounds; round++) {
        par_stream_t *s = start(rt, GO);
        struct tape *t;
        par_status_t st;
        if (round % 3) until(s, round % 3 == 1 ? "turn_started" : "usage_update");
        st = steer(rt, "'later'");
        t = record(rt, s, NULL);
        if (st == PAR_OK) CHECK_SAID("later", t), CHECK_INT(1, count_of(t, "steered"));
        else CHECK_INT(PAR_ERR_NOT_FOUND, st), CHECK_SAID("x", t);
    }
    finish(rt);
}

TEST(bad_steering_says_where) {
    static const struct { const char *message; par_status_t status; const char *path; } bad[] = {
        {"''", PAR_ERR_SCHEMA, "message.input"}, {"[]", PAR_ERR_SCHEMA, "message.input"}, {"{'when':'now'}", PAR_ERR_SCHEMA, "message"},
        {"{'input':'x','when':'later'}", PAR_ERR_SCHEMA, "message.when"}, {"{'input':'x','wenn':'now'}", PAR_ERR_SCHEMA, "message.wenn"},
        {"3", PAR_ERR_SCHEMA, "message"}, {"[{'type':'image','media_type':'image/png','data':'?'}]", PAR_ERR_SCHEMA, "message.input[0].data"},
        {"plain text", PAR_ERR_JSON, NULL}, {"", PAR_ERR_JSON, NULL},
    };
    par_runtime_t *rt = adding("[" CALL_ADD ",{'expect':{'messages':3},'text':'ok'}]", NULL);
    par_stream_t *s = start(rt, GO);
    uint64_t token = token_of(until(s, "tool_call"));
    size_t i;
    for (i = 0; i < COUNT(bad); i++) {
        if (!CHECK_INT(bad[i].status, steer(rt, bad[i].message))) printf("    for %s\n", bad[i].message);
        if (bad[i].path && !CHECK_PATH(bad[i].path)) printf("    for %s\n", bad[i].message);
    }
    ST(PAR_ERR_NULL_ARG, par_run_steer(rt, "r", PAR_NTS, NULL, 3, &E));
    ST(PAR_ERR_UTF8, par_run_steer(rt, "r", PAR_NTS, "\"\xFF\"", PAR_NTS, &E));
    ST(PAR_OK, par_tool_complete(rt, token, "37", PAR_NTS, &E));
    CHECK_SAID("ok", record(rt, s, NULL));
    finish(rt);
}

/* ---- handoff -------------------------------------------------------------------------------------------------------------------- */

TEST(handoff_with_context) {
    par_runtime_t *rt = two("[{'expect':{'tools':['handoff_to_b'],'system_contains':'You are a.'},"
                            "'tool_calls':[{'id':'c1','name':'handoff_to_b','input':{'reason':'billing'}}]}]",
                            "[{'expect':{'contains':'my invoice','system_contains':'You are b.','tools':['add'],'messages':3},'text':'I am b.'}]",
                            ",'handoffs':['b']", ",'tools':['add']");
    struct tape *t = run(rt, js("{'agent':'a','input':'my invoice','session':'s'}"), NULL);
    CHECK_SAID("I am b.", t);
    CHECK_STR("b", json_str(t->end, "agent"));
    CHECK_STR("m", json_str(t->end, "model"));
    CHECK_INT(2, json_int(t->end, "iterations"));
    CHECK_STR("a", json_str(nth(t, "handoff", 0), "from"));
    CHECK_STR("b", json_str(nth(t, "handoff", 0), "to"));
    CHECK_STR("true", json_raw(nth(t, "handoff", 0), "carry_context"));
    CHECK_STR("model_changed", json_str(nth(t, "cache_bust", 0), "reason"));
    CHECK_STR("a", json_str(nth(t, "run_started", 0), "agent"));
    valid(session_of(rt, "s"), "messages");
    finish(rt);
}

TEST(handoff_without_context) {
    par_runtime_t *rt = two("[{'tool_calls':[{'id':'c1','name':'handoff_to_b','input':{'task':'Send the invoice.'}}]}]",
                            "[{'expect':{'not_contains':'secret','last_message_contains':'Send the invoice.','messages':1},'text':'I am b.'}]",
                            ",'handoffs':[{'agent':'b','carry_context':false,'description':'Does invoices.'}]", "");
    struct tape *t = run(rt, js("{'agent':'a','input':'a secret','session':'s'}"), NULL);
    CHECK_SAID("I am b.", t);
    CHECK_STR("false", json_raw(nth(t, "handoff", 0), "carry_context"));
    CHECK_HAS(session_of(rt, "s"), "a secret"); /* nothing is lost for the host */
    finish(rt);
}

TEST(handoff_without_its_task_is_told) {
    par_runtime_t *rt = two("[{'tool_calls':[{'id':'c1','name':'handoff_to_b','input':{}}]},{'expect':{'last_message_contains':'task'},'text':'I see'}]",
                            "[{'text':'never'}]",
                            ",'handoffs':[{'agent':'b','carry_context':false}]", "");
    struct tape *t = run(rt, GO, NULL);
    CHECK_SAID("I see", t);
    CHECK_INT(0, count_of(t, "handoff"));
    finish(rt);
}

TEST(handoff_to_nobody_is_told) {
    par_runtime_t *rt = two("[{'tool_calls':[{'id':'c1','name':'handoff_to_c','input':{}}]},"
                            "{'expect':{'last_message_contains':'not possible'},'text':'I see'}]", "[]", ",'handoffs':['c']", "");
    struct tape *t = run(rt, GO, NULL);
    CHECK_SAID("I see", t);
    CHECK_STR("a", json_str(t->end, "agent"));
    finish(rt);
}

TEST(one_takes_over) { /* the first of two; and calls beside a handoff are still made */
    par_runtime_t *rt = two("[{'tool_calls':[{'id':'c1','name':'add','input':{'a':1,'b':2}},{'id':'c2','name':'handoff_to_b','input':{}},"
                            "{'id':'c3','name':'handoff_to_a','input':{}}]}]",
                            "[{'expect':{'contains':'37','messages':5,'last_message_contains':'Only one agent'},'text':'I am b.'}]",
                            ",'tools':['add'],'handoffs':['b','a']", "");
    struct tape *t = run(rt, IN_S, "37");
    CHECK_SAID("I am b.", t);
    CHECK_INT(1, count_of(t, "handoff"));
    CHECK_INT(1, count_of(t, "tool_call"));
    valid(session_of(rt, "s"), "messages");
    finish(rt);
}

TEST(there_and_back) {
    par_runtime_t *rt = two("[{'tool_calls':[{'id':'c1','name':'handoff_to_b','input':{}}]},"
                            "{'expect':{'system_contains':'You are a.','messages':5},'text':'I am a again.'}]",
                            "[{'tool_calls':[{'id':'c2','name':'handoff_to_a','input':{}}]}]", ",'handoffs':['b']", ",'handoffs':['a']");
    struct tape *t = run(rt, GO, NULL);
    CHECK_SAID("I am a again.", t);
    CHECK_STR("a", json_str(t->end, "agent"));
    finish(rt);
}

TEST(a_round_of_handoffs_ends) {
    char *p = NULL, *q = NULL;
    par_runtime_t *rt;
    int i;
    for (i = 0; i < 10; i++) {
        cat(&p, fmt("%s{'tool_calls':[{'id':'c%d','name':'handoff_to_b','input':{}}]}", i ? "," : "", i));
        cat(&q, fmt("%s{'tool_calls':[{'id':'d%d','name':'handoff_to_a','input':{}}]}", i ? "," : "", i));
    }
    rt = two(fmt("[%s]", p), fmt("[%s]", q), ",'handoffs':['b'],'max_iterations':4", ",'handoffs':['a'],'max_iterations':6");
    free(p), free(q);
    CHECK_FAILED(PAR_ERR_LIMIT, "max_iterations", run(rt, GO, NULL));
    finish(rt);
}

/* ---- sub-agents --------------------------------------------------------------------------------------------------------------------- */

#define ASKS_B "{'usage':{'input_tokens':100,'output_tokens':10},'tool_calls':[{'id':'c1','name':'b','input':{'task':'Find it.'}}]}"
#define THEN(part, text) ",{'usage':{'input_tokens':200,'output_tokens':20},'expect':{'last_message_contains':'" part "'},'text':'" text "'}"

TEST(a_sub_agent_answers) {
    par_runtime_t *rt = two("[" ASKS_B THEN("Found: 37", "b says 37") "]",
                            "[{'usage':{'input_tokens':1000,'output_tokens':1},'expect':{'last_message_contains':'Find it.','messages':1,'not_contains':'secret',"
                            "'system_contains':'You are b.'},'text':'Found: 37'}]",
                            ",'sub_agents':['b']", "");
    struct tape *t = run(rt, js("{'agent':'a','input':'a secret','run_id':'r','tag':7,'session':'s'}"), NULL);
    const char *started = nth(t, "subrun_started", 0), *finished = nth(t, "subrun_finished", 0), *sub = json_str(started, "subrun_id");
    int i, below = 0;
    CHECK_SAID("b says 37", t);
    CHECK_INT(0, t->seen.gaps); /* one numbering for both */
    CHECK_STR("b", json_str(started, "agent"));
    CHECK_STR("c1", json_str(started, "tool_call_id"));
    CHECK_STR("r", json_str(started, "run_id"));
    CHECK_STR("completed", json_str(finished, "status"));
    CHECK_INT(1000, json_int(finished, "usage.input_tokens"));
    for (i = 0; i < t->n; i++) {
        if (!json_at(t->events[i], "path")) continue;
        below++;
        CHECK_STR("b", json_str(t->events[i], "path.0"));
        CHECK_INT(1, elements(t->events[i], "path"));
        CHECK_STR("r", json_str(t->events[i], "parent_run_id"));
        CHECK_STR(sub, json_str(t->events[i], "run_id"));
        CHECK_INT(7, json_int(t->events[i], "tag"));
        CHECK(!is_terminal(t->events[i]));
    }
    CHECK(below >= 3); /* turn_started, deltas, usage_update */
    CHECK_INT(1300, json_int(t->end, "usage.input_tokens"));
    CHECK_INT(31, json_int(t->end, "usage.output_tokens"));
    CHECK_INT(4, elements(session_of(rt, "s"), "messages")); /* its conversation is its own */
    finish(rt);
}

TEST(the_cost_of_a_sub_agent_is_added) {
    static const char config[] = "{'models':{'p/m':{'price':{'input':'1','output':'10'}}%s},"
                                 "'llm_providers':{'p':{'type':'mock','turns':[" ASKS_B THEN("37", "ok") "]},"
                                 "'q':{'type':'mock','turns':[{'usage':{'input_tokens':1000,'output_tokens':1},'text':'37'}]}}}";
    int known;
    for (known = 0; known < 2; known++) {
        par_runtime_t *rt = runtime(js(config, known ? ",'q/m':{'price':{'input':'2','output':'20'}}" : ""));
        struct tape *t;
        ST(PAR_OK, par_register_agent(rt, js("{'id':'b','model':'q/m'}"), PAR_NTS, &E));
        ST(PAR_OK, par_register_agent(rt, js("{'id':'a','model':'p/m','sub_agents':['b']}"), PAR_NTS, &E));
        t = run(rt, GO, NULL);
        CHECK_SAID("ok", t);
        /* 300 + 30 · 10 at 1e-6, and 1000 · 2 + 20 at 1e-6; what has no price makes the sum unknown */
        CHECK_STR(known ? "0.00262" : NULL, json_str(t->end, "cost_usd"));
        finish(rt);
    }
}

TEST(a_stream_without_the_events_of_sub_agents) {
    par_runtime_t *rt = two("[" ASKS_B THEN("37", "ok") "]", "[" CALL_ADD ",{'text':'37'}]", ",'sub_agents':['b']", ",'tools':['add']");
    struct tape *t = run(rt, js("{'agent':'a','input':'x','max_event_depth':0}"), "37");
    int i;
    CHECK_SAID("ok", t);
    CHECK_STR("ok", t->seen.text);
    CHECK_INT(1, count_of(t, "tool_call")); /* host work always comes */
    CHECK_STR("b", json_str(nth(t, "tool_call", 0), "path.0"));
    CHECK_INT(1, count_of(t, "subrun_started"));
    for (i = 0; i < t->n; i++) CHECK(is(t->events[i], "tool_call") || !json_at(t->events[i], "path"));
    finish(rt);
}

TEST(a_stream_with_the_events_of_the_first_level) {
    par_runtime_t *rt = runtime(js("{'llm_providers':{'p':{'type':'mock','turns':[" ASKS_B ",{'text':'one'}]},"
                                   "'q':{'type':'mock','turns':[{'tool_calls':[{'id':'c1','name':'c','input':{'task':'t'}}]},{'text':'two'}]},"
                                   "'o':{'type':'mock','turns':[{'text':'three'}]}}}"));
    struct tape *t;
    ST(PAR_OK, par_register_agent(rt, js("{'id':'c','model':'o/m'}"), PAR_NTS, &E));
    ST(PAR_OK, par_register_agent(rt, js("{'id':'b','model':'q/m','sub_agents':['c']}"), PAR_NTS, &E));
    ST(PAR_OK, par_register_agent(rt, js("{'id':'a','model':'p/m','sub_agents':['b']}"), PAR_NTS, &E));
    t = run(rt, js("{'agent':'a','input':'x','max_event_depth':1}"), NULL);
    CHECK_SAID("one", t);
    CHECK_STR("twoone", t->seen.text);
    CHECK_INT(2, count_of(t, "subrun_started"));
    t = run(rt, GO, NULL);
    CHECK_STR("threetwoone", t->seen.text);
    CHECK_STR("c", json_str(nth(t, "text_delta", 0), "path.1"));
    finish(rt);
}

TEST(a_sub_agent_uses_the_host) {
    par_runtime_t *rt = two("[" ASKS_B THEN("37", "ok") "]", "[" CALL_ADD ",{'expect':{'last_message_contains':'37'},'text':'37'}]", ",'sub_agents':['b']",
                            ",'tools':['add']");
    par_stream_t *s = start(rt, GO);
    const char *call = until(s, "tool_call");
    CHECK_STR("b", json_str(call, "path.0"));
    ST(PAR_OK, par_tool_complete(rt, token_of(call), "37", PAR_NTS, &E));
    CHECK_SAID("ok", record(rt, s, NULL));
    finish(rt);
}

TEST(a_sub_agent_asks_for_approval) {
    par_runtime_t *rt = two("[" ASKS_B THEN("37", "ok") "]", "[{'tool_calls':[{'id':'c1','name':'risky','input':{'a':1,'b':2}}]},{'text':'37'}]",
                            ",'sub_agents':['b']", "");
    par_stream_t *s;
    const char *request;
    tool(rt, "risky", ",'permission':'confirm'");
    ask(rt, "agents.update", js("{'agent':'b','add_tools':['risky']}"));
    s = start(rt, GO);
    request = until(s, "approval_request");
    CHECK_STR("b", json_str(request, "path.0"));
    ST(PAR_OK, par_approval_resolve(rt, json_str(request, "approval_id"), PAR_NTS, "\"approve\"", PAR_NTS, &E));
    CHECK_SAID("ok", record(rt, s, "37"));
    finish(rt);
}

TEST(a_sub_agent_acts_for_the_same_user) {
    par_runtime_t *rt = two("[" ASKS_B THEN("37", "ok") "]", "[{'tool_calls':[{'id':'c1','name':'restricted','input':{'a':1,'b':2}}]},{'text':'37'}]",
                            ",'sub_agents':['b']", "");
    tool(rt, "restricted", ",'permission':{'type':'role_based','roles':['admin']}");
    ask(rt, "agents.update", js("{'agent':'b','add_tools':['restricted']}"));
    CHECK_INT(1, count_of(run(rt, js("{'agent':'a','input':'x','roles':['admin']}"), "3"), "tool_call"));
    CHECK_INT(0, count_of(run(rt, js("{'agent':'a','input':'x','roles':['user']}"), "3"), "tool_call"));
    finish(rt);
}

TEST(a_blocking_run_whose_sub_agent_finds_no_host) { /* is told so, and does not wait */
    par_runtime_t *rt = two("[" ASKS_B ",{'text':'ok'}]", "[" CALL_ADD ",{'expect':{'last_message_contains':'nobody'},'text':'37'}]", ",'sub_agents':['b']",
                            ",'tools':['add']");
    par_status_t st = PAR_OK;
    TAKES(0, 1000, st = attempt(rt, GO));
    CHECK(st == PAR_OK || st == PAR_ERR_NO_HANDLER);
    finish(rt);
}

TEST(cancel_ends_both) {
    par_runtime_t *rt = two("[" ASKS_B "]", "[{'usage':{'input_tokens':1000,'output_tokens':1},"
                            "'tool_calls':[{'id':'c1','name':'add','input':{'a':1,'b':2}}]},{'text':'late','delay_ms':5000}]",
                            ",'sub_agents':['b']", ",'tools':['add']");
    par_stream_t *s = start(rt, GO);
    struct tape *t;
    ST(PAR_OK, par_tool_complete(rt, token_of(until(s, "tool_call")), "3", PAR_NTS, &E));
    until(s, "turn_started");
    ST(PAR_OK, par_run_cancel(rt, "r", PAR_NTS, "enough", PAR_NTS, &E));
    TAKES(0, 50, t = record(rt, s, NULL));
    CHECK_STR("enough", json_str(t->end, "reason"));
    valid(t->end, "messages");
    CHECK_HAS(json_str(t->end, "messages.2.content"), "may have taken effect");
    CHECK_INT(1, count_of(t, "subrun_finished")); /* what has begun ends */
    CHECK_STR("cancelled", json_str(nth(t, "subrun_finished", 0), "status"));
    CHECK_INT(1100, json_int(t->end, "usage.input_tokens")); /* what the sub-agent consumed was consumed */
    finish(rt);
}

TEST(cancel_tells_the_host_of_a_sub_agent) {
    par_runtime_t *rt = two("[" ASKS_B "]", "[" CALL_ADD "]", ",'sub_agents':['b']", ",'tools':['add']");
    par_stream_t *s = start(rt, GO);
    uint64_t token = token_of(until(s, "tool_call"));
    ST(PAR_OK, par_run_cancel(rt, "r", PAR_NTS, "enough", PAR_NTS, &E));
    CHECK_INT(token, token_of(until(s, "tool_cancelled")));
    CHECK(is(record(rt, s, NULL)->end, "cancelled"));
    ST(PAR_ERR_STALE_TOKEN, par_tool_complete(rt, token, "3", PAR_NTS, &E));
    finish(rt);
}

TEST(a_deadline_counts_what_the_sub_agent_consumed) {
    par_runtime_t *rt = two("[" ASKS_B "]", "[{'usage':{'input_tokens':1000,'output_tokens':1},"
                            "'tool_calls':[{'id':'c1','name':'add','input':{'a':1,'b':2}}]},{'text':'late','delay_ms':5000}]",
                            ",'sub_agents':['b'],'max_execution_time':0.2", ",'tools':['add']");
    struct tape *t = run(rt, GO, "3");
    CHECK_FAILED(PAR_ERR_DEADLINE, "max_execution_time", t);
    CHECK_INT(1100, json_int(t->end, "usage.input_tokens"));
    CHECK_INT(1, count_of(t, "subrun_finished"));
    finish(rt);
}

TEST(agents_below_agents_have_a_depth) {
    par_runtime_t *rt = mock_and("[{'tool_calls':[{'id':'c1','name':'next','input':{'task':'deeper'}}]},{'text':'ok'}]", ",'limits':{'max_sub_agent_depth':3}");
    struct tape *t;
    int i, refused = 0;
    agent(rt, "e", NULL);
    agent_and(rt, "d", ",'sub_agents':[{'agent':'e','name':'next'}]");
    agent_and(rt, "c", ",'sub_agents':[{'agent':'d','name':'next'}]");
    agent_and(rt, "b", ",'sub_agents':[{'agent':'c','name':'next'}]");
    agent_and(rt, "a", ",'sub_agents':[{'agent':'b','name':'next'}]");
    t = run(rt, GO, NULL);
    CHECK_SAID("ok", t);
    CHECK_INT(3, count_of(t, "subrun_started"));
    for (i = 0; i < count_of(t, "tool_result"); i++) refused += json_has(nth(t, "tool_result", i), "max_sub_agent_depth");
    CHECK_INT(1, refused);
    CHECK_INT(1, t->seen.terminals);
    finish(rt);
}

TEST(a_sub_agent_that_fails_is_told) {
    par_runtime_t *rt = two("[" ASKS_B THEN("failed", "I see") "]", "[{'error':{'http_status':400,'message':'no way'}}]", ",'sub_agents':['b']", "");
    struct tape *t = run(rt, GO, NULL);
    CHECK_SAID("I see", t);
    CHECK_STR("failed", json_str(nth(t, "subrun_finished", 0), "status"));
    CHECK_INT(PAR_ERR_PROVIDER, json_int(nth(t, "subrun_finished", 0), "error.status"));
    CHECK_STR("true", json_raw(nth(t, "tool_result", 0), "is_error"));
    CHECK_HAS(json_str(nth(t, "tool_result", 0), "content"), "no way");
    finish(rt);
}

TEST(a_sub_agent_that_is_not_there_is_told) {
    par_runtime_t *rt = two("[{'tool_calls':[{'id':'c1','name':'b','input':{'task':'t'}}]},"
                            "{'expect':{'last_message_contains':'cannot run'},'text':'I see'}]", "[]", ",'sub_agents':['b']", "");
    ST(PAR_OK, par_unregister_agent(rt, "b", PAR_NTS, &E)); /* it was there when the agent was registered */
    CHECK_SAID("I see", run(rt, GO, NULL));
    finish(rt);
}

TEST(a_sub_agent_needs_a_task) {
    par_runtime_t *rt = two("[{'tool_calls':[{'id':'c1','name':'b','input':{'taks':'t'}}]},{'expect':{'last_message_contains':'task'},'text':'I see'}]",
                            "[]", ",'sub_agents':['b']", "");
    struct tape *t = run(rt, GO, NULL);
    CHECK_SAID("I see", t);
    CHECK_INT(0, count_of(t, "subrun_started"));
    finish(rt);
}

TEST(a_sub_agent_has_a_name_of_its_own) {
    par_runtime_t *rt = two("[{'expect':{'tools':['researcher']},'tool_calls':[{'id':'c1','name':'researcher','input':{'task':'t'}}]},{'text':'ok'}]",
                            "[{'text':'37'}]",
                            ",'sub_agents':[{'agent':'b','name':'researcher','description':'Finds things.'}]", "");
    CHECK_SAID("ok", run(rt, GO, NULL));
    finish(rt);
}

TEST(sub_agents_run_at_the_same_time) {
    par_runtime_t *rt = two("[{'tool_calls':[{'id':'c1','name':'b','input':{'task':'t'}},{'id':'c2','name':'b','input':{'task':'u'}},"
                            "{'id':'c3','name':'b','input':{'task':'v'}}]},{'text':'ok'}]",
                            "[{'text':'37','delay_ms':150}]", ",'sub_agents':['b']", "");
    struct tape *t;
    TAKES(150, 290, t = run(rt, GO, NULL));
    CHECK_SAID("ok", t);
    CHECK_INT(3, count_of(t, "subrun_finished"));
    CHECK(strcmp(json_str(nth(t, "subrun_started", 0), "subrun_id"), json_str(nth(t, "subrun_started", 1), "subrun_id")));
    finish(rt);
}

TEST(a_sub_agent_has_its_own_budget) {
    par_runtime_t *rt = two("[" ASKS_B THEN("budget", "I see") "]", "[" CALL_ADD ",{'text':'never'}]",
                            ",'sub_agents':[{'agent':'b','budget':{'requests':1}}]", ",'tools':['add']");
    struct tape *t = run(rt, GO, "3");
    CHECK_SAID("I see", t);
    CHECK_STR("budget_exceeded", json_str(nth(t, "subrun_finished", 0), "error.code"));
    finish(rt);
}

TEST(a_sub_agent_draws_on_the_budget_above) {
    par_runtime_t *rt = two("[" ASKS_B THEN("37", "never") "]", "[" CALL_ADD ",{'text':'37'}]", ",'sub_agents':['b']", ",'tools':['add']");
    struct tape *t = run(rt, js("{'agent':'a','input':'x','budget':{'requests':3}}"), "3");
    CHECK_FAILED(PAR_ERR_LIMIT, "budget_exceeded", t);
    CHECK_STR("budget.requests", json_str(t->end, "error.path"));
    CHECK_INT(1, count_of(t, "subrun_finished"));
    finish(rt);
}

TEST(a_sub_agent_has_its_own_time) {
    par_runtime_t *rt = two("[" ASKS_B THEN("max_execution_time", "I see") "]", "[{'text':'late','delay_ms':5000}]", ",'sub_agents':['b']",
                            ",'max_execution_time':0.1");
    struct tape *t;
    TAKES(90, 400, t = run(rt, GO, NULL));
    CHECK_SAID("I see", t);
    finish(rt);
}

/* ---- several runs at once --------------------------------------------------------------------------------------------------------------- */

/* Agents "slow" (150 ms), "quick", "bad" (fails), "echo". */
static par_runtime_t *several(void) {
    par_runtime_t *rt = runtime(js("{'llm_providers':{'slow':{'type':'mock','turns':[{'text':'slow','delay_ms':150}]},"
                                   "'quick':{'type':'mock','turns':[{'text':'quick'}]},"
                                   "'bad':{'type':'mock','turns':[{'error':{'http_status':400}}]},'hung':{'type':'mock','turns':[{'text':'late','delay_ms':5000}]},"
                                   "'echo':{'type':'mock'},"
                                   "'calls':{'type':'mock','turns':[" CALL_ADD ",{'text':'called'}]}}}"));
    static const char *const names[] = {"slow", "quick", "bad", "hung", "echo"};
    size_t i;
    tool(rt, "add", NULL);
    for (i = 0; i < COUNT(names); i++) ST(PAR_OK, par_register_agent(rt, js("{'id':'%s','model':'%s/m'}", names[i], names[i]), PAR_NTS, &E));
    ST(PAR_OK, par_register_agent(rt, js("{'id':'calls','model':'calls/m','tools':['add']}"), PAR_NTS, &E));
    return rt;
}

static const char *dispatch(par_runtime_t *rt, const char *specs, const char *keys) { return ask(rt, "invoke_parallel", js("{'specs':[%s]%s}", specs, keys)); }

#define RUN(agent) "{'agent':'" agent "','input':'x'}"
#define ECHO(text) "{'agent':'echo','input':'" text "'}"

TEST(results_come_in_the_order_of_the_requests) {
    par_runtime_t *rt = several();
    const char *answer = dispatch(rt, RUN("slow") "," RUN("bad") ",{'agent':'quick','input':'x','run_id':'mine','session':'s'}", "");
    CHECK_INT(PAR_OK, status);
    CHECK_INT(3, elements(answer, "results"));
    CHECK_STR("slow", json_str(answer, "results.0.result.text"));
    CHECK_STR("completed", json_str(answer, "results.0.status"));
    CHECK(json_int(answer, "results.0.duration_ms") >= 150);
    CHECK_STR("failed", json_str(answer, "results.1.status"));
    CHECK_INT(PAR_ERR_PROVIDER, json_int(answer, "results.1.error.status"));
    CHECK_STR("quick", json_str(answer, "results.2.result.text"));
    CHECK_STR("mine", json_str(answer, "results.2.run_id"));
    CHECK_STR("quick", json_str(answer, "results.2.agent"));
    CHECK_INT(2, json_int(answer, "results.2.index"));
    CHECK_INT(2, json_int(answer, "succeeded"));
    CHECK_INT(1, json_int(answer, "failed"));
    CHECK_INT(0, json_int(answer, "cancelled"));
    CHECK_STR("null", json_raw(answer, "merged"));
    CHECK_INT(2, elements(session_of(rt, "s"), "messages"));
    CHECK_STR("completed", status_of(rt, "mine")); /* runs like any others */
    finish(rt);
}

TEST(runs_of_one_session_take_turns) {
    par_runtime_t *rt = several();
    const char *answer = dispatch(rt, "{'agent':'slow','input':'x','session':'s'},{'agent':'quick','input':'y','session':'s'},"
                                  "{'agent':'echo','input':'z','session':'s'}", "");
    CHECK_INT(3, json_int(answer, "succeeded"));
    CHECK_INT(6, elements(session_of(rt, "s"), "messages"));
    valid(session_of(rt, "s"), "messages");
    finish(rt);
}

TEST(parallel_limit) {
    par_runtime_t *rt = several();
    static const char four[] = RUN("slow") "," RUN("slow") "," RUN("slow") "," RUN("slow");
    TAKES(150, 290, dispatch(rt, four, ""));
    TAKES(300, 440, dispatch(rt, four, ",'parallel_limit':2"));
    TAKES(600, 800, dispatch(rt, four, ",'parallel_limit':1"));
    CHECK_INT(PAR_OK, status);
    finish(rt);
}

TEST(fail_fast) {
    par_runtime_t *rt = several();
    const char *answer = NULL;
    TAKES(0, 500, answer = dispatch(rt, RUN("hung") "," RUN("bad") "," RUN("quick"), ",'failure_policy':'fail_fast','parallel_limit':2"));
    CHECK_INT(PAR_OK, status);
    CHECK_INT(3, elements(answer, "results"));
    CHECK_STR("cancelled", json_str(answer, "results.0.status"));
    CHECK_STR("failed", json_str(answer, "results.1.status"));
    CHECK_STR("cancelled", json_str(answer, "results.2.status")); /* it was not begun */
    CHECK_INT(2, json_int(answer, "cancelled"));
    CHECK_INT(1, json_int(answer, "failed"));
    CHECK_HAS(json_str(answer, "results.0.error.message"), "another run");
    finish(rt);
}

TEST(merging) {
    static const struct { const char *specs, *merge, *merged; } cases[] = {
        {RUN("slow") "," RUN("quick"), "'none'", "null"},
        {RUN("bad") "," RUN("slow") "," RUN("quick"), "'first_success'", "'slow'"},
        {RUN("bad"), "'first_success'", "null"},
        {ECHO("yes") "," ECHO("no") "," ECHO("no"), "'majority'", "'no'"},
        {ECHO("yes") "," ECHO("no"), "{'type':'majority'}", "'yes'"},
        {RUN("slow") "," RUN("bad") "," RUN("quick"), "'concat'", "'slow\\n\\nquick'"},
        {ECHO("1") "," ECHO("2"), "{'type':'concat','separator':' + '}", "'1 + 2'"},
        {ECHO("1") "," ECHO("2"), "{'type':'agent','agent':'echo','prompt':'Add up:'}", "'Add up:\\n\\nAnswer 1:\\n1\\n\\nAnswer 2:\\n2'"},
        {RUN("bad"), "{'type':'agent','agent':'echo'}", "null"},
    };
    par_runtime_t *rt = several();
    size_t i;
    for (i = 0; i < COUNT(cases); i++) {
        const char *answer = dispatch(rt, cases[i].specs, fmt(",'merge':%s", cases[i].merge));
        CHECK_INT(PAR_OK, status);
        if (!CHECK_STR(js("%s", cases[i].merged), json_raw(answer, "merged"))) printf("    for %s\n", cases[i].merge);
    }
    finish(rt);
}

TEST(merging_what_has_a_schema) {
    par_runtime_t *rt = runtime(js("{'llm_providers':{'mock':{'type':'mock','turns':[{'text':'{\\\"n\\\":3}'}]}}}"));
    agent(rt, "a", NULL);
    CHECK_STR("{\"n\":3}", json_raw(dispatch(rt, "{'agent':'a','input':'x','response_schema':{'type':'object'}}", ",'merge':'majority'"), "merged"));
    finish(rt);
}

TEST(a_dispatch_streams_its_events) {
    par_runtime_t *rt = several();
    par_stream_t *s = NULL;
    struct tape *t;
    char *out = NULL;
    const char *id;
    int i, below[2] = {0, 0};
    ST(PAR_OK, par_call_start(rt, "invoke_parallel", PAR_NTS, js("{'specs':[" RUN("slow") "," RUN("calls") "]}"), PAR_NTS, &s, &E));
    id = json_str(stream_info(s), "run_id");
    t = tape_of(rt, "3");
    t->seen = drive(s, t_record, t);
    CHECK_WHOLE(t->seen, s);
    t->end = t->seen.terminal;
    CHECK(is(t->end, "completed"));
    CHECK_STR("slow", json_str(t->end, "result.results.0.result.text"));
    CHECK_STR("called", json_str(t->end, "result.results.1.result.text"));
    for (i = 0; i < t->n; i++) {
        const char *path = json_str(t->events[i], "path.0");
        if (!path) continue;
        CHECK(!strcmp(path, "0") || !strcmp(path, "1"));
        below[*path == '1']++;
        CHECK_STR(id, json_str(t->events[i], "parent_run_id"));
        CHECK_STR(json_str(t->end, fmt("result.results.%s.run_id", path)), json_str(t->events[i], "run_id"));
    }
    CHECK(below[0] > 0 && below[1] > 0);
    CHECK_INT(2, count_of(t, "subrun_started"));
    CHECK_INT(2, count_of(t, "subrun_finished"));
    CHECK_STR("1", json_str(nth(t, "tool_call", 0), "path.0"));
    ST(PAR_OK, par_stream_result(s, &out, NULL, &E));
    CHECK_INT(2, json_int(out, "succeeded"));
    par_free(out);
    par_stream_free(s);
    finish(rt);
}

TEST(a_dispatch_is_cancelled_as_a_whole) {
    par_runtime_t *rt = several();
    par_stream_t *s = NULL;
    const char *event;
    ST(PAR_OK, par_call_start(rt, "invoke_parallel", PAR_NTS, js("{'specs':[" RUN("hung") "," RUN("hung") "]}"), PAR_NTS, &s, &E));
    until(s, "subrun_started"), until(s, "subrun_started");
    ST(PAR_OK, par_stream_cancel(s, "enough", PAR_NTS, &E));
    TAKES(0, 50, event = until(s, "cancelled"));
    CHECK_STR("enough", json_str(event, "reason"));
    EVENTUALLY(500, json_int(ask(rt, "metrics.snapshot", "{}"), "runs_live") == 0);
    CHECK_INT(2, json_int(ask(rt, "metrics.snapshot", "{}"), "runs_cancelled"));
    par_stream_free(s);
    finish(rt);
}

TEST(a_cancelled_dispatch_keeps_what_its_runs_did) { /* as a run that was started alone would have */
    par_runtime_t *rt = several();
    par_stream_t *s = NULL;
    struct tape *t;
    const char *session;
    ST(PAR_OK, par_call_start(rt, "invoke_parallel", PAR_NTS, js("{'specs':[{'agent':'calls','input':'x','session':'s','run_id':'r'}]}"), PAR_NTS, &s, &E));
    until(s, "tool_call");
    ST(PAR_OK, par_stream_cancel(s, "enough", PAR_NTS, &E));
    t = record(rt, s, NULL);
    CHECK(is(t->end, "cancelled"));
    CHECK_INT(1, count_of(t, "tool_cancelled"));
    CHECK_INT(1, count_of(t, "subrun_finished"));
    CHECK_STR("cancelled", status_of(rt, "r"));
    session = session_of(rt, "s");
    valid(session, "messages");
    CHECK_HAS(json_str(session, "messages.2.content"), "may have taken effect");
    finish(rt);
}

TEST(one_run_of_a_dispatch_is_cancelled) {
    par_runtime_t *rt = several();
    par_stream_t *s = NULL;
    struct tape *t;
    ST(PAR_OK, par_call_start(rt, "invoke_parallel", PAR_NTS, js("{'specs':[{'agent':'hung','input':'x','run_id':'r'}," RUN("quick") "]}"), PAR_NTS, &s, &E));
    until(s, "turn_started");
    ST(PAR_OK, par_run_cancel(rt, "r", PAR_NTS, "this one", PAR_NTS, &E));
    TAKES(0, 300, t = record(rt, s, NULL));
    CHECK(is(t->end, "completed"));
    CHECK_STR("cancelled", json_str(t->end, "result.results.0.status"));
    CHECK_STR("completed", json_str(t->end, "result.results.1.status"));
    finish(rt);
}

TEST(bad_dispatches_say_where) {
    static const struct { const char *params; par_status_t status; const char *path; } bad[] = {
        {"{'specs':[" RUN("quick") ",{'agent':'quick'}]}", PAR_ERR_SCHEMA, "params.specs[1]"},
        {"{'specs':[" RUN("quick") ",{'agent':'quick','input':3}]}", PAR_ERR_SCHEMA, "params.specs[1].input"},
        {"{'specs':[" RUN("quick") ",{'agent':'quick','input':[]}]}", PAR_ERR_SCHEMA, "params.specs[1].input"},
        {"{'specs':[{'agent':'quick','input':'x','sesion':'s'}]}", PAR_ERR_SCHEMA, "params.specs[0].sesion"},
        {"{'specs':[" RUN("quick") "," RUN("nobody") "]}", PAR_ERR_NOT_FOUND, "params.specs[1].agent"},
        {"{'specs':[{'agent':'quick','input':'x','notify':'inbox'}]}", PAR_ERR_SCHEMA, "params.specs[0].notify"},
        {"{'specs':[{'agent':'quick','input':'x','variables':{'n':1}}]}", PAR_ERR_SCHEMA, "params.specs[0].variables"},
        {"{'specs':[{'agent':'quick','input':'x','response_schema':{'type':3}}]}", PAR_ERR_SCHEMA, "params.specs[0].response_schema"},
        {"{'specs':[{'agent':'quick','input':'x','run_id':'r'},{'agent':'quick','input':'x','run_id':'r'}]}", PAR_ERR_EXISTS, "params.specs[1].run_id"},
        {"{'specs':[]}", PAR_ERR_SCHEMA, "params.specs"}, {"{}", PAR_ERR_SCHEMA, "params"},
        {"{'specs':[" RUN("quick") "],'parallel_limit':0}", PAR_ERR_SCHEMA, "params.parallel_limit"},
        {"{'specs':[" RUN("quick") "],'merge':'vote'}", PAR_ERR_SCHEMA, "params.merge"},
        {"{'specs':[" RUN("quick") "],'merge':{'type':'agent'}}", PAR_ERR_SCHEMA, "params.merge"},
        {"{'specs':[" RUN("quick") "],'merge':{'type':'agent','agent':'nobody'}}", PAR_ERR_NOT_FOUND, "params.merge.agent"},
        {"{'specs':[" RUN("quick") "],'failure_policy':'panic'}", PAR_ERR_SCHEMA, "params.failure_policy"},
        {"{'specs':[" RUN("calls") "]}", PAR_ERR_NO_HANDLER, NULL},
    };
    par_runtime_t *rt = several();
    size_t i;
    for (i = 0; i < COUNT(bad); i++) {
        ask(rt, "invoke_parallel", js("%s", bad[i].params));
        if (!CHECK_INT(bad[i].status, status)) printf("    for %s\n", bad[i].params);
        if (bad[i].path && !CHECK_PATH(bad[i].path)) printf("    for %s\n", bad[i].params);
    }
    CHECK_INT(0, json_int(ask(rt, "metrics.snapshot", "{}"), "runs_completed")); /* nothing ran */
    CHECK_INT(0, json_int(ask(rt, "metrics.snapshot", "{}"), "runs_live"));
    finish(rt);
}

TEST(a_dispatch_is_bounded_by_its_timeout) {
    par_runtime_t *rt = several();
    char *out = NULL;
    TAKES(90, 300, ST(PAR_ERR_DEADLINE, par_call(rt, "invoke_parallel", PAR_NTS, js("{'specs':[" RUN("hung") "]}"), PAR_NTS, 100, &out, NULL, &E)));
    EVENTUALLY(500, json_int(ask(rt, "metrics.snapshot", "{}"), "runs_live") == 0);
    finish(rt);
}
