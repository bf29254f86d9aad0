/* PostgreSQL as a C program sees it: two runtimes on one database. Needs the server of tests/scripts/postgres.sh run. */
#include "t.h"

/* The server's address; each test has a schema of its own. NULL: there is no server. */
static const char *url(void) {
    const char *given = getenv("PAR_TEST_PG_URL");
    if (!given) {
        CHECK(getenv("PAR_TEST_REQUIRE_ALL") == NULL);
        fprintf(stderr, "SKIPPED: PAR_TEST_PG_URL is not set\n");
    }
    return given;
}

static const char *schema(void) {
    static char name[48];
    if (!*name) snprintf(name, sizeof name, "c_%ld_%ld", (long)getpid(), (long)now_ms());
    return name;
}

/* A runtime on the test's schema, whose agent echoes. */
static par_runtime_t *opened(const char *keys) {
    par_runtime_t *rt = runtime(js("{'persistence':{'type':'postgres','url':'%s','schema':'%s'}%s}", url(), schema(), keys));
    agent(rt, "a", NULL);
    return rt;
}

static const char *did(par_runtime_t *rt, const char *method, const char *params) {
    const char *answer = ask(rt, method, params);
    CHECK(answer != NULL);
    return answer;
}

static void said(par_runtime_t *rt, const char *text) {
    invoke(rt, js("{'agent':'a','input':'%s','session':'s','durability':'sync'}", text));
}

TEST(a_session_goes_on_in_another_runtime) {
    par_runtime_t *one, *two;
    if (!url()) return;
    one = opened("");
    two = opened("");
    said(one, "first"), said(two, "second"), said(one, "third");
    CHECK_INT(6, elements(did(two, "sessions.get", js("{'session':'s'}")), "messages"));
    CHECK_STR("{\"ok\":true,\"problems\":[]}", did(two, "store.verify", "{}"));
    CHECK_STR("postgres", json_str(info(one), "store.backend"));
    CHECK_INT(3, elements(did(two, "runs.list", "{}"), "items"));
    finish(one), finish(two);
    one = opened("");
    CHECK_INT(3, elements(did(one, "events.query", js("{'types':['completed']}")), "items"));
    finish(one);
}

TEST(events_of_another_runtime_are_heard) {
    par_runtime_t *one, *two;
    const char *message;
    if (!url()) return;
    one = opened("");
    two = opened("");
    did(one, "events.subscribe", js("{'name':'all','types':['completed'],'reach':'store'}"));
    said(two, "hello");
    message = inbox(one, slack(10000));
    CHECK_STR("completed", json_str(message, "event.type"));
    CHECK_STR("hello", json_str(message, "event.text"));
    CHECK(json_str(message, "cursor") != NULL);
    finish(one), finish(two);
}

TEST(a_local_database_is_forwarded) {
    par_runtime_t *local, *archive;
    if (!url()) return;
    local = runtime(js("{'persistence':{'type':'sqlite','path':'local.db','forward':{'interval_seconds':0.05,"
                       "'to':{'type':'postgres','url':'%s','schema':'%s'}}}}", url(), schema()));
    agent(local, "a", NULL);
    said(local, "one"), said(local, "two");
    CHECK_INT(0, json_int(did(local, "store.forward", js("{'timeout_seconds':8}")), "pending"));
    archive = opened("");
    CHECK_STR(did(local, "sessions.get", js("{'session':'s'}")), did(archive, "sessions.get", js("{'session':'s'}")));
    CHECK_STR("{\"ok\":true,\"problems\":[]}", did(archive, "store.verify", "{}"));
    finish(local), finish(archive);
}

TEST(what_cannot_be_reached_is_told) {
    par_runtime_t *rt = NULL;
    if (!url()) return;
    ST(PAR_ERR_PERSISTENCE, par_runtime_create(PAR_ABI_VERSION, js("{'persistence':'postgres://u:secret@127.0.0.1:1/d'}"),
                                               PAR_NTS, &rt, &E));
    CHECK(rt == NULL);
    CHECK_PATH("config.persistence");
    CHECK(strstr(par_error_json(E), "secret") == NULL);
    ST(PAR_ERR_SCHEMA, par_runtime_create(PAR_ABI_VERSION, js("{'persistence':{'type':'postgres'}}"), PAR_NTS, &rt, &E));
    CHECK(rt == NULL);
}
