/* What an agent does between a request and its answer: how long it may go on, what an answer that was cut off means, which
 * tools it has and when they change, how its system prompt is made, and what it is shown of what tools return. */
#include "t.h"

#define GO "{\"agent\":\"a\",\"input\":\"x\"}"
#define CALL(id, a, b) "{'tool_calls':[{'id':'" id "','name':'add','input':{'a':" #a ",'b':" #b "}}]}"

/* A runtime with the tool "add" (with these further keys) and the agent "a" that has it, with these further keys. */
static par_runtime_t *adding(const char *turns, const char *tool_keys, const char *agent_keys) {
    par_runtime_t *rt = mock(turns);
    tool(rt, "add", tool_keys);
    agent_and(rt, "a", fmt(",'tools':['add']%s", agent_keys));
    return rt;
}

static par_runtime_t *answering(const char *turns, const char *agent_keys) {
    par_runtime_t *rt = mock(turns);
    agent_and(rt, "a", agent_keys);
    return rt;
}

static par_status_t registered(par_runtime_t *rt, const char *keys) {
    t_clear();
    return par_register_agent(rt, js("{'id':'a','model':'mock/m'%s}", keys), PAR_NTS, &E);
}

/* ---- iterations and time ------------------------------------------------------------------------------------------- */

TEST(max_iterations_is_an_error) {
    par_runtime_t *rt = adding("[" CALL("c1", 1, 2) "," CALL("c2", 3, 4) ",{'text':'never'}]", NULL, ",'max_iterations':2");
    struct tape *t = run(rt, GO, "3");
    CHECK_FAILED(PAR_ERR_LIMIT, "max_iterations", t);
    CHECK_STR("false", json_raw(t->end, "error.retryable"));
    CHECK_INT(2, count_of(t, "turn_started"));
    CHECK_INT(2, count_of(t, "tool_result")); /* the calls of the last turn were still made */
    CHECK_INT(5, elements(t->end, "messages"));
    CHECK_STR("tool", json_str(t->end, "messages.4.role"));
    CHECK(json_int(t->end, "usage.output_tokens") >= 0);
    finish(rt);
}

TEST(max_iterations_is_not_an_error_when_the_last_turn_answers) {
    par_runtime_t *rt = adding("[" CALL("c1", 1, 2) ",{'text':'three'}]", NULL, ",'max_iterations':2");
    CHECK_SAID("three", run(rt, GO, "3"));
    finish(rt);
}

TEST(early_stopping_generates_an_answer) { /* one more request, in which no tool may be called */
    par_runtime_t *rt = adding("[{'expect':{'tool_choice':'auto'},'tool_calls':[{'id':'c1','name':'add','input':{'a':1,'b':2}}]},"
                               "{'expect':{'tool_choice':'none','contains':'37','last_message_contains':'final answer'},'text':'It is 37.'}]",
                               NULL, ",'max_iterations':1,'early_stopping_method':'generate'");
    struct tape *t = run(rt, GO, "37");
    CHECK_SAID("It is 37.", t);
    CHECK_INT(2, json_int(t->end, "iterations"));
    CHECK_STR("stop", json_str(t->end, "finish_reason"));
    finish(rt);
}

TEST(early_stopping_does_not_run_further_calls) { /* of a model that will not be told */
    par_runtime_t *rt = adding("[" CALL("c1", 1, 2) "," CALL("c2", 3, 4) "]", NULL, ",'max_iterations':1,'early_stopping_method':'generate'");
    struct tape *t = run(rt, GO, "3");
    CHECK_FAILED(PAR_ERR_LIMIT, "max_iterations", t);
    CHECK_INT(1, count_of(t, "tool_call"));
    CHECK_INT(5, elements(t->end, "messages")); /* the last call is answered, too */
    CHECK_STR("tool", json_str(t->end, "messages.4.role"));
    CHECK_HAS(json_str(t->end, "messages.4.content"), "not executed");
    finish(rt);
    rt = adding("[" CALL("c1", 1, 2) ",{'text':'So far 3.','tool_calls':[{'id':'c2','name':'add','input':{'a':3,'b':4}}]}]", NULL,
                ",'max_iterations':1,'early_stopping_method':'generate'");
    t = run(rt, js("{'agent':'a','input':'x','session':'s'}"), "3");
    CHECK_SAID("So far 3.", t);
    CHECK_INT(1, count_of(t, "tool_call"));
    CHECK_HAS(session_of(rt, "s"), "not executed");
    finish(rt);
}

TEST(early_stopping_is_of_one_run) { /* the next one is not told that it may call no tools */
    par_runtime_t *rt = runtime(js("{'llm_providers':{'mock':{'type':'mock','scope':'provider','turns':[" CALL("c1", 1, 2) ",{'text':'So far 3.'},"
                                   "{'expect':{'tool_choice':'auto','contains':'So far 3.','not_contains':'no more tools'},'text':'ok'}]}}}"));
    tool(rt, "add", NULL);
    agent_and(rt, "a", ",'tools':['add'],'max_iterations':1,'early_stopping_method':'generate'");
    CHECK_SAID("So far 3.", run(rt, js("{'agent':'a','input':'x','session':'s'}"), "3"));
    CHECK_SAID("ok", run(rt, js("{'agent':'a','input':'y','session':'s'}"), "3"));
    finish(rt);
}

TEST(max_execution_time_interrupts_a_hung_model) {
    par_runtime_t *rt = answering("[{'text':'late','delay_ms':5000}]", ",'max_execution_time':0.2");
    struct tape *t;
    char *out;
    TAKES(190, 250, t = run(rt, GO, NULL));
    CHECK_FAILED(PAR_ERR_DEADLINE, "max_execution_time", t);
    CHECK_STR("timeout", json_str(t->end, "error.category"));
    CHECK_STR("true", json_raw(t->end, "error.retryable"));
    TAKES(190, 250, ST(PAR_ERR_DEADLINE, par_invoke(rt, GO, PAR_NTS, 10000, &out, NULL, &E)));
    CHECK_ERROR(PAR_ERR_DEADLINE, "max_execution_time");
    finish(rt);
}

