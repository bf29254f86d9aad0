/* Record and replay: what a server said comes again without it, and what changed is told. */
#include "server.h"

#include <sys/stat.h>

static const char *cassette(void) { /* a file that is not there yet */
    char *folder = fmt("%s/par-replay-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    CHECK(mkdtemp(folder) != NULL);
    return fmt("%s/cassette.jsonl", folder);
}

static void discard(const char *file) {
    char *folder = fmt("%s", file);
    unlink(file);
    *strrchr(folder, '/') = 0;
    rmdir(folder);
}

static const char *contents(const char *path) {
    FILE *file = fopen(path, "r");
    char *text = t_alloc(1 << 20);
    if (!file) return NULL;
    text[fread(text, 1, 1 << 20, file)] = 0;
    fclose(file);
    return text;
}

static par_runtime_t *recording(const struct server *server, const char *file) {
    par_runtime_t *rt = runtime(js("{'llm_providers':{'local':{'type':'openai','api_key':'sk-0123456789','base_url':'http://127.0.0.1:%d/v1'}},"
                                   "'record':{'path':'%s'}}", server->port, file));
    ST(PAR_OK, par_register_agent(rt, js("{'id':'a','model':'local/m'}"), PAR_NTS, &E));
    return rt;
}

static par_runtime_t *replaying(const char *file) {
    par_runtime_t *rt = runtime(js("{'llm_providers':{'local':{'type':'replay','path':'%s'}}}", file));
    ST(PAR_OK, par_register_agent(rt, js("{'id':'a','model':'local/m'}"), PAR_NTS, &E));
    return rt;
}

/* Records one exchange and stops the server. */
static const char *recorded(const char *input) {
    const char *file = cassette();
    struct server server;
    par_runtime_t *rt;
    open_server(&server, ANSWER);
    rt = recording(&server, file);
    CHECK_STR("from the server", json_str(invoke(rt, js("{'agent':'a','input':'%s'}", input)), "text"));
    finish(rt);
    close_server(&server);
    return file;
}

static const char *refused(par_runtime_t *rt, const char *request) {
    char *out = NULL;
    ST(PAR_ERR_PROVIDER, par_invoke(rt, request, PAR_NTS, 10000, &out, NULL, &E));
    par_free(out);
    return par_error_json(E);
}

TEST(the_same_text_and_deltas) {
    const char *file = recorded("hello");
    par_runtime_t *rt = replaying(file);
    par_stream_t *s = start(rt, js("{'agent':'a','input':'hello'}"));
    struct seen seen = drive(s, NULL, NULL);
    CHECK_INT(PAR_END, seen.end);
    CHECK_STR("from the server", seen.text);
    CHECK_INT(2, seen.deltas);
    par_stream_free(s);
    finish(rt);
    discard(file);
}

TEST(no_key_in_the_file) {
    const char *file = recorded("hello"), *text = contents(file);
    struct stat about;
    CHECK_LACKS(text, "sk-0123456789");
    CHECK_HAS(text, "'authorization':'[SECRET]'");
    CHECK_HAS(text, "'content':'hello'");
    CHECK_INT(0, stat(file, &about));
    CHECK_INT(0600, about.st_mode & 0777);
    discard(file);
}

TEST(a_changed_request) {
    const char *file = recorded("hello"), *error;
    par_runtime_t *rt = replaying(file);
    error = refused(rt, js("{'agent':'a','input':'hullo'}"));
    CHECK_STR("replay_mismatch", json_str(error, "code"));
    CHECK_HAS(json_str(error, "message"), "/messages/0/content: recorded 'hello', now 'hullo'");
    CHECK_STR("from the server", json_str(invoke(rt, js("{'agent':'a','input':'hello'}")), "text"));
    finish(rt);
    discard(file);
}

TEST(one_request_more) {
    const char *file = recorded("hello");
    par_runtime_t *rt = replaying(file);
    invoke(rt, js("{'agent':'a','input':'hello'}"));
    CHECK_STR("replay_exhausted", json_str(refused(rt, js("{'agent':'a','input':'hello'}")), "code"));
    finish(rt);
    discard(file);
}

TEST(registered_at_run_time) {
    const char *file = recorded("hello");
    par_runtime_t *rt = runtime("{}");
    ST(PAR_OK, par_register_provider(rt, js("{'name':'tape','type':'replay','path':'%s'}", file), PAR_NTS, &E));
    ST(PAR_OK, par_register_agent(rt, js("{'id':'a','model':'tape/m'}"), PAR_NTS, &E));
    CHECK_STR("from the server", json_str(invoke(rt, js("{'agent':'a','input':'hello'}")), "text"));
    finish(rt);
    discard(file);
}

TEST(what_is_configured_wrongly) {
    static const struct { const char *config, *path; } bad[] = {
        {"{'llm_providers':{'p':{'type':'replay','path':'/no/such/file'}}}", "config.llm_providers.p.path"},
        {"{'llm_providers':{'p':{'type':'replay'}}}", "config.llm_providers.p"},
        {"{'record':{'path':'/no/such/folder/file'}}", "config.record.path"},
        {"{'record':{'file':'x'}}", "config.record.file"},
    };
    size_t i;
    for (i = 0; i < COUNT(bad); i++) {
        par_runtime_t *rt = NULL;
        t_clear();
        CHECK(par_runtime_create(PAR_ABI_VERSION, js("%s", bad[i].config), PAR_NTS, &rt, &E) < 0);
        CHECK_STR(bad[i].path, json_str(par_error_json(E), "path"));
    }
}
