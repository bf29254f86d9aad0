/* The mock provider: every key does what the documentation says, because the tests of every language stand on it. */
#include "t.h"

#define GO "{\"agent\":\"a\",\"input\":\"hello\"}"

static par_runtime_t *provider(const char *keys) { /* further keys of the provider object, with a leading comma */
    par_runtime_t *rt = runtime(js("{'llm_providers':{'mock':{'type':'mock'%s}}}", keys));
    agent(rt, "a", NULL);
    return rt;
}

static par_runtime_t *turns(const char *list) { return provider(fmt(",'turns':%s", list)); }

static par_status_t failed(par_runtime_t *rt) { /* E holds the error */
    char *out = NULL;
    par_status_t st;
    t_clear();
    st = par_invoke(rt, GO, PAR_NTS, 10000, &out, NULL, &E);
    par_free(out);
    return st;
}

TEST(echo) { /* without turns: the last user message */
    static const char *const inputs[] = {"hello", "", " two  words\\n", "\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80", "\\\"quoted\\\""};
    par_runtime_t *rt = mock(NULL);
    size_t i;
    agent(rt, "a", NULL);
    for (i = 0; i < COUNT(inputs); i++) {
        const char *request = fmt("{\"agent\":\"a\",\"input\":\"%s\"}", inputs[i]);
        if (i == 1) continue;
        CHECK_STR(json_str(request, "input"), json_str(invoke(rt, request), "text"));
    }
    CHECK_STR("one two", json_str(invoke(rt, js("{'agent':'a','input':[{'type':'text','text':'one two'}]}")), "text"));
    finish(rt);
}

TEST(another_name) { /* a provider is what its type says, not what it is called */
    par_runtime_t *rt = runtime(js("{'llm_providers':{'rehearsal':{'type':'mock','turns':[{'text':'on stage'}]}}}"));
    ST(PAR_OK, par_register_agent(rt, js("{'id':'a','model':'rehearsal/m'}"), PAR_NTS, &E));
    ST(PAR_OK, par_register_agent(rt, js("{'id':'b','model':{'provider':'rehearsal','model_name':'with/slashes'}}"), PAR_NTS, &E));
    CHECK_STR("on stage", json_str(invoke(rt, GO), "text"));
    CHECK_STR("on stage", json_str(invoke(rt, js("{'agent':'b','input':'x'}")), "text"));
    finish(rt);
}

TEST(no_such_provider) {
    par_runtime_t *rt = mock(NULL);
    par_status_t st = par_register_agent(rt, js("{'id':'a','model':'mok/m'}"), PAR_NTS, &E);
    if (st == PAR_OK) st = failed(rt); /* said at the latest when it is used */
    CHECK_INT(PAR_ERR_NOT_FOUND, st);
    CHECK_HAS(par_error_json(E), "mock");
    finish(rt);
}

TEST(text) {
    par_runtime_t *rt = turns("[{'text':'Hello'}]");
    CHECK_STR("Hello", json_str(invoke(rt, GO), "text"));
    finish(rt);
}

TEST(chunks) {
    par_runtime_t *rt = turns("[{'text':'Hello','chunks':['Hel','','lo']}]");
    par_stream_t *s = start(rt, GO);
    CHECK_STR("Hel", json_str(until(s, "text_delta"), "text"));
    CHECK_STR("Hello", fmt("Hel%s", drive(s, NULL, NULL).text));
    par_stream_free(s);
    CHECK_STR("Hello", json_str(invoke(rt, GO), "text"));
    finish(rt);
}

TEST(chunks_alone_are_the_text) {
    par_runtime_t *rt = turns("[{'chunks':['Hel','lo']}]");
    CHECK_STR("Hello", json_str(invoke(rt, GO), "text"));
    finish(rt);
}

TEST(chunks_that_are_not_the_text) { /* a script that contradicts itself is refused */
    par_runtime_t *rt = NULL;
    ST(PAR_ERR_SCHEMA, par_runtime_create(PAR_ABI_VERSION, js("{'llm_providers':{'mock':{'type':'mock','turns':[{'text':'Hello','chunks':['Hel','p']}]}}}"),
                                          PAR_NTS, &rt, &E));
    CHECK_HAS(json_str(par_error_json(E), "path"), "turns[0]");
}

