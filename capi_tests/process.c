/* A library is a guest in the process: signals, stderr, cwd, environment, locale and umask are as they were; a server that
 * hangs up does not kill the host by SIGPIPE; exit() with everything still running is fine. */
#include "t.h"

#include <locale.h>
#include <sys/stat.h>

#include "server.h"

#define GO "{\"agent\":\"a\",\"input\":\"x\"}"

extern char **environ;

static const char CALLS_ADD[] = "[{'tool_calls':[{'id':'c1','name':'add','input':{'a':1,'b':2}}]},{'text':'The sum is 3.'}]";

static void nothing(uintptr_t data, uint64_t token, const char *json, size_t len) { (void)data, (void)token, (void)json, (void)len; }

static void add(void *rt, const char *event) {
    if (is(event, "tool_call")) ST(PAR_OK, par_tool_complete(rt, token_of(event), "3", PAR_NTS, &E));
}

/* Everything a host does in a day. */
static void a_whole_life(void) {
    par_runtime_t *rt = mock(CALLS_ADD);
    par_stream_t *s;
    intptr_t fd;
    tool(rt, "add", NULL);
    agent(rt, "a", "['add']");
    ST(PAR_OK, par_on_log(rt, 5, nothing, 0, NULL, &E));
    ST(PAR_OK, par_on_event(rt, nothing, 0, NULL, &E));
    ST(PAR_OK, par_inbox_fd(rt, &fd, &E));
    s = start(rt, GO);
    ST(PAR_OK, par_stream_fd(s, &fd, &E));
    drive(s, add, rt);
    par_stream_free(s);
    s = start(rt, GO);
    ST(PAR_OK, par_stream_cancel(s, NULL, 0, &E));
    par_stream_free(s);
    finish(rt);
}

/* ---- servers that behave badly -------------------------------------------------------------------------------------- */

TEST(sigpipe) { /* default disposition: one careless write would kill us */
    static const enum manners all[] = {HANG_UP, RESET, HANG_UP_AFTER_REQUEST, RESET_AFTER_HEADERS, NONSENSE};
    char *long_input = t_alloc(2000000);
    size_t i;
    int round;
    signal(SIGPIPE, SIG_DFL);
    memset(long_input, 'y', 1999999);
    for (i = 0; i < COUNT(all); i++) {
        struct server server;
        par_runtime_t *rt;
        open_server(&server, all[i]);
        rt = on_server(&server);
        for (round = 0; round < 10; round++) {
            par_stream_t *s = start(rt, round % 2 ? GO : fmt("{\"agent\":\"a\",\"input\":\"%s\"}", long_input));
            struct seen seen = drive(s, NULL, NULL);
            CHECK_WHOLE(seen, s);
            CHECK(is(seen.terminal, "failed"));
            if (all[i] < RESET_AFTER_HEADERS) CHECK_INT(PAR_ERR_NETWORK, result_status(s));
            else CHECK(result_status(s) == PAR_ERR_NETWORK || result_status(s) == PAR_ERR_PROVIDER);
            par_stream_free(s);
        }
        CHECK(LOAD(server.served) > 0);
        finish(rt);
        close_server(&server);
    }
}

TEST(nobody_listens) {
    struct server server;
    par_runtime_t *rt;
    char *out;
    open_server(&server, HANG_UP);
    close_server(&server); /* its port is closed now */
    rt = on_server(&server);
    TAKES(0, 3000, ST(PAR_ERR_NETWORK, par_invoke(rt, GO, PAR_NTS, 10000, &out, NULL, &E)));
    CHECK_STR("true", json_raw(par_error_json(E), "retryable"));
    finish(rt);
}

/* ---- signals ---------------------------------------------------------------------------------------------------------- */

static void dispositions(struct sigaction *table) {
    int signal_number;
    memset(table, 0, 65 * sizeof *table);
    for (signal_number = 1; signal_number < 65; signal_number++) sigaction(signal_number, NULL, &table[signal_number]);
}

static int same_action(const struct sigaction *a, const struct sigaction *b) {
    return a->sa_handler == b->sa_handler && a->sa_flags == b->sa_flags && !memcmp(&a->sa_mask, &b->sa_mask, 8);
}

TEST(no_signal_handler_is_installed) {
    static struct sigaction before[65], during[65], after[65];
    par_runtime_t *rt;
    struct server server;
    char *out;
    int i;
    open_server(&server, HANG_UP);
    dispositions(before);
    rt = on_server(&server);
    ST(PAR_ERR_NETWORK, par_invoke(rt, GO, PAR_NTS, 10000, &out, NULL, &E));
    dispositions(during);
    finish(rt);
    a_whole_life();
    dispositions(after);
    for (i = 1; i < 65; i++) {
        if (!same_action(&before[i], &during[i])) t_fail(__FILE__, __LINE__, "sigaction during a run", "signal", fmt("%d %s", i, strsignal(i)), NULL);
        if (!same_action(&before[i], &after[i])) t_fail(__FILE__, __LINE__, "sigaction after close", "signal", fmt("%d %s", i, strsignal(i)), NULL);
    }
    close_server(&server);
}

