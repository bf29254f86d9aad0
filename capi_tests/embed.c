/* par_call("embed"): texts to vectors, on the mock provider and on servers that do as they should or do not. */
#include "server.h"

static par_runtime_t *paired(void) { /* one provider chats, another embeds */
    return runtime(js("{'llm_providers':{'chat':{'type':'mock','turns':[{'text':'hi'}]},'vectors':{'type':'mock'}},"
                      "'embeddings':{'provider':'vectors','model':'m','dimensions':4,'batch_size':2}}"));
}

static const char *embed(par_runtime_t *rt, const char *params) {
    const char *answer = ask(rt, "embed", params);
    ST(PAR_OK, status);
    return answer;
}

/* The nth vector of an answer, as text. */
static const char *vector(const char *answer, int n) {
    const char *p = json_at(answer, fmt("embeddings.%d", n)), *end = p ? strchr(p, ']') : NULL;
    return end ? fmt("%.*s", (int)(end - p) + 1, p) : NULL;
}

static void refused(par_runtime_t *rt, const char *params, par_status_t want, const char *path) {
    char *out = NULL;
    ST(want, par_call(rt, "embed", PAR_NTS, params, PAR_NTS, 10000, &out, NULL, &E));
    if (path) CHECK_STR(path, json_str(par_error_json(E), "path"));
    CHECK(out == NULL);
}

TEST(one_text) {
    par_runtime_t *rt = paired();
    const char *answer = embed(rt, js("{'input':'hello'}"));
    CHECK_STR("m", json_str(answer, "model"));
    CHECK_INT(4, json_int(answer, "dimensions"));
    CHECK_INT(2, json_int(answer, "usage.input_tokens"));
    CHECK(vector(answer, 0) != NULL);
    CHECK(vector(answer, 1) == NULL);
    finish(rt);
}

TEST(several_texts_in_order) { /* over three batches: each vector is that of its text alone */
    static const char *const texts[] = {"one", "two", "one", "four", "\xC3\xA9"};
    par_runtime_t *rt = paired();
    const char *all = embed(rt, js("{'input':['one','two','one','four','\xC3\xA9']}"));
    size_t i;
    for (i = 0; i < COUNT(texts); i++)
        CHECK_STR(vector(embed(rt, js("{'input':'%s'}", texts[i])), 0), vector(all, (int)i));
    CHECK_STR(vector(all, 0), vector(all, 2));
    CHECK(strcmp(vector(all, 0), vector(all, 1)) != 0);
    finish(rt);
}

TEST(the_same_in_another_runtime) {
    par_runtime_t *one = paired(), *other = paired();
    CHECK_STR(embed(one, js("{'input':'x'}")), embed(other, js("{'input':'x'}")));
    finish(one), finish(other);
}

TEST(dimensions) {
    par_runtime_t *rt = runtime("{}");
    CHECK_INT(1536, json_int(embed(rt, js("{'input':'x','provider':'mock'}")), "dimensions"));
    CHECK_INT(7, json_int(embed(rt, js("{'input':'x','provider':'mock','dimensions':7}")), "dimensions"));
    refused(rt, js("{'input':'x','provider':'mock','dimensions':0}"), PAR_ERR_SCHEMA, "params.dimensions");
    finish(rt);
}

TEST(nothing_to_embed) {
    par_runtime_t *rt = paired();
    refused(rt, js("{'input':''}"), PAR_ERR_SCHEMA, "params.input");
    refused(rt, js("{'input':[]}"), PAR_ERR_SCHEMA, "params.input");
    refused(rt, js("{'input':['a','']}"), PAR_ERR_SCHEMA, "params.input[1]");
    refused(rt, js("{'input':['a',2]}"), PAR_ERR_SCHEMA, "params.input[1]");
    refused(rt, js("{'inptu':'a'}"), PAR_ERR_SCHEMA, NULL);
    CHECK_HAS(par_error_json(E), "input");
    finish(rt);
}