TEST(max_execution_time_interrupts_a_tool_nobody_answers) {
    par_runtime_t *rt = adding("[" CALL("c1", 1, 2) "]", NULL, ",'max_execution_time':0.2");
    struct tape *t;
    TAKES(190, 250, t = run(rt, GO, NULL));
    CHECK_FAILED(PAR_ERR_DEADLINE, "max_execution_time", t);
    CHECK_INT(1, count_of(t, "tool_cancelled")); /* the host is told */
    CHECK_INT(token_of(nth(t, "tool_call", 0)), token_of(nth(t, "tool_cancelled", 0)));
    ST(PAR_ERR_STALE_TOKEN, par_tool_complete(rt, token_of(nth(t, "tool_call", 0)), "3", PAR_NTS, &E));
    CHECK_HAS(json_str(t->end, "messages.2.content"), "may have taken effect"); /* told honestly */
    finish(rt);
}

TEST(max_execution_time_is_of_the_whole_run) { /* not of each turn */
    par_runtime_t *rt = adding("[{'text':'t','delay_ms':120,'tool_calls':[{'id':'c1','name':'add','input':{'a':1,'b':2}}]},{'text':'t','delay_ms':5000}]",
                               NULL, ",'max_execution_time':0.3");
    struct tape *t;
    TAKES(290, 360, t = run(rt, GO, "3"));
    CHECK_FAILED(PAR_ERR_DEADLINE, "max_execution_time", t);
    finish(rt);
}

TEST(bounds_are_checked_at_registration) {
    static const struct { const char *keys, *path; } bad[] = {
        {",'max_iterations':0", "agent.max_iterations"}, {",'max_execution_time':0", "agent.max_execution_time"},
        {",'max_execution_time':-1", "agent.max_execution_time"}, {",'approval_timeout':0", "agent.approval_timeout"},
        {",'early_stopping_method':'stop'", "agent.early_stopping_method"}, {",'on_max_tokens':'more'", "agent.on_max_tokens"},
        {",'context_compression_threshold':1.5", "agent.context_compression_threshold"},
        {",'context_window_override':0", "agent.context_window_override"}, {",'loop_guard':{'repeats':1}", "agent.loop_guard.repeats"},
        {",'max_iteration':1", "agent.max_iteration"},
    };
    par_runtime_t *rt = mock(NULL);
    size_t i;
    for (i = 0; i < COUNT(bad); i++) CHECK_INT(PAR_ERR_SCHEMA, registered(rt, bad[i].keys)), CHECK_PATH(bad[i].path);
    finish(rt);
}

/* ---- answers that were cut off ------------------------------------------------------------------------------------- */

TEST(max_tokens_gives_what_there_is) {
    par_runtime_t *rt = answering("[{'text':'The quick brown','finish_reason':'max_tokens'}]", "");
    struct tape *t = run(rt, GO, NULL);
    CHECK_SAID("The quick brown", t);
    CHECK_STR("max_tokens", json_str(t->end, "finish_reason"));
    CHECK_INT(1, json_int(t->end, "iterations"));
    finish(rt);
}

static const char LIMITED[] = "'model':{'provider':'mock','model_name':'m','max_tokens':100}";

static par_runtime_t *limited(const char *turns, const char *keys) {
    par_runtime_t *rt = mock(turns);
    ST(PAR_OK, par_register_agent(rt, js("{'id':'a',%s%s}", LIMITED, keys), PAR_NTS, &E));
    return rt;
}

TEST(max_tokens_retries_with_more_room) {
    par_runtime_t *rt = limited("[{'expect':{'max_tokens':100},'text':'The quick','finish_reason':'max_tokens'},"
                                "{'expect':{'max_tokens':200,'messages':1},'text':'The quick brown','finish_reason':'max_tokens'},"
                                "{'expect':{'max_tokens':400,'messages':1},'text':'The quick brown fox.'}]", ",'on_max_tokens':'retry'");
    struct tape *t = run(rt, js("{'agent':'a','input':'x','session':'s'}"), NULL);
    const char *session;
    char *kept = NULL;
    int i, j;
    CHECK_SAID("The quick brown fox.", t);
    CHECK_INT(2, count_of(t, "turn_retried"));
    CHECK_STR("max_tokens", json_str(nth(t, "turn_retried", 0), "error.code"));
    CHECK_INT(2, json_int(nth(t, "turn_retried", 0), "attempt"));
    CHECK_INT(3, json_int(nth(t, "turn_retried", 1), "attempt"));
    cat(&kept, "");
    for (i = 0; i < t->n; i++) { /* a reader that discards what it is told to discard has the answer */
        int64_t seq = json_int(t->events[i], "seq"), is_void = 0;
        for (j = 0; j < t->n; j++)
            if (is(t->events[j], "turn_retried") && seq >= json_int(t->events[j], "discard_from_seq") && seq < json_int(t->events[j], "seq")) is_void = 1;
        if (!is_void && is(t->events[i], "text_delta")) cat(&kept, json_str(t->events[i], "text"));
    }
    CHECK_STR("The quick brown fox.", kept);
    free(kept);
    session = session_of(rt, "s");
    CHECK_INT(2, elements(session, "messages"));
    finish(rt);
}

TEST(max_tokens_is_not_retried_for_ever) {
    par_runtime_t *rt = answering("[{'text':'a','finish_reason':'max_tokens'},{'text':'b','finish_reason':'max_tokens'},{'text':'c','finish_reason':'max_tokens'}]",
                                  ",'on_max_tokens':'retry','max_continuations':2");
    struct tape *t = run(rt, GO, NULL);
    CHECK_SAID("c", t);
    CHECK_STR("max_tokens", json_str(t->end, "finish_reason"));
    finish(rt);
}

TEST(max_tokens_returns_to_normal_in_the_next_turn) { /* the larger bound was for one answer */
    par_runtime_t *rt = mock("[{'expect':{'max_tokens':100},'text':'Let','finish_reason':'max_tokens'},"
                             "{'expect':{'max_tokens':200},'tool_calls':[{'id':'c1','name':'add','input':{'a':1,'b':2}}]},"
                             "{'expect':{'max_tokens':100},'text':'three'}]");
    tool(rt, "add", NULL);
    ST(PAR_OK, par_register_agent(rt, js("{'id':'a',%s,'tools':['add'],'on_max_tokens':'retry'}", LIMITED), PAR_NTS, &E));
    CHECK_SAID("three", run(rt, GO, "3"));
    finish(rt);
}

static const char CUT[] =
    "[{'text':'The quick brown fox jumps over','finish_reason':'max_tokens'},"
    "{'expect':{'contains':'The quick brown fox jumps over','last_message_contains':'cut off'},"
    "'text':'brown fox jumps over the lazy','finish_reason':'max_tokens'},"
    "{'expect':{'contains':'The quick brown fox jumps over the lazy','messages':3},'text':'Continuing:\\n dog and runs away.'}]";

