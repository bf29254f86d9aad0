/* What runs may consume and what they cost; what a model still sees of a long conversation; and answers of a given shape. */
#include "t.h"

#define GO "{\"agent\":\"a\",\"input\":\"x\",\"run_id\":\"r\"}"
#define IN_S "{\"agent\":\"a\",\"input\":\"x\",\"session\":\"s\"}"
#define CALL(id) "{'usage':{'input_tokens':100,'output_tokens':10},'tool_calls':[{'id':'" id "','name':'add','input':{'a':1,'b':2}}]}"
#define SAY(text) "{'usage':{'input_tokens':100,'output_tokens':10},'text':'" text "'}"

/* A runtime with further keys, the tool "add", and the agent "a" with further keys. */
static par_runtime_t *spending(const char *turns, const char *runtime_keys, const char *agent_keys) {
    par_runtime_t *rt = mock_and(turns, runtime_keys);
    tool(rt, "add", NULL);
    agent_and(rt, "a", fmt(",'tools':['add']%s", agent_keys));
    return rt;
}

/* The same with one script for all runs together. */
static par_runtime_t *scripted(const char *turns, const char *runtime_keys, const char *agent_keys) {
    par_runtime_t *rt = runtime(js("{'llm_providers':{'mock':{'type':'mock','scope':'provider','turns':%s}}%s}", turns, runtime_keys));
    tool(rt, "add", NULL);
    agent_and(rt, "a", agent_keys);
    return rt;
}

/* ---- quotas --------------------------------------------------------------------------------------------------------- */

static void second_run_waits(par_runtime_t *rt) {
    par_stream_t *s = start(rt, js("{'agent':'a','input':'x'}")), *t;
    uint64_t token = token_of(until(s, "tool_call"));
    const char *event;
    t = start(rt, js("{'agent':'a','input':'x'}"));
    CHECK_STR("queued", json_str(until(t, "warning"), "code"));
    while ((event = next(t, 100)) != NULL) CHECK(!is(event, "turn_started"));
    ST(PAR_OK, par_tool_complete(rt, token, "3", PAR_NTS, &E));
    CHECK_SAID("ok", record(rt, s, "3"));
    CHECK_SAID("ok", record(rt, t, "3"));
}

TEST(max_concurrent_tasks_of_the_runtime) {
    par_runtime_t *rt = spending("[" CALL("c1") "," SAY("ok") "]", ",'default_quota':{'max_concurrent_tasks':1}", "");
    second_run_waits(rt);
    finish(rt);
}

TEST(max_concurrent_tasks_of_an_agent) { /* others are not concerned */
    par_runtime_t *rt = spending("[" CALL("c1") "," SAY("ok") "]", "", ",'resource_quota':{'max_concurrent_tasks':1}");
    par_stream_t *s;
    agent(rt, "b", "['add']");
    second_run_waits(rt);
    s = start(rt, GO);
    until(s, "tool_call");
    CHECK_SAID("ok", run(rt, js("{'agent':'b','input':'x'}"), "3"));
    par_stream_free(s);
    finish(rt);
}

TEST(whoever_waits_has_its_turn) {
    par_runtime_t *rt = spending("[{'text':'ok','delay_ms':20}]", ",'default_quota':{'max_concurrent_tasks':2}", "");
    par_stream_t *s[10];
    int i;
    for (i = 0; i < 10; i++) s[i] = start(rt, js("{'agent':'a','input':'x'}"));
    TAKES(0, 2000, for (i = 0; i < 10; i++) CHECK_SAID("ok", record(rt, s[i], NULL)));
    CHECK_INT(PAR_ERR_NO_HANDLER, attempt(rt, GO)); /* host tools and no host: said before waiting */
    finish(rt);
}

TEST(a_run_that_waits_can_be_cancelled) {
    par_runtime_t *rt = spending("[" CALL("c1") "," SAY("ok") "]", ",'default_quota':{'max_concurrent_tasks':1}", "");
    par_stream_t *s = start(rt, js("{'agent':'a','input':'x'}")), *t;
    uint64_t token = token_of(until(s, "tool_call"));
    struct tape *tape;
    t = start(rt, GO);
    until(t, "warning");
    ST(PAR_OK, par_run_cancel(rt, "r", PAR_NTS, "enough", PAR_NTS, &E));
    TAKES(0, 100, CHECK(is(record(rt, t, NULL)->end, "cancelled")));
    TAKES(90, 300, tape = run(rt, js("{'agent':'a','input':'x','timeout_ms':100}"), NULL)); /* its time runs while it waits */
    CHECK_FAILED(PAR_ERR_DEADLINE, NULL, tape);
    ST(PAR_OK, par_tool_complete(rt, token, "3", PAR_NTS, &E));
    CHECK_SAID("ok", record(rt, s, "3"));
    CHECK_SAID("ok", run(rt, js("{'agent':'a','input':'x'}"), "3")); /* no place was lost */
    finish(rt);
}

TEST(agents_do_not_wait_for_those_that_called_them) {
    par_runtime_t *rt = runtime(js("{'default_quota':{'max_concurrent_tasks':1},"
                                   "'llm_providers':{'p':{'type':'mock','turns':[{'tool_calls':[{'id':'c1','name':'b','input':{'task':'t'}}]},{'text':'ok'}]},"
                                   "'q':{'type':'mock','turns':[{'text':'37'}]}}}"));
    ST(PAR_OK, par_register_agent(rt, js("{'id':'b','model':'q/m','resource_quota':{'max_concurrent_tasks':1}}"), PAR_NTS, &E));
    ST(PAR_OK, par_register_agent(rt, js("{'id':'a','model':'p/m','sub_agents':['b'],'resource_quota':{'max_concurrent_tasks':1}}"), PAR_NTS, &E));
    CHECK_SAID("ok", run(rt, GO, NULL));
    ask(rt, "invoke_parallel", js("{'specs':[{'agent':'a','input':'x'},{'agent':'b','input':'x'},{'agent':'a','input':'x'}]}"));
    CHECK_INT(PAR_OK, status);
    finish(rt);
}

TEST(max_concurrent_tools_per_agent) { /* over all its runs */
    par_runtime_t *rt = spending("[{'tool_calls':[{'id':'c1','name':'add','input':{'a':1,'b':2}},"
                                 "{'id':'c2','name':'add','input':{'a':3,'b':4}}]}," SAY("ok") "]", "",
                                 ",'resource_quota':{'max_concurrent_tools_per_agent':1}");
    par_stream_t *s = start(rt, GO), *t;
    uint64_t token = token_of(until(s, "tool_call"));
    const char *event;
    t = start(rt, js("{'agent':'a','input':'x'}"));
    while ((event = next(s, 80)) != NULL) CHECK(!is(event, "tool_call"));
    while ((event = next(t, 80)) != NULL) CHECK(!is(event, "tool_call"));
    ST(PAR_OK, par_tool_complete(rt, token, "3", PAR_NTS, &E));
    par_stream_free(t);
    CHECK_SAID("ok", record(rt, s, "3"));
    finish(rt);
}

