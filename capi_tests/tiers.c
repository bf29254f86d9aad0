/* A local database that is forwarded to a folder, and read back, as a C program sees it. */
#include "t.h"

#define FORWARD(keys) js(",'forward':{'to':{'type':'folder','path':'archive'},'interval_seconds':0.05%s}", keys)

/* A runtime on a database of this folder, whose agent echoes. */
static par_runtime_t *opened(const char *file, const char *keys) {
    par_runtime_t *rt = runtime(js("{'persistence':{'type':'sqlite','path':'%s'%s}}", file, keys));
    agent(rt, "a", NULL);
    return rt;
}

static void said(par_runtime_t *rt, const char *text) {
    invoke(rt, js("{'agent':'a','input':'%s','session':'s'}", text));
}

static const char *did(par_runtime_t *rt, const char *method, const char *params) {
    const char *answer = ask(rt, method, params);
    CHECK(answer != NULL);
    return answer;
}

static void refuses(par_runtime_t *rt, const char *method, const char *params, par_status_t want, const char *path) {
    char *out = NULL;
    ST(want, par_call(rt, method, PAR_NTS, params, PAR_NTS, 10000, &out, NULL, &E));
    if (path) CHECK_PATH(path);
    CHECK(out == NULL);
}

TEST(a_database_is_forwarded_lost_and_read_back) {
    par_runtime_t *rt = opened("test.db", FORWARD(""));
    const char *answer;
    struct stat folder;
    said(rt, "one"), said(rt, "two");
    answer = did(rt, "store.forward", js("{'timeout_seconds':30}"));
    CHECK_INT(0, json_int(answer, "pending"));
    CHECK(json_int(answer, "records") >= 7);
    CHECK_STR("on", json_str(info(rt), "store.forward.state"));
    CHECK_HAS(json_str(info(rt), "store.forward.destination"), "archive");
    CHECK_INT(0, stat("archive", &folder));
    CHECK_INT(0700, folder.st_mode & 0777);
    said(rt, "three");
    finish(rt); /* ships what is left */
    CHECK_INT(0, unlink("test.db"));
    unlink("test.db-wal"), unlink("test.db-shm"), unlink("test.db-locks");

    rt = opened("test.db", "");
    answer = did(rt, "store.restore", js("{'from':{'type':'folder','path':'archive'}}"));
    CHECK_INT(3, json_int(answer, "runs"));
    CHECK_INT(1, json_int(answer, "sessions"));
    CHECK_STR("{\"ok\":true,\"problems\":[]}", did(rt, "store.verify", "{}"));
    CHECK_INT(6, elements(did(rt, "sessions.get", js("{'session':'s'}")), "messages"));
    said(rt, "four");
    CHECK_INT(8, elements(did(rt, "sessions.get", js("{'session':'s'}")), "messages"));
    refuses(rt, "store.restore", js("{'from':{'type':'folder','path':'archive'}}"), PAR_ERR_EXISTS, NULL);
    refuses(rt, "store.restore", js("{'from':'what'}"), PAR_ERR_SCHEMA, "params.from");
    refuses(rt, "store.restore", js("{'from':{'type':'folder','path':'archive'},'source':'x'}"), PAR_ERR_NOT_FOUND, "params.source");
    refuses(rt, "store.forward", "{}", PAR_ERR_UNSUPPORTED, NULL);
    finish(rt);
}

TEST(a_place_that_is_not_there_is_told_and_waited_for) {
    par_runtime_t *rt = opened("test.db", js(",'forward':{'to':{'type':'folder','path':'mount/archive'},'interval_seconds':0.05}"));
    said(rt, "one");
    EVENTUALLY(slack(10000), json_int(info(rt), "store.forward.failures") > 0);
    CHECK_STR("failing", json_str(info(rt), "store.forward.state"));
    CHECK_STR("archive_unavailable", json_str(info(rt), "store.forward.error.code"));
    CHECK(json_int(info(rt), "store.forward.pending") > 0);
    refuses(rt, "store.forward", js("{'timeout_seconds':0.1}"), PAR_ERR_DEADLINE, NULL);
    CHECK_INT(0, json_int(did(rt, "store.prune", js("{'events_seconds':0,'runs_seconds':0}")), "event_blocks"));
    CHECK_INT(0, mkdir("mount", 0700));
    CHECK_INT(0, json_int(did(rt, "store.forward", "{}"), "pending"));
    CHECK_STR("on", json_str(info(rt), "store.forward.state"));
    CHECK(json_int(did(rt, "store.prune", js("{'events_seconds':0,'runs_seconds':0}")), "event_blocks") >= 1);
    finish(rt);
}

TEST(a_database_stays_forwarded_until_it_is_told_off) {
    par_runtime_t *rt = opened("test.db", FORWARD(""));
    finish(rt);
    rt = opened("test.db", "");
    said(rt, "one");
    EVENTUALLY(slack(5000), json_int(info(rt), "store.forward.pending") > 0);
    CHECK_STR("paused", json_str(info(rt), "store.forward.state"));
    finish(rt);
    rt = opened("test.db", js(",'forward':'off'"));
    CHECK(json_at(info(rt), "store.forward") == NULL);
    finish(rt);
}

TEST(bad_configuration_is_told) {
    static const struct { const char *forward, *path; } bad[] = {
        {"'on'", "config.persistence.forward"},
        {"{'to':'ftp://x'}", "config.persistence.forward.to"},
        {"{'to':{'type':'folder'}}", "config.persistence.forward.to"},
        {"{'to':{'type':'s3','bucket':'b','access_key_id':'k'}}", "config.persistence.forward.to.secret_access_key"},
        {"{'to':{'type':'s3','bucket':'b','endpoint':'host:9000'}}", "config.persistence.forward.to.endpoint"},
        {"{'to':'s3://b','interval_seconds':0}", "config.persistence.forward.interval_seconds"},
        {"{'to':'s3://b','max_batch_bytes':0}", "config.persistence.forward.max_batch_bytes"},
        {"{'to':'s3://b','every':1}", "config.persistence.forward.every"},
    };
    par_runtime_t *rt = NULL;
    size_t i;
    for (i = 0; i < COUNT(bad); i++) {
        ST(PAR_ERR_SCHEMA, par_runtime_create(PAR_ABI_VERSION, js("{'persistence':{'type':'sqlite','path':'test.db','forward':%s}}",
                                                                  bad[i].forward), PAR_NTS, &rt, &E));
        CHECK_PATH(bad[i].path);
        CHECK(rt == NULL);
    }
}