static void joined(par_runtime_t *rt, const char *request) {
    static const char whole[] = "The quick brown fox jumps over the lazy dog and runs away.";
    struct tape *t = run(rt, request, NULL);
    const char *session = session_of(rt, "s");
    CHECK_SAID(whole, t);
    CHECK_STR(whole, t->seen.text); /* what was streamed joins in the same way */
    CHECK_STR("stop", json_str(t->end, "finish_reason"));
    CHECK_INT(2, count_of(t, "continuation"));
    CHECK_INT(1, json_int(nth(t, "continuation", 0), "number"));
    CHECK_INT(2, json_int(nth(t, "continuation", 1), "number"));
    CHECK_INT(2, elements(session, "messages")); /* one question, one answer */
    CHECK_STR(whole, json_str(session, "messages.1.parts.0.text"));
    CHECK(json_at(session, "messages.1.parts.1") == NULL);
    finish(rt);
}

TEST(max_tokens_continues) { joined(answering(CUT, ",'on_max_tokens':'continue'"), js("{'agent':'a','input':'x','session':'s'}")); }

TEST(mode_generate_continues) { /* whatever the agent does otherwise */
    joined(answering(CUT, ""), js("{'agent':'a','input':'x','session':'s','mode':'generate'}"));
}

TEST(max_continuations) {
    par_runtime_t *rt = answering(CUT, ",'on_max_tokens':'continue','max_continuations':1");
    struct tape *t = run(rt, GO, NULL);
    CHECK_SAID("The quick brown fox jumps over the lazy", t);
    CHECK_STR("max_tokens", json_str(t->end, "finish_reason"));
    finish(rt);
}

TEST(a_continuation_that_fails_keeps_a_valid_conversation) {
    par_runtime_t *rt = answering("[{'text':'The quick','finish_reason':'max_tokens'},{'error':{'http_status':400}}]", ",'on_max_tokens':'continue'");
    struct tape *t = run(rt, js("{'agent':'a','input':'x','session':'s'}"), NULL);
    CHECK_FAILED(PAR_ERR_PROVIDER, NULL, t);
    CHECK_LACKS(session_of(rt, "s"), "cut off"); /* our own words to the model are nobody's message */
    finish(rt);
}

TEST(mode_generate_has_no_schema) {
    par_runtime_t *rt = answering("[{'text':'x'}]", "");
    CHECK_INT(PAR_ERR_SCHEMA, attempt(rt, js("{'agent':'a','input':'x','mode':'generate','response_schema':{'type':'object'}}")));
    CHECK_PATH("request.mode");
    CHECK_INT(PAR_ERR_SCHEMA, attempt(rt, js("{'agent':'a','input':'x','mode':'novel'}")));
    CHECK_PATH("request.mode");
    finish(rt);
}

TEST(refusals_and_filters_end_a_run) {
    par_runtime_t *rt = answering("[{'text':'I would rather not.','finish_reason':'refusal'}]", "");
    struct tape *t = run(rt, GO, NULL);
    CHECK_SAID("I would rather not.", t);
    CHECK_STR("refusal", json_str(t->end, "finish_reason"));
    finish(rt);
}

/* ---- several calls at once ------------------------------------------------------------------------------------------ */

static const char TWO[] = "[{'tool_calls':[{'id':'c1','name':'add','input':{'a':1,'b':0}},{'id':'c2','name':'add','input':{'a':2,'b':0}}]},{'text':'done'}]";

/* How many calls are open before the first is answered. */
static int open_at_once(const char *runtime_keys, const char *agent_keys) {
    par_runtime_t *rt = mock_and(TWO, runtime_keys);
    par_stream_t *s;
    const char *event;
    uint64_t tokens[2] = {0, 0};
    int open = 0, i;
    tool(rt, "add", NULL);
    agent_and(rt, "a", fmt(",'tools':['add']%s", agent_keys));
    s = start(rt, GO);
    while (open < 2 && (event = next(s, slack(150))) != NULL)
        if (is(event, "tool_call")) tokens[open++] = token_of(event);
    for (i = 0; i < open; i++) ST(PAR_OK, par_tool_complete(rt, tokens[i], "3", PAR_NTS, &E));
    CHECK_SAID("done", record(rt, s, "3"));
    finish(rt);
    return open;
}

TEST(parallel_tool_execution) { /* the agent's word goes before the runtime's */
    CHECK_INT(2, open_at_once("", ""));
    CHECK_INT(1, open_at_once(",'parallel_tool_execution':false", ""));
    CHECK_INT(1, open_at_once("", ",'parallel_tool_execution':false"));
    CHECK_INT(2, open_at_once(",'parallel_tool_execution':false", ",'parallel_tool_execution':true"));
}

TEST(each_call_has_its_own_deadline) {
    par_runtime_t *rt = mock("[{'tool_calls':[{'id':'c1','name':'slow','input':{'a':1,'b':0}},{'id':'c2','name':'quick','input':{'a':2,'b':0}}]},"
                             "{'expect':{'contains':'did not answer within 0.15 s','last_message_contains':'two'},'text':'done'}]");
    par_stream_t *s;
    const char *event;
    tool(rt, "slow", ",'timeout':0.15"), tool(rt, "quick", ",'timeout':5");
    agent_and(rt, "a", ",'tools':['slow','quick']");
    s = start(rt, GO);
    while ((event = until(s, "tool_call")) != NULL && strcmp(json_str(event, "name"), "quick")) CHECK_INT(150, json_int(event, "deadline_ms"));
    CHECK_INT(5000, json_int(event, "deadline_ms"));
    CHECK_STR("slow", json_str(until(s, "tool_cancelled"), "name"));
    ST(PAR_OK, par_tool_complete(rt, token_of(event), "\"two\"", PAR_NTS, &E));
    CHECK_SAID("done", record(rt, s, NULL));
    finish(rt);
}

/* ---- names --------------------------------------------------------------------------------------------------------- */