TEST(max_concurrent_tools_per_agent_of_the_default_quota) {
    par_runtime_t *rt = spending("[{'tool_calls':[{'id':'c1','name':'add','input':{'a':1,'b':2}},{'id':'c2','name':'add','input':{'a':3,'b':4}}]}," SAY("ok") "]",
                                 ",'default_quota':{'max_concurrent_tools_per_agent':1}", "");
    par_stream_t *s = start(rt, GO);
    uint64_t token = token_of(until(s, "tool_call"));
    const char *event;
    while ((event = next(s, 80)) != NULL)
        if (!CHECK(!is(event, "tool_call"))) ST(PAR_OK, par_tool_complete(rt, token_of(event), "3", PAR_NTS, &E));
    ST(PAR_OK, par_tool_complete(rt, token, "3", PAR_NTS, &E));
    CHECK_SAID("ok", record(rt, s, "3"));
    finish(rt);
}

#define MODEL_100 "'model':{'provider':'mock','model_name':'m','max_tokens':100}"

/* The most tokens the model is allowed in its one answer. */
static void allows(int tokens, const char *runtime_keys, const char *agent_keys, const char *request_keys) {
    par_runtime_t *rt = mock_and(fmt("[{'expect':{'max_tokens':%d},'text':'ok'}]", tokens), runtime_keys);
    ST(PAR_OK, par_register_agent(rt, js("{'id':'a',%s}", agent_keys), PAR_NTS, &E));
    if (!CHECK_SAID("ok", run(rt, js("{'agent':'a','input':'x'%s}", request_keys), NULL))) printf("    for %s %s %s\n", runtime_keys, agent_keys, request_keys);
    finish(rt);
}

TEST(max_tokens_per_turn) {
    allows(100, "", MODEL_100, "");
    allows(50, "", MODEL_100 ",'resource_quota':{'max_tokens_per_turn':50}", "");
    allows(100, "", MODEL_100 ",'resource_quota':{'max_tokens_per_turn':500}", "");
    allows(50, ",'default_quota':{'max_tokens_per_turn':50}", MODEL_100, "");
    allows(70, ",'default_quota':{'max_tokens_per_turn':50}", MODEL_100 ",'resource_quota':{'max_tokens_per_turn':70}", "");
    allows(50, "", "'model':'mock/m','resource_quota':{'max_tokens_per_turn':50}", "");
}

TEST(max_total_tokens) { /* prompts and answers together */
    par_runtime_t *rt = spending("[" CALL("c1") "," SAY("never") "]", "", ",'resource_quota':{'max_total_tokens':150}");
    CHECK_FAILED(PAR_ERR_LIMIT, "budget_exceeded", run(rt, GO, "3"));
    finish(rt);
    rt = spending("[" CALL("c1") "," SAY("never") "]", ",'default_quota':{'max_total_tokens':150}", "");
    CHECK_FAILED(PAR_ERR_LIMIT, "budget_exceeded", run(rt, GO, "3"));
    finish(rt);
    rt = spending("[" CALL("c1") "," SAY("ok") "]", "", ",'resource_quota':{'max_total_tokens':1000}");
    CHECK_SAID("ok", run(rt, GO, "3"));
    finish(rt);
}

TEST(bad_quotas_and_budgets_say_where) {
    static const struct { const char *config, *path; } bad[] = {
        {"'default_quota':{'max_concurrent_tasks':0}", "config.default_quota.max_concurrent_tasks"},
        {"'default_quota':{'max_tokens_per_turn':0}", "config.default_quota.max_tokens_per_turn"},
        {"'default_quota':{'max_task':1}", "config.default_quota.max_task"}, {"'budget':{'usd':0.5}", "config.budget.usd"},
        {"'budget':{'usd':'a dollar'}", "config.budget.usd"},
        {"'budget':{'usd':'-1'}", "config.budget.usd"}, {"'run_budget':{'requests':-1}", "config.run_budget.requests"},
        {"'session_budget':{'tokens':1}", "config.session_budget.tokens"},
        {"'unknown_price':'free'", "config.unknown_price"}, {"'models':{'m':{'price':{'input':'1'}}}", "config.models.m.price"},
        {"'models':{'m':{'price':{'input':1,'output':'1'}}}", "config.models.m.price.input"}, {"'models':{'m':{'window':1}}", "config.models.m.window"},
    };
    par_runtime_t *rt = NULL;
    size_t i;
    for (i = 0; i < COUNT(bad); i++) {
        ST(PAR_ERR_SCHEMA, par_runtime_create(PAR_ABI_VERSION, js("{%s}", bad[i].config), PAR_NTS, &rt, &E));
        if (!CHECK_PATH(bad[i].path)) printf("    for %s\n", bad[i].config);
    }
}

/* ---- budgets -------------------------------------------------------------------------------------------------------------- */

static void over_budget(const char *runtime_keys, const char *agent_keys, const char *request_keys, const char *path) {
    par_runtime_t *rt = spending("[" CALL("c1") "," SAY("never") "]", runtime_keys, agent_keys);
    struct tape *t = run(rt, js("{'agent':'a','input':'x'%s}", request_keys), "3");
    if (!CHECK_FAILED(PAR_ERR_LIMIT, "budget_exceeded", t) || !CHECK_STR(path, json_str(t->end, "error.path")))
        printf("    for %s %s %s\n", runtime_keys, agent_keys, request_keys);
    CHECK_STR("budget_exceeded", json_str(t->end, "error.category"));
    CHECK_STR("false", json_raw(t->end, "error.retryable"));
    CHECK_INT(100, json_int(t->end, "usage.input_tokens"));
    CHECK_INT(1, count_of(t, "tool_result")); /* what was begun before was done */
    valid(t->end, "messages");
    finish(rt);
}

#define PRICES ",'models':{'mock/m':{'price':{'input':'1','output':'10'}}}"

TEST(budgets_of_every_kind) { /* the first request fits, the second does not */
    over_budget("", "", ",'budget':{'requests':1}", "budget.requests");
    over_budget("", "", ",'budget':{'input_tokens':110}", "budget.input_tokens");
    over_budget("", "", ",'budget':{'output_tokens':10}", "budget.output_tokens");
    over_budget(PRICES, "", ",'budget':{'usd':'0.0002'}", "budget.usd");
}

TEST(budgets_in_every_place) { /* the request's goes before the agent's, and that before the runtime's */
    par_runtime_t *rt;
    over_budget("", ",'budget':{'requests':1}", "", "budget.requests");
    over_budget(",'run_budget':{'requests':1}", "", "", "budget.requests");
    over_budget(",'budget':{'requests':1}", "", "", "budget.requests");
    over_budget(",'session_budget':{'requests':1}", "", ",'session':'s'", "budget.requests");
    over_budget("", ",'budget':{'requests':9}", ",'budget':{'requests':1}", "budget.requests");
    over_budget(",'budget':{'requests':1},'run_budget':{'requests':9}", "", "", "budget.requests"); /* all runs together, whatever one may */
    rt = spending("[" CALL("c1") "," SAY("ok") "]", ",'run_budget':{'requests':1}", ",'budget':{'requests':1}");
    CHECK_SAID("ok", run(rt, js("{'agent':'a','input':'x','budget':{'requests':2}}"), "3"));
    CHECK_SAID("ok", run(rt, js("{'agent':'a','input':'x','budget':{}}"), "3"));
    finish(rt);
}

