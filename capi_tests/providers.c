/* What a model server is sent: quirks by the name of a server, and what the host marks to be cached. */
#include "server.h"

static par_runtime_t *custom(const struct server *server, const char *quirks, const char *agent) {
    par_runtime_t *rt = runtime(js("{'llm_providers':{'p':{'type':'custom','api_key':'k','base_url':'http://127.0.0.1:%d','quirks':%s,"
                                   "'retry':{'max_attempts':1}}}}", server->port, quirks));
    ST(PAR_OK, par_register_agent(rt, js("{'id':'a','system_prompt':'Be brief.','model':{'provider':'p','model_name':'gpt-5.6','max_tokens':9}%s}", agent), PAR_NTS, &E));
    return rt;
}

/* The head and the body of a request to a server of these quirks. */
static struct server *asked(const char *quirks, const char *agent, const char *input) {
    struct server *server = (void *)t_alloc(sizeof *server);
    par_runtime_t *rt;
    open_server(server, ANSWER);
    rt = custom(server, quirks, agent);
    CHECK_STR("from the server", json_str(invoke(rt, js("{'agent':'a','input':%s}", input)), "text"));
    finish(rt);
    close_server(server);
    return server;
}

TEST(azure_by_its_name) {
    struct server *server = asked("'azure'", "", "'hello'");
    CHECK_HAS(server->head, "POST /openai/deployments/gpt-5.6/chat/completions?api-version=2024-10-21 ");
    CHECK_HAS(server->head, "api-key: k\r\n");
    CHECK_LACKS(server->head, "authorization");
    CHECK_HAS(server->body, "'max_completion_tokens':9");
}

TEST(a_preset_with_quirks_of_its_own) {
    struct server *server = asked("{'preset':'azure','api_version':'2025-01-01','max_tokens_key':'max_tokens'}", "", "'hello'");
    CHECK_HAS(server->head, "api-version=2025-01-01 ");
    CHECK_HAS(server->body, "'max_tokens':9");
    server = asked("'mistral'", "", "'hello'");
    CHECK_LACKS(server->body, "stream_options");
}

TEST(a_preset_that_is_none) {
    static const struct { const char *quirks, *path, *near; } bad[] = {
        {"'mistrall'", "config.llm_providers.p.quirks", "mistral"},
        {"{'preset':'azur'}", "config.llm_providers.p.quirks.preset", "azure"},
        {"{'tool_choise':'words'}", "config.llm_providers.p.quirks.tool_choise", "tool_choice"},
    };
    size_t i;
    for (i = 0; i < COUNT(bad); i++) {
        par_runtime_t *rt = NULL;
        t_clear();
        ST(PAR_ERR_SCHEMA, par_runtime_create(PAR_ABI_VERSION, js("{'llm_providers':{'p':{'type':'custom','base_url':'http://h','quirks':%s}}}", bad[i].quirks), PAR_NTS, &rt, &E));
        CHECK_STR(bad[i].path, json_str(par_error_json(E), "path"));
        CHECK_HAS(json_str(par_error_json(E), "hint"), bad[i].near);
    }
}

TEST(what_is_marked_is_cached) {
    struct server *server = asked("'azure'", ",'cache_strategy':{'type':'explicit','system':true}",
                                  "[{'type':'text','text':'A book.'},{'type':'cache_point'},{'type':'text','text':'Well?'}]");
    CHECK_HAS(server->body, "'text':'Be brief.','prompt_cache_breakpoint':{'mode':'explicit'}");
    CHECK_HAS(server->body, "'text':'A book.','prompt_cache_breakpoint':{'mode':'explicit'}");
    CHECK_HAS(server->body, "{'type':'text','text':'Well?'}");
    CHECK_HAS(server->body, "'prompt_cache_options':{'mode':'explicit','ttl':'30m'}");
}