TEST(a_name_stands_for_one_thing) {
    par_runtime_t *rt = mock("[{'text':'x'}]");
    tool(rt, "add", NULL);
    agent(rt, "b", NULL), agent(rt, "c.d", NULL), agent(rt, "c_d", NULL);
    ST(PAR_ERR_EXISTS, par_register_tool(rt, js("{'name':'add'}"), PAR_NTS, &E));
    CHECK_INT(PAR_ERR_SCHEMA, registered(rt, ",'tools':['add','add']"));
    CHECK_PATH("agent.tools[1]");
    CHECK_INT(PAR_ERR_EXISTS, registered(rt, ",'handoffs':['b','b']"));
    CHECK_PATH("agent.handoffs[1]");
    CHECK_INT(PAR_ERR_EXISTS, registered(rt, ",'sub_agents':['b','b']"));
    CHECK_PATH("agent.sub_agents[1]");
    CHECK_INT(PAR_ERR_EXISTS, registered(rt, ",'tools':['add'],'sub_agents':[{'agent':'b','name':'add'}]"));
    CHECK_PATH("agent.sub_agents[0]");
    CHECK_INT(PAR_ERR_EXISTS, registered(rt, ",'sub_agents':['c.d','c_d']")); /* what is one name for a model */
    CHECK_INT(PAR_OK, registered(rt, ",'sub_agents':['c.d',{'agent':'c_d','name':'other'}],'handoffs':['b']"));
    finish(rt);
}

TEST(a_name_a_model_cannot_call_is_refused) {
    par_runtime_t *rt = mock("[{'text':'x'}]");
    agent(rt, "b", NULL);
    CHECK_INT(PAR_ERR_SCHEMA, registered(rt, ",'sub_agents':[{'agent':'b','name':'not a name'}]"));
    CHECK_PATH("agent.sub_agents[0].name");
    CHECK_INT(PAR_ERR_SCHEMA, registered(rt, ",'sub_agents':[{'agent':'b','name':''}]"));
    finish(rt);
}

TEST(tools_come_sorted) { /* whatever the order they were named in: the same bytes for a prompt cache */
    par_runtime_t *rt = mock("[{'expect':{'tools':['b','handoff_to_x','m','x','z']},'text':'ok'}]");
    tool(rt, "z", NULL), tool(rt, "b", NULL), tool(rt, "m", NULL);
    agent(rt, "x", NULL);
    agent_and(rt, "a", ",'tools':['z','b','m'],'sub_agents':['x'],'handoffs':['x']");
    CHECK_SAID("ok", run(rt, GO, NULL));
    finish(rt);
}

/* ---- tools that change ------------------------------------------------------------------------------------------------ */

TEST(tools_are_added_and_removed_between_runs) {
    par_runtime_t *rt = runtime(js("{'llm_providers':{'mock':{'type':'mock','scope':'provider','turns':["
                                   "{'expect':{'tools':['add']},'text':'1'},{'expect':{'tools':['add','mul']},'text':'2'},{'expect':{'tools':['mul']},'text':'3'},"
                                   "{'expect':{'tools':['mul']},'tool_calls':[{'id':'c1','name':'add','input':{'a':1,'b':2}}]},"
                                   "{'expect':{'last_message_contains':'no tool'},'text':'4'}]}}}"));
    const char *agent;
    struct tape *t;
    tool(rt, "add", NULL), tool(rt, "mul", NULL);
    agent_and(rt, "a", ",'tools':['add']");
    CHECK_SAID("1", run(rt, GO, NULL));
    agent = ask(rt, "agents.update", js("{'agent':'a','add_tools':['mul']}"));
    CHECK_INT(PAR_OK, status);
    CHECK_INT(2, elements(agent, "tools"));
    CHECK_SAID("2", run(rt, GO, NULL));
    agent = ask(rt, "agents.update", js("{'agent':'a','remove_tools':['add']}"));
    CHECK_STR("mul", json_str(agent, "tools.0"));
    CHECK_SAID("3", run(rt, GO, NULL));
    t = run(rt, GO, NULL);
    CHECK_SAID("4", t);
    CHECK_INT(0, count_of(t, "tool_call"));
    finish(rt);
}

TEST(a_run_under_way_keeps_its_tools) {
    par_runtime_t *rt = adding("[" CALL("c1", 1, 2) ",{'expect':{'tools':['add']},'tool_calls':[{'id':'c2','name':'add','input':{'a':3,'b':4}}]},"
                               "{'text':'done'}]", NULL, "");
    par_stream_t *s = start(rt, GO);
    uint64_t token = token_of(until(s, "tool_call"));
    struct tape *t;
    ask(rt, "agents.update", js("{'agent':'a','remove_tools':['add']}"));
    CHECK_INT(PAR_OK, status);
    ST(PAR_OK, par_tool_complete(rt, token, "3", PAR_NTS, &E));
    t = record(rt, s, "7");
    CHECK_SAID("done", t);
    CHECK_INT(1, count_of(t, "tool_call"));
    finish(rt);
}

TEST(bad_updates_say_where) {
    static const struct { const char *params; par_status_t status; const char *path; } bad[] = {
        {"{'agent':'nobody','add_tools':['add']}", PAR_ERR_NOT_FOUND, "params.agent"},
        {"{'agent':'a','remove_tools':['mul']}", PAR_ERR_NOT_FOUND, "params.remove_tools[0]"},
        {"{'agent':'a','add_tools':['add']}", PAR_ERR_EXISTS, "params.add_tools[0]"},
        {"{'agent':'a','add_tools':['mul','div']}", PAR_ERR_NOT_FOUND, "params.add_tools[1]"},
        {"{'agent':'a','add_tool':['add']}", PAR_ERR_SCHEMA, "params.add_tool"},
    };
    par_runtime_t *rt = adding("[{'expect':{'tools':['add']},'text':'unchanged'}]", NULL, "");
    size_t i;
    tool(rt, "mul", NULL);
    for (i = 0; i < COUNT(bad); i++) {
        ask(rt, "agents.update", js("%s", bad[i].params));
        CHECK_INT(bad[i].status, status);
        CHECK_PATH(bad[i].path);
    }
    CHECK_SAID("unchanged", run(rt, GO, NULL)); /* an update that fails changes nothing */
    finish(rt);
}

TEST(a_tool_is_replaced) { /* from the next run on */
    par_runtime_t *rt = runtime(js("{'llm_providers':{'mock':{'type':'mock','turns':[" CALL("c1", 1, 2) ",{'text':'done'}]}}}"));
    par_stream_t *s;
    struct tape *t;
    uint64_t token;
    tool(rt, "add", ",'timeout':7");
    agent(rt, "a", "['add']");
    s = start(rt, GO);
    token = token_of(until(s, "tool_call"));
    ask(rt, "tools.replace", js("{'tool':{'name':'add','description':'New.','timeout':9,'input_schema':{'type':'object','required':['c']}}}"));
    CHECK_INT(PAR_OK, status);
    ST(PAR_OK, par_tool_complete(rt, token, "3", PAR_NTS, &E));
    CHECK_SAID("done", record(rt, s, NULL));
    t = run(rt, GO, "3"); /* the arguments do not fit any more */
    CHECK_SAID("done", t);
    CHECK_INT(0, count_of(t, "tool_call"));
    CHECK_HAS(json_str(nth(t, "tool_result", 0), "content"), "schema");
    CHECK_HAS(ask(rt, "tools.list", "{}"), "New.");
    finish(rt);
}