TEST(a_budget_of_tool_calls) {
    par_runtime_t *rt = spending("[" CALL("c1") "," CALL("c2") "," SAY("never") "]", "", ",'budget':{'tool_calls':1}");
    struct tape *t = run(rt, GO, "3");
    CHECK_FAILED(PAR_ERR_LIMIT, "budget_exceeded", t);
    CHECK_STR("budget.tool_calls", json_str(t->end, "error.path"));
    CHECK_INT(1, count_of(t, "tool_call"));
    valid(t->end, "messages");
    CHECK_HAS(json_str(t->end, "messages.4.content"), "not executed");
    finish(rt);
}

TEST(a_budget_of_nothing_allows_nothing) {
    static const struct { const char *budget, *path; } cases[] = {
        {"{'requests':0}", "budget.requests"}, {"{'input_tokens':0}", "budget.input_tokens"}, {"{'output_tokens':0}", "budget.output_tokens"},
        {"{'usd':'0'}", "budget.usd"}, {"{'wall_ms':0}", "budget.wall_ms"},
    };
    par_runtime_t *rt = spending("[{'text':'never'}]", PRICES, "");
    size_t i;
    for (i = 0; i < COUNT(cases); i++) {
        struct tape *t = run(rt, js("{'agent':'a','input':'x','budget':%s}", cases[i].budget), NULL);
        if (!CHECK_FAILED(PAR_ERR_LIMIT, "budget_exceeded", t) || !CHECK_STR(cases[i].path, json_str(t->end, "error.path")))
            printf("    for %s\n", cases[i].budget);
        CHECK_INT(0, count_of(t, "text_delta"));
    }
    finish(rt);
}

TEST(a_budget_of_time_interrupts) {
    par_runtime_t *rt = spending("[{'text':'late','delay_ms':5000}]", "", "");
    struct tape *t;
    TAKES(190, 250, t = run(rt, js("{'agent':'a','input':'x','budget':{'wall_ms':200}}"), NULL));
    CHECK_FAILED(PAR_ERR_LIMIT, "budget_exceeded", t);
    CHECK_STR("budget.wall_ms", json_str(t->end, "error.path"));
    finish(rt);
}

TEST(a_session_has_a_budget) {
    par_runtime_t *rt = spending("[" SAY("ok") "]", ",'session_budget':{'output_tokens':25}", "");
    struct tape *t;
    CHECK_SAID("ok", run(rt, IN_S, NULL));
    CHECK_SAID("ok", run(rt, IN_S, NULL));
    t = run(rt, IN_S, NULL);
    CHECK_SAID("ok", t); /* 5 tokens were left */
    CHECK_FAILED(PAR_ERR_LIMIT, "budget_exceeded", run(rt, IN_S, NULL));
    CHECK_SAID("ok", run(rt, js("{'agent':'a','input':'x','session':'t'}"), NULL));
    CHECK_SAID("ok", run(rt, js("{'agent':'a','input':'x'}"), NULL));
    finish(rt);
}

TEST(a_session_counts_runs_that_failed) {
    par_runtime_t *rt = spending("[" CALL("c1") ",{'error':{'http_status':400}}]", ",'session_budget':{'output_tokens':10}", "");
    CHECK_FAILED(PAR_ERR_LIMIT, NULL, run(rt, IN_S, "3"));
    CHECK_FAILED(PAR_ERR_LIMIT, "budget_exceeded", run(rt, IN_S, "3"));
    CHECK_INT(3, elements(session_of(rt, "s"), "messages"));
    finish(rt);
}

TEST(a_session_counts_tool_calls) {
    par_runtime_t *rt = spending("[" CALL("c1") "," SAY("ok") "]", ",'session_budget':{'tool_calls':1}", "");
    struct tape *t;
    CHECK_SAID("ok", run(rt, IN_S, "3"));
    t = run(rt, IN_S, "3");
    CHECK_FAILED(PAR_ERR_LIMIT, "budget_exceeded", t);
    CHECK_STR("budget.tool_calls", json_str(t->end, "error.path"));
    finish(rt);
}

TEST(a_runtime_has_a_budget) { /* over all sessions */
    par_runtime_t *rt = spending("[" SAY("ok") "]", ",'budget':{'requests':2}", "");
    struct tape *t;
    CHECK_SAID("ok", run(rt, IN_S, NULL));
    CHECK_SAID("ok", run(rt, js("{'agent':'a','input':'x','session':'t'}"), NULL));
    t = run(rt, js("{'agent':'a','input':'x','session':'u'}"), NULL);
    CHECK_FAILED(PAR_ERR_LIMIT, "budget_exceeded", t);
    CHECK_HAS(json_str(t->end, "error.message"), "runtime");
    finish(rt);
}

TEST(runs_at_the_same_time_do_not_overdraw) {
    par_runtime_t *rt = spending("[{'usage':{'input_tokens':1,'output_tokens':10},'text':'ok','delay_ms':30}]", ",'budget':{'output_tokens':50}", "");
    par_stream_t *s[12];
    int i, spent = 0;
    for (i = 0; i < 12; i++) s[i] = start(rt, js("{'agent':'a','input':'x'}"));
    for (i = 0; i < 12; i++) {
        struct tape *t = record(rt, s[i], NULL);
        if (is(t->end, "completed")) spent += (int)json_int(t->end, "usage.output_tokens");
        else CHECK_FAILED(PAR_ERR_LIMIT, "budget_exceeded", t);
    }
    CHECK(spent > 0 && spent <= 50);
    finish(rt);
}

TEST(a_budget_shortens_the_answer) {
    par_runtime_t *rt;
    allows(50, "", MODEL_100, ",'budget':{'output_tokens':50}");
    allows(100, "", MODEL_100, ",'budget':{'output_tokens':500}");
    allows(50, ",'budget':{'output_tokens':50}", "'model':'mock/m'", "");
    allows(50, ",'models':{'m':{'price':{'input':'0','output':'10'}}}", MODEL_100, ",'budget':{'usd':'0.0005'}");
    rt = spending("[{'expect':{'max_tokens':50},'usage':{'input_tokens':1,'output_tokens':20},'tool_calls':[{'id':'c1','name':'add','input':{'a':1,'b':2}}]},"
                  "{'expect':{'max_tokens':30},'text':'ok'}]", "", "");
    CHECK_SAID("ok", run(rt, js("{'agent':'a','input':'x','budget':{'output_tokens':50}}"), "3"));
    finish(rt);
}

TEST(an_unknown_price_is_never_free) {
    par_runtime_t *rt = spending("[" SAY("ok") "]", "", "");
    struct tape *t = run(rt, js("{'agent':'a','input':'x','budget':{'usd':'1'}}"), NULL);
    CHECK_FAILED(PAR_ERR_LIMIT, "unknown_price", t);
    CHECK_STR("budget.usd", json_str(t->end, "error.path"));
    CHECK_HAS(json_str(t->end, "error.hint"), "models");
    CHECK_INT(0, json_int(t->end, "usage.output_tokens"));
    CHECK_SAID("ok", run(rt, js("{'agent':'a','input':'x','budget':{'requests':1}}"), NULL)); /* only money needs prices */
    finish(rt);
}

