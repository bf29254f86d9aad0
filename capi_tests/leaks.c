/* Nothing grows: descriptors, threads and memory are where they were after thousands of runtimes, streams, errors, tool
 * calls. PAR_TEST_FAST makes it hundreds, and leaves memory to valgrind and the sanitizers. */
#include "t.h"

#include <sys/resource.h>

#define GO "{\"agent\":\"a\",\"input\":\"x\"}"

static const char CALLS_ADD[] = "[{'tool_calls':[{'id':'c1','name':'add','input':{'a':1,'b':2}}]},{'text':'The sum is 3.'}]";

static void nothing(uintptr_t data, uint64_t token, const char *json, size_t len) { (void)data, (void)token, (void)json, (void)len; }

struct baseline { int threads, fds; long rss; };

static struct baseline measure(void) {
    struct baseline b;
    sleep_ms(100); /* what is just ending, ends */
    b.threads = thread_count(), b.fds = fd_count(), b.rss = rss_kb();
    return b;
}

/* As many threads and descriptors as before, and at most so many kB more memory. */
static void is_stable(struct baseline before, long may_grow_kb) {
    struct baseline after;
    EVENTUALLY(10000, thread_count() <= before.threads);
    EVENTUALLY(10000, fd_count() <= before.fds);
    after = measure();
    if (!fast() && after.rss - before.rss > may_grow_kb)
        t_fail(__FILE__, __LINE__, "memory grew", "before", fmt("%ld kB", before.rss), "after", fmt("%ld kB", after.rss),
               "allowed", fmt("%ld kB", may_grow_kb), NULL);
}

static void create_and_close(int rounds) {
    while (rounds--) {
        par_runtime_t *rt = NULL;
        if (!ST(PAR_OK, par_runtime_create(PAR_ABI_VERSION, "{}", 2, &rt, &E))) return;
        ST(PAR_OK, par_runtime_close(rt, 10000, &E));
        par_runtime_free(rt);
    }
}

TEST_FOR(300, create_and_close_10000_times) {
    struct baseline before;
    create_and_close(fast() ? 3 : 200); /* the shells and the allocator's pools settle */
    before = measure();
    create_and_close(fast() ? 20 : 10000);
    is_stable(before, 4000);
}

TEST_FOR(120, create_and_free_without_close) {
    struct baseline before;
    int i;
    create_and_close(20);
    before = measure();
    for (i = 0; i < (fast() ? 10 : 500); i++) {
        par_runtime_t *rt = runtime("{}");
        par_runtime_free(rt);
        if (i % 50 == 49) EVENTUALLY(10000, thread_count() <= before.threads + 20); /* closing happens behind us */
    }
    is_stable(before, 8000);
}

TEST(nothing_outlives_close) { /* runs, streams, callbacks, unanswered tools: when close says OK the threads are gone */
    int round, threads = thread_count(), fds = fd_count();
    for (round = 0; round < (fast() ? 5 : 50); round++) {
        par_runtime_t *rt = mock(CALLS_ADD);
        par_stream_t *s;
        tool(rt, "add", NULL);
        agent(rt, "a", "['add']");
        ST(PAR_OK, par_on_event(rt, nothing, 0, NULL, &E));
        s = start(rt, GO);
        if (round % 2) until(s, "tool_call");
        ST(PAR_OK, par_runtime_close(rt, 10000, &E));
        EVENTUALLY(100, thread_count() <= threads);
        par_stream_free(s);
        par_runtime_free(rt);
        EVENTUALLY(100, fd_count() <= fds);
    }
}

static void failures(int rounds) {
    while (rounds--) {
        par_runtime_t *rt = NULL;
        par_error_t *err = NULL;
        char *out;
        CHECK_INT(PAR_ERR_SCHEMA, par_runtime_create(PAR_ABI_VERSION, "{\"thread\":1}", PAR_NTS, &rt, &err));
        par_error_free(err);
        CHECK_INT(PAR_ERR_JSON, par_echo("{", 1, &out, NULL, &err));
        par_error_free(err);
        CHECK_INT(PAR_ERR_JSON, par_echo("{", 1, &out, NULL, NULL));
        if (par_echo("{\"a\":[1,2,3]}", PAR_NTS, &out, NULL, NULL) == PAR_OK) par_free(out);
    }
}

TEST(errors_and_echoes) {
    struct baseline before;
    failures(200);
    before = measure();
    failures(fast() ? 500 : 50000);
    is_stable(before, 1000);
}

static void streams(par_runtime_t *rt, int rounds) {
    while (rounds--) {
        par_stream_t *s = NULL;
        intptr_t fd;
        char *out;
        if (!ST(PAR_OK, par_stream_start(rt, GO, PAR_NTS, &s, &E))) return;
        if (rounds % 2) ST(PAR_OK, par_stream_fd(s, &fd, &E));
        if (rounds % 3 == 0) ST(PAR_OK, par_stream_cancel(s, NULL, 0, &E));
        if (rounds % 5)
            while (par_stream_wait(s, 5000, &out, NULL, NULL) == PAR_OK) par_free(out);
        par_stream_free(s); /* of five, one is freed unread */
    }
}