TEST(delay_ms) { /* before each chunk */
    par_runtime_t *rt = turns("[{'text':'abcde','chunks':['a','b','c','d','e'],'delay_ms':40}]");
    TAKES(4 * 40, 1000, (void)invoke(rt, GO));
    finish(rt);
    rt = turns("[{'text':'abcde','chunks':['a','b','c','d','e'],'delay_ms':0}]");
    TAKES(0, 100, (void)invoke(rt, GO));
    finish(rt);
    rt = turns("[{'text':'abc','delay_ms':100}]"); /* without chunks: once */
    TAKES(100, 400, (void)invoke(rt, GO));
    finish(rt);
}

TEST(usage) { /* per turn, summed up in the result */
    par_runtime_t *rt = mock("[{'tool_calls':[{'id':'c','name':'add','input':{'a':1,'b':2}}],'usage':{'input_tokens':3,'output_tokens':2}},"
                             "{'text':'3','usage':{'input_tokens':10,'output_tokens':20}}]");
    par_stream_t *s;
    const char *event, *result = NULL;
    int64_t seen_input = 0;
    tool(rt, "add", NULL);
    agent(rt, "a", "['add']");
    s = start(rt, GO);
    while ((event = next(s, 5000)) != NULL) {
        if (is(event, "tool_call")) ST(PAR_OK, par_tool_complete(rt, token_of(event), "3", PAR_NTS, &E));
        if (is(event, "usage_update")) seen_input = json_int(event, "usage.input_tokens");
        if (is(event, "completed")) result = event;
    }
    CHECK(seen_input == 10 || seen_input == 13);
    CHECK_INT(13, json_int(result, "usage.input_tokens"));
    CHECK_INT(22, json_int(result, "usage.output_tokens"));
    par_stream_free(s);
    finish(rt);
}

TEST(reasoning) {
    par_runtime_t *rt = turns("[{'reasoning':'Let me think.','text':'42'}]");
    par_stream_t *s = start(rt, GO);
    struct seen seen = drive(s, NULL, NULL);
    CHECK_WHOLE(seen, s);
    CHECK_STR("Let me think.", seen.reasoning);
    CHECK_STR("42", seen.text); /* thoughts are not the answer */
    CHECK(strstr(seen.types, "reasoning_delta") < strstr(seen.types, "text_delta"));
    par_stream_free(s);
    finish(rt);
}

TEST(tool_calls) { /* start, deltas, call: in this order, with this input */
    par_runtime_t *rt = mock("[{'text':'Let me see.','tool_calls':[{'id':'x1','name':'add','input':{'a':7,'b':8}}]},{'expect':{'last_message_contains':'15'},'text':'15'}]");
    par_stream_t *s;
    const char *event;
    tool(rt, "add", NULL);
    agent(rt, "a", "['add']");
    s = start(rt, GO);
    event = until(s, "tool_call_start");
    CHECK_STR("x1", json_str(event, "tool_call_id"));
    CHECK_STR("add", json_str(event, "name"));
    CHECK(until(s, "tool_call_delta") != NULL);
    event = until(s, "tool_call");
    CHECK_INT(7, json_int(event, "input.a"));
    CHECK_INT(8, json_int(event, "input.b"));
    ST(PAR_OK, par_tool_complete(rt, token_of(event), "15", PAR_NTS, &E));
    event = until(s, "tool_result");
    CHECK_STR("x1", json_str(event, "tool_call_id"));
    CHECK(until(s, "completed") != NULL);
    par_stream_free(s);
    finish(rt);
}

TEST(finish_reason) {
    static const char *const reasons[] = {"stop", "max_tokens", "content_filter"};
    size_t i;
    for (i = 0; i < COUNT(reasons); i++) {
        par_runtime_t *rt = turns(fmt("[{'text':'x','finish_reason':'%s'}]", reasons[i]));
        char *out = NULL;
        par_status_t st = par_invoke(rt, GO, PAR_NTS, 5000, &out, NULL, NULL);
        if (i < 2) CHECK_INT(PAR_OK, st), CHECK_STR(reasons[i], json_str(out, "finish_reason"));
        else CHECK(st == PAR_ERR_CONTENT_FILTER || (out && CHECK_STR(reasons[i], json_str(out, "finish_reason"))));
        par_free(out);
        finish(rt);
    }
}

/* ---- errors ----------------------------------------------------------------------------------------------------------- */

TEST(error_429_then_success) { /* retried, after the time the provider asked for */
    par_runtime_t *rt = turns("[{'error':{'http_status':429,'retry_after_ms':100}},{'text':'at last'}]");
    par_stream_t *s;
    struct seen seen;
    TAKES(95, 1500, CHECK_STR("at last", json_str(invoke(rt, GO), "text")));
    s = start(rt, GO);
    seen = drive(s, NULL, NULL);
    CHECK_WHOLE(seen, s);
    CHECK_STR("at last", seen.text);
    CHECK_INT(1, json_int(seen.terminal, "iterations"));
    par_stream_free(s);
    finish(rt);
}