TEST(an_unknown_price_can_be_ignored) { /* and the run says so */
    par_runtime_t *rt = spending("[" SAY("ok") "]", ",'unknown_price':'ignore'", "");
    struct tape *t = run(rt, js("{'agent':'a','input':'x','budget':{'usd':'1'}}"), NULL);
    CHECK_SAID("ok", t);
    CHECK_STR("unknown_price", json_str(nth(t, "warning", 0), "code"));
    CHECK(json_at(t->end, "cost_usd") == NULL);
    t = run(rt, js("{'agent':'a','input':'x'}"), NULL); /* nobody asked for prices */
    CHECK_INT(0, count_of(t, "warning"));
    finish(rt);
}

static void costs(const char *models, const char *usage, const char *cost) {
    par_runtime_t *rt = spending(fmt("[{'text':'ok','usage':%s}]", usage), models, "");
    if (!CHECK_STR(cost, json_str(run(rt, GO, NULL)->end, "cost_usd"))) printf("    for %s\n", models);
    finish(rt);
}

TEST(costs_are_exact) {
    static const char usage[] = "{'input_tokens':1000,'output_tokens':200}";
    costs("", usage, NULL);
    costs(",'models':{'mock/m':{'price':{'input':'1','output':'10'}}}", usage, "0.003");
    costs(",'models':{'m':{'price':{'input':'0.15','output':'0.6'}}}", usage, "0.00027");
    costs(",'models':{'mock/*':{'price':{'input':'1','output':'10'}},'mock/m':{'price':{'input':'2','output':'20'}}}", usage, "0.006");
    costs(",'models':{'other/*':{'price':{'input':'1','output':'10'}}}", usage, NULL);
    costs(",'models':{'m':{'price':{'input':'1','output':'10','cache_read':'0.1','cache_write':'1.25'}}}",
          "{'input_tokens':1000,'output_tokens':200,'cache_read_tokens':1000,'cache_write_tokens':100}", "0.003225");
    costs(",'models':{'m':{'price':{'input':'0','output':'0'}}}", usage, "0");
}

TEST(models_are_known) {
    par_runtime_t *rt = runtime(js("{'models':{'gpt-4o*':{'context_window':7}},'llm_providers':{'openai':{'type':'openai','api_key':'k'}}}"));
    const char *model = ask(rt, "models.get", js("{'model':'openai/gpt-4o-mini'}"));
    CHECK_INT(PAR_OK, status);
    CHECK_INT(7, json_int(model, "profile.context_window")); /* what the host says goes before */
    CHECK_STR("native", json_str(model, "profile.structured_output"));
    CHECK(json_str(model, "profile.price.input") != NULL);
    CHECK(json_str(model, "table_as_of") != NULL);
    ask(rt, "models.get", js("{'model':3}"));
    CHECK_INT(PAR_ERR_SCHEMA, status);
    CHECK_PATH("params.model");
    ask(rt, "models.get", js("{'model':'opnai/gpt-4o'}"));
    CHECK_INT(PAR_ERR_NOT_FOUND, status);
    finish(rt);
}

/* ---- what the model still sees ------------------------------------------------------------------------------------------------- */

/* Four characters a token as long as nobody says otherwise: a usage of 0 says nothing. */
#define SEES(messages) "{'expect':{'messages':" #messages "},'text':'ok','usage':{'input_tokens':0,'output_tokens':1}}"

static const char *saying(int characters) { /* a request of so many characters in the session "s" */
    char *text = t_alloc((size_t)characters);
    memset(text, 'x', (size_t)characters);
    return js("{'agent':'a','session':'s','input':'%s'}", text);
}

TEST(sliding_window_by_messages) {
    par_runtime_t *rt = scripted("[" SEES(1) "," SEES(3) "," SEES(3) "," SEES(3) "]", "", ",'context_strategy':{'type':'sliding_window','max_messages':4}");
    struct tape *t;
    CHECK_SAID("ok", run(rt, IN_S, NULL));
    CHECK_SAID("ok", t = run(rt, IN_S, NULL));
    CHECK_INT(0, count_of(t, "compaction"));
    CHECK_SAID("ok", t = run(rt, IN_S, NULL));
    CHECK_STR("max_messages", json_str(nth(t, "compaction", 0), "trigger"));
    CHECK_STR("sliding_window", json_str(nth(t, "compaction", 0), "strategy"));
    CHECK_INT(5, json_int(nth(t, "compaction", 0), "messages_before"));
    CHECK_INT(3, json_int(nth(t, "compaction", 0), "messages_after"));
    CHECK(json_int(nth(t, "compaction", 0), "tokens_after") <= json_int(nth(t, "compaction", 0), "tokens_before"));
    CHECK_STR("history_changed", json_str(nth(t, "cache_bust", 0), "reason"));
    CHECK_SAID("ok", run(rt, IN_S, NULL));
    finish(rt);
}

TEST(sliding_window_by_tokens) {
    par_runtime_t *rt = scripted("[" SEES(1) "," SEES(3) "," SEES(3) "]", "", ",'context_strategy':{'type':'sliding_window','max_tokens':300}");
    struct tape *t;
    CHECK_SAID("ok", run(rt, saying(400), NULL));
    CHECK_SAID("ok", run(rt, saying(400), NULL));
    CHECK_SAID("ok", t = run(rt, saying(400), NULL)); /* 300 tokens and a little */
    CHECK_STR("max_tokens", json_str(nth(t, "compaction", 0), "trigger"));
    CHECK(json_int(nth(t, "compaction", 0), "tokens_after") <= 300);
    finish(rt);
}

TEST(compaction_is_for_the_model_alone) { /* the host's session has everything */
    par_runtime_t *rt = scripted("[" SEES(1) "," SEES(1) "," SEES(1) "]", "", ",'context_strategy':{'type':'sliding_window','max_messages':1}");
    const char *session;
    int i, n = 0;
    for (i = 0; i < 3; i++) CHECK_SAID("ok", run(rt, js("{'agent':'a','session':'s','input':'number %d'}", i), NULL));
    session = session_of(rt, "s");
    for (i = 0; i < elements(session, "messages"); i++) n += !strcmp(json_str(session, fmt("messages.%d.role", i)), "compaction");
    CHECK_INT(2, n);
    CHECK_HAS(session, "number 0");
    CHECK_HAS(session, "number 2");
    finish(rt);
}

TEST(truncate_oldest) {
    par_runtime_t *rt = scripted("[" SEES(1) "," SEES(3) "," SEES(3) "," SEES(5) "]", "",
                                 ",'context_strategy':{'type':'truncate_oldest','max_tokens':300,'min_messages':1}");
    struct tape *t;
    CHECK_SAID("ok", run(rt, saying(400), NULL));
    CHECK_SAID("ok", run(rt, saying(400), NULL));
    CHECK_SAID("ok", t = run(rt, saying(400), NULL));
    CHECK_STR("truncate_oldest", json_str(nth(t, "compaction", 0), "strategy"));
    CHECK_STR("max_tokens", json_str(nth(t, "compaction", 0), "trigger"));
    CHECK(json_int(nth(t, "compaction", 0), "tokens_after") <= 300);
    CHECK_SAID("ok", run(rt, saying(4), NULL)); /* what was dropped stays dropped, and more is not until it must */
    finish(rt);
}