TEST_FOR(120, streams_come_and_go) {
    par_runtime_t *rt = mock(NULL);
    struct baseline before;
    agent(rt, "a", NULL);
    streams(rt, fast() ? 20 : 2000);
    sleep_ms(100);
    before = measure();
    streams(rt, fast() ? 200 : 20000);
    is_stable(before, 4000);
    finish(rt);
}

static void tool_calls(par_runtime_t *rt, int rounds) {
    while (rounds--) {
        par_stream_t *s = start(rt, GO);
        char *out;
        while (par_stream_wait(s, 5000, &out, NULL, NULL) == PAR_OK) {
            const char *token = strstr(out, "\"token\":");
            if (token && strstr(out, "\"type\":\"tool_call\"")) {
                uint64_t number = strtoull(token + 8, NULL, 10);
                if (rounds % 7 == 0) par_stream_cancel(s, NULL, 0, NULL);
                else if (rounds % 3 == 0) par_tool_fail(rt, number, "{\"message\":\"m\"}", PAR_NTS, NULL);
                else par_tool_complete(rt, number, "3", 1, NULL);
            }
            par_free(out);
        }
        par_stream_free(s);
    }
}

TEST_FOR(120, tool_calls_come_and_go) {
    par_runtime_t *rt = mock(CALLS_ADD);
    struct baseline before;
    tool(rt, "add", NULL);
    agent(rt, "a", "['add']");
    tool_calls(rt, fast() ? 20 : 1000);
    sleep_ms(100);
    before = measure();
    tool_calls(rt, fast() ? 100 : 10000);
    is_stable(before, 4000);
    finish(rt);
}

TEST_FOR(120, callbacks_and_registrations_come_and_go) {
    par_runtime_t *rt = mock(NULL);
    struct baseline before = {0, 0, 0};
    int i, half = fast() ? 50 : 2000;
    agent(rt, "a", NULL);
    for (i = 0; i < 2 * half; i++) {
        if (i == half) sleep_ms(100), before = measure();
        ST(PAR_OK, par_on_event(rt, nothing, 0, NULL, &E)); /* replaces the one before */
        tool(rt, "add", NULL);
        agent(rt, "b", "['add']");
        ST(PAR_OK, par_unregister_agent(rt, "b", PAR_NTS, &E));
        ST(PAR_OK, par_unregister_tool(rt, "add", PAR_NTS, &E));
        t_clear();
        t_free_texts();
    }
    ST(PAR_OK, par_on_event(rt, NULL, 0, NULL, &E));
    is_stable(before, 1000);
    finish(rt);
}

TEST_FOR(60, many_streams_alive) { /* a thousand at once: no thread each, and their memory comes back */
    enum { N = 1000 };
    par_runtime_t *rt = mock("[{'text':'x','delay_ms':60000}]");
    static par_stream_t *s[N];
    struct baseline before, during;
    int i, n = fast() ? 100 : N;
    agent(rt, "a", NULL);
    par_stream_free(start(rt, GO));
    before = measure();
    for (i = 0; i < n; i++) s[i] = start(rt, GO);
    during = measure();
    CHECK(during.threads <= before.threads + 4);
    CHECK(during.fds <= before.fds + 4); /* a descriptor is made when it is asked for */
    if (!fast() && (during.rss - before.rss) / n > 60)
        t_fail(__FILE__, __LINE__, "memory per stream", "actual", fmt("%ld kB", (during.rss - before.rss) / n), NULL);
    for (i = 0; i < n; i++) par_stream_free(s[i]);
    is_stable(before, 60 * N);
    finish(rt);
}

TEST_FOR(60, no_descriptors_left) { /* RLIMIT_NOFILE reached: an error, not a crash; and it works again afterwards */
    enum { MANY = 300 };
    static int hog[MANY];
    struct rlimit few = {256, 256};
    par_runtime_t *rt = mock("[{'text':'x','delay_ms':60000}]"), *more;
    par_stream_t *s, *t = NULL;
    char *out = NULL;
    intptr_t fd = -1;
    int n = 0;
    if (fast()) { finish(rt); return; } /* valgrind keeps the limit from being real */
    agent(rt, "a", NULL);
    s = start(rt, GO);
    setrlimit(RLIMIT_NOFILE, &few);
    while (n < MANY && (hog[n] = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0) n++;
    CHECK(n < MANY);
    ST(PAR_ERR_IO, par_stream_fd(s, &fd, &E));
    CHECK(fd <= 0);
    if ((more = mock(NULL)) != NULL) { /* a runtime may be lazy, but then its first run says so */
        agent(more, "a", NULL);
        ST(PAR_ERR_IO, par_stream_start(more, GO, PAR_NTS, &t, &E));
        ST(PAR_ERR_IO, par_invoke(more, GO, PAR_NTS, 5000, &out, NULL, &E));
        CHECK(t == NULL && out == NULL);
    }
    while (n) close(hog[--n]);
    ST(PAR_OK, par_stream_fd(s, &fd, &E));
    if (more) CHECK_STR("x", json_str(invoke(more, GO), "text")), finish(more);
    par_stream_free(s);
    finish(rt);
}
