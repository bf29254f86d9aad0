/* Handles survive their owners' mistakes: freed twice, used after free, of the wrong type, pointing anywhere, freed while
 * another thread waits, in any order from any thread (what garbage collectors do). Each is a status code, never a crash. */
#include "t.h"

static const char SLOW[] = "[{'text':'x','delay_ms':20000}]";
static const char CALLS_ADD[] = "[{'tool_calls':[{'id':'c1','name':'add','input':{'a':1,'b':2}}]},{'text':'3'}]";

static par_runtime_t *slow_runtime(void) {
    par_runtime_t *rt = mock(SLOW);
    agent(rt, "a", NULL);
    return rt;
}

#define GO "{\"agent\":\"a\",\"input\":\"x\"}"

/* Calls every function of a handle; all must say `want`. */
#define ALL(CALLS, want)                                                                 \
    do {                                                                                 \
        char *out = NULL;                                                                \
        size_t len = 1;                                                                  \
        intptr_t fd = 0;                                                                 \
        par_stream_t *s2 = NULL;                                                         \
        par_error_t *err = NULL;                                                         \
        par_status_t want_ = (want);                                                     \
        (void)out, (void)len, (void)fd, (void)s2;                                        \
        CALLS(ALL_ONE)                                                                   \
    } while (0)