TEST(truncate_oldest_keeps_so_many) { /* and says when those alone are too many */
    par_runtime_t *rt = scripted("[" SEES(1) "," SEES(3) "]", "", ",'context_strategy':{'type':'truncate_oldest','max_tokens':200,'min_messages':3}");
    struct tape *t;
    CHECK_SAID("ok", run(rt, saying(300), NULL));
    t = run(rt, saying(600), NULL);
    CHECK_FAILED(PAR_ERR_CONTEXT_LENGTH, "context_length", t);
    CHECK_HAS(json_str(t->end, "error.hint"), "min_messages");
    CHECK_SAID("ok", run(rt, saying(4), NULL)); /* the session is as it was */
    finish(rt);
}

TEST(bad_strategies_say_where) {
    static const struct { const char *strategy, *path; } bad[] = {
        {"'shrink'", ""}, {"{'type':'sliding_window','max_messages':0}", ".max_messages"}, {"{'type':'sliding_window','max':3}", ".max"},
        {"{'type':'truncate_oldest','keep_system':false}", ".keep_system"}, {"{'type':'truncate_oldest','min_messages':0}", ".min_messages"},
        {"{'type':'summarize','max_tokens':0}", ".max_tokens"}, {"{'type':'summarize','summary_model':3}", ".summary_model"},
    };
    par_runtime_t *rt = mock(NULL);
    size_t i;
    for (i = 0; i < COUNT(bad); i++) {
        ST(PAR_ERR_SCHEMA, par_register_agent(rt, js("{'id':'a','model':'mock/m','context_strategy':%s}", bad[i].strategy), PAR_NTS, &E));
        if (!CHECK_HAS(json_str(par_error_json(E), "path"), fmt("agent.context_strategy%s", bad[i].path))) printf("    for %s\n", bad[i].strategy);
    }
    ST(PAR_ERR_NOT_FOUND, par_register_agent(rt, js("{'id':'a','model':'mock/m','context_strategy':{'type':'summarize','summary_model':'nobody/m'}}"),
                                             PAR_NTS, &E));
    CHECK_HAS(json_str(par_error_json(E), "path"), "summary_model");
    finish(rt);
}

/* The model's window has 200 tokens, so that 100 make it too full; "sum" summarizes. */
static par_runtime_t *summarizing(const char *turns, const char *summary, const char *agent_keys) {
    par_runtime_t *rt = runtime(js("{'llm_providers':{'mock':{'type':'mock','scope':'provider','turns':%s},"
                                   "'sum':{'type':'mock','scope':'provider','turns':[%s]}}}", turns, summary));
    ST(PAR_OK, par_register_agent(rt, js("{'id':'a','model':'mock/m','system_prompt':'Be kind.',"
                                         "'context_strategy':{'type':'summarize','summary_model':'sum/m','keep_messages':1,'max_tokens':64},"
                                         "'context_window_override':200,'context_compression_threshold':0.5%s}", agent_keys), PAR_NTS, &E));
    return rt;
}

#define QUESTION                                                                                                                                         \
    "what was it that I have said to you before, and how often? What was it that I have said to you before? And tell me, please: how often was it?"
#define SUMMARY "{'expect':{'contains':'User: xxxx','max_tokens':64},'text':'They said x.','usage':{'input_tokens':1000,'output_tokens':7}}"

TEST(summarize) {
    par_runtime_t *rt = summarizing("[" SEES(1) ",{'expect':{'contains':'They said x.','not_contains':'xxxxx','system_contains':'Be kind.'},'text':'ok',"
                                    "'usage':{'input_tokens':0,'output_tokens':1}},"
                                    "{'expect':{'contains':'They said x.'},'text':'ok'}]", SUMMARY, "");
    struct tape *t;
    CHECK_SAID("ok", run(rt, saying(300), NULL));
    t = run(rt, js("{'agent':'a','session':'s','input':'" QUESTION "'}"), NULL);
    CHECK_SAID("ok", t);
    CHECK_STR("summarize", json_str(nth(t, "compaction", 0), "strategy"));
    CHECK_STR("threshold", json_str(nth(t, "compaction", 0), "trigger"));
    CHECK_INT(1000, json_int(t->end, "usage.input_tokens")); /* it is paid for */
    CHECK_LACKS(t->seen.text, "They said"); /* and told to nobody but the model */
    CHECK_SAID("ok", run(rt, js("{'agent':'a','session':'s','input':'go on'}"), NULL)); /* kept in the session */
    finish(rt);
}

TEST(a_summary_that_fails) { /* then the oldest messages are dropped instead, and that is said */
    static const char *const failures[] = {"{'error':{'http_status':400}}", "{'text':' '}"};
    size_t i;
    for (i = 0; i < COUNT(failures); i++) {
        par_runtime_t *rt = summarizing("[" SEES(1) ",{'expect':{'not_contains':'xxxxx'},'text':'ok'}]", failures[i], "");
        struct tape *t;
        CHECK_SAID("ok", run(rt, saying(300), NULL));
        t = run(rt, js("{'agent':'a','session':'s','input':'" QUESTION "'}"), NULL);
        CHECK_SAID("ok", t);
        CHECK_STR("summary_failed", json_str(nth(t, "warning", 0), "code"));
        CHECK_STR("truncate_oldest", json_str(nth(t, "compaction", 0), "strategy"));
        finish(rt);
    }
}

TEST(compaction_cools_down) {
    par_runtime_t *rt = scripted("[" SEES(1) "," SEES(1) "," SEES(3) "," SEES(5) "," SEES(1) "]", "",
                                 ",'context_strategy':{'type':'sliding_window'},'context_window_override':200,'context_compression_threshold':0.5,"
                                 "'compression_cooldown_messages':6");
    int i, compactions[5];
    for (i = 0; i < 5; i++) {
        struct tape *t = run(rt, saying(380), NULL);
        CHECK_SAID("ok", t);
        compactions[i] = count_of(t, "compaction");
    }
    CHECK_INT(0, compactions[0]);
    CHECK_INT(1, compactions[1]);
    CHECK_INT(0, compactions[2] + compactions[3]);
    CHECK_INT(1, compactions[4]);
    finish(rt);
}

#define TOO_LONG "{'error':{'http_status':400,'message':'This models maximum context length is 10 tokens.'}}"

TEST(a_provider_that_finds_it_too_long) { /* is given less, at once */
    par_runtime_t *rt = scripted("[" SEES(1) "," SEES(3) "," SEES(5) "," TOO_LONG ",{'text':'ok'}]", "", "");
    struct tape *t;
    int i;
    for (i = 0; i < 3; i++) CHECK_SAID("ok", run(rt, saying(400), NULL));
    t = run(rt, saying(400), NULL);
    CHECK_SAID("ok", t);
    CHECK_STR("context_length", json_str(nth(t, "compaction", 0), "trigger"));
    CHECK_INT(7, json_int(nth(t, "compaction", 0), "messages_before"));
    CHECK(json_int(nth(t, "compaction", 0), "tokens_after") * 2 <= json_int(nth(t, "compaction", 0), "tokens_before"));
    CHECK_INT(1, json_int(t->end, "iterations"));
    finish(rt);
}