/* Where a request with this input is wrong, for an agent with this strategy. */
static const char *refused(const char *strategy, const char *input) {
    struct server server;
    par_runtime_t *rt;
    char *out = NULL;
    const char *path;
    open_server(&server, ANSWER);
    rt = custom(&server, "'azure'", js(",'cache_strategy':%s", strategy));
    CHECK(par_invoke(rt, js("{'agent':'a','input':%s}", input), PAR_NTS, 10000, &out, NULL, &E) < 0);
    path = json_str(par_error_json(E), "path");
    CHECK_INT(0, LOAD(server.served));
    finish(rt);
    close_server(&server);
    return path;
}

TEST(what_cannot_be_cached_is_said_before_it_is_sent) {
    static const struct { const char *strategy, *input, *path; } bad[] = {
        {"'none'", "[{'type':'text','text':'x'},{'type':'cache_point'}]", "request.input[1]"},
        {"'explicit'", "[{'type':'cache_point'}]", "request.input[0]"},
        {"'explicit'", "[{'type':'text','text':'x'},{'type':'cache_point'},{'type':'cache_point'}]", "request.input[2]"},
        {"'explicit'", "[{'type':'text','text':'x'},{'type':'cache_point','ttl':'1h'}]", "request.input[1].ttl"},
        {"'explicit'", "[{'type':'text','text':'x'},{'type':'cache_point','ttl':'1d'}]", "request.input[1].ttl"},
        {"{'type':'explicit','ttl':'5m'}", "'x'", "agent.cache_strategy.ttl"},
        {"{'type':'explicit','tools':true}", "'x'", "agent.cache_strategy.tools"},
        {"{'type':'explicit','system':true}",
         "[{'type':'text','text':'x'},{'type':'cache_point'},{'type':'text','text':'x'},{'type':'cache_point'},"
         "{'type':'text','text':'x'},{'type':'cache_point'},{'type':'text','text':'x'},{'type':'cache_point'}]", "request.input[7]"},
    };
    size_t i;
    for (i = 0; i < COUNT(bad); i++) {
        t_clear();
        CHECK_STR(bad[i].path, refused(bad[i].strategy, bad[i].input));
    }
}

TEST(a_model_that_is_told_of_none_says_so) {
    par_runtime_t *rt = runtime(js("{'llm_providers':{'mock':{'type':'mock'}}}"));
    par_stream_t *s;
    char *event;
    int warned = 0;
    ST(PAR_OK, par_register_agent(rt, js("{'id':'a','model':'mock/m','cache_strategy':{'type':'explicit','system':true}}"), PAR_NTS, &E));
    s = start(rt, js("{'agent':'a','input':'hello'}"));
    while (par_stream_wait(s, 10000, &event, NULL, &E) == PAR_OK) {
        warned += strstr(event, "cache_points_skipped") != NULL;
        par_free(event);
    }
    CHECK_INT(1, warned);
    par_stream_free(s);
    finish(rt);
}

TEST(a_server_that_only_says_it_is_there_is_left) {
    struct server server;
    par_runtime_t *rt;
    char *out = NULL;
    const char *error;
    open_server(&server, DRIP);
    rt = runtime(js("{'llm_providers':{'p':{'type':'openai','api_key':'k','base_url':'http://127.0.0.1:%d/v1','retry':{'max_attempts':1},"
                    "'timeouts':{'stall_ms':300}}}}", server.port));
    ST(PAR_OK, par_register_agent(rt, js("{'id':'a','model':'p/m'}"), PAR_NTS, &E));
    ST(PAR_ERR_NETWORK, par_invoke(rt, js("{'agent':'a','input':'x'}"), PAR_NTS, 20000, &out, NULL, &E));
    error = par_error_json(E);
    CHECK_STR("timeout", json_str(error, "category"));
    CHECK_HAS(json_str(error, "hint"), "timeouts.stall_ms");
    EVENTUALLY(5000, LOAD(server.left) == 1);
    finish(rt);
    close_server(&server);
}