#define ALL_ONE(call, blocks)                                                            \
    {                                                                                    \
        par_status_t got_ = call;                                                        \
        if (got_ != want_)                                                               \
            t_fail(__FILE__, __LINE__, #call, "expected", par_status_name(want_), "actual", par_status_name(got_), NULL); \
        par_error_free(err), err = NULL;                                                 \
        CHECK(out == NULL && s2 == NULL);                                                \
    }

TEST(freed_runtime) {
    par_runtime_t *rt = slow_runtime();
    finish(rt);
    ALL(EVERY_RUNTIME_CALL, PAR_ERR_BAD_HANDLE);
    ST(PAR_ERR_BAD_HANDLE, par_runtime_close(rt, 0, &E));
    par_runtime_free(rt);
    par_runtime_free(rt);
}

TEST(freed_stream) {
    par_runtime_t *rt = slow_runtime();
    par_stream_t *s = start(rt, GO);
    par_stream_free(s);
    ALL(EVERY_STREAM_CALL, PAR_ERR_BAD_HANDLE);
    par_stream_free(s);
    par_stream_free(s);
    finish(rt);
}

TEST(closed_is_closed) { /* no descriptor is left when closing returns, however often it is looked at */
    int threads = thread_count(), fds = fd_count(), i;
    for (i = 0; i < (fast() ? 20 : 200); i++) {
        par_runtime_t *rt = mock_and(SLOW, fmt(",'workspace':'%s'", t_folder)); /* whose folder is kept open */
        par_stream_t *s;
        agent(rt, "a", "['read']");
        s = start(rt, GO);
        ST(PAR_OK, par_runtime_close(rt, 10000, &E));
        par_stream_free(s);
        par_runtime_free(rt);
        CHECK_INT(fds, fd_count());
    }
    EVENTUALLY(1000, thread_count() <= threads); /* the kernel lists a thread for a moment after it was joined */
}

TEST(freed_without_close) { /* is a close on a background thread */
    int threads = thread_count(), fds = fd_count(), i;
    for (i = 0; i < 5; i++) {
        par_runtime_t *rt = slow_runtime();
        par_stream_t *s = start(rt, GO);
        TAKES(0, 300, par_runtime_free(rt));
        TAKES(0, 300, par_stream_free(s));
    }
    EVENTUALLY(10000, thread_count() <= threads);
    EVENTUALLY(10000, fd_count() <= fds);
}

TEST(wrong_type) {
    par_runtime_t *real = slow_runtime();
    par_stream_t *stream = start(real, GO);
    {
        par_runtime_t *rt = (par_runtime_t *)stream;
        ALL(EVERY_RUNTIME_CALL, PAR_ERR_BAD_HANDLE);
        ST(PAR_ERR_BAD_HANDLE, par_runtime_close(rt, 0, &E));
        par_runtime_free(rt); /* frees nothing */
    }
    {
        par_stream_t *s = (par_stream_t *)real;
        ALL(EVERY_STREAM_CALL, PAR_ERR_BAD_HANDLE);
        par_stream_free(s);
    }
    CHECK(info(real) != NULL);
    CHECK(stream_info(stream) != NULL);
    par_stream_free(stream);
    finish(real);
}

TEST(foreign_pointer) { /* readable memory that was never a handle */
    uint64_t seed = 7, block[64];
    int fill;
    size_t i;
    for (fill = 0; fill < 3; fill++) {
        par_runtime_t *rt = (par_runtime_t *)(void *)block;
        par_stream_t *s = (par_stream_t *)(void *)block;
        for (i = 0; i < COUNT(block); i++) block[i] = fill == 0 ? 0 : fill == 1 ? UINT64_MAX : rnd(&seed);
        ALL(EVERY_RUNTIME_CALL, PAR_ERR_BAD_HANDLE);
        ALL(EVERY_STREAM_CALL, PAR_ERR_BAD_HANDLE);
        par_runtime_free(rt);
        par_stream_free(s);
    }
}

TEST(after_close) {
    par_runtime_t *rt = slow_runtime();
    par_stream_t *s = start(rt, GO), *none = NULL;
    par_error_t *err = NULL;
    char *out = NULL;
    struct seen seen;
    ST(PAR_OK, par_runtime_close(rt, 10000, &E));
    ST(PAR_ERR_CLOSED, par_stream_start(rt, GO, PAR_NTS, &none, &E));
    ST(PAR_ERR_CLOSED, par_invoke(rt, GO, PAR_NTS, 1000, &out, NULL, &E));
    ST(PAR_ERR_CLOSED, par_call(rt, "tools.list", PAR_NTS, NULL, 0, 1000, &out, NULL, &E));
    ST(PAR_ERR_CLOSED, par_call_start(rt, "tools.list", PAR_NTS, NULL, 0, &none, &E));
    ST(PAR_ERR_CLOSED, par_register_agent(rt, "{\"id\":\"b\",\"model\":\"mock/m\"}", PAR_NTS, &E));
    ST(PAR_ERR_STALE_TOKEN, par_tool_complete(rt, 1, "1", PAR_NTS, &E));
    ST(PAR_ERR_NOT_FOUND, par_run_steer(rt, "r", PAR_NTS, "\"x\"", PAR_NTS, &E));
    ST(PAR_ERR_NOT_FOUND, par_approval_resolve(rt, "a", PAR_NTS, "\"approve\"", PAR_NTS, &E));
    CHECK_HAS(info(rt), "'state':'closed'");
    CHECK_INT(0, json_int(info(rt), "close.exit_code"));
    CHECK_INT(1, json_int(info(rt), "close.runs_cancelled"));
    ST(PAR_OK, par_runtime_close(rt, 10000, &E));
    ST(PAR_OK, par_runtime_close(rt, 0, &err));
    seen = drive(s, NULL, NULL); /* still readable, to its terminal event */
    CHECK_WHOLE(seen, s);
    CHECK(is(seen.terminal, "cancelled"));
    CHECK_INT(PAR_ERR_CANCELLED, result_status(s));
    par_runtime_free(rt);
    par_stream_free(s);
}

TEST(runtime_freed_before_its_streams) {
    par_runtime_t *rt = mock(NULL);
    par_stream_t *s, *t;
    struct seen seen;
    agent(rt, "a", NULL);
    s = start(rt, GO), t = start(rt, GO);
    EVENTUALLY(5000, result_status(s) == PAR_OK);
    par_runtime_free(rt);
    seen = drive(s, NULL, NULL);
    CHECK_WHOLE(seen, s);
    CHECK_STR("x", seen.text);
    seen = drive(t, NULL, NULL); /* this one may have been cancelled, but it has its end */
    CHECK_WHOLE(seen, t);
    par_stream_free(t);
    par_stream_free(s);
    par_runtime_free(rt);
}

TEST(many_streams_freed_in_any_order) {
    enum { N = 40 };
    par_runtime_t *rt = slow_runtime();
    par_stream_t *s[N];
    int fds, i;
    intptr_t fd;
    par_stream_free(start(rt, GO)); /* the first run starts the threads and their descriptors */
    fds = fd_count();
    for (i = 0; i < N; i++) {
        s[i] = start(rt, GO);
        ST(PAR_OK, par_stream_fd(s[i], &fd, &E));
    }
    for (i = 0; i < N; i++) par_stream_free(s[i * 7 % N]);
    EVENTUALLY(5000, fd_count() <= fds);
    EVENTUALLY(5000, json_int(info(rt), "runs.live") == 0);
    finish(rt);
}

/* ---- freed while another thread waits ------------------------------------------------------------------------------ */

struct waiter { par_runtime_t *rt; par_stream_t *s; par_status_t last; int waiting; };

static void *wait_on_stream(void *context) {
    struct waiter *w = context;
    char *out;
    do {
        STORE(w->waiting, 1);
        w->last = par_stream_wait(w->s, 15000, &out, NULL, NULL);
        if (w->last == PAR_OK) par_free(out);
    } while (w->last == PAR_OK || w->last == PAR_WOKEN);
    return NULL;
}

static void *wait_on_inbox(void *context) {
    struct waiter *w = context;
    char *out;
    do {
        STORE(w->waiting, 1);
        w->last = par_inbox_wait(w->rt, 15000, &out, NULL, NULL);
        if (w->last == PAR_OK) par_free(out);
    } while (w->last == PAR_OK || w->last == PAR_WOKEN);
    return NULL;
}

static void *wait_in_invoke(void *context) {
    struct waiter *w = context;
    char *out;
    STORE(w->waiting, 1);
    w->last = par_invoke(w->rt, GO, PAR_NTS, 15000, &out, NULL, NULL);
    if (w->last == PAR_OK) par_free(out);
    return NULL;
}

/* `act` while `body` waits: the waiter comes back at once; with what, is returned. */
static par_status_t interrupted(void *(*body)(void *), void (*act)(struct waiter *)) {
    struct waiter w = {0};
    pthread_t thread;
    w.rt = slow_runtime();
    w.s = start(w.rt, GO);
    thread = spawn(body, &w);
    while (!LOAD(w.waiting)) sleep_ms(1);
    sleep_ms(50);
    act(&w);
    TAKES(0, 3000, join(thread));
    par_stream_free(w.s);
    par_runtime_free(w.rt);
    return w.last;
}

static void free_stream(struct waiter *w) { par_stream_free(w->s); }
static void free_runtime(struct waiter *w) { par_runtime_free(w->rt); }
static void close_runtime(struct waiter *w) { ST(PAR_OK, par_runtime_close(w->rt, 10000, &E)); }
static void cancel_stream(struct waiter *w) { ST(PAR_OK, par_stream_cancel(w->s, NULL, 0, &E)); }

#define IS_ONE_OF(status, a, b)                                                                                       \
    do {                                                                                                              \
        par_status_t got_ = (status);                                                                                 \
        if (got_ != (a) && got_ != (b))                                                                               \
            t_fail(__FILE__, __LINE__, #status, "expected", #a " or " #b, "actual", par_status_name(got_), NULL);     \
    } while (0)

TEST(stream_freed_during_a_wait) { IS_ONE_OF(interrupted(wait_on_stream, free_stream), PAR_ERR_BAD_HANDLE, PAR_END); }
TEST(stream_cancelled_during_a_wait) { CHECK_INT(PAR_END, interrupted(wait_on_stream, cancel_stream)); }
TEST(runtime_closed_during_a_stream_wait) { CHECK_INT(PAR_END, interrupted(wait_on_stream, close_runtime)); }
TEST(runtime_freed_during_a_stream_wait) { CHECK_INT(PAR_END, interrupted(wait_on_stream, free_runtime)); }
TEST(runtime_freed_during_an_inbox_wait) { IS_ONE_OF(interrupted(wait_on_inbox, free_runtime), PAR_ERR_BAD_HANDLE, PAR_END); }
TEST(runtime_closed_during_an_inbox_wait) { CHECK_INT(PAR_END, interrupted(wait_on_inbox, close_runtime)); }
TEST(runtime_closed_during_an_invoke) { IS_ONE_OF(interrupted(wait_in_invoke, close_runtime), PAR_ERR_CANCELLED, PAR_ERR_CLOSED); }
TEST(runtime_freed_during_an_invoke) { IS_ONE_OF(interrupted(wait_in_invoke, free_runtime), PAR_ERR_CANCELLED, PAR_ERR_CLOSED); }

TEST(every_call_races_with_free) { /* one thread calls everything, another frees under it */
    int round, rounds = fast() ? 10 : 100;
    for (round = 0; round < rounds; round++) {
        struct waiter w = {0};
        pthread_t threads[3];
        w.rt = slow_runtime();
        w.s = start(w.rt, GO);
        threads[0] = spawn(wait_on_stream, &w);
        threads[1] = spawn(wait_on_inbox, &(struct waiter){.rt = w.rt});
        if (round % 3 == 0) sleep_ms(1);
        if (round % 2) par_stream_free(w.s), par_runtime_free(w.rt);
        else par_runtime_free(w.rt), par_stream_free(w.s);
        join(threads[0]);
        join(threads[1]);
    }
}

/* ---- what a garbage collector does: any order, any thread ---------------------------------------------------------- */

enum { STREAMS = 3, OPS = 40, THREADS = 3 };

struct zoo {
    par_runtime_t *rt;
    par_stream_t *s[STREAMS];
    uint64_t token[STREAMS];
    int ops[OPS], next, bad;
    uint64_t seed;
};

static void *keeper(void *context) {
    struct zoo *zoo = context;
    int i;
    while ((i = BUMP(zoo->next) - 1) < OPS) {
        int which = zoo->ops[i] % STREAMS;
        par_stream_t *s = zoo->s[which];
        par_stream_t *s2 = NULL;
        par_error_t *err = NULL;
        par_status_t st = PAR_OK;
        char *out = NULL;
        intptr_t fd;
        switch (zoo->ops[i] / STREAMS) {
        case 0: par_stream_free(s); break;
        case 1: par_stream_free(s); break;
        case 2: st = par_tool_complete(zoo->rt, zoo->token[which], "3", 1, &err); break;
        case 3: st = par_tool_fail(zoo->rt, zoo->token[which], "{\"message\":\"no\"}", PAR_NTS, &err); break;
        case 4: st = par_tool_progress(zoo->rt, zoo->token[which], "0.5", PAR_NTS, &err); break;
        case 5: st = par_stream_cancel(s, "seeded", PAR_NTS, &err); break;
        case 6: st = par_stream_wait(s, 3, &out, NULL, &err); break;
        case 7: st = par_stream_poll(s, &out, NULL, &err); break;
        case 8: st = par_stream_drain(s, 5, &out, NULL, &err); break;
        case 9: st = par_stream_result(s, &out, NULL, &err); break;
        case 10: st = par_stream_fd(s, &fd, &err); break;
        case 11: st = par_stream_wake(s); break;
        case 12:
            if (which == 0) st = par_runtime_close(zoo->rt, which, &err);
            else if (which == 1) st = par_stream_start(zoo->rt, GO, PAR_NTS, &s2, &err);
            else par_runtime_free(zoo->rt);
            break;
        default: st = par_runtime_info(zoo->rt, &out, NULL, &err);
        }
        if (st < 0 && (st <= PAR_ERR_INTERNAL || st > PAR_ERR_BAD_HANDLE || !err) && st != PAR_ERR_BAD_HANDLE) {
            t_fail(__FILE__, __LINE__, "an operation in the zoo", "operation", fmt("%d", zoo->ops[i] / STREAMS), "status",
                   par_status_name(st), "error", par_error_message(err), "replay", fmt("PAR_TEST_SEED=%" PRIu64, zoo->seed), NULL);
        }
        par_stream_free(s2);
        par_error_free(err);
        par_free(out);
    }
    return NULL;
}

static void zoo_day(uint64_t seed) {
    struct zoo zoo = {0};
    pthread_t threads[THREADS];
    uint64_t random = zoo.seed = seed;
    int i;
    zoo.rt = mock(CALLS_ADD);
    tool(zoo.rt, "add", NULL);
    agent(zoo.rt, "a", "['add']");
    for (i = 0; i < STREAMS; i++) {
        zoo.s[i] = start(zoo.rt, GO);
        if (rnd(&random) & 1) zoo.token[i] = token_of(until(zoo.s[i], "tool_call"));
    }
    for (i = 0; i < OPS; i++) zoo.ops[i] = i;
    for (i = OPS - 1; i > 0; i--) {
        int j = (int)(rnd(&random) % (uint64_t)(i + 1)), was = zoo.ops[i];
        zoo.ops[i] = zoo.ops[j], zoo.ops[j] = was;
    }
    for (i = 0; i < THREADS; i++) threads[i] = spawn(keeper, &zoo);
    for (i = 0; i < THREADS; i++) join(threads[i]);
    for (i = 0; i < STREAMS; i++) par_stream_free(zoo.s[i]);
    par_runtime_free(zoo.rt);
}

TEST_FOR(120, any_order_from_any_thread) {
    const char *replay = getenv("PAR_TEST_SEED"), *seeds = getenv("PAR_TEST_SEEDS");
    uint64_t seed = replay ? strtoull(replay, NULL, 10) : 1;
    uint64_t last = replay ? seed : seeds ? strtoull(seeds, NULL, 10) : fast() ? 15 : 400;
    int threads = thread_count(), fds = fd_count();
    for (; seed <= last && !t_failures; seed++) zoo_day(seed);
    EVENTUALLY(15000, thread_count() <= threads);
    EVENTUALLY(15000, fd_count() <= fds);
}