TEST(a_provider_that_always_finds_it_too_long) {
    par_runtime_t *rt = scripted("[" SEES(1) "," TOO_LONG "," TOO_LONG "," TOO_LONG "," TOO_LONG "," TOO_LONG "]", "", "");
    CHECK_SAID("ok", run(rt, saying(400), NULL));
    CHECK_FAILED(PAR_ERR_CONTEXT_LENGTH, "context_length", run(rt, saying(400), NULL));
    finish(rt);
}

TEST(no_strategy_drops_nothing) {
    par_runtime_t *rt = scripted("[" SEES(1) "," SEES(3) "," TOO_LONG "," SEES(5) "]", "", ",'context_strategy':'none','context_window_override':10");
    struct tape *t;
    CHECK_SAID("ok", run(rt, saying(400), NULL));
    CHECK_SAID("ok", t = run(rt, saying(400), NULL));
    CHECK_INT(0, count_of(t, "compaction"));
    t = run(rt, saying(400), NULL);
    CHECK_FAILED(PAR_ERR_CONTEXT_LENGTH, "context_length", t); /* the provider's own error */
    CHECK_HAS(json_str(t->end, "error.message"), "maximum context length");
    finish(rt);
}

static void check_view(void *context, const char *event) {
    struct tape *tape = context;
    t_record(tape, event);
    if (!is(event, "middleware_call")) return;
    valid(event, "payload.messages");
    ST(PAR_OK, par_tool_complete(tape->rt, token_of(event), "null", PAR_NTS, &E));
}

TEST(a_call_and_its_result_stay_together) { /* whatever the window cuts, no provider would refuse the rest */
    static const char *const strategies[] = {"{'type':'sliding_window','max_messages':4}", "{'type':'sliding_window','max_messages':5}",
                                             "{'type':'sliding_window','max_messages':7}",
                                             "{'type':'truncate_oldest','max_tokens':100,'min_messages':1}",
                                             "{'type':'truncate_oldest','max_tokens':130,'min_messages':3}"};
    size_t i;
    int round;
    for (i = 0; i < COUNT(strategies); i++) {
        char *turns = NULL;
        par_runtime_t *rt;
        int compactions = 0;
        for (round = 0; round < 12; round++)
            cat(&turns, fmt("{'usage':{'input_tokens':0,'output_tokens':1},'text':'Let me see.',"
                            "'tool_calls':[{'id':'c%da','name':'add','input':{'a':%d,'b':2}},{'id':'c%db','name':'add','input':{'a':%d,'b':3}}]},", round,
                            round, round, round));
        rt = mock(fmt("[%s{'text':'ok'}]", turns));
        free(turns);
        tool(rt, "add", NULL);
        agent_and(rt, "a", fmt(",'tools':['add'],'context_strategy':%s,'middleware':[{'type':'host','name':'h','hooks':['before_llm']}]", strategies[i]));
        for (round = 0; round < 2; round++) {
            struct tape *t = tape_of(rt, "37");
            par_stream_t *s = start(rt, IN_S);
            t->seen = drive(s, check_view, t);
            t->end = t->seen.terminal;
            if (!CHECK_SAID("ok", t)) printf("    for %s\n", strategies[i]);
            compactions += count_of(t, "compaction");
            par_stream_free(s);
        }
        CHECK(compactions > 0);
        finish(rt);
    }
}

/* ---- what spoils a prompt cache ---------------------------------------------------------------------------------------------------- */

static const char *busts(par_runtime_t *rt, const char *request) {
    struct tape *t = run(rt, request, "3");
    CHECK(is(t->end, "completed"));
    CHECK(count_of(t, "cache_bust") <= 1);
    return json_str(nth(t, "cache_bust", 0), "reason");
}

TEST(a_conversation_that_goes_on_spoils_nothing) {
    par_runtime_t *rt = spending("[" CALL("c1") "," SAY("ok") "]", "", ",'system_prompt':'Be kind.'");
    int i;
    for (i = 0; i < 3; i++) CHECK_STR(NULL, busts(rt, IN_S));
    CHECK_STR(NULL, busts(rt, GO));
    finish(rt);
}

TEST(other_tools_spoil_it) {
    par_runtime_t *rt = spending("[" SAY("ok") "]", "", "");
    tool(rt, "mul", NULL);
    CHECK_STR(NULL, busts(rt, IN_S));
    ask(rt, "agents.update", js("{'agent':'a','add_tools':['mul']}"));
    CHECK_STR("tools_changed", busts(rt, IN_S));
    CHECK_STR(NULL, busts(rt, IN_S));
    ask(rt, "tools.replace", js("{'tool':{'name':'mul','description':'New.'}}"));
    CHECK_STR("tools_changed", busts(rt, IN_S));
    ask(rt, "agents.update", js("{'agent':'a','remove_tools':['mul']}"));
    CHECK_STR("tools_changed", busts(rt, IN_S));
    finish(rt);
}

TEST(another_system_prompt_spoils_it) {
    par_runtime_t *rt = spending("[" SAY("ok") "]", "", ",'system_prompt_template':{'template':'You are {{role}}.','variables':['role']}");
    CHECK_STR(NULL, busts(rt, js("{'agent':'a','input':'x','session':'s','variables':{'role':'kind'}}")));
    CHECK_STR(NULL, busts(rt, js("{'agent':'a','input':'x','session':'s','variables':{'role':'kind'}}")));
    CHECK_STR("system_changed", busts(rt, js("{'agent':'a','input':'x','session':'s','variables':{'role':'brief'}}")));
    finish(rt);
}

TEST(another_agent_spoils_it) {
    par_runtime_t *rt = spending("[" SAY("ok") "]", "", "");
    ST(PAR_OK, par_register_agent(rt, js("{'id':'b','model':'mock/other','tools':['add']}"), PAR_NTS, &E));
    CHECK_STR(NULL, busts(rt, IN_S));
    CHECK_STR("model_changed", busts(rt, js("{'agent':'b','input':'x','session':'s'}")));
    finish(rt);
}

/* ---- answers of a shape --------------------------------------------------------------------------------------------------------------- */

#define PERSON "{'type':'object','properties':{'name':{'type':'string'},'age':{'type':'integer'}},'required':['name','age'],'additionalProperties':false}"
#define ANN "{\\\"name\\\":\\\"Ann\\\",\\\"age\\\":30}"
#define OLD "{\\\"name\\\":\\\"Ann\\\",\\\"age\\\":\\\"thirty\\\"}"

static const char *wanting(const char *keys) { return js("{'agent':'a','input':'x','session':'s','response_schema':" PERSON "%s}", keys); }

static struct tape *shaped(const char *turns, const char *keys) {
    par_runtime_t *rt = mock(turns);
    struct tape *t;
    agent(rt, "a", NULL);
    t = run(rt, wanting(keys), NULL);
    t->answer = session_of(rt, "s");
    finish(rt);
    return t;
}

#define CHECK_ANN(tape) CHECK_STR("{\"name\":\"Ann\",\"age\":30}", ann_of(tape))