TEST(bad_replacements_say_where) {
    par_runtime_t *rt = adding("[{'text':'x'}]", NULL, "");
    ask(rt, "tools.replace", js("{'tool':{'name':'ad'}}"));
    CHECK_INT(PAR_ERR_NOT_FOUND, status);
    CHECK_HAS(par_error_message(E), "'add'"); /* did you mean */
    ask(rt, "tools.replace", js("{'tool':{'name':'add','timeout':0}}"));
    CHECK_INT(PAR_ERR_SCHEMA, status);
    CHECK_PATH("params.tool.timeout");
    ask(rt, "tools.replace", js("{'tool':{'name':'add','timeoutt':1}}"));
    CHECK_INT(PAR_ERR_SCHEMA, status);
    CHECK_PATH("params.tool.timeoutt");
    ask(rt, "tools.replace", js("{'tool':{'name':'add','input_schema':{'type':'object','properties':{'a':{'type':'no type'}}}}}"));
    CHECK_INT(PAR_ERR_SCHEMA, status);
    finish(rt);
}

TEST(a_schema_that_is_none_is_refused) {
    par_runtime_t *rt = mock(NULL);
    static const char *const bad[] = {"{'type':'array'}", "[]", "'object'", "{'type':'object','properties':{'a':{'type':'no type'}}}",
                                      "{'type':'object','properties':3}"};
    size_t i;
    for (i = 0; i < COUNT(bad); i++) {
        ST(PAR_ERR_SCHEMA, par_register_tool(rt, js("{'name':'t','input_schema':%s}", bad[i]), PAR_NTS, &E));
        CHECK_HAS(json_str(par_error_json(E), "path"), "tool.input_schema");
    }
    ST(PAR_ERR_SCHEMA, par_register_tool(rt, js("{'name':'t','output_schema':{'type':3}}"), PAR_NTS, &E));
    CHECK_HAS(json_str(par_error_json(E), "path"), "tool.output_schema");
    finish(rt);
}

/* ---- templates ---------------------------------------------------------------------------------------------------------- */

#define TEMPLATE(template, variables, required) ",'system_prompt_template':{'template':'" template "','variables':" variables ",'required':" required "}"

TEST(templates_are_filled_in) {
    static const struct { const char *variables, *system; } cases[] = {
        {"{'role':'a clerk','tone':'kind'}", "You are a clerk, kind."}, {"{'role':'a clerk'}", "You are a clerk, ."},
        {"{'role':3,'tone':{'a':[1]}}", "You are 3, {\\\"a\\\":[1]}."}, {"{'role':'{{tone}}','tone':'x'}", "You are {{tone}}, x."},
        {"{'role':'a \\\"b\\\"','tone':null}", "You are a \\\"b\\\", ."},
    };
    size_t i;
    for (i = 0; i < COUNT(cases); i++) {
        par_runtime_t *rt = answering(fmt("[{'expect':{'system_contains':'%s'},'text':'ok'}]", cases[i].system),
                                      TEMPLATE("You are {{role}}, {{ tone }}.", "['role','tone']", "['role']"));
        CHECK_SAID("ok", run(rt, js("{'agent':'a','input':'x','variables':%s}", cases[i].variables), NULL));
        finish(rt);
    }
}

TEST(a_template_knows_its_surroundings) {
    par_runtime_t *rt = mock("[{'expect':{'system_contains':'I am a with [\\\"add\\\"] and {\\\"who\\\":\\\"Ann\\\"} in ','tools':['add']},'text':'ok'}]");
    tool(rt, "add", NULL);
    agent_and(rt, "a", ",'tools':['add']" TEMPLATE("I am {{agent_id}} with {{available_tools}} and {{user_variables}} in {{runtime_id}}.", "['who']", "[]"));
    CHECK_SAID("ok", run(rt, js("{'agent':'a','input':'x','variables':{'who':'Ann'}}"), NULL));
    finish(rt);
}

TEST(the_time_is_told_with_the_users_message) { /* in the system prompt it would spoil every prompt cache */
    par_runtime_t *rt = answering("[{'expect':{'last_message_contains':'It is 20','system_contains':'You are kind.'},'text':'ok'}]",
                                  TEMPLATE("You are kind.\\nIt is {{current_time}}.\\n", "[]", "[]"));
    const char *session;
    CHECK_SAID("ok", run(rt, js("{'agent':'a','input':'x','session':'s'}"), NULL));
    session = session_of(rt, "s");
    CHECK_HAS(session, "'text':'x'");
    CHECK_HAS(session, "Z.");
    finish(rt);
    rt = runtime(js("{'llm_providers':{'mock':{'type':'mock','scope':'provider','turns':[{'text':'1'},{'text':'2'}]}}}"));
    agent_and(rt, "a", TEMPLATE("You are kind.\\nIt is {{current_time}}.\\n", "[]", "[]"));
    CHECK_SAID("1", run(rt, js("{'agent':'a','input':'x','session':'s'}"), NULL));
    sleep_ms(1100);
    CHECK_INT(0, count_of(run(rt, js("{'agent':'a','input':'x','session':'s'}"), NULL), "cache_bust"));
    finish(rt);
}

static const char NEVER_ASKED[] = "{'llm_providers':{'mock':{'type':'mock','scope':'provider','turns':[{'text':'the first request'}]}}}";

TEST(a_missing_variable_fails_before_the_first_request) {
    par_runtime_t *rt = runtime(js("%s", NEVER_ASKED));
    struct tape *t;
    par_stream_t *s = NULL;
    agent_and(rt, "a", TEMPLATE("You are {{role}}.", "['role']", "['role']"));
    CHECK_INT(PAR_ERR_SCHEMA, attempt(rt, GO));
    CHECK_PATH("request.variables.role");
    CHECK_ERROR(PAR_ERR_SCHEMA, "missing_variable");
    /* What is wrong with the request is an error now, not an event. */
    ST(PAR_ERR_SCHEMA, par_stream_start(rt, GO, PAR_NTS, &s, &E));
    if (s) {
        t = record(rt, s, NULL);
        CHECK_FAILED(PAR_ERR_SCHEMA, "missing_variable", t);
        CHECK_INT(0, count_of(t, "turn_started"));
    }
    CHECK_SAID("the first request", run(rt, js("{'agent':'a','input':'x','variables':{'role':'a clerk'}}"), NULL));
    finish(rt);
}

