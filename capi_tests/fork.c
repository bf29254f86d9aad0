/* After fork() the child has none of the threads. Every call says FORKED at once instead of hanging, freeing is quiet, the
 * child may leave by any door, and the parent does not notice. Forking before the first runtime is no problem at all. */
#include "t.h"

#define GO "{\"agent\":\"a\",\"input\":\"x\"}"

static struct { par_runtime_t *rt; par_stream_t *s; pid_t pid; } parent; /* what the child inherits */

/* Asked by LeakSanitizer at exit: what the library forgets in a child, by contract, is no leak. */
int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void) { return parent.pid && parent.pid != getpid(); }

static void open_parent(void) {
    parent.pid = getpid();
    parent.rt = mock("[{'text':'hello','chunks':['he','llo'],'delay_ms':100}]");
    agent(parent.rt, "a", NULL);
    parent.s = start(parent.rt, GO);
    until(parent.s, "run_started");
}

static void parent_is_unaffected(void) {
    struct seen seen = drive(parent.s, NULL, NULL);
    CHECK_WHOLE(seen, parent.s);
    CHECK_STR("hello", seen.text);
    CHECK_STR("hello", json_str(invoke(parent.rt, GO), "text"));
    par_stream_free(parent.s);
    finish(parent.rt);
}

#define SAYS_FORKED(call, blocks)                                                                                       \
    {                                                                                                                   \
        int64_t began_ = now_ms();                                                                                      \
        par_status_t got_ = call;                                                                                       \
        (void)(blocks);                                                                                                 \
        if (got_ != PAR_ERR_FORKED)                                                                                     \
            t_fail(__FILE__, __LINE__, #call, "expected", "PAR_ERR_FORKED", "actual", par_status_name(got_), NULL);     \
        if (now_ms() - began_ > slack(100)) t_fail(__FILE__, __LINE__, #call, "actual", "took its time", NULL);         \
        if (err) CHECK_HAS(par_error_message(err), "after fork"); /* and says what to do */                             \
        par_error_free(err), err = NULL;                                                                                \
        CHECK(out == NULL && s2 == NULL);                                                                               \
    }

static void every_call(void) {
    par_runtime_t *rt = parent.rt, *another = NULL;
    par_stream_t *s = parent.s, *s2 = NULL;
    par_error_t *err = NULL;
    char *out = NULL;
    size_t len = 0;
    intptr_t fd = -1;
    (void)len, (void)fd;
    EVERY_RUNTIME_CALL(SAYS_FORKED)
    EVERY_STREAM_CALL(SAYS_FORKED)
    SAYS_FORKED(par_runtime_close(rt, -1, &err), 1)
    SAYS_FORKED(par_runtime_create(PAR_ABI_VERSION, "{}", PAR_NTS, &another, &err), 0)
    CHECK(another == NULL);
    CHECK_INT(PAR_ABI_VERSION, par_abi_version()); /* these know nothing of processes */
    CHECK(*par_version() && *par_build_info());
    CHECK_STR("PAR_ERR_FORKED", par_status_name(PAR_ERR_FORKED));
    CHECK_INT(PAR_ERR_FORKED, par_stream_wait(s, -1, &out, NULL, NULL)); /* no error object wanted */
}

static void free_everything(void) {
    TAKES(0, 100, par_stream_free(parent.s));
    TAKES(0, 100, par_runtime_free(parent.rt));
    par_stream_free(parent.s);
    par_runtime_free(parent.rt);
}

static void leave_at_once(void) { _exit(0); }
static void leave_by_exit(void) { exit(0); }
static void free_and_leave_at_once(void) { free_everything(), _exit(t_failures ? 1 : 0); }
static void leave_after_calls(void) { every_call(), free_everything(), exit(t_failures ? 1 : 0); }

static void run_here(void) { /* a child that is the first to use the library */
    par_runtime_t *rt = mock(NULL);
    agent(rt, "a", NULL);
    CHECK_STR("x", json_str(invoke(rt, GO), "text"));
    finish(rt);
}

TEST(every_call_in_the_child) {
    open_parent();
    CHECK_INT(0, in_child(10, every_call));
    parent_is_unaffected();
}

TEST(frees_in_the_child) {
    open_parent();
    CHECK_INT(0, in_child(10, free_everything));
    parent_is_unaffected();
}

TEST(the_child_leaves) {
    static void (*const doors[])(void) = {leave_at_once, leave_by_exit, free_and_leave_at_once, leave_after_calls};
    size_t i;
    open_parent();
    for (i = 0; i < COUNT(doors); i++) TAKES(0, 2000, CHECK_INT(0, in_child(10, doors[i])));
    parent_is_unaffected();
}

static void errors_and_texts(void) { /* what the parent was given stays usable, and is freed, in the child */
    par_error_t *err = NULL;
    char *out = NULL;
    CHECK_INT(PAR_ERR_FORKED, par_runtime_info(parent.rt, &out, NULL, &err));
    CHECK_STR("PAR_ERR_FORKED", json_str(par_error_json(err), "name"));
    par_error_free(err);
    CHECK(E && par_error_status(E) == PAR_ERR_NOT_FOUND);
}

TEST(error_objects_cross_the_fork) {
    open_parent();
    ST(PAR_ERR_NOT_FOUND, par_unregister_agent(parent.rt, "nope", PAR_NTS, &E));
    CHECK_INT(0, in_child(10, errors_and_texts));
    parent_is_unaffected();
}

static void grandchild(void) { CHECK_INT(0, in_child(10, every_call)); }

TEST(the_child_of_a_child) {
    open_parent();
    CHECK_INT(0, in_child(20, grandchild));
    parent_is_unaffected();
}

TEST(after_the_parent_closed_its_runtime) { /* the threads are gone, the fact remains */
    open_parent();
    par_stream_free(parent.s);
    finish(parent.rt);
    CHECK_INT(0, in_child(10, every_call));
    run_here();
}

TEST(fork_before_first_use) {
    CHECK_INT(0, in_child(20, run_here));
    run_here();
}

TEST(loading_does_not_count_as_use) { /* preloading servers: versions and echo, then fork */
    char *out = NULL;
    CHECK(*par_version() && par_abi_version());
    ST(PAR_OK, par_echo("[1]", PAR_NTS, &out, NULL, &E));
    par_free(out);
    CHECK_INT(0, in_child(20, run_here));
    CHECK_INT(0, in_child(20, run_here));
    run_here();
}

static void *waiting_thread(void *unused) {
    char *out;
    par_stream_wait(parent.s, 1500, &out, NULL, NULL);
    par_free(out);
    return unused;
}

TEST(fork_while_threads_are_inside) { /* a lock held at the moment of the fork must not hang the child */
    int round, rounds = fast() ? 3 : 30;
    par_runtime_t *rt = mock("[{'text':'abcdef','chunks':['a','b','c','d','e','f'],'delay_ms':1}]");
    agent(rt, "a", NULL);
    parent.rt = rt;
    parent.pid = getpid();
    for (round = 0; round < rounds; round++) {
        pthread_t thread;
        parent.s = start(rt, GO);
        thread = spawn(waiting_thread, NULL);
        CHECK_INT(0, in_child(5, leave_after_calls));
        ST(PAR_OK, par_stream_cancel(parent.s, NULL, 0, &E));
        join(thread);
        par_stream_free(parent.s);
    }
    finish(rt);
}

static void run_another_program(void) {
    execl("/bin/true", "true", (char *)NULL);
    _exit(127);
}

TEST(exec_in_the_child) {
    open_parent();
    CHECK_INT(0, in_child(10, run_another_program));
    parent_is_unaffected();
}