static const char *ann_of(struct tape *t) { /* whatever the order of its keys */
    const char *output = json_raw(t->end, "output");
    if (!is(t->end, "completed")) printf("    %s\n", t->end);
    return output && elements(output, "x") < 0 ? fmt("{\"name\":%s,\"age\":%s}", json_raw(output, "name"), json_raw(output, "age")) : output;
}

TEST(held_to_it_by_the_provider) {
    struct tape *t = shaped("[{'expect':{'has_schema':true,'tool_choice':'auto','tools':[]},'text':'" ANN "'}]", "");
    CHECK_ANN(t); /* what the mock does best */
    CHECK_STR("{\"name\":\"Ann\",\"age\":30}", json_str(t->end, "text"));
    CHECK_ANN(shaped("[{'expect':{'has_schema':true},'text':'" ANN "'}]", ",'output_mode':'native'"));
}

TEST(held_to_it_by_a_tool) {
    struct tape *t = shaped("[{'expect':{'has_schema':false,'tool_choice':'final_answer','tools':['final_answer']},"
                            "'tool_calls':[{'id':'c1','name':'final_answer','input':{'name':'Ann','age':30}}]}]",
                            ",'output_mode':'tool'");
    CHECK_ANN(t);
    CHECK_INT(0, count_of(t, "tool_call") + count_of(t, "tool_call_start") + count_of(t, "tool_result")); /* no call for the host */
    CHECK(count_of(t, "output_delta") > 0);
    valid(t->answer, "messages");
}

TEST(held_to_it_by_words) {
    struct tape *t = shaped("[{'expect':{'has_schema':false,'tool_choice':'auto','tools':[],'system_contains':'additionalProperties'},"
                            "'text':'Here you are:\\n```json\\n" ANN "\\n```'}]", ",'output_mode':'prompted'");
    CHECK_ANN(t); /* and what stands around it is no trouble */
}

TEST(held_to_it_as_the_models_profile_says) {
    par_runtime_t *rt = mock_and("[{'expect':{'has_schema':false,'system_contains':'JSON Schema'},'text':'" ANN "'}]",
                                 ",'models':{'mock/m':{'structured_output':'prompted'}}");
    agent(rt, "a", NULL);
    CHECK_ANN(run(rt, wanting(""), NULL));
    finish(rt);
}

TEST(an_answer_that_does_not_fit_is_mended) {
    struct tape *t = shaped("[{'text':'" OLD "'},{'expect':{'last_message_contains':'integer','messages':3},'text':'no idea'},"
                            "{'expect':{'last_message_contains':'no JSON','messages':5},'text':'" ANN "'}]", "");
    CHECK_ANN(t);
    CHECK_INT(2, count_of(t, "output_repair"));
    CHECK_INT(2, json_int(nth(t, "output_repair", 0), "attempt"));
    CHECK_INT(3, json_int(nth(t, "output_repair", 1), "attempt"));
    CHECK_HAS(json_str(nth(t, "output_repair", 0), "problem"), "age");
    CHECK_INT(3, json_int(t->end, "iterations"));
}

TEST(an_answer_by_a_tool_is_mended) {
    struct tape *t = shaped("[{'tool_calls':[{'id':'c1','name':'final_answer','input':{'name':'Ann'}}]},"
                            "{'expect':{'last_message_contains':'age'},'tool_calls':[{'id':'c2','name':'final_answer','input':{'name':'Ann','age':30}}]}]",
                            ",'output_mode':'tool'");
    CHECK_ANN(t);
    CHECK_INT(1, count_of(t, "output_repair"));
    valid(t->answer, "messages");
}

TEST(an_answer_in_words_where_a_tool_was_wanted) {
    CHECK_ANN(shaped("[{'text':'" ANN "'}]", ",'output_mode':'tool'"));
    CHECK_ANN(shaped("[{'text':'I am Ann.'},{'tool_calls':[{'id':'c1','name':'final_answer','input':{'name':'Ann','age':30}}]}]", ",'output_mode':'tool'"));
}

TEST(an_answer_that_never_fits) {
    struct tape *t = shaped("[{'text':'" OLD "'},{'text':'" OLD "'},{'text':'" OLD "'},{'text':'never'}]", ",'max_repair_attempts':2");
    CHECK_FAILED(PAR_ERR_INVALID_OUTPUT, "invalid_output", t);
    CHECK_INT(2, count_of(t, "output_repair"));
    CHECK_INT(3, count_of(t, "turn_started"));
    CHECK_HAS(json_str(t->end, "error.message"), "age");
    t = shaped("[{'text':'" OLD "'},{'text':'never'}]", ",'max_repair_attempts':0");
    CHECK_FAILED(PAR_ERR_INVALID_OUTPUT, "invalid_output", t);
    CHECK_INT(0, count_of(t, "output_repair"));
    CHECK_FAILED(PAR_ERR_INVALID_OUTPUT, "invalid_output", shaped("[{'text':'a'},{'text':'b'},{'text':'c'},{'text':'d'},{'text':'never'}]", "")); /* 3 by default */
}

TEST(a_refusal_is_not_mended) {
    struct tape *t = shaped("[{'text':'I would rather not.','finish_reason':'refusal'},{'text':'never'}]", "");
    CHECK_FAILED(PAR_ERR_CONTENT_FILTER, "declined", t);
    CHECK_INT(1, count_of(t, "turn_started"));
}

TEST(an_answer_that_was_cut_off_is_mended) {
    CHECK_ANN(shaped("[{'text':'{\\\"name\\\":\\\"An','finish_reason':'max_tokens'},{'text':'" ANN "'}]", ""));
}

TEST(with_tools) {
    static const char *const turns[] = {
        "[{'expect':{'has_schema':true,'tools':['add'],'tool_choice':'auto'},'tool_calls':[{'id':'c1','name':'add','input':{'a':1,'b':2}}]},"
        "{'expect':{'last_message_contains':'30'},'text':'" ANN "'}]",
        "[{'expect':{'has_schema':false,'tools':['add','final_answer'],'tool_choice':'required'},'tool_calls':[{'id':'c1','name':'add','input':{'a':1,'b':2}}]},"
        "{'expect':{'last_message_contains':'30'},'tool_calls':[{'id':'c2','name':'final_answer','input':{'name':'Ann','age':30}}]}]",
        "[{'expect':{'system_contains':'JSON Schema'},'text':'Let me see.','tool_calls':[{'id':'c1','name':'add','input':{'a':1,'b':2}}]},{'text':'" ANN "'}]"};
    static const char *const modes[] = {"native", "tool", "prompted"};
    size_t i;
    for (i = 0; i < COUNT(modes); i++) {
        par_runtime_t *rt = spending(turns[i], "", "");
        struct tape *t = run(rt, wanting(fmt(",'output_mode':'%s'", modes[i])), "30");
        CHECK_ANN(t);
        CHECK_INT(1, count_of(t, "tool_call"));
        valid(session_of(rt, "s"), "messages");
        finish(rt);
    }
}