TEST(no_provider_is_named) {
    par_runtime_t *rt = runtime("{}");
    refused(rt, js("{'input':'a'}"), PAR_ERR_SCHEMA, "params.provider");
    refused(rt, js("{'input':'a','provider':'mokc'}"), PAR_ERR_NOT_FOUND, "params.provider");
    CHECK_HAS(par_error_json(E), "mock");
    finish(rt);
}

TEST(embedding_unsupported) { /* says what to configure, without a request */
    par_runtime_t *rt = runtime(js("{'llm_providers':{'claude':{'type':'anthropic','api_key':'k','base_url':'http://127.0.0.1:9'}}}"));
    refused(rt, js("{'input':'a','provider':'claude','model':'m'}"), PAR_ERR_UNSUPPORTED_BY_PROVIDER, NULL);
    CHECK_STR("embedding_unsupported", json_str(par_error_json(E), "category"));
    CHECK_STR("embedding_unsupported", json_str(par_error_json(E), "code"));
    CHECK_HAS(par_error_json(E), "\\'embeddings\\'");
    finish(rt);
}

TEST(configuration_is_checked) {
    static const struct { const char *embeddings, *path; } bad[] = {
        {"{'provider':'p'}", "config.embeddings"}, {"{'provider':'p','model':''}", "config.embeddings.model"},
        {"{'provider':'p','model':'m','batch_size':0}", "config.embeddings.batch_size"},
        {"{'provider':'p','model':'m','dimension':3}", "config.embeddings.dimension"},
    };
    size_t i;
    for (i = 0; i < COUNT(bad); i++) {
        par_runtime_t *rt = NULL;
        ST(PAR_ERR_SCHEMA, par_runtime_create(PAR_ABI_VERSION, js("{'embeddings':%s}", bad[i].embeddings), PAR_NTS, &rt, &E));
        CHECK_STR(bad[i].path, json_str(par_error_json(E), "path"));
    }
}

TEST(limits) {
    par_runtime_t *rt = runtime(js("{'limits':{'max_embed_inputs':2}}"));
    refused(rt, js("{'input':['a','b','c'],'provider':'mock'}"), PAR_ERR_TOO_LARGE, "params.input");
    CHECK_INT(2, json_int(info(rt), "limits.max_embed_inputs"));
    finish(rt);
}

static par_runtime_t *embedding_on(const struct server *server) {
    return runtime(js("{'llm_providers':{'local':{'type':'custom','base_url':'http://127.0.0.1:%d/v1','retry':{'max_attempts':2,'initial_delay_ms':1},"
                      "'timeouts':{'connect_ms':2000,'first_byte_ms':2000}}},'embeddings':{'provider':'local','model':'m'}}", server->port));
}

TEST(what_a_server_is_sent) { /* its answer is that of a chat, which is no embedding */
    struct server server;
    par_runtime_t *rt;
    open_server(&server, ANSWER);
    rt = embedding_on(&server);
    refused(rt, js("{'input':['a','b']}"), PAR_ERR_PROVIDER, NULL);
    CHECK_STR("bad_answer", json_str(par_error_json(E), "code"));
    CHECK_HAS(server.body, "'model':'m','input':['a','b']");
    CHECK_INT(1, LOAD(server.served));
    finish(rt);
    close_server(&server);
}

TEST(a_server_that_hangs_up) { /* tried again, then an error */
    struct server server;
    par_runtime_t *rt;
    open_server(&server, HANG_UP_AFTER_REQUEST);
    rt = embedding_on(&server);
    refused(rt, js("{'input':'a'}"), PAR_ERR_NETWORK, NULL);
    CHECK(LOAD(server.served) >= 2);
    finish(rt);
    close_server(&server);
}

TEST(started_and_waited_for) { /* as a stream: the answer is its last event */
    par_runtime_t *rt = paired();
    par_stream_t *s = NULL;
    ST(PAR_OK, par_call_start(rt, "embed", PAR_NTS, js("{'input':['a','b','c']}"), PAR_NTS, &s, &E));
    CHECK_INT(4, json_int(until(s, "completed"), "result.dimensions"));
    par_stream_free(s);
    finish(rt);
}
