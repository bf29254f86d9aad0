/* The system refuses a thread. This program has a pthread_create of its own, which the library then uses (as with LD_PRELOAD), and
 * which fails the nth call, or every call from the nth on, with EAGAIN. Whatever is refused is an ordinary error that names the limit,
 * nothing hangs, and afterwards the same runtime does everything. */
#include "t.h"

#include <dlfcn.h>
#include <sched.h>

#define GO "{\"agent\":\"a\",\"input\":\"x\"}"
#define MOST 8

typedef int create_t(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
typedef int affinity_t(pid_t, size_t, cpu_set_t *);

static int armed, calls, fail_from, fail_to, refused; /* calls are counted from 1 while armed */
static int asked;                                     /* how often the number of processors was asked for */

__attribute__((visibility("default"))) int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*start)(void *), void *arg) {
    static create_t *real;
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
    if (LOAD(armed)) {
        int n = BUMP(calls);
        if (n >= fail_from && n <= fail_to) {
            BUMP(refused);
            return EAGAIN;
        }
    }
    return real(thread, attr, start, arg);
}

__attribute__((visibility("default"))) int sched_getaffinity(pid_t pid, size_t size, cpu_set_t *set) {
    static affinity_t *real;
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, "sched_getaffinity");
    BUMP(asked);
    return real(pid, size, set);
}

/* Leaks are not counted here: tokio cannot take back a start for which the system refused a thread. */
int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void) { return 1; }

static void arm(int from, int to) {
    calls = refused = 0;
    fail_from = from, fail_to = to;
    STORE(armed, 1);
}

static void disarm(void) { STORE(armed, 0); }

/* A refused call says what the limit is and what to do. The store's own thread belongs to the store's errors. */
static void says_the_limit(const char *what, par_status_t st, par_error_t *err) {
    const char *json = err ? par_error_json(err) : "(none)", *code = json_str(json, "code");
    int threads = st == PAR_ERR_LIMIT && code && !strcmp(code, "thread_limit");
    int store = st == PAR_ERR_PERSISTENCE && code && !strcmp(code, "store_unavailable");
    if (!(threads || store) || !strstr(json, "RLIMIT_NPROC"))
        t_fail(__FILE__, __LINE__, what, "expected", "thread_limit or store_unavailable, RLIMIT_NPROC", "actual", par_status_name(st), "error", json, NULL);
}

static const char *config(const char *folder) {
    return folder ? js("{'threads':3,'persistence':'sqlite:%s/p.db','llm_providers':{'mock':{'type':'mock','turns':[{'text':'x'}]}}}", folder)
                  : js("{'threads':3,'persistence':'noop','llm_providers':{'mock':{'type':'mock','turns':[{'text':'x'}]}}}");
}

static void nothing(uintptr_t data, uint64_t token, const char *json, size_t len) { (void)data, (void)token, (void)json, (void)len; }

/* Everything that starts a thread, with threads refused from the nth to the mth; then once more with none refused. */
static void everything(int from, int to, const char *folder) {
    par_runtime_t *rt = NULL;
    par_stream_t *s = NULL;
    par_error_t *err = NULL;
    par_status_t st;
    struct seen seen;
    char *out = NULL;
    int round, any;
    arm(from, to);
    st = par_runtime_create(PAR_ABI_VERSION, config(folder), PAR_NTS, &rt, &err);
    if (st != PAR_OK) { /* no thread is needed to create a runtime */
        t_fail(__FILE__, __LINE__, "create", "actual", par_status_name(st), "error", par_error_json(err), NULL);
        disarm();
        return;
    }
    agent(rt, "a", NULL);
    for (round = 0; round < 2; round++) {
        if (round) disarm();
        any = LOAD(refused);
        st = par_on_event(rt, nothing, 0, NULL, &err);
        if (st != PAR_OK || err) CHECK(!round && LOAD(refused) > any), says_the_limit("par_on_event", st, err);
        par_error_free(err), err = NULL;
        any = LOAD(refused);
        st = par_stream_start(rt, GO, PAR_NTS, &s, &err);
        if (st == PAR_OK) {
            seen = drive(s, NULL, NULL);
            CHECK_ENDED(seen, s);
            if (!is(seen.terminal, "completed")) CHECK(!round && LOAD(refused) > any), CHECK(is(seen.terminal, "failed")), CHECK_HAS(seen.terminal, "RLIMIT_NPROC");
        } else {
            CHECK(!round && LOAD(refused) > any);
            says_the_limit("par_stream_start", st, err);
        }
        par_stream_free(s), s = NULL;
        par_error_free(err), err = NULL;
        any = LOAD(refused);
        st = par_invoke(rt, GO, PAR_NTS, 10000, &out, NULL, &err);
        if (st != PAR_OK) CHECK(!round && LOAD(refused) > any), CHECK_HAS(par_error_json(err), "RLIMIT_NPROC");
        par_free(out), out = NULL;
        par_error_free(err), err = NULL;
    }
    arm(from, to); /* closing needs a thread, too */
    st = par_runtime_close(rt, 20000, &err);
    disarm();
    if (st != PAR_OK) t_fail(__FILE__, __LINE__, "close", "actual", par_status_name(st), "error", err ? par_error_json(err) : "(none)", NULL);
    par_error_free(err);
    par_runtime_free(rt);
}

