/* What outlives a run and its process: sessions, runs and events in a database, as a C program sees them. */
#include "t.h"
#include <stdatomic.h>
#include <sys/syscall.h>

/* SQLite waits for the disk by this function; the library finds the one of the program first. */
static atomic_int waits_for_the_disk;

int fdatasync(int fd) {
    atomic_fetch_add(&waits_for_the_disk, 1);
    return (int)syscall(SYS_fdatasync, fd);
}

#define IN(session) js("{'agent':'a','input':'hi','session':'%s'}", session)

/* A runtime on the database of this folder, whose agent echoes, or says these turns. */
static par_runtime_t *opened(const char *turns, const char *keys) {
    par_runtime_t *rt = runtime(js("{'persistence':'sqlite:test.db','llm_providers':{'mock':{'type':'mock'%s%s}}%s}",
                                   turns ? ",'turns':" : "", turns ? turns : "", keys ? keys : ""));
    agent(rt, "a", NULL);
    return rt;
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

static void whole(par_runtime_t *rt) {
    CHECK_STR("{\"ok\":true,\"problems\":[]}", did(rt, "store.verify", "{}"));
}

TEST(the_default_is_a_database_in_the_working_directory) {
    par_runtime_t *rt = NULL;
    struct stat file;
    ST(PAR_OK, par_runtime_create(PAR_ABI_VERSION, "{}", 2, &rt, &E));
    CHECK_INT(0, stat("par.db", &file));
    CHECK_INT(0600, file.st_mode & 0777);
    agent(rt, "a", NULL);
    CHECK_STR("hi", json_str(invoke(rt, IN("s")), "text"));
    CHECK_STR("sqlite", json_str(info(rt), "store.backend"));
    CHECK_STR("true", json_raw(info(rt), "store.ok"));
    finish(rt);
}

TEST(sync_and_exit_wait_for_the_disk_and_async_does_not) {
    par_runtime_t *rt = opened(NULL, NULL);
    int before, i;
    invoke(rt, IN("s"));
    sleep_ms(100); /* the first write makes the tables' files durable */
    for (i = 0; i < 3; i++) {
        before = atomic_load(&waits_for_the_disk);
        invoke(rt, js("{'agent':'a','input':'hi','session':'s','durability':'sync'}"));
        CHECK(atomic_load(&waits_for_the_disk) > before);
        before = atomic_load(&waits_for_the_disk);
        invoke(rt, js("{'agent':'a','input':'hi','session':'s','durability':'exit'}"));
        CHECK(atomic_load(&waits_for_the_disk) > before);
    }
    before = atomic_load(&waits_for_the_disk);
    for (i = 0; i < 10; i++) invoke(rt, IN("s"));
    did(rt, "sessions.get", js("{'session':'s'}")); /* all of it is written when this is answered */
    CHECK_INT(before, atomic_load(&waits_for_the_disk));
    finish(rt);
}

TEST(closed_the_database_is_one_file) {
    par_runtime_t *rt = opened(NULL, NULL);
    invoke(rt, IN("s"));
    ST(PAR_OK, par_runtime_close(rt, 10000, &E));
    CHECK_INT(0, access("test.db", F_OK));
    CHECK_INT(-1, access("test.db-wal", F_OK));
    CHECK_INT(-1, access("test.db-shm", F_OK));
    par_runtime_free(rt);
}

TEST(closing_suspends_and_the_next_runtime_resumes) {
    static const char *const turns = "[{'tool_calls':[{'id':'c','name':'t','input':{'a':1,'b':2}}]},{'text':'done'}]";
    par_runtime_t *rt = opened(turns, NULL);
    par_stream_t *s = NULL;
    struct seen seen;
    char id[64];
    int round;
    for (round = 0; round < 2; round++) {
        tool(rt, "t", ",'permission':'confirm'");
        agent(rt, "asks", "['t']");
        if (round == 0) {
            s = start(rt, js("{'agent':'asks','input':'go','run_id':'r'}"));
            snprintf(id, sizeof id, "%s", json_str(until(s, "approval_request"), "approval_id"));
            TAKES(0, 5000, ST(PAR_OK, par_runtime_close(rt, 10000, &E))); /* a person is not waited for */
            CHECK_INT(1, json_int(info(rt), "close.runs_suspended"));
            CHECK_INT(0, json_int(info(rt), "close.runs_cancelled"));
            seen = drive(s, NULL, NULL);
            CHECK(is(seen.terminal, "suspended"));
            CHECK_STR("closing", json_str(seen.terminal, "reason"));
            CHECK_INT(PAR_ERR_CLOSED, result_status(s));
            par_stream_free(s);
            par_runtime_free(rt);
            rt = opened(turns, NULL);
        } else {
            CHECK_STR(id, json_str(did(rt, "approvals.list", "{}"), "items.0.approval_id"));
            ST(PAR_OK, par_approval_resolve(rt, id, PAR_NTS, "\"reject\"", PAR_NTS, &E));
            ST(PAR_OK, par_call_start(rt, "runs.resume", PAR_NTS, js("{'run_id':'r'}"), PAR_NTS, &s, &E));
            seen = drive(s, NULL, NULL);
            CHECK_STR("done", seen.text);
            par_stream_free(s);
        }
    }
    whole(rt);
    finish(rt);
}

TEST(a_replaced_database_is_noticed) {
    par_runtime_t *rt = opened(NULL, js(",'durability':'sync'"));
    char *out = NULL;
    invoke(rt, IN("s"));
    CHECK_INT(0, unlink("test.db"));
    ST(PAR_ERR_PERSISTENCE, par_invoke(rt, IN("s"), PAR_NTS, 10000, &out, NULL, &E));
    CHECK_HAS(par_error_json(E), "store_replaced");
    CHECK_HAS(did(rt, "store.verify", "{}"), "'ok':false");
    ST(PAR_ERR_PERSISTENCE, par_runtime_close(rt, 10000, &E));
    CHECK_HAS(par_error_json(E), "store_replaced");
    CHECK_HAS(par_error_message(E), "not written: ");
    par_runtime_free(rt);
}

TEST(a_session_goes_on_in_the_next_runtime) {
    static const char *const durability[] = {"async", "sync", "exit"};
    size_t i;
    for (i = 0; i < COUNT(durability); i++) {
        par_runtime_t *rt = opened(NULL, js(",'durability':'%s'", durability[i]));
        CHECK_INT(i * 2, i ? elements(did(rt, "sessions.get", js("{'session':'s'}")), "messages") : 0);
        invoke(rt, IN("s"));
        CHECK_INT(i * 2 + 2, elements(did(rt, "sessions.get", js("{'session':'s'}")), "messages"));
        whole(rt);
        finish(rt);
    }
}

TEST(sessions_are_made_listed_forked_exported_and_deleted) {
    par_runtime_t *rt = opened(NULL, NULL);
    const char *answer;
    invoke(rt, IN("s")), invoke(rt, IN("s"));
    did(rt, "sessions.create", js("{'session':'new'}"));
    refuses(rt, "sessions.create", js("{'session':'new'}"), PAR_ERR_EXISTS, "params.session");
    CHECK_INT(2, elements(did(rt, "sessions.list", "{}"), "items"));
    answer = did(rt, "sessions.list", js("{'limit':1}"));
    CHECK_INT(1, elements(answer, "items"));
    answer = did(rt, "sessions.list", js("{'limit':1,'cursor':'%s'}", json_str(answer, "next_cursor")));
    CHECK_INT(1, elements(answer, "items"));
    CHECK(json_at(answer, "next_cursor") == NULL);
    CHECK_INT(2, json_int(did(rt, "sessions.fork", js("{'session':'s','to':'f','at':2}")), "entries"));
    CHECK_INT(2, elements(did(rt, "sessions.get", js("{'session':'f'}")), "messages"));
    refuses(rt, "sessions.fork", js("{'session':'s','to':'f'}"), PAR_ERR_EXISTS, "params.to");
    refuses(rt, "sessions.fork", js("{'session':'s','to':'g','at':99}"), PAR_ERR_INVALID_ARG, "params.at");
    answer = did(rt, "sessions.export", js("{'session':'s'}"));
    CHECK_INT(4, elements(answer, "messages"));
    CHECK_INT(2, elements(answer, "runs"));
    CHECK(elements(answer, "events") >= 8);
    did(rt, "sessions.delete", js("{'session':'s'}"));
    refuses(rt, "sessions.get", js("{'session':'s'}"), PAR_ERR_NOT_FOUND, NULL);
    refuses(rt, "sessions.delete", js("{'session':'s'}"), PAR_ERR_NOT_FOUND, NULL);
    CHECK_INT(0, elements(did(rt, "events.query", js("{'session':'s'}")), "items")); /* with what it said */
    whole(rt);
    finish(rt);
}

TEST(a_scope_sees_its_own) {
    par_runtime_t *rt = opened(NULL, NULL);
    invoke(rt, js("{'agent':'a','input':'one','session':'s','scope':'t1','run_id':'r1'}"));
    invoke(rt, js("{'agent':'a','input':'two','session':'s','scope':'t2'}"));
    CHECK_HAS(did(rt, "sessions.get", js("{'session':'s','scope':'t1'}")), "one");
    CHECK_LACKS(did(rt, "sessions.get", js("{'session':'s','scope':'t1'}")), "two");
    refuses(rt, "sessions.get", js("{'session':'s'}"), PAR_ERR_NOT_FOUND, NULL);
    refuses(rt, "runs.get", js("{'run_id':'r1','scope':'t2'}"), PAR_ERR_NOT_FOUND, NULL);
    CHECK_STR("completed", json_str(did(rt, "runs.get", js("{'run_id':'r1','scope':'t1'}")), "status"));
    CHECK_INT(0, elements(did(rt, "events.query", "{}"), "items"));
    CHECK(elements(did(rt, "events.query", js("{'scope':'t2'}")), "items") > 0);
    CHECK_INT(1, elements(did(rt, "runs.list", js("{'scope':'t2'}")), "items"));
    finish(rt);
}

TEST(a_session_in_use_is_waited_for_or_refused) {
    par_runtime_t *rt = opened(js("[{'text':'slow','delay_ms':%d}]", fast() ? 3000 : 150), NULL), *other = opened(NULL, NULL);
    par_stream_t *s = start(rt, IN("s"));
    until(s, "turn_started");
    ST(PAR_ERR_BUSY, attempt(rt, js("{'agent':'a','input':'x','session':'s','session_busy':'fail'}")));
    ST(PAR_ERR_BUSY, attempt(other, js("{'agent':'a','input':'x','session':'s','session_busy':'fail'}")));
    refuses(rt, "sessions.delete", js("{'session':'s'}"), PAR_ERR_BUSY, NULL);
    refuses(other, "sessions.delete", js("{'session':'s'}"), PAR_ERR_BUSY, NULL);
    CHECK_STR("after", json_str(invoke(other, js("{'agent':'a','input':'after','session':'s'}")), "text"));
    CHECK_INT(4, elements(did(other, "sessions.get", js("{'session':'s'}")), "messages"));
    par_stream_free(s);
    finish(rt), finish(other);
}

TEST(events_are_queried_and_exported) {
    par_runtime_t *rt = opened(NULL, NULL);
    const char *answer;
    char *text;
    FILE *file;
    size_t n;
    invoke(rt, js("{'agent':'a','input':'one','session':'x','run_id':'r1','tag':7}"));
    invoke(rt, js("{'agent':'a','input':'two','session':'y','run_id':'r2'}"));
    answer = did(rt, "events.query", js("{'types':['completed']}"));
    CHECK_INT(2, elements(answer, "items"));
    CHECK_STR("r1", json_str(answer, "items.0.run_id"));
    CHECK_INT(7, json_int(answer, "items.0.tag"));
    CHECK_STR("two", json_str(did(rt, "events.query", js("{'run_id':'r2','types':['completed']}")), "items.0.text"));
    answer = did(rt, "events.query", js("{'run_id':'r1','limit':1}"));
    CHECK_STR("run_started", json_str(answer, "items.0.type"));
    answer = did(rt, "events.query", js("{'run_id':'r1','limit':1,'cursor':'%s'}", json_str(answer, "next_cursor")));
    CHECK_STR("turn_started", json_str(answer, "items.0.type"));
    refuses(rt, "events.query", js("{'types':['complete']}"), PAR_ERR_SCHEMA, "params.types[0]");
    refuses(rt, "events.query", js("{'cursor':'what'}"), PAR_ERR_SCHEMA, "params.cursor");
    refuses(rt, "events.query", js("{'limit':0}"), PAR_ERR_SCHEMA, "params.limit");
    answer = did(rt, "events.export", js("{'path':'events.jsonl'}"));
    text = t_alloc((size_t)json_int(answer, "bytes") + 1);
    file = fopen("events.jsonl", "r");
    n = file ? fread(text, 1, (size_t)json_int(answer, "bytes"), file) : 0;
    CHECK_INT(json_int(answer, "bytes"), n);
    if (file) fclose(file);
    CHECK_HAS(text, "\"type\":\"completed\"");
    refuses(rt, "events.export", js("{'path':'events.jsonl'}"), PAR_ERR_IO, "params.path");
    refuses(rt, "events.export", js("{'path':'no/such/folder/x'}"), PAR_ERR_IO, "params.path");
    finish(rt);
}

TEST(a_backup_is_a_database) {
    par_runtime_t *rt = opened(NULL, NULL);
    invoke(rt, IN("s"));
    did(rt, "store.backup", js("{'path':'copy.db'}"));
    refuses(rt, "store.backup", js("{'path':'copy.db'}"), PAR_ERR_PERSISTENCE, "params.path");
    refuses(rt, "store.backup", js("{'path':'no/such/folder/x'}"), PAR_ERR_PERSISTENCE, NULL);
    finish(rt);
    rt = runtime(js("{'persistence':{'type':'sqlite','path':'copy.db'}}"));
    CHECK_INT(2, elements(did(rt, "sessions.get", js("{'session':'s'}")), "messages"));
    whole(rt);
    finish(rt);
}

TEST(what_is_old_goes) {
    par_runtime_t *rt = opened(NULL, NULL);
    const char *answer;
    invoke(rt, IN("s"));
    CHECK_INT(1, json_int(did(rt, "store.info", "{}"), "size.runs"));
    answer = did(rt, "store.prune", js("{'events_seconds':0,'runs_seconds':0}"));
    CHECK_INT(1, json_int(answer, "runs"));
    CHECK(json_int(answer, "event_blocks") >= 1);
    answer = did(rt, "store.info", "{}");
    CHECK_INT(0, json_int(answer, "size.runs"));
    CHECK_INT(0, json_int(answer, "size.event_blocks"));
    CHECK_INT(1, json_int(answer, "size.sessions"));
    did(rt, "store.prune", js("{'sessions_seconds':0}"));
    CHECK_INT(0, json_int(did(rt, "store.info", "{}"), "size.sessions"));
    refuses(rt, "store.prune", js("{'events_seconds':-1}"), PAR_ERR_SCHEMA, "params.events_seconds");
    whole(rt);
    finish(rt);
}

TEST(a_database_in_memory_is_gone_with_its_runtime) {
    const char *config = js("{'persistence':'sqlite::memory:'}");
    par_runtime_t *rt = runtime(config);
    agent(rt, "a", NULL);
    invoke(rt, IN("s"));
    CHECK_INT(2, elements(did(rt, "sessions.get", js("{'session':'s'}")), "messages"));
    CHECK(elements(did(rt, "events.query", "{}"), "items") > 3);
    whole(rt);
    finish(rt);
    rt = runtime(config);
    refuses(rt, "sessions.get", js("{'session':'s'}"), PAR_ERR_NOT_FOUND, NULL);
    finish(rt);
}

TEST(noop_keeps_sessions_as_long_as_it_lives) {
    par_runtime_t *rt = runtime("{}");
    agent(rt, "a", NULL);
    invoke(rt, IN("s"));
    CHECK_INT(2, elements(did(rt, "sessions.get", js("{'session':'s'}")), "messages"));
    CHECK_INT(1, json_int(did(rt, "sessions.fork", js("{'session':'s','to':'f','at':1}")), "entries"));
    refuses(rt, "events.query", "{}", PAR_ERR_UNSUPPORTED, NULL);
    refuses(rt, "runs.resume", js("{'run_id':'x'}"), PAR_ERR_UNSUPPORTED, NULL);
    CHECK_STR("noop", json_str(info(rt), "store.backend"));
    finish(rt);
}

TEST(bad_configuration_is_told) {
    static const struct { const char *config, *path; par_status_t status; } bad[] = {
        {"'persistence':'mysql:x'", "config.persistence", PAR_ERR_SCHEMA},
        {"'persistence':'sqlite:'", "config.persistence", PAR_ERR_SCHEMA},
        {"'persistence':7", "config.persistence", PAR_ERR_SCHEMA},
        {"'persistence':{'type':'sqlite','file':'x'}", "config.persistence.file", PAR_ERR_SCHEMA},
        {"'persistence':{'type':'noop','path':'x'}", "config.persistence", PAR_ERR_SCHEMA},
        {"'persistence':'sqlite:no/such/folder/x.db'", "config.persistence", PAR_ERR_PERSISTENCE},
        {"'persistence':'sqlite:/'", "config.persistence", PAR_ERR_PERSISTENCE},
        {"'persistence':'noop','durability':'never'", "config.durability", PAR_ERR_SCHEMA},
        {"'persistence':'noop','writer':{'capacity':0}", "config.writer.capacity", PAR_ERR_SCHEMA},
        {"'persistence':'noop','event_retention_seconds':-1", "config.event_retention_seconds", PAR_ERR_SCHEMA},
        {"'persistence':'noop','retention':{'max_bytes':5}", "config.retention.max_bytes", PAR_ERR_SCHEMA},
    };
    par_runtime_t *rt = NULL;
    size_t i;
    for (i = 0; i < COUNT(bad); i++) {
        ST(bad[i].status, par_runtime_create(PAR_ABI_VERSION, js("{%s}", bad[i].config), PAR_NTS, &rt, &E));
        CHECK_PATH(bad[i].path);
        CHECK(rt == NULL);
    }
}

TEST(an_event_that_nobody_had_room_for_is_kept) {
    par_runtime_t *rt = opened(NULL, js(",'inbox':{'events':true},'limits':{'inbox_queue_events':3}"));
    const char *answer;
    int64_t first;
    int n = 0;
    inbox(rt, 0);
    invoke(rt, js("{'agent':'a','input':'one','run_id':'r'}"));
    answer = did(rt, "events.dead_letters", "{}");
    CHECK(elements(answer, "items") >= 2);
    CHECK_STR("inbox", json_str(answer, "items.0.subscription"));
    CHECK_STR("run_started", json_str(answer, "items.0.event.type"));
    first = json_int(answer, "items.0.id");
    answer = did(rt, "events.replay", js("{'ids':[%d]}", (int)first)); /* no room yet */
    CHECK_INT(0, json_int(answer, "replayed"));
    CHECK_INT(1, json_int(answer, "left"));
    while (inbox(rt, 0)) n++;
    CHECK_INT(3, n);
    CHECK_INT(1, json_int(did(rt, "events.replay", js("{'ids':[%d]}", (int)first)), "replayed"));
    CHECK_STR("run_started", json_str(inbox(rt, 1000), "type"));
    CHECK_LACKS(did(rt, "events.dead_letters", "{}"), "run_started");
    refuses(rt, "events.replay", js("{'ids':[%d]}", (int)first), PAR_ERR_NOT_FOUND, "params.ids");
    finish(rt);
}

/* ---- a process that dies ------------------------------------------------------------------------------------------ */

static const char *effect;

/* Dies in the middle of a host tool. */
static void dies(void) {
    par_runtime_t *rt = opened(js("[{'tool_calls':[{'id':'c','name':'t','input':{'a':1,'b':2}}]},{'text':'done'}]"), NULL);
    tool(rt, "t", js(",'effect':'%s'", effect));
    agent(rt, "b", js("['t']"));
    until(start(rt, js("{'agent':'b','input':'go','session':'s','run_id':'r'}")), "tool_call");
    /* Only the intent of a call that may run once is waited for. */
    ask(rt, "store.info", "{}");
    kill(getpid(), SIGKILL);
}

static par_runtime_t *after_death(const char *of) {
    par_runtime_t *rt;
    effect = of;
    CHECK_INT(1000 + SIGKILL, in_child(20, dies));
    rt = opened(js("[{'tool_calls':[{'id':'c','name':'t','input':{'a':1,'b':2}}]},{'text':'done'}]"), NULL);
    tool(rt, "t", js(",'effect':'%s'", of));
    agent(rt, "b", js("['t']"));
    CHECK_STR("interrupted", json_str(did(rt, "runs.get", js("{'run_id':'r'}")), "status"));
    return rt;
}

static par_stream_t *resumed(par_runtime_t *rt) {
    par_stream_t *s = NULL;
    ST(PAR_OK, par_call_start(rt, "runs.resume", PAR_NTS, js("{'run_id':'r'}"), PAR_NTS, &s, &E));
    return s;
}

TEST(a_run_goes_on_in_another_process) {
    par_runtime_t *rt = after_death("idempotent");
    par_stream_t *s = resumed(rt);
    const char *event;
    CHECK_HAS(until(s, "run_resumed"), "\"run_id\":\"r\"");
    event = until(s, "tool_call"); /* the same call, by the same key */
    CHECK_STR("r:c", json_str(event, "idempotency_key"));
    ST(PAR_OK, par_tool_complete(rt, token_of(event), "3", PAR_NTS, &E));
    CHECK_STR("done", json_str(until(s, "completed"), "text"));
    par_stream_free(s);
    CHECK_STR("completed", json_str(did(rt, "runs.get", js("{'run_id':'r'}")), "status"));
    CHECK_INT(4, elements(did(rt, "sessions.get", js("{'session':'s'}")), "messages"));
    refuses(rt, "runs.resume", js("{'run_id':'r'}"), PAR_ERR_BUSY, NULL);
    whole(rt);
    finish(rt);
}

TEST(a_call_that_may_have_taken_effect_is_asked_for) {
    par_runtime_t *rt = after_death("once");
    par_stream_t *s = resumed(rt);
    const char *event = until(s, "approval_request");
    CHECK_HAS(event, "may have taken effect");
    ST(PAR_OK, par_approval_resolve(rt, json_str(event, "approval_id"), PAR_NTS, js("{'type':'reject'}"), PAR_NTS, &E));
    CHECK_HAS(until(s, "tool_result"), "may have taken effect");
    CHECK_STR("done", json_str(until(s, "completed"), "text"));
    par_stream_free(s);
    finish(rt);
}

TEST(a_call_may_be_run_again_when_somebody_says_so) {
    par_runtime_t *rt = after_death("once");
    par_stream_t *s = resumed(rt);
    const char *event = until(s, "approval_request");
    ST(PAR_OK, par_approval_resolve(rt, json_str(event, "approval_id"), PAR_NTS, js("'approve'"), PAR_NTS, &E));
    event = until(s, "tool_call");
    CHECK_STR("r:c", json_str(event, "idempotency_key"));
    ST(PAR_OK, par_tool_complete(rt, token_of(event), "3", PAR_NTS, &E));
    CHECK_STR("done", json_str(until(s, "completed"), "text"));
    par_stream_free(s);
    finish(rt);
}

TEST(a_run_that_nobody_resumes_is_abandoned) {
    par_runtime_t *rt = after_death("once");
    const char *answer = did(rt, "runs.list", js("{'status':'interrupted'}"));
    CHECK_STR("r", json_str(answer, "items.0.run_id"));
    did(rt, "runs.abandon", js("{'run_id':'r'}"));
    refuses(rt, "runs.abandon", js("{'run_id':'r'}"), PAR_ERR_BUSY, NULL);
    refuses(rt, "runs.abandon", js("{'run_id':'none'}"), PAR_ERR_NOT_FOUND, NULL);
    answer = did(rt, "runs.get", js("{'run_id':'r'}"));
    CHECK_STR("failed", json_str(answer, "status"));
    CHECK_STR("abandoned", json_str(answer, "error.code"));
    refuses(rt, "runs.resume", js("{'run_id':'r'}"), PAR_ERR_BUSY, NULL);
    finish(rt);
}

TEST(a_session_that_went_on_leaves_its_dead_run_behind) {
    par_runtime_t *rt = after_death("once");
    par_stream_t *s;
    struct seen seen;
    invoke(rt, IN("s"));
    s = resumed(rt);
    seen = drive(s, NULL, NULL);
    CHECK_STR("session_moved_on", json_str(seen.terminal, "error.code"));
    par_stream_free(s);
    whole(rt);
    finish(rt);
}

TEST(runs_go_on_by_themselves_when_that_is_wanted) {
    par_runtime_t *rt;
    const char *event;
    effect = "pure";
    CHECK_INT(1000 + SIGKILL, in_child(20, dies));
    rt = opened(js("[{'tool_calls':[{'id':'c','name':'t','input':{'a':1,'b':2}}]},{'text':'done'}]"), ",\"resume_unfinished\":true");
    tool(rt, "t", js(",'effect':'pure'"));
    inbox(rt, 0); /* somebody is there to run it */
    agent(rt, "b", js("['t']"));
    do event = inbox(rt, 5000); while (event && !is(event, "tool_call"));
    ST(PAR_OK, par_tool_complete(rt, token_of(event), "3", PAR_NTS, &E));
    EVENTUALLY(5000, json_has(ask(rt, "runs.get", js("{'run_id':'r'}")), "\"completed\""));
    finish(rt);
}

