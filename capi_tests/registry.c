/* The registries of a runtime under contention: every function from sixteen threads. alarm() is the watchdog: a deadlock
 * ends the test as "hung". Statuses are not checked for each call, since every thread changes what the others use; but each must
 * be one that the function can have. PAR_TEST_STRESS_SECONDS=n makes it longer. */
#include "t.h"

#define THREADS 16

static struct { par_runtime_t *rt; int64_t until; long calls; } shared;

static void nothing(uintptr_t data, uint64_t token, const char *json, size_t len) { (void)data, (void)token, (void)json, (void)len; }

static const char *const KINDS[] = {"agents", "tools", "providers", "sessions", "runs", "subscriptions"};

/* One call; which one depends on n. */
static par_status_t step(uint64_t n) {
    par_runtime_t *rt = shared.rt;
    par_stream_t *s = NULL;
    par_status_t st = PAR_OK;
    const char *name = n & 1024 ? "one" : "two";
    char text[200], *out = NULL;
    switch (n % 20) {
    case 0: snprintf(text, sizeof text, "{\"id\":\"%s\",\"model\":\"mock/m\"}", name); st = par_register_agent(rt, text, PAR_NTS, NULL); break;
    case 1: snprintf(text, sizeof text, "{\"id\":\"%s\",\"model\":\"mock/m\",\"tools\":[\"two\"]}", name); st = par_register_agent(rt, text, PAR_NTS, NULL); break;
    case 2: st = par_unregister_agent(rt, name, PAR_NTS, NULL); break;
    case 3: st = par_unregister_agent(rt, "nobody", PAR_NTS, NULL); break;
    case 4: st = par_stream_start(rt, "{\"agent\":\"nobody\",\"input\":\"x\"}", PAR_NTS, &s, NULL); break;
    case 5: snprintf(text, sizeof text, "{\"agent\":\"%s\",\"input\":\"x\"}", name); st = par_stream_start(rt, text, PAR_NTS, &s, NULL); break;
    case 6: st = par_invoke(rt, "{\"agent\":\"nobody\",\"input\":\"x\"}", PAR_NTS, 1000, &out, NULL, NULL); break;
    case 7: snprintf(text, sizeof text, "{\"name\":\"%s\",\"description\":\"d\"}", name); st = par_register_tool(rt, text, PAR_NTS, NULL); break;
    case 8: st = par_unregister_tool(rt, name, PAR_NTS, NULL); break;
    case 9: snprintf(text, sizeof text, "{\"name\":\"%s\",\"type\":\"mock\"}", name); st = par_register_provider(rt, text, PAR_NTS, NULL); break;
    case 10: snprintf(text, sizeof text, "{\"provider\":\"%s\"}", name); st = par_call(rt, "providers.remove", PAR_NTS, text, PAR_NTS, 1000, &out, NULL, NULL); break;
    case 11: snprintf(text, sizeof text, "{\"provider\":\"%s\"}", name); st = par_call(rt, "providers.set_default", PAR_NTS, text, PAR_NTS, 1000, &out, NULL, NULL); break;
    case 12: st = par_list(rt, KINDS[(n >> 8) % COUNT(KINDS)], PAR_NTS, &out, NULL, NULL); break;
    case 13: snprintf(text, sizeof text, "{\"agent\":\"%s\",\"add_tools\":[\"one\"]}", name); st = par_call(rt, "agents.update", PAR_NTS, text, PAR_NTS, 1000, &out, NULL, NULL); break;
    case 14: st = par_on_tool(rt, n & 2048 ? nothing : NULL, 0, NULL, NULL); break;
    case 15: st = par_on_event(rt, n & 2048 ? nothing : NULL, 0, NULL, NULL); break;
    case 16: st = par_on_log(rt, 5, n & 2048 ? nothing : NULL, 0, NULL, NULL); break;
    case 17: st = n & 4096 ? par_on_wakeup(rt, n & 2048 ? nothing : NULL, 0, NULL, NULL) : par_on_approval(rt, n & 2048 ? nothing : NULL, 0, NULL, NULL); break;
    case 18: st = n & 4096 ? par_run_cancel(rt, "none", PAR_NTS, NULL, 0, NULL) : par_run_status(rt, "none", PAR_NTS, &out, NULL, NULL); break;
    default: st = n & 4096 ? par_runtime_info(rt, &out, NULL, NULL) : par_run_steer(rt, "none", PAR_NTS, "\"x\"", PAR_NTS, NULL); break;
    }
    par_free(out);
    par_stream_free(s);
    return st;
}

static void *hammer(void *seed) {
    uint64_t state = (uint64_t)(uintptr_t)seed;
    while (now_ms() < shared.until) {
        par_status_t st = step(rnd(&state));
        if (st != PAR_OK && st != PAR_ERR_NOT_FOUND && st != PAR_ERR_EXISTS && st != PAR_ERR_LIMIT && st != PAR_ERR_NO_HANDLER)
            t_fail(__FILE__, __LINE__, "a call among others", "actual", par_status_name(st), NULL);
        __atomic_add_fetch(&shared.calls, 1, __ATOMIC_RELAXED);
    }
    return NULL;
}

TEST_FOR(3600, every_registry_function_from_sixteen_threads) {
    const char *seconds = getenv("PAR_TEST_STRESS_SECONDS");
    pthread_t threads[THREADS];
    size_t i;
    int n = seconds ? atoi(seconds) : 3;
    alarm((unsigned)n + (fast() ? 300 : 60)); /* sooner than the test's own limit */
    shared.rt = mock(NULL);
    shared.until = now_ms() + n * 1000;
    for (i = 0; i < THREADS; i++) threads[i] = spawn(hammer, (void *)(uintptr_t)(i + 1));
    for (i = 0; i < THREADS; i++) join(threads[i]);
    CHECK(shared.calls > (fast() ? THREADS : 1000));
    finish(shared.rt);
}