TEST(library_threads_block_all_signals) { /* so that SIGINT, SIGCHLD, SIGPROF ... land on a thread of the host */
    static const int signals[] = {SIGHUP, SIGINT, SIGQUIT, SIGPIPE, SIGALRM, SIGTERM, SIGUSR1, SIGUSR2, SIGCHLD, SIGWINCH, SIGPROF};
    par_runtime_t *rt = mock("[{'text':'x','delay_ms':10000}]");
    par_stream_t *s;
    struct dirent *entry;
    DIR *tasks;
    sigset_t mine;
    int threads = 0;
    size_t i;
    agent(rt, "a", NULL);
    ST(PAR_OK, par_on_event(rt, nothing, 0, NULL, &E));
    s = start(rt, GO);
    sleep_ms(100);
    tasks = opendir("/proc/self/task");
    while (tasks && (entry = readdir(tasks)) != NULL) {
        FILE *file = *entry->d_name == '.' || atoi(entry->d_name) == getpid() ? NULL : fopen(fmt("/proc/self/task/%s/status", entry->d_name), "r");
        char line[256];
        uint64_t blocked = 0;
        while (file && fgets(line, sizeof line, file)) sscanf(line, "SigBlk: %" SCNx64, &blocked);
        if (!file) continue;
        fclose(file);
        threads++;
        for (i = 0; i < COUNT(signals); i++)
            if (!(blocked >> (signals[i] - 1) & 1)) t_fail(__FILE__, __LINE__, "a thread of the library does not block", "signal", strsignal(signals[i]), NULL);
    }
    if (tasks) closedir(tasks);
    CHECK(threads > 0);
    pthread_sigmask(SIG_BLOCK, NULL, &mine); /* and ours is as it was */
    for (i = 0; i < COUNT(signals); i++) CHECK(!sigismember(&mine, signals[i]));
    par_stream_free(s);
    finish(rt);
}

static void do_nothing(int unused) { (void)unused; }

static void *signal_the_waiter(void *waiter) {
    int i;
    for (i = 0; i < 5; i++) sleep_ms(30), pthread_kill(*(pthread_t *)waiter, SIGUSR1);
    return NULL;
}

TEST(a_signal_interrupts_the_host_not_the_wait) { /* EINTR inside is not the caller's business */
    par_runtime_t *rt = mock("[{'text':'x','delay_ms':10000}]");
    struct sigaction action = {.sa_handler = do_nothing}; /* no SA_RESTART */
    pthread_t self = pthread_self(), thread;
    par_stream_t *s;
    agent(rt, "a", NULL);
    s = start(rt, GO);
    while (next(s, 100)) {}
    sigaction(SIGUSR1, &action, NULL);
    thread = spawn(signal_the_waiter, &self);
    TAKES(299, 600, (void)next(s, 300));
    CHECK_INT(PAR_TIMEOUT, status);
    join(thread);
    par_stream_free(s);
    finish(rt);
}

/* ---- exit ------------------------------------------------------------------------------------------------------------- */

static par_runtime_t *left_open;

static void leave_everything_running(void) {
    int i;
    left_open = mock("[{'tool_calls':[{'id':'c1','name':'add','input':{'a':1,'b':2}}],'delay_ms':5}]");
    tool(left_open, "add", NULL);
    agent(left_open, "a", "['add']");
    ST(PAR_OK, par_on_event(left_open, nothing, 0, NULL, &E));
    for (i = 0; i < 20; i++) start(left_open, GO);
    sleep_ms(20);
}

static void exit_from_main(void) { leave_everything_running(), exit(0); }
static void quick_exit_from_main(void) { leave_everything_running(), _exit(0); }

static void *exit_here(void *unused) {
    exit(0);
    return unused;
}

static void exit_from_a_thread(void) {
    leave_everything_running();
    join(spawn(exit_here, NULL));
}

static void *run_for_ever(void *unused) {
    char *out;
    for (;;)
        if (par_invoke(left_open, "{\"agent\":\"b\",\"input\":\"x\"}", PAR_NTS, 1000, &out, NULL, NULL) == PAR_OK) par_free(out);
    return unused;
}

static void exit_while_threads_are_inside(void) {
    leave_everything_running();
    agent(left_open, "b", NULL);
    spawn(run_for_ever, NULL);
    spawn(run_for_ever, NULL);
    sleep_ms(20);
    exit(0);
}

static void call_at_exit(void) { /* the library still answers */
    char *out;
    if (par_runtime_info(left_open, &out, NULL, NULL) == PAR_OK) par_free(out);
    if (par_runtime_close(left_open, 2000, NULL) != PAR_OK) _exit(3);
    par_runtime_free(left_open);
}

static void exit_with_a_handler(void) {
    atexit(call_at_exit);
    leave_everything_running();
    exit(0);
}

static void exit_from_a_callback_now(uintptr_t data, uint64_t token, const char *json, size_t len) {
    nothing(data, token, json, len);
    exit(0);
}

static void exit_from_a_callback(void) {
    leave_everything_running();
    ST(PAR_OK, par_on_wakeup(left_open, exit_from_a_callback_now, 0, NULL, &E));
    start(left_open, GO);
    sleep_ms(5000);
    _exit(4);
}