TEST(error_503_then_success) {
    par_runtime_t *rt = turns("[{'error':{'http_status':503,'retry_after_ms':10}},{'error':{'http_status':500,'retry_after_ms':10}},{'text':'at last'}]");
    CHECK_STR("at last", json_str(invoke(rt, GO), "text"));
    finish(rt);
}

TEST(error_statuses) {
    static const struct { int http; par_status_t status; const char *category, *retryable; } cases[] = {
        {400, PAR_ERR_PROVIDER, NULL, "false"}, {401, PAR_ERR_AUTH, "permission_denied", "false"},
        {403, PAR_ERR_AUTH, "permission_denied", "false"},
        {429, PAR_ERR_RATE_LIMITED, "rate_limited", "true"}, {500, PAR_ERR_PROVIDER, "external_failure", "true"},
    };
    size_t i;
    for (i = 0; i < COUNT(cases); i++) {
        const char *error = fmt("{'error':{'http_status':%d,'retry_after_ms':5}}", cases[i].http);
        char *list = NULL;
        par_runtime_t *rt;
        int n;
        for (n = 0; n < 20; n++) cat(&list, fmt("%s%s", n ? "," : "", error)); /* more than any retry policy endures */
        rt = turns(fmt("[%s]", list));
        free(list);
        CHECK_INT(cases[i].status, failed(rt));
        CHECK_INT(cases[i].status, json_int(par_error_json(E), "status"));
        CHECK_STR(cases[i].retryable, json_raw(par_error_json(E), "retryable"));
        if (cases[i].category) CHECK_STR(cases[i].category, json_str(par_error_json(E), "category"));
        CHECK_HAS(json_raw(par_error_json(E), "provider"), "'mock'");
        CHECK(json_str(par_error_json(E), "run_id") != NULL);
        CHECK_HAS(par_error_json(E), fmt("%d", cases[i].http));
        finish(rt);
    }
}

/* ---- the script -------------------------------------------------------------------------------------------------------- */

TEST(expect) { /* what does not hold fails the run and says what was received */
    par_runtime_t *rt = turns("[{'expect':{'last_message_contains':'good bye'},'text':'x'}]");
    CHECK_INT(PAR_ERR_PROVIDER, failed(rt));
    CHECK_HAS(par_error_message(E), "good bye");
    CHECK_HAS(par_error_message(E), "hello");
    CHECK_STR("false", json_raw(par_error_json(E), "retryable"));
    finish(rt);
    rt = turns("[{'expect':{'last_message_contains':'hel'},'text':'x'}]");
    CHECK_INT(PAR_OK, failed(rt));
    finish(rt);
}

TEST(expectations) { /* of every kind: each can fail */
    static const struct { const char *holds, *fails; } cases[] = {
        {"'messages':1", "'messages':2"}, {"'contains':'hel'", "'contains':'bye'"}, {"'not_contains':'bye'", "'not_contains':'hel'"},
        {"'max_tokens':100", "'max_tokens':99"}, {"'has_schema':false", "'has_schema':true"}, {"'tool_choice':'auto'", "'tool_choice':'none'"},
        {"'media':0", "'media':1"}, {"'system_contains':'kind'", "'system_contains':'rude'"}, {"'tools':['add']", "'tools':[]"},
    };
    size_t i;
    for (i = 0; i < 2 * COUNT(cases); i++) {
        const char *expect = i % 2 ? cases[i / 2].fails : cases[i / 2].holds;
        par_runtime_t *rt = mock(fmt("[{'expect':{%s},'text':'x'}]", expect));
        struct tape *t;
        tool(rt, "add", NULL);
        ST(PAR_OK, par_register_agent(rt, js("{'id':'a','model':{'provider':'mock','model_name':'m','max_tokens':100},'system_prompt':'Be kind.','tools':['add']}"), PAR_NTS, &E));
        t = run(rt, GO, NULL);
        if (!(i % 2 ? CHECK_FAILED(PAR_ERR_PROVIDER, "mock_expectation", t) : CHECK_SAID("x", t))) printf("    for %s\n", expect);
        finish(rt);
    }
}