TEST(an_unknown_variable_is_refused) {
    par_runtime_t *rt = runtime(js("%s", NEVER_ASKED));
    agent_and(rt, "a", TEMPLATE("You are {{role}}.", "['role']", "[]"));
    agent(rt, "b", NULL);
    CHECK_INT(PAR_ERR_SCHEMA, attempt(rt, js("{'agent':'a','input':'x','variables':{'rolle':'x'}}")));
    CHECK_PATH("request.variables.rolle");
    CHECK_HAS(par_error_message(E), "did you mean 'role'");
    CHECK_INT(PAR_ERR_SCHEMA, attempt(rt, js("{'agent':'b','input':'x','variables':{'role':'x'}}"))); /* it has no template */
    CHECK_PATH("request.variables");
    CHECK_INT(PAR_ERR_SCHEMA, attempt(rt, js("{'agent':'a','input':'x','variables':['role']}")));
    CHECK_PATH("request.variables");
    finish(rt);
}

TEST(bad_templates_are_refused_at_registration) {
    static const struct { const char *keys, *path, *says; } bad[] = {
        {TEMPLATE("You are {{rolle}}.", "['role']", "[]"), "agent.system_prompt_template.template", "role"},
        {TEMPLATE("You are {{role.", "['role']", "[]"), "agent.system_prompt_template.template", "}}"},
        {TEMPLATE("You are {{}}.", "['role']", "[]"), "agent.system_prompt_template.template", "not declared"},
        {TEMPLATE("You are {{role}}.", "['role']", "['name']"), "agent.system_prompt_template.required[0]", "name"},
        {",'system_prompt_template':'You are kind.'", "agent.system_prompt_template", ""},
    };
    par_runtime_t *rt = mock(NULL);
    size_t i;
    for (i = 0; i < COUNT(bad); i++) {
        CHECK_INT(PAR_ERR_SCHEMA, registered(rt, bad[i].keys));
        CHECK_PATH(bad[i].path);
        CHECK_HAS(par_error_message(E), bad[i].says);
    }
    finish(rt);
}

/* ---- loops ------------------------------------------------------------------------------------------------------------------ */

TEST(a_repeated_call_is_stopped_and_the_model_told) {
    par_runtime_t *rt = adding("[" CALL("c1", 1, 2) ",{'tool_calls':[{'id':'c2','name':'add','input':{'b':2,'a':1}}]}," CALL("c3", 1, 2) ","
                               "{'expect':{'last_message_contains':'not executed'},'tool_calls':[{'id':'c4','name':'add','input':{'a':1,'b':3}}]},"
                               "{'expect':{'last_message_contains':'3'},'text':'I see'}]", NULL, ",'loop_guard':{'max_repeats':2}");
    struct tape *t = run(rt, GO, "3");
    CHECK_SAID("I see", t);
    CHECK_INT(3, count_of(t, "tool_call")); /* other arguments are another call; their order is not */
    CHECK_STR("true", json_raw(nth(t, "tool_result", 2), "is_error"));
    CHECK_STR("false", json_raw(nth(t, "tool_result", 3), "is_error"));
    finish(rt);
}

static par_runtime_t *repeating(int times, const char *agent_keys) {
    char *turns = NULL;
    int i;
    par_runtime_t *rt;
    for (i = 0; i < times; i++) cat(&turns, fmt("{'tool_calls':[{'id':'c%d','name':'add','input':{'a':1,'b':2}}]},", i));
    rt = adding(fmt("[%s{'text':'enough'}]", turns), NULL, agent_keys);
    free(turns);
    return rt;
}

TEST(a_model_that_will_not_be_told_ends_the_run) {
    par_runtime_t *rt = repeating(5, ",'loop_guard':{'max_repeats':2}");
    struct tape *t = run(rt, GO, "3");
    CHECK_FAILED(PAR_ERR_GUARD, "tool_loop", t);
    CHECK_INT(2, count_of(t, "tool_call"));
    CHECK_INT(5, count_of(t, "turn_started"));
    finish(rt);
    rt = repeating(4, ",'loop_guard':{'max_repeats':2}"); /* as many again are endured */
    CHECK_SAID("enough", run(rt, GO, "3"));
    finish(rt);
}

TEST(the_loop_guard_can_be_turned_off) {
    par_runtime_t *rt = repeating(15, ",'loop_guard':{'max_repeats':0}");
    struct tape *t = run(rt, GO, "3");
    CHECK_SAID("enough", t);
    CHECK_INT(15, count_of(t, "tool_call"));
    finish(rt);
}

TEST(the_loop_guard_has_a_default) {
    par_runtime_t *rt = repeating(7, "");
    struct tape *t = run(rt, GO, "3");
    CHECK_SAID("enough", t);
    CHECK_INT(5, count_of(t, "tool_call"));
    CHECK_SAID("enough", t = run(rt, GO, "3")); /* each run counts for itself */
    CHECK_INT(5, count_of(t, "tool_call"));
    finish(rt);
}

/* ---- what tools return ------------------------------------------------------------------------------------------------------ */

/* "line 0\n" to "line 999\n", 8890 bytes, as a JSON string. */
static const char *thousand_lines(void) {
    char *text = NULL;
    const char *kept;
    int i;
    cat(&text, "'");
    for (i = 0; i < 1000; i++) cat(&text, fmt("line %d\\n", i));
    cat(&text, "'");
    kept = fmt("%s", text);
    free(text);
    return kept;
}

#define HANDLE "par://blob/676ce19461dd694cabbb1dee4ca05d1b1b267870dcb3db586a654152abdcc6a3" /* its SHA-256 */

TEST(a_large_result_is_shown_by_head_and_tail) {
    par_runtime_t *rt = adding("[" CALL("c1", 1, 2) ",{'expect':{'contains':'line 0\\nline 1\\n','last_message_contains':'" HANDLE "',"
                               "'not_contains':'line 500'},'text':'ok'}]",
                               ",'max_output_bytes':600", "");
    struct tape *t = run(rt, GO, thousand_lines());
    const char *content = json_str(nth(t, "tool_result", 0), "content");
    CHECK_SAID("ok", t);
    CHECK_HAS(content, "line 0\nline 1\n");
    CHECK_HAS(content, "line 998\nline 999\n");
    CHECK_HAS(content, "8890 bytes");
    CHECK_HAS(content, HANDLE);
    CHECK(content && strlen(content) < 600 + 300);
    CHECK_STR("false", json_raw(nth(t, "tool_result", 0), "is_error"));
    finish(rt);
}