TEST(an_answer_beside_other_calls) { /* they are made, and it counts; of two answers the first */
    par_runtime_t *rt = spending("[{'tool_calls':[{'id':'c1','name':'add','input':{'a':1,'b':2}},{'id':'c2','name':'final_answer','input':{'name':'Ann','age':30}},"
                                 "{'id':'c3','name':'final_answer','input':{'name':'Bob','age':40}}]}]", "", "");
    struct tape *t = run(rt, wanting(",'output_mode':'tool'"), "3");
    CHECK_ANN(t);
    CHECK_INT(1, count_of(t, "tool_call"));
    valid(session_of(rt, "s"), "messages");
    finish(rt);
}

TEST(a_tool_that_has_the_answers_name) { /* is said at the start: no provider takes two tools of one name */
    par_runtime_t *rt = mock("[{'text':'" ANN "'}]");
    tool(rt, "final_answer", NULL);
    agent(rt, "a", "['final_answer']");
    inbox(rt, 0);
    CHECK_INT(PAR_ERR_EXISTS, attempt(rt, wanting(",'output_mode':'tool'")));
    CHECK_HAS(par_error_message(E), "final_answer");
    CHECK_ANN(run(rt, wanting(",'output_mode':'native'"), NULL));
    finish(rt);
}

TEST(another_agent_gives_the_answer) {
    par_runtime_t *rt = runtime(js("{'llm_providers':{'p':{'type':'mock','turns':[{'tool_calls':[{'id':'c1','name':'handoff_to_b','input':{}}]}]},"
                                   "'q':{'type':'mock','turns':[{'expect':{'has_schema':true},'text':'no idea'},{'text':'" ANN "'}]}}}"));
    ST(PAR_OK, par_register_agent(rt, js("{'id':'a','model':'p/m','handoffs':['b']}"), PAR_NTS, &E));
    ST(PAR_OK, par_register_agent(rt, js("{'id':'b','model':'q/m'}"), PAR_NTS, &E));
    CHECK_ANN(run(rt, wanting(""), NULL));
    finish(rt);
}

TEST(the_last_turn_may_still_give_the_answer) { /* early_stopping_method: generate, by a tool */
    par_runtime_t *rt = spending("[" CALL("c1") ",{'expect':{'tool_choice':'final_answer'},"
                                 "'tool_calls':[{'id':'c2','name':'final_answer','input':{'name':'Ann','age':30}}]}]", "",
                                 ",'max_iterations':1,'early_stopping_method':'generate'");
    CHECK_ANN(run(rt, wanting(",'output_mode':'tool'"), "30"));
    finish(rt);
}

TEST(an_answer_grows) { /* each value begins as the next does; the last is the output */
    static const char *const modes[] = {"native", "prompted", "tool"};
    size_t m;
    for (m = 0; m < COUNT(modes); m++) {
        char *items = NULL;
        par_runtime_t *rt;
        struct tape *t;
        int i, last = 0, n;
        for (i = 0; i < 60; i++) cat(&items, fmt("%s%d", i ? "," : "", i + 100));
        rt = m == 2 ? mock(fmt("[{'tool_calls':[{'id':'c','name':'final_answer','input':{'items':[%s]}}]}]", items))
                    : mock(fmt("[{'chunks':['{\\\"items\\\"',':[','%.40s','%.100s','%s',']','}']}]", items, items + 40, items + 140));
        free(items);
        agent(rt, "a", NULL);
        t = run(rt, js("{'agent':'a','input':'x','output_mode':'%s','response_schema':{'type':'object',"
                       "'properties':{'items':{'type':'array','items':{'type':'integer'}}}}}", modes[m]), NULL);
        CHECK(is(t->end, "completed"));
        CHECK_INT(60, elements(t->end, "output.items"));
        for (i = 0; i < count_of(t, "output_delta"); i++) {
            const char *delta = nth(t, "output_delta", i);
            n = elements(delta, "value.items"); /* -1: not even begun */
            CHECK(n >= last || last == 0);
            if (n > 0) CHECK_INT(100, json_int(delta, "value.items.0")), CHECK_INT(99 + n, json_int(delta, fmt("value.items.%d", n - 1)));
            if (n > last) last = n;
        }
        CHECK_INT(60, last);
        if (m < 2) CHECK(count_of(t, "output_delta") >= 3);
        finish(rt);
    }
}

TEST(an_answer_that_is_no_object) {
    static const struct { const char *schema, *answer, *output; } cases[] = {
        {"{'type':'array','items':{'type':'integer'}}", "{\\\"value\\\":[1,2]}", "[1,2]"}, {"{'type':'array','items':{'type':'integer'}}", "[1,2]", "[1,2]"},
        {"{'type':'integer'}", "{\\\"value\\\":3}", "3"}, {"{'enum':['yes','no']}", "{\\\"value\\\":\\\"yes\\\"}", "'yes'"},
        {"{'type':'array','items':{'$ref':'#/$defs/n'},'$defs':{'n':{'type':'integer'}}}", "{\\\"value\\\":[7]}", "[7]"},
    };
    size_t i;
    for (i = 0; i < COUNT(cases); i++) {
        par_runtime_t *rt = mock(fmt("[{'text':'%s'}]", cases[i].answer));
        agent(rt, "a", NULL);
        CHECK_STR(js("%s", cases[i].output), json_raw(run(rt, js("{'agent':'a','input':'x','response_schema':%s}", cases[i].schema), NULL)->end, "output"));
        finish(rt);
    }
}

TEST(the_output_of_a_blocking_run) {
    par_runtime_t *rt = mock("[{'text':'" ANN "'}]");
    agent(rt, "a", NULL);
    CHECK_INT(30, json_int(invoke(rt, wanting("")), "output.age"));
    CHECK(json_at(invoke(rt, GO), "output") == NULL); /* nobody asked for one */
    finish(rt);
}

TEST(bad_schemas_say_where) {
    static const struct { const char *keys, *path; } bad[] = {
        {"'response_schema':{'type':'no type'}", "request.response_schema"}, {"'response_schema':'object'", "request.response_schema"},
        {"'response_schema':[]", "request.response_schema"},
        {"'response_schema':{'type':'object','properties':{'a':{'pattern':'('}}}", "request.response_schema"},
        {"'response_schema':{'$ref':'#/$defs/nowhere'}", "request.response_schema"},
        {"'response_schema':{'$ref':'https://example.org/schema.json'}", "request.response_schema"},
        {"'output_mode':'native'", "request.output_mode"}, {"'response_schema':{'type':'object'},'output_mode':'asked'", "request.output_mode"},
        {"'response_schema':{'type':'object'},'max_repair_attempts':-1", "request.max_repair_attempts"},
    };
    par_runtime_t *rt = mock("[{'text':'never'}]");
    par_stream_t *s = NULL;
    size_t i;
    agent(rt, "a", NULL);
    for (i = 0; i < COUNT(bad); i++) {
        CHECK_INT(PAR_ERR_SCHEMA, attempt(rt, js("{'agent':'a','input':'x',%s}", bad[i].keys)));
        if (!CHECK_HAS(json_str(par_error_json(E), "path"), bad[i].path)) printf("    for %s\n", bad[i].keys);
    }
    ST(PAR_ERR_SCHEMA, par_stream_start(rt, js("{'agent':'a','input':'x','response_schema':3}"), PAR_NTS, &s, &E));
    finish(rt);
}