TEST(scope_run) { /* each run begins with the first turn; this is the default */
    static const char *const scopes[] = {"", ",'scope':'run'"};
    size_t i;
    for (i = 0; i < COUNT(scopes); i++) {
        par_runtime_t *rt = provider(fmt("%s,'turns':[{'text':'one'},{'text':'two'}]", scopes[i]));
        CHECK_STR("one", json_str(invoke(rt, GO), "text"));
        CHECK_STR("one", json_str(invoke(rt, GO), "text"));
        finish(rt);
    }
}

TEST(scope_provider) { /* the turns are of all runs together; behind the last one there is nothing */
    par_runtime_t *rt = provider(",'scope':'provider','turns':[{'text':'one'},{'text':'two'}]");
    CHECK_STR("one", json_str(invoke(rt, GO), "text"));
    CHECK_STR("two", json_str(invoke(rt, GO), "text"));
    CHECK_INT(PAR_ERR_PROVIDER, failed(rt));
    CHECK_HAS(par_error_message(E), "2"); /* how many there were */
    finish(rt);
}

TEST(more_requests_than_turns) {
    par_runtime_t *rt = mock("[{'tool_calls':[{'id':'c','name':'add','input':{'a':1,'b':2}}]}]");
    par_stream_t *s;
    struct seen seen;
    tool(rt, "add", NULL);
    agent(rt, "a", "['add']");
    s = start(rt, GO);
    ST(PAR_OK, par_tool_complete(rt, token_of(until(s, "tool_call")), "3", PAR_NTS, &E));
    seen = drive(s, NULL, NULL);
    CHECK_WHOLE(seen, s);
    CHECK(is(seen.terminal, "failed"));
    par_stream_free(s);
    finish(rt);
}

TEST(assert_complete) { /* close does all its work, then reports the turns nobody reached */
    par_runtime_t *rt = provider(",'assert_complete':true,'scope':'provider','turns':[{'text':'one'},{'text':'two'}]");
    invoke(rt, GO);
    ST(PAR_ERR_PROVIDER, par_runtime_close(rt, 10000, &E));
    CHECK_HAS(par_error_message(E), "mock");
    CHECK_HAS(info(rt), "'state':'closed'");
    par_runtime_free(rt);

    rt = provider(",'assert_complete':true,'scope':'provider','turns':[{'text':'one'},{'text':'two'}]");
    invoke(rt, GO), invoke(rt, GO);
    finish(rt);

    rt = provider(",'assert_complete':true,'turns':[{'text':'one'}]");
    invoke(rt, GO);
    finish(rt);
}

TEST(turns_are_checked_early) { /* when the runtime is created, with the path of what is wrong */
    static const struct { const char *turns, *path; } bad[] = {
        {"{}", "turns"}, {"[1]", "turns[0]"}, {"[{'text':1}]", "turns[0].text"}, {"[{'text':'x'},{'error':{'http_status':'x'}}]", "turns[1].error"},
        {"[{'tool_calls':[{'id':'c','input':{}}]}]", "turns[0].tool_calls[0]"}, {"[{'expect':{'includes':'x'}}]", "turns[0].expect.includes"},
        {"[{'text':'x','delay_ms':-1}]", "turns[0].delay_ms"}, {"[{'usage':{'tokens':1}}]", "turns[0].usage"},
    };
    size_t i;
    for (i = 0; i < COUNT(bad); i++) {
        par_runtime_t *rt = NULL;
        int before = t_failures;
        ST(PAR_ERR_SCHEMA, par_runtime_create(PAR_ABI_VERSION, js("{'llm_providers':{'mock':{'type':'mock','turns':%s}}}", bad[i].turns), PAR_NTS, &rt, &E));
        CHECK_HAS(json_str(par_error_json(E), "path"), bad[i].path);
        if (t_failures != before) printf("    for %s\n", bad[i].turns), par_runtime_free(rt);
    }
}

TEST(two_mocks_in_one_runtime) {
    par_runtime_t *rt = runtime(js("{'llm_providers':{'p':{'type':'mock','turns':[{'text':'from p'}]},'q':{'type':'mock','turns':[{'text':'from q'}]}}}"));
    ST(PAR_OK, par_register_agent(rt, js("{'id':'a','model':'p/m'}"), PAR_NTS, &E));
    ST(PAR_OK, par_register_agent(rt, js("{'id':'b','model':'q/m'}"), PAR_NTS, &E));
    CHECK_STR("from p", json_str(invoke(rt, GO), "text"));
    CHECK_STR("from q", json_str(invoke(rt, js("{'agent':'b','input':'x'}")), "text"));
    finish(rt);
}