TEST_FOR(120, the_nth_thread_is_refused) {
    int n;
    for (n = 1; n <= MOST; n++) everything(n, n, NULL);
}

TEST_FOR(120, every_thread_from_the_nth_on_is_refused) {
    int n;
    for (n = 1; n <= MOST; n++) everything(n, 1 << 20, NULL);
}

TEST_FOR(120, the_nth_thread_is_refused_to_a_store) {
    int n;
    for (n = 1; n <= MOST; n++) {
        char folder[] = "store-XXXXXX";
        if (!mkdtemp(folder)) abort();
        everything(n, n, folder);
        everything(n, 1 << 20, folder);
    }
}

TEST(a_refused_start_leaves_no_thread_and_no_descriptor) { /* also when it is tried over and over */
    par_runtime_t *rt = runtime(config(NULL));
    par_stream_t *s = NULL;
    int i, threads = 0, fds = 0;
    agent(rt, "a", NULL);
    for (i = 0; i < 20; i++) {
        arm(3, 1 << 20);
        ST(PAR_ERR_LIMIT, par_stream_start(rt, GO, PAR_NTS, &s, &E));
        disarm();
        if (i == 0) threads = thread_count(), fds = fd_count();
    }
    EVENTUALLY(2000, thread_count() <= threads);
    CHECK_INT(fds, fd_count());
    CHECK_SAID("x", run(rt, GO, NULL));
    finish(rt);
}

TEST(freeing_does_not_wait_without_a_thread) { /* of a runtime that was not closed, while a run is under way */
    par_runtime_t *rt = runtime(js("{'persistence':'noop','llm_providers':{'mock':{'type':'mock','turns':[{'text':'x','delay_ms':300}]}}}"));
    par_stream_t *s;
    struct seen seen;
    agent(rt, "a", NULL);
    s = start(rt, GO);
    arm(1, 1 << 20);
    TAKES(0, 5000, par_runtime_free(rt));
    disarm();
    seen = drive(s, NULL, NULL);
    CHECK_ENDED(seen, s);
    par_stream_free(s);
}

static int freed;

static void free_it(uintptr_t rt, uint64_t token, const char *json, size_t len) {
    (void)token, (void)json, (void)len;
    arm(1, 1 << 20);
    par_runtime_free((par_runtime_t *)rt);
    disarm();
    BUMP(freed);
}

TEST(freeing_in_a_callback_does_not_wait_without_a_thread) {
    par_runtime_t *rt = runtime(config(NULL));
    agent(rt, "a", NULL);
    ST(PAR_OK, par_on_event(rt, free_it, (uintptr_t)rt, NULL, &E));
    attempt(rt, GO);
    EVENTUALLY(5000, LOAD(freed) > 0);
}

TEST(a_name_lookup_without_a_thread_is_an_error) {
    par_runtime_t *rt = runtime(js("{'persistence':'noop','llm_providers':{'p':{'type':'openai','api_key':'k','base_url':'http://localhost:9/v1','retry':{'max_attempts':1}}}}"));
    par_status_t st;
    ST(PAR_OK, par_register_agent(rt, js("{'id':'a','model':'p/m'}"), PAR_NTS, &E));
    arm(1, 1 << 20);
    st = attempt(rt, GO);
    disarm();
    CHECK(LOAD(refused) > 0);
    CHECK_INT(PAR_ERR_NETWORK, st);
    CHECK_HAS(par_error_json(E), "RLIMIT_NPROC");
    finish(rt);
}

TEST(a_tool_without_a_thread_fails_and_the_run_goes_on) {
    par_runtime_t *rt = runtime(js("{'persistence':'noop','workspace':'.','llm_providers':{'mock':{'type':'mock','turns':[{'tool_calls':[{'id':'c1','name':'ls','input':{}}]},{'text':'done'}]}}}"));
    const char *result;
    agent(rt, "a", "['ls']");
    arm(1, 1 << 20);
    result = invoke(rt, GO);
    disarm();
    CHECK(LOAD(refused) > 0);
    CHECK_STR("done", json_str(result, "text"));
    CHECK_HAS(result, "'is_error':true");
    CHECK_LACKS(invoke(rt, GO), "'is_error':true");
    TAKES(0, 3000, finish(rt)); /* the call that was refused is not waited for */
}

TEST(the_number_of_processors_is_asked_once) {
    par_runtime_t *rt = runtime(js("{'persistence':'noop','llm_providers':{'mock':{'type':'mock','turns':[{'text':'x'}]}}}"));
    int i;
    agent(rt, "a", NULL);
    for (i = 0; i < 50; i++) CHECK_SAID("x", run(rt, GO, NULL));
    CHECK(LOAD(asked) <= 1);
    finish(rt);
}