TEST(a_small_result_is_shown_whole) {
    par_runtime_t *rt = adding("[" CALL("c1", 1, 2) ",{'text':'ok'}]", ",'max_output_bytes':8890", "");
    struct tape *t = run(rt, GO, thousand_lines());
    CHECK_INT(8890, strlen(json_str(nth(t, "tool_result", 0), "content")));
    finish(rt);
    rt = mock_and("[" CALL("c1", 1, 2) ",{'text':'ok'}]", ",'limits':{'max_tool_output_bytes':1000}"); /* the default of all tools */
    tool(rt, "add", NULL);
    agent(rt, "a", "['add']");
    t = run(rt, GO, thousand_lines());
    CHECK_HAS(json_str(nth(t, "tool_result", 0), "content"), HANDLE);
    finish(rt);
    rt = mock(NULL);
    ST(PAR_ERR_SCHEMA, par_register_tool(rt, js("{'name':'t','max_output_bytes':10}"), PAR_NTS, &E));
    CHECK_PATH("tool.max_output_bytes");
    finish(rt);
}

#define READ(id, keys) "{'tool_calls':[{'id':'" id "','name':'read_blob','input':{'handle':'" HANDLE "'" keys "}}]}"

#define ZEROS "0000000000000000000000000000000000000000000000000000000000000000"

TEST(read_blob_reads_what_was_left_out) {
    par_runtime_t *rt = mock("[" CALL("c1", 1, 2) "," READ("c2", ",'offset':3886,'length':30") ","
                             READ("c3", ",'pattern':'LINE 50[01]$','ignore_case':true,'context':1") ","
                             READ("c4", "") "," READ("c5", ",'pattern':'('") "," READ("c6", ",'lines':3") ","
                             "{'tool_calls':[{'id':'c7','name':'read_blob','input':{'handle':'par://blob/" ZEROS "'}}]},"
                             "{'text':'ok'}]");
    struct tape *t;
    const char *result;
    tool(rt, "add", ",'max_output_bytes':600");
    agent(rt, "a", "['add','read_blob']");
    t = run(rt, GO, thousand_lines());
    CHECK_SAID("ok", t);
    CHECK_HAS(json_str(nth(t, "tool_result", 0), "content"), "read_blob");
    result = json_str(nth(t, "tool_result", 1), "content");
    CHECK_INT(3886, json_int(result, "offset"));
    CHECK_INT(8890, json_int(result, "total_bytes"));
    CHECK_INT(30, json_int(result, "length"));
    CHECK_STR("line 444\nline 445\nline 446\nlin", json_str(result, "content"));
    result = json_str(nth(t, "tool_result", 2), "content");
    CHECK_INT(2, json_int(result, "matches"));
    CHECK_STR("500-line 499\n501:line 500\n502:line 501\n503-line 502\n", json_str(result, "content"));
    CHECK_HAS(json_str(json_str(nth(t, "tool_result", 3), "content"), "content"), "line 0\n");
    CHECK_HAS(json_str(nth(t, "tool_result", 4), "content"), "regular expression");
    CHECK_HAS(json_str(nth(t, "tool_result", 5), "content"), "lines");
    CHECK_STR("true", json_raw(nth(t, "tool_result", 5), "is_error"));
    CHECK_HAS(json_str(nth(t, "tool_result", 6), "content"), "nothing under");
    CHECK_STR("true", json_raw(nth(t, "tool_result", 6), "is_error"));
    finish(rt);
}

TEST(read_blob_in_a_later_run_of_another_agent) {
    par_runtime_t *rt = runtime(js("{'llm_providers':{'p':{'type':'mock','turns':[" CALL("c1", 1, 2) ",{'text':'kept'}]},"
                                   "'q':{'type':'mock','turns':[" READ("c1", ",'pattern':'line 777'")
                                   ",{'expect':{'last_message_contains':'778:line 777'},'text':'found'}]}}}"));
    tool(rt, "add", ",'max_output_bytes':600");
    ST(PAR_OK, par_register_agent(rt, js("{'id':'a','model':'p/m','tools':['add']}"), PAR_NTS, &E));
    ST(PAR_OK, par_register_agent(rt, js("{'id':'b','model':'q/m','tools':['read_blob']}"), PAR_NTS, &E));
    CHECK_SAID("kept", run(rt, GO, thousand_lines()));
    CHECK_SAID("found", run(rt, js("{'agent':'b','input':'x'}"), NULL));
    finish(rt);
}

TEST(read_blob_reads_nothing_of_another_scope) { /* although the handle is known there */
    par_runtime_t *rt = runtime(js("{'llm_providers':{'p':{'type':'mock','turns':[" CALL("c1", 1, 2) ",{'text':'kept'}]},"
                                   "'q':{'type':'mock','turns':[" READ("c1", "") ",{'text':'read'}]}}}"));
    tool(rt, "add", ",'max_output_bytes':600");
    ST(PAR_OK, par_register_agent(rt, js("{'id':'a','model':'p/m','tools':['add']}"), PAR_NTS, &E));
    ST(PAR_OK, par_register_agent(rt, js("{'id':'b','model':'q/m','tools':['read_blob']}"), PAR_NTS, &E));
    CHECK_SAID("kept", run(rt, GO, thousand_lines()));
    CHECK_HAS(json_str(nth(run(rt, js("{'agent':'b','input':'x'}"), NULL), "tool_result", 0), "content"), "line 0");
    CHECK_HAS(json_str(nth(run(rt, js("{'agent':'b','input':'x','scope':'t'}"), NULL), "tool_result", 0), "content"), "nothing under");
    finish(rt);
}

TEST(old_blobs_make_room) { /* bounded memory: the oldest go first, and that is said */
    par_runtime_t *rt = mock_and("[" CALL("c1", 1, 2) "," READ("c2", "") ",{'text':'ok'}]", ",'limits':{'max_blob_bytes':100}");
    struct tape *t;
    tool(rt, "add", ",'max_output_bytes':600");
    agent(rt, "a", "['add','read_blob']");
    t = run(rt, GO, thousand_lines());
    CHECK_SAID("ok", t);
    CHECK_HAS(json_str(nth(t, "tool_result", 1), "content"), "let go");
    finish(rt);
}