static void exit_after_free_without_close(void) {
    leave_everything_running();
    par_runtime_free(left_open);
    exit(0);
}

TEST(exit_without_close) {
    static const struct { const char *name; void (*body)(void); } ways[] = {
        {"exit", exit_from_main}, {"_exit", quick_exit_from_main}, {"exit on a thread", exit_from_a_thread},
        {"exit while threads run", exit_while_threads_are_inside}, {"exit with an atexit handler", exit_with_a_handler},
        {"exit in a callback", exit_from_a_callback}, {"exit right after free", exit_after_free_without_close},
    };
    size_t i;
    int round, rounds = fast() ? 1 : 5;
    for (i = 0; i < COUNT(ways); i++)
        for (round = 0; round < rounds; round++) {
            int how = -1;
            TAKES(0, 3000, how = in_child(10, ways[i].body));
            if (how) t_fail(__FILE__, __LINE__, "leaving without close", "by", ways[i].name, "exit code", fmt("%d", how), NULL);
        }
}

/* ---- traces ----------------------------------------------------------------------------------------------------------- */

static void fail_in_many_ways(void) { /* none of this is worth a line on the host's terminal */
    struct server server;
    par_runtime_t *rt = mock("[{'error':{'http_status':500}}]");
    par_runtime_t *none;
    par_stream_t *s;
    char *out;
    agent(rt, "a", NULL);
    s = start(rt, GO);
    drive(s, NULL, NULL);
    par_stream_free(s);
    par_stream_free(s);
    par_echo("\xFF", 1, &out, NULL, NULL);
    par_runtime_create(PAR_ABI_VERSION, "{\"x\":1}", PAR_NTS, &none, NULL);
    par_runtime_info(NULL, NULL, NULL, NULL);
    finish(rt);
    par_runtime_info(rt, &out, NULL, NULL);
    open_server(&server, NONSENSE);
    rt = on_server(&server);
    par_invoke(rt, GO, PAR_NTS, 3000, &out, NULL, NULL);
    finish(rt);
    close_server(&server);
    a_whole_life();
}

TEST(nothing_is_printed) {
    char path[] = "/tmp/par-test-output-XXXXXX";
    int file = mkstemp(path), err = dup(2), out = dup(1), before;
    long printed;
    fflush(NULL);
    dup2(file, 2), dup2(file, 1);
    before = t_failures;
    fail_in_many_ways();
    fflush(NULL);
    dup2(err, 2), dup2(out, 1);
    printed = (long)lseek(file, 0, SEEK_END);
    if (printed > 0 || t_failures > before) {
        char text[4096] = {0};
        (void)!pread(file, text, sizeof text - 1, 0);
        t_fail(__FILE__, __LINE__, "something was printed", "text", text, NULL);
    }
    close(file), close(err), close(out);
    unlink(path);
}

static const char *environment(void) {
    char *all = NULL, **variable;
    const char *copy;
    cat(&all, "");
    for (variable = environ; *variable; variable++) cat(&all, *variable), cat(&all, "\n");
    copy = fmt("%s", all);
    free(all);
    return copy;
}

TEST(nothing_of_the_process_changes) {
    char cwd_before[4096], cwd_after[4096];
    const char *locale_before, *environment_before = environment();
    mode_t mask = umask(027);
    int files = t_entries(".");
    locale_before = fmt("%s", setlocale(LC_ALL, NULL));
    CHECK(getcwd(cwd_before, sizeof cwd_before) != NULL);
    a_whole_life();
    CHECK(getcwd(cwd_after, sizeof cwd_after) != NULL);
    CHECK_STR(cwd_before, cwd_after);
    CHECK_STR(environment_before, environment());
    CHECK_STR(locale_before, setlocale(LC_ALL, NULL));
    CHECK_INT(027, umask(mask));
    CHECK_INT(files, t_entries(".")); /* no file appeared either */
}

TEST(all_descriptors_are_private) { /* CLOEXEC, every one the library opens */
    par_runtime_t *rt;
    struct server server;
    char before[1024] = {0};
    char *out;
    int fd;
    intptr_t inbox_fd;
    open_server(&server, HANG_UP_AFTER_REQUEST);
    for (fd = 0; fd < (int)sizeof before; fd++) before[fd] = fcntl(fd, F_GETFD) >= 0;
    rt = on_server(&server);
    ST(PAR_OK, par_inbox_fd(rt, &inbox_fd, &E));
    par_invoke(rt, GO, PAR_NTS, 5000, &out, NULL, NULL);
    for (fd = 0; fd < (int)sizeof before; fd++) {
        int flags = fcntl(fd, F_GETFD);
        if (!before[fd] && flags >= 0 && !(flags & FD_CLOEXEC)) {
            char path[256] = {0};
            if (readlink(fmt("/proc/self/fd/%d", fd), path, sizeof path - 1) > 0 && !strstr(path, "valgrind"))
                t_fail(__FILE__, __LINE__, "a descriptor would be inherited", "which", path, NULL);
        }
    }
    finish(rt);
    close_server(&server);
}