TEST(a_result_beyond_all_bounds_is_refused) { /* for the host an error; its token still waits */
    par_runtime_t *rt = mock_and("[" CALL("c1", 1, 2) ",{'text':'ok'}]", ",'limits':{'max_tool_result_bytes':1024}");
    par_stream_t *s;
    uint64_t token;
    tool(rt, "add", NULL);
    agent(rt, "a", "['add']");
    s = start(rt, GO);
    token = token_of(until(s, "tool_call"));
    ST(PAR_ERR_TOO_LARGE, par_tool_complete(rt, token, js("%s", thousand_lines()), PAR_NTS, &E));
    ST(PAR_OK, par_tool_complete(rt, token, "3", PAR_NTS, &E));
    CHECK_SAID("ok", record(rt, s, NULL));
    finish(rt);
}

TEST(a_result_of_100_mb_is_refused) {
    par_runtime_t *rt = adding("[" CALL("c1", 1, 2) ",{'text':'ok'}]", NULL, "");
    par_stream_t *s = start(rt, GO);
    uint64_t token = token_of(until(s, "tool_call"));
    size_t size = 100u << 20;
    char *huge = malloc(size);
    memset(huge, 'x', size), huge[0] = huge[size - 1] = '"';
    ST(PAR_ERR_TOO_LARGE, par_tool_complete(rt, token, huge, size, &E));
    free(huge);
    ST(PAR_OK, par_tool_complete(rt, token, "\"\"", PAR_NTS, &E)); /* and one of nothing is fine */
    CHECK_SAID("ok", record(rt, s, NULL));
    finish(rt);
}

TEST(arguments_that_do_not_parse_are_told) {
    par_runtime_t *rt = adding("[{'tool_calls':[{'id':'c1','name':'add','input':'{\\\"a\\\": 1,'}]},"
                               "{'expect':{'last_message_contains':'not valid JSON'},'text':'I see'}]", NULL, "");
    struct tape *t = run(rt, GO, "3");
    CHECK_SAID("I see", t);
    CHECK_INT(0, count_of(t, "tool_call"));
    CHECK_HAS(json_raw(t->end, "tool_calls.0"), "invalid_arguments");
    finish(rt);
}

/* ---- images, documents, recordings ---------------------------------------------------------------------------------------- */

TEST(input_has_parts) {
    par_runtime_t *rt = answering("[{'expect':{'media':4,'last_message_contains':'What is this?','messages':1},'text':'a cat'}]", "");
    const char *session;
    CHECK_SAID("a cat", run(rt, js("{'agent':'a','session':'s','input':[{'type':'text','text':'What is this?'},"
                                   "{'type':'image','media_type':'image/png','data':'AAAA'},"
                                   "{'type':'image','url':'https://example.org/cat.png'},"
                                   "{'type':'document','media_type':'application/pdf','data':'AAA=','name':'cat.pdf'},"
                                   "{'type':'audio','media_type':'audio/wav','data':'AA=='}]}"), NULL));
    session = session_of(rt, "s");
    CHECK_STR("document", json_str(session, "messages.0.parts.3.type"));
    CHECK_STR("cat.pdf", json_str(session, "messages.0.parts.3.name"));
    finish(rt);
}

TEST(bad_media_say_where) {
    static const struct { const char *part, *path; } bad[] = {
        {"{'type':'image','media_type':'image/png','data':'?'}", "request.input[1].data"},
        {"{'type':'image','media_type':'image/png','data':'AAA'}", "request.input[1].data"},
        {"{'type':'image','media_type':'image/png','data':''}", "request.input[1].data"},
        {"{'type':'image','media_type':'png','data':'AAAA'}", "request.input[1].media_type"},
        {"{'type':'image','url':'file:///etc/passwd'}", "request.input[1].url"},
        {"{'type':'image'}", "request.input[1]"}, {"{'type':'image','data':'AAAA'}", "request.input[1]"},
        {"{'type':'image','data':'AAAA','media_type':'image/png','url':'https://x'}", "request.input[1]"},
        {"{'type':'video','url':'https://x'}", "request.input[1].type"}, {"{'type':'image','uri':'https://x'}", "request.input[1].uri"},
        {"3", "request.input[1]"},
    };
    par_runtime_t *rt = answering("[{'text':'never'}]", "");
    size_t i;
    for (i = 0; i < COUNT(bad); i++) {
        CHECK_INT(PAR_ERR_SCHEMA, attempt(rt, js("{'agent':'a','input':[{'type':'text','text':'x'},%s]}", bad[i].part)));
        if (!CHECK_PATH(bad[i].path)) printf("    for %s\n", bad[i].part);
    }
    CHECK_INT(PAR_ERR_SCHEMA, attempt(rt, js("{'agent':'a','input':[]}")));
    CHECK_PATH("request.input");
    finish(rt);
}

TEST(a_tool_returns_parts) {
    par_runtime_t *rt = adding("[" CALL("c1", 1, 2) ",{'expect':{'media':2,'last_message_contains':'see below'},'text':'a cat'}]", NULL, "");
    struct tape *t = run(rt, js("{'agent':'a','input':'x','session':'s'}"),
                         "{'content_parts':[{'type':'text','text':'see below'},{'type':'image','media_type':'image/png','data':'AAAA'},"
                         "{'type':'document','media_type':'application/pdf','data':'AAAA'}]}");
    CHECK_SAID("a cat", t);
    CHECK_STR("see below", json_str(nth(t, "tool_result", 0), "content"));
    CHECK_STR("image", json_str(nth(t, "tool_result", 0), "parts.0.type"));
    CHECK_STR("image/png", json_str(nth(t, "tool_result", 0), "parts.0.media_type"));
    CHECK_STR("document", json_str(session_of(rt, "s"), "messages.2.parts.1.type"));
    finish(rt);
}

TEST(bad_parts_of_a_tool_are_refused) { /* the host is told, and its token still waits */
    static const struct {
        const char *result, *path;
    } bad[] = {{"{'content_parts':[{'type':'image'}]}", "result.content_parts[0]"},
               {"{'content_parts':3}", "result.content_parts"},
               {"{'content_parts':[{'type':'text','text':'x'}],'more':1}", "result.content_parts"},
               {"{'content_parts':[{'type':'image','media_type':'image/png','data':'?'}]}", "result.content_parts[0].data"}};
    par_runtime_t *rt = mock("[{'text':'x'}]");
    size_t i;
    for (i = 0; i < COUNT(bad); i++) {
        ST(PAR_ERR_SCHEMA, par_tool_complete(rt, 1, js("%s", bad[i].result), PAR_NTS, &E));
        CHECK_PATH(bad[i].path);
    }
    finish(rt);
}
