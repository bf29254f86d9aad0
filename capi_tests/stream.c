/* A stream: numbered events without gaps, exactly one terminal event whatever happens, waiting that is exact, one consumer,
 * a file descriptor that is readable exactly when there is something to read, and a result that can be asked for again. */
#include "t.h"

#include <sched.h>
#include <sys/epoll.h>

#define GO "{\"agent\":\"a\",\"input\":\"x\"}"

static const char ENDLESS[] = "[{'text':'x','delay_ms':20000}]";
static const char CALLS_ADD[] =
    "[{'tool_calls':[{'id':'c1','name':'add','input':{'a':1,'b':2}}]},{'text':'The sum is 3.','chunks':['The sum ','is 3.']}]";

static par_runtime_t *runtime_with(const char *turns) {
    par_runtime_t *rt = mock(turns);
    agent(rt, "a", NULL);
    return rt;
}

static par_runtime_t *adding_runtime(const char *turns) {
    par_runtime_t *rt = mock(turns);
    tool(rt, "add", NULL);
    agent(rt, "a", "['add']");
    return rt;
}

/* A turn of n chunks "0 1 2 ...", so many ms apart. */
static const char *chunked(int n, int delay_ms) {
    char *text = NULL, *chunks = NULL;
    const char *turns;
    int i;
    for (i = 0; i < n; i++) {
        cat(&text, fmt("%d ", i));
        cat(&chunks, fmt("%s'%d '", i ? "," : "", i));
    }
    turns = fmt("[{'text':'%s','chunks':[%s],'delay_ms':%d}]", text, chunks, delay_ms);
    free(text), free(chunks);
    return turns;
}

static const char *counted(int n) { /* the text those chunks make */
    char *text = NULL;
    const char *copy;
    int i;
    for (i = 0; i < n; i++) cat(&text, fmt("%d ", i));
    copy = fmt("%s", text);
    free(text);
    return copy;
}

static void add(void *rt, const char *event) {
    if (is(event, "tool_call"))
        ST(PAR_OK, par_tool_complete(rt, token_of(event),
            fmt("%d", (int)(json_int(event, "input.a") + json_int(event, "input.b"))), PAR_NTS, &E));
}

static void add_if_wanted(void *rt, const char *event) { /* a cancel may have come between the question and the answer */
    if (is(event, "tool_call")) {
        par_status_t st = par_tool_complete(rt, token_of(event), "3", 1, NULL);
        CHECK(st == PAR_OK || st == PAR_ERR_STALE_TOKEN);
    }
}

static const char *result_of(par_stream_t *s) {
    char *out = NULL;
    ST(PAR_OK, par_stream_result(s, &out, NULL, &E));
    return keep(out);
}

static int readable(intptr_t fd) {
    struct pollfd p = {(int)fd, POLLIN, 0};
    return poll(&p, 1, 0) == 1 && (p.revents & POLLIN);
}

static intptr_t fd_of(par_stream_t *s) {
    intptr_t fd = -1;
    ST(PAR_OK, par_stream_fd(s, &fd, &E));
    return fd;
}

/* ---- events -------------------------------------------------------------------------------------------------------- */

struct envelopes { par_runtime_t *rt; int64_t at_ms; const char *run_id; };

static void check_envelope(void *context, const char *event) {
    struct envelopes *seen = context;
    const char *run_id = json_str(event, "run_id");
    CHECK_INT(1, json_int(event, "v"));
    CHECK(json_int(event, "seq") >= 0);
    CHECK(json_int(event, "at_ms") >= seen->at_ms);
    CHECK(run_id && *run_id);
    if (seen->run_id) CHECK_STR(seen->run_id, run_id);
    CHECK_STR("green", json_str(event, "tag"));
    seen->run_id = run_id;
    seen->at_ms = json_int(event, "at_ms");
    if (is(event, "tool_call")) {
        CHECK(token_of(event) > 0);
        CHECK_STR("c1", json_str(event, "tool_call_id"));
        CHECK_STR("add", json_str(event, "name"));
        CHECK_STR("{\"a\":1,\"b\":2}", json_raw(event, "input"));
        CHECK(json_int(event, "deadline_ms") > 0 && json_int(event, "deadline_ms") <= 60000);
        ST(PAR_OK, par_tool_progress(seen->rt, token_of(event), "\"thinking\"", PAR_NTS, &E));
    }
    add(seen->rt, event);
}

TEST(every_event_type) {
    static const char *const types[] = {"run_started", "turn_started", "reasoning_delta", "tool_call_start", "tool_call_delta",
        "tool_call", "tool_progress", "tool_result", "usage_update", "text_delta", "completed"};
    par_runtime_t *rt = adding_runtime("[{'reasoning':'I should add.','tool_calls':[{'id':'c1','name':'add','input':{'a':1,'b':2}}],"
        "'usage':{'input_tokens':3,'output_tokens':2}},{'expect':{'last_message_contains':'3'},'text':'The sum is 3.',"
        "'usage':{'input_tokens':5,'output_tokens':4}}]");
    par_stream_t *s = start(rt, js("{'agent':'a','input':'1+2?','tag':'green'}"));
    struct envelopes context = {rt, 0, NULL};
    struct seen seen = drive(s, check_envelope, &context);
    size_t i;
    CHECK_WHOLE(seen, s);
    for (i = 0; i < COUNT(types); i++) CHECK_HAS(seen.types, fmt(" %s ", types[i]));
    CHECK(strstr(seen.types, " run_started ") == seen.types);
    CHECK_STR("I should add.", seen.reasoning);
    CHECK_STR("The sum is 3.", seen.text);
    CHECK_STR("The sum is 3.", json_str(seen.terminal, "text"));
    CHECK_STR("stop", json_str(seen.terminal, "finish_reason"));
    CHECK_INT(2, json_int(seen.terminal, "iterations"));
    CHECK_INT(8, json_int(seen.terminal, "usage.input_tokens"));
    CHECK_INT(6, json_int(seen.terminal, "usage.output_tokens"));
    par_stream_free(s);
    finish(rt);
}

TEST(arguments_arrive_as_deltas) { /* the tool_call_delta texts, joined, are the input */
    par_runtime_t *rt = adding_runtime(CALLS_ADD);
    par_stream_t *s = start(rt, GO);
    char *joined = NULL;
    const char *event;
    cat(&joined, "");
    while ((event = next(s, 5000)) != NULL && !is(event, "tool_call"))
        if (is(event, "tool_call_delta")) CHECK_STR("c1", json_str(event, "tool_call_id")), cat(&joined, json_str(event, "args_json"));
    CHECK_STR("{\"a\":1,\"b\":2}", joined);
    free(joined);
    par_stream_free(s);
    finish(rt);
}

TEST(deltas_join_to_the_result) {
    par_runtime_t *rt = runtime_with(chunked(300, 0));
    par_stream_t *s = start(rt, GO);
    struct seen seen = drive(s, NULL, NULL);
    const char *result = result_of(s);
    CHECK_WHOLE(seen, s);
    CHECK_STR(counted(300), seen.text);
    CHECK_INT(300, seen.deltas);
    CHECK_STR(seen.text, json_str(result, "text"));
    CHECK_STR("completed", json_str(result, "status"));
    par_stream_free(s);
    finish(rt);
}

TEST(first_token_comes_when_it_is_there) {
    par_runtime_t *rt = runtime_with(chunked(10, 60));
    int64_t began = now_ms();
    par_stream_t *s = start(rt, GO);
    CHECK(until(s, "text_delta") != NULL);
    CHECK(now_ms() - began < slack(300));
    CHECK(until(s, "completed") != NULL);
    CHECK(now_ms() - began >= 9 * 60);
    par_stream_free(s);
    finish(rt);
}

TEST(result_is_repeatable) {
    par_runtime_t *rt = runtime_with("[{'text':'x','delay_ms':100}]");
    par_stream_t *s = start(rt, GO);
    const char *first, *second;
    struct seen seen;
    CHECK_INT(PAR_PENDING, result_status(s));
    seen = drive(s, NULL, NULL);
    first = result_of(s), second = result_of(s);
    CHECK_WHOLE(seen, s);
    CHECK_STR(first, second);
    CHECK_STR(json_str(seen.terminal, "run_id"), json_str(first, "run_id"));
    par_runtime_free(rt);
    CHECK_STR(first, result_of(s));
    par_stream_free(s);
}

TEST(info) {
    par_runtime_t *rt = runtime_with(ENDLESS);
    par_stream_t *s = start(rt, js("{'agent':'a','input':'x','run_id':'mine'}"));
    const char *text = stream_info(s);
    char *out = NULL;
    CHECK_STR("mine", json_str(text, "run_id"));
    CHECK(json_str(text, "state") != NULL);
    CHECK(json_int(text, "queued") >= 0);
    CHECK_INT(0, json_int(text, "dropped"));
    ST(PAR_OK, par_run_status(rt, "mine", PAR_NTS, &out, NULL, &E));
    CHECK_HAS(out, "'mine'");
    par_free(out);
    par_stream_free(s);
    finish(rt);
}

/* ---- exactly one terminal event ------------------------------------------------------------------------------------ */

static void ends(par_runtime_t *rt, par_stream_t *s, const char *type, par_status_t result, void (*answer)(void *, const char *)) {
    struct seen seen = drive(s, answer, rt);
    CHECK_WHOLE(seen, s);
    CHECK_STR(type, json_str(seen.terminal, "type"));
    CHECK_INT(result, result_status(s));
    CHECK_INT(result, result_status(s));
    if (is(seen.terminal, "failed")) {
        CHECK_INT(result, json_int(seen.terminal, "error.status"));
        CHECK_STR(par_status_name(result), json_str(seen.terminal, "error.name"));
        CHECK(json_str(seen.terminal, "error.message") != NULL);
    }
    if (is(seen.terminal, "cancelled")) CHECK(json_at(seen.terminal, "reason") != NULL);
    par_stream_free(s);
}

TEST(ends_by_success) {
    par_runtime_t *rt = runtime_with(NULL);
    ends(rt, start(rt, GO), "completed", PAR_OK, NULL);
    finish(rt);
}

TEST(ends_by_provider_error) {
    par_runtime_t *rt = runtime_with("[{'error':{'http_status':400}}]");
    ends(rt, start(rt, GO), "failed", PAR_ERR_PROVIDER, NULL);
    finish(rt);
}

TEST(ends_by_auth_error) {
    par_runtime_t *rt = runtime_with("[{'error':{'http_status':401}}]");
    ends(rt, start(rt, GO), "failed", PAR_ERR_AUTH, NULL);
    finish(rt);
}

TEST(ends_by_expectation) {
    par_runtime_t *rt = runtime_with("[{'expect':{'last_message_contains':'y'},'text':'z'}]");
    par_stream_t *s = start(rt, GO);
    struct seen seen = drive(s, NULL, NULL);
    CHECK_WHOLE(seen, s);
    CHECK(is(seen.terminal, "failed"));
    par_stream_free(s);
    finish(rt);
}

static void refuse(void *rt, const char *event) {
    if (is(event, "tool_call"))
        ST(PAR_OK, par_tool_fail(rt, token_of(event), js("{'message':'the disk is full','code':'ENOSPC','retryable':false}"), PAR_NTS, &E));
}

TEST(ends_after_a_failed_tool) { /* the model is told, and goes on */
    par_runtime_t *rt = adding_runtime("[{'tool_calls':[{'id':'c1','name':'add','input':{'a':1,'b':2}}]},"
                                       "{'expect':{'last_message_contains':'the disk is full'},'text':'sorry'}]");
    ends(rt, start(rt, GO), "completed", PAR_OK, refuse);
    finish(rt);
}

TEST(ends_by_cancel_before_anything_is_read) {
    par_runtime_t *rt = runtime_with(ENDLESS);
    par_stream_t *s = start(rt, GO);
    ST(PAR_OK, par_stream_cancel(s, "changed my mind", PAR_NTS, &E));
    TAKES(0, 1000, ends(rt, s, "cancelled", PAR_ERR_CANCELLED, NULL));
    finish(rt);
}

TEST(ends_by_cancel_in_the_middle) {
    par_runtime_t *rt = runtime_with(chunked(100, 50));
    par_stream_t *s = start(rt, GO);
    until(s, "text_delta");
    ST(PAR_OK, par_stream_cancel(s, "enough", PAR_NTS, &E));
    ST(PAR_OK, par_stream_cancel(s, "twice", PAR_NTS, &E));
    TAKES(0, 1000, ends(rt, s, "cancelled", PAR_ERR_CANCELLED, NULL));
    finish(rt);
}

TEST(the_reason_is_told) {
    par_runtime_t *rt = runtime_with(ENDLESS);
    par_stream_t *s = start(rt, js("{'agent':'a','input':'x','run_id':'r1'}"));
    ST(PAR_OK, par_run_cancel(rt, "r1", PAR_NTS, "the user left", PAR_NTS, &E));
    CHECK_HAS(until(s, "cancelled"), "'reason':'the user left'");
    par_stream_free(s);
    finish(rt);
}

TEST(ends_by_cancel_while_a_tool_works) {
    par_runtime_t *rt = adding_runtime(CALLS_ADD);
    par_stream_t *s = start(rt, GO);
    until(s, "tool_call");
    ST(PAR_OK, par_stream_cancel(s, NULL, 0, &E));
    ends(rt, s, "cancelled", PAR_ERR_CANCELLED, NULL);
    finish(rt);
}

TEST(cancel_after_the_end_changes_nothing) {
    par_runtime_t *rt = runtime_with(NULL);
    par_stream_t *s = start(rt, GO);
    EVENTUALLY(5000, result_status(s) == PAR_OK); /* over, but not read yet */
    ST(PAR_OK, par_stream_cancel(s, NULL, 0, &E));
    ends(rt, s, "completed", PAR_OK, NULL);
    s = start(rt, GO);
    drive(s, NULL, NULL);
    ST(PAR_OK, par_stream_cancel(s, NULL, 0, &E)); /* over and read */
    next(s, 50);
    CHECK_INT(PAR_END, status);
    CHECK_INT(PAR_OK, result_status(s));
    par_stream_free(s);
    finish(rt);
}

TEST(cancel_at_every_moment) { /* before, at and after each step of a short run */
    par_runtime_t *rt = adding_runtime(CALLS_ADD);
    int step, steps = fast() ? 10 : 150;
    for (step = 0; step < steps; step++) {
        par_stream_t *s = start(rt, GO);
        struct seen seen;
        struct timespec pause = {0, step * 20000};
        int i;
        for (i = 0; i < step % 12; i++) {
            const char *event = next(s, 1000);
            if (event) add_if_wanted(rt, event);
        }
        if (step % 2) nanosleep(&pause, NULL);
        ST(PAR_OK, par_stream_cancel(s, NULL, 0, &E));
        seen = drive(s, add_if_wanted, rt);
        CHECK_INT(PAR_END, seen.end);
        CHECK(seen.terminals <= 1); /* 0: it was among the events taken above */
        CHECK_INT(0, seen.gaps);
        CHECK(result_status(s) == PAR_OK || result_status(s) == PAR_ERR_CANCELLED);
        par_stream_free(s);
    }
    finish(rt);
}

TEST(ends_by_close) {
    par_runtime_t *rt = runtime_with(ENDLESS);
    par_stream_t *s = start(rt, GO);
    ST(PAR_OK, par_runtime_close(rt, 10000, &E));
    ends(rt, s, "cancelled", PAR_ERR_CANCELLED, NULL);
    par_runtime_free(rt);
}

TEST(ends_by_deadline) {
    par_runtime_t *rt = runtime_with(ENDLESS);
    par_stream_t *s = start(rt, js("{'agent':'a','input':'x','timeout_ms':150}"));
    TAKES(100, 1000, ends(rt, s, "failed", PAR_ERR_DEADLINE, NULL));
    finish(rt);
}

TEST(ends_by_deadline_of_invoke) {
    par_runtime_t *rt = runtime_with(ENDLESS);
    char *out;
    TAKES(140, 1000, ST(PAR_ERR_DEADLINE, par_invoke(rt, GO, PAR_NTS, 150, &out, NULL, &E)));
    TAKES(0, 300, ST(PAR_ERR_DEADLINE, par_invoke(rt, GO, PAR_NTS, 0, &out, NULL, &E)));
    TAKES(140, 1000, ST(PAR_ERR_DEADLINE, par_invoke(rt, js("{'agent':'a','input':'x','timeout_ms':150}"), PAR_NTS, -1, &out, NULL, &E)));
    finish(rt);
}

TEST(run_ids_are_unique_among_the_living) {
    par_runtime_t *rt = runtime_with(ENDLESS);
    const char *request = js("{'agent':'a','input':'x','run_id':'r1'}");
    par_stream_t *s = start(rt, request), *t = NULL;
    ST(PAR_ERR_EXISTS, par_stream_start(rt, request, PAR_NTS, &t, &E));
    ST(PAR_OK, par_run_cancel(rt, "r1", PAR_NTS, NULL, 0, &E));
    drive(s, NULL, NULL);
    t = start(rt, request);
    par_stream_free(s);
    par_stream_free(t);
    finish(rt);
}

/* ---- waiting ------------------------------------------------------------------------------------------------------- */

static par_stream_t *silent(par_runtime_t *rt) { /* a run that will say nothing more for a long time */
    par_stream_t *s = start(rt, GO);
    until(s, "turn_started"); /* the model is asked now, and answers late */
    while (next(s, 200)) {}
    CHECK_INT(PAR_TIMEOUT, status);
    return s;
}

TEST(wait_is_exact) {
    par_runtime_t *rt = runtime_with(ENDLESS);
    par_stream_t *s = silent(rt);
    char *out;
    int i;
    for (i = 0; i < 5; i++) {
        TAKES(0, 40, CHECK_INT(PAR_TIMEOUT, par_stream_wait(s, 0, &out, NULL, NULL)));
        TAKES(49, 150, CHECK_INT(PAR_TIMEOUT, par_stream_wait(s, 50, &out, NULL, NULL)));
        TAKES(0, 40, CHECK_INT(PAR_PENDING, par_stream_poll(s, &out, NULL, NULL)));
        TAKES(0, 40, CHECK_INT(PAR_PENDING, par_stream_drain(s, 5, &out, NULL, NULL)));
    }
    TAKES(49, 150, CHECK_INT(PAR_TIMEOUT, par_inbox_wait(rt, 50, &out, NULL, NULL)));
    TAKES(0, 40, CHECK_INT(PAR_TIMEOUT, par_inbox_wait(rt, 0, &out, NULL, NULL)));
    par_stream_free(s);
    finish(rt);
}

struct waker { par_stream_t *s; par_runtime_t *rt; int64_t after_ms; };

static void *wake_later(void *context) {
    struct waker *w = context;
    sleep_ms(w->after_ms);
    CHECK_INT(PAR_OK, w->s ? par_stream_wake(w->s) : par_inbox_wake(w->rt));
    return NULL;
}

TEST(negative_is_forever) { /* and so is what no clock can count to */
    static const int64_t forever[] = {PAR_WAIT_FOREVER, -7, INT64_MIN, INT64_MAX, INT64_MAX - 1};
    par_runtime_t *rt = runtime_with(ENDLESS);
    par_stream_t *s = silent(rt);
    size_t i;
    for (i = 0; i < COUNT(forever); i++) {
        struct waker w = {s, NULL, 120};
        pthread_t thread = spawn(wake_later, &w);
        TAKES(110, 1000, (void)next(s, forever[i]));
        CHECK_INT(PAR_WOKEN, status);
        join(thread);
    }
    par_stream_free(s);
    finish(rt);
}

TEST(wake_is_sticky) {
    par_runtime_t *rt = runtime_with(ENDLESS);
    par_stream_t *s = silent(rt);
    intptr_t fd = fd_of(s);
    char *out;
    int i;
    ST(PAR_OK, par_stream_wake(s)); /* nobody waits: the next wait returns at once */
    CHECK(!readable(fd));           /* a wake is nothing to read */
    CHECK_INT(PAR_PENDING, par_stream_poll(s, &out, NULL, NULL));
    TAKES(0, 60, (void)next(s, 5000));
    CHECK_INT(PAR_WOKEN, status);
    next(s, 30);
    CHECK_INT(PAR_TIMEOUT, status);
    for (i = 0; i < 1000; i++) ST(PAR_OK, par_stream_wake(s)); /* a storm is one wake */
    TAKES(0, 50, (void)next(s, 5000));
    CHECK_INT(PAR_WOKEN, status);
    next(s, 30);
    CHECK_INT(PAR_TIMEOUT, status);
    par_stream_free(s);

    ST(PAR_OK, par_inbox_wake(rt));
    TAKES(0, 60, (void)inbox(rt, 5000));
    CHECK_INT(PAR_WOKEN, status);
    inbox(rt, 30);
    CHECK_INT(PAR_TIMEOUT, status);
    finish(rt);
}

TEST(wake_interrupts_a_wait) {
    par_runtime_t *rt = runtime_with(ENDLESS);
    struct waker on_stream = {silent(rt), NULL, 100}, on_inbox = {NULL, rt, 100};
    pthread_t thread = spawn(wake_later, &on_stream);
    TAKES(90, 300, (void)next(on_stream.s, 10000));
    CHECK_INT(PAR_WOKEN, status);
    join(thread);
    thread = spawn(wake_later, &on_inbox);
    TAKES(90, 300, (void)inbox(rt, 10000));
    CHECK_INT(PAR_WOKEN, status);
    join(thread);
    par_stream_free(on_stream.s);
    finish(rt);
}

static void *wake_storm(void *s) {
    int i;
    for (i = 0; i < 20000; i++) par_stream_wake(s);
    return NULL;
}

TEST(a_wake_storm_loses_no_event) {
    par_runtime_t *rt = runtime_with(chunked(200, 1));
    par_stream_t *s = start(rt, GO);
    pthread_t thread = spawn(wake_storm, s);
    struct seen seen = drive(s, NULL, NULL);
    join(thread);
    CHECK_INT(PAR_END, seen.end);
    CHECK_INT(0, seen.gaps);
    CHECK_STR(counted(200), seen.text);
    par_stream_free(s);
    finish(rt);
}

/* ---- one consumer -------------------------------------------------------------------------------------------------- */

static void *wait_long(void *s) {
    char *out;
    return (void *)(intptr_t)par_stream_wait(s, 10000, &out, NULL, NULL);
}

TEST(a_second_consumer_is_refused) {
    par_runtime_t *rt = runtime_with(ENDLESS);
    par_stream_t *s = silent(rt);
    pthread_t first = spawn(wait_long, s);
    void *got;
    char *out;
    sleep_ms(100);
    ST(PAR_ERR_BUSY, par_stream_poll(s, &out, NULL, &E));
    ST(PAR_ERR_BUSY, par_stream_wait(s, 0, &out, NULL, &E));
    TAKES(0, 100, ST(PAR_ERR_BUSY, par_stream_wait(s, 5000, &out, NULL, &E))); /* at once */
    ST(PAR_ERR_BUSY, par_stream_drain(s, 5, &out, NULL, &E));
    ST(PAR_PENDING, par_stream_result(s, &out, NULL, &E)); /* these do not consume */
    CHECK(stream_info(s) != NULL);
    CHECK(fd_of(s) >= 0);
    ST(PAR_OK, par_stream_wake(s));
    pthread_join(first, &got);
    CHECK_INT(PAR_WOKEN, (intptr_t)got);
    ST(PAR_PENDING, par_stream_poll(s, &out, NULL, &E)); /* the place is free again */
    par_stream_free(s);
    finish(rt);
}

struct shared { par_stream_t *s; int events, busy, wrong; };

static void *take_some(void *context) {
    struct shared *shared = context;
    char *out;
    for (;;) {
        par_status_t st = par_stream_wait(shared->s, 1000, &out, NULL, NULL);
        if (st == PAR_OK) BUMP(shared->events), par_free(out);
        else if (st == PAR_ERR_BUSY) BUMP(shared->busy), sched_yield();
        else if (st == PAR_END) return NULL;
        else return BUMP(shared->wrong), NULL;
    }
}

TEST(threads_that_fight_for_events_lose_none) {
    par_runtime_t *rt = runtime_with(chunked(500, 0));
    struct shared shared = {start(rt, GO), 0, 0, 0};
    pthread_t threads[4];
    par_stream_t *alone = start(rt, GO);
    int i, expected = drive(alone, NULL, NULL).events;
    for (i = 0; i < 4; i++) threads[i] = spawn(take_some, &shared);
    for (i = 0; i < 4; i++) join(threads[i]);
    CHECK_INT(expected, shared.events);
    CHECK_INT(0, shared.wrong);
    par_stream_free(shared.s);
    par_stream_free(alone);
    finish(rt);
}

/* ---- drain --------------------------------------------------------------------------------------------------------- */

TEST(drain_takes_many_at_once) {
    par_runtime_t *rt = runtime_with(chunked(100, 0));
    par_stream_t *s = start(rt, GO);
    int64_t seq = -1;
    int taken = 0, n, calls = 0;
    char *joined = NULL, *out;
    par_status_t st;
    cat(&joined, "");
    EVENTUALLY(5000, result_status(s) == PAR_OK);
    while ((st = par_stream_drain(s, calls == 0 ? 1 : 30, &out, NULL, NULL)) == PAR_OK) {
        const char *array = keep(out);
        CHECK(*array == '[');
        for (n = 0; json_at(array, fmt("%d", n)); n++) {
            const char *event = json_raw(array, fmt("%d", n));
            if (seq >= 0) CHECK_INT(seq + 1, json_int(event, "seq"));
            seq = json_int(event, "seq");
            if (is(event, "text_delta")) cat(&joined, json_str(event, "text"));
        }
        CHECK(n > 0 && n <= (calls == 0 ? 1 : 30));
        if (calls == 0) CHECK_INT(1, n);
        taken += n, calls++;
    }
    CHECK_INT(PAR_END, st);
    CHECK_STR(counted(100), joined);
    CHECK(taken > 100 && calls < 10);
    free(joined);
    par_stream_free(s);
    finish(rt);
}

/* ---- the file descriptor ------------------------------------------------------------------------------------------- */

TEST(fd_is_private_and_stable) {
    par_runtime_t *rt = runtime_with(ENDLESS);
    par_stream_t *s = silent(rt);
    int before = fd_count();
    intptr_t fd = fd_of(s), inbox_fd = -1;
    CHECK(fd_of(s) == fd);
    ST(PAR_OK, par_inbox_fd(rt, &inbox_fd, &E));
    CHECK(fcntl((int)fd, F_GETFD) & FD_CLOEXEC);
    CHECK(fcntl((int)fd, F_GETFL) & O_NONBLOCK);
    CHECK(fcntl((int)inbox_fd, F_GETFD) & FD_CLOEXEC);
    CHECK(fcntl((int)inbox_fd, F_GETFL) & O_NONBLOCK);
    CHECK(fd != inbox_fd);
    CHECK(fd_count() - before <= 4);
    par_stream_free(s);
    EVENTUALLY(2000, fcntl((int)fd, F_GETFD) < 0);
    finish(rt);
    EVENTUALLY(2000, fcntl((int)inbox_fd, F_GETFD) < 0);
}

TEST(fd_says_when_to_poll) { /* in quiet moments readable == poll() gives something, for random reads */
    par_runtime_t *rt = adding_runtime("[{'text':'abc','chunks':['a','b','c'],'tool_calls':[{'id':'c1','name':'add','input':{'a':1,'b':2}}]},"
        "{'text':'0123456789','chunks':['0','1','2','3','4','5','6','7','8','9']}]");
    uint64_t random = 11;
    int round, rounds = fast() ? 5 : 60;
    for (round = 0; round < rounds; round++) {
        par_stream_t *s = start(rt, GO);
        intptr_t fd = -1;
        uint64_t token = 0;
        par_status_t st = PAR_OK;
        int early = (int)(rnd(&random) & 1), reads = 0;
        if (early) fd = fd_of(s);
        else sleep_ms(20), fd = fd_of(s); /* made when there is something to read already */
        while (st != PAR_END && reads++ < 200) {
            char *out = NULL;
            int was;
            sleep_ms((int64_t)(rnd(&random) % 3));
            was = readable(fd);
            switch (rnd(&random) % 3) {
            case 0: st = par_stream_poll(s, &out, NULL, NULL); break;
            case 1: st = par_stream_drain(s, 1 + (uint32_t)(rnd(&random) % 4), &out, NULL, NULL); break;
            default: st = par_stream_wait(s, 0, &out, NULL, NULL);
            }
            if (was) CHECK(st == PAR_OK || st == PAR_END);
            if (st == PAR_OK) {
                const char *text = keep(out);
                const char *call = strstr(text, "\"token\":");
                if (call) token = strtoull(call + 8, NULL, 10);
            } else if (st != PAR_END) {
                CHECK(st == PAR_PENDING || st == PAR_TIMEOUT);
                if (token) { /* it waits for us: nothing moves, so now the fd must be silent, and stay so */
                    CHECK(!readable(fd));
                    CHECK_INT(PAR_OK, par_tool_complete(rt, token, "3", 1, NULL));
                    token = 0;
                    EVENTUALLY(5000, readable(fd));
                }
            }
        }
        CHECK_INT(PAR_END, st);
        CHECK(readable(fd)); /* END is something to read, for ever */
        CHECK(readable(fd));
        par_stream_free(s);
    }
    finish(rt);
}

TEST(fd_after_the_last_producer) { /* the run is over: readable after each single read, until END and beyond */
    par_runtime_t *rt = runtime_with(chunked(50, 0));
    par_stream_t *s = start(rt, GO);
    intptr_t fd = fd_of(s);
    char *out;
    par_status_t st;
    EVENTUALLY(5000, result_status(s) == PAR_OK);
    do {
        CHECK(readable(fd));
        st = par_stream_poll(s, &out, NULL, NULL);
        if (st == PAR_OK) par_free(out);
    } while (st == PAR_OK);
    CHECK_INT(PAR_END, st);
    CHECK(readable(fd));
    par_stream_free(s);
    finish(rt);
}

TEST(fd_works_edge_triggered) { /* read until PENDING, then sleep in epoll: never hangs */
    par_runtime_t *rt = runtime_with(chunked(100, 2));
    par_stream_t *s = start(rt, GO);
    int poller = epoll_create1(EPOLL_CLOEXEC), n = 1;
    struct epoll_event interest = {.events = EPOLLIN | EPOLLET}, ready;
    char *joined = NULL, *out;
    par_status_t st = PAR_PENDING;
    cat(&joined, "");
    epoll_ctl(poller, EPOLL_CTL_ADD, (int)fd_of(s), &interest);
    while (st != PAR_END && (n = epoll_wait(poller, &ready, 1, 5000)) == 1)
        while ((st = par_stream_poll(s, &out, NULL, NULL)) == PAR_OK) {
            const char *event = keep(out);
            if (is(event, "text_delta")) cat(&joined, json_str(event, "text"));
        }
    CHECK_INT(1, n);
    CHECK_STR(counted(100), joined);
    free(joined);
    close(poller);
    par_stream_free(s);
    finish(rt);
}

TEST(inbox_fd_is_level_too) {
    par_runtime_t *rt = mock(CALLS_ADD);
    intptr_t fd = -1;
    char *out;
    ST(PAR_OK, par_inbox_fd(rt, &fd, &E));
    CHECK(!readable(fd));
    ST(PAR_OK, par_inbox_wake(rt));
    CHECK(!readable(fd));
    ST(PAR_OK, par_runtime_close(rt, 10000, &E));
    CHECK(readable(fd));
    ST(PAR_OK, par_inbox_poll(rt, &out, NULL, &E));
    CHECK_HAS(out, "'type':'closed'");
    par_free(out);
    CHECK(readable(fd));
    ST(PAR_END, par_inbox_poll(rt, &out, NULL, &E));
    ST(PAR_END, par_inbox_wait(rt, -1, &out, NULL, &E));
    ST(PAR_END, par_inbox_drain(rt, 5, &out, NULL, &E));
    CHECK(readable(fd));
    par_runtime_free(rt);
}

/* ---- bounds -------------------------------------------------------------------------------------------------------- */

static par_runtime_t *narrow(const char *turns) {
    par_runtime_t *rt = runtime(js("{'limits':{'stream_queue_events':8},'llm_providers':{'mock':{'type':'mock','turns':%s}}}", turns));
    agent(rt, "a", NULL);
    return rt;
}

TEST(backpressure) { /* a full queue stops the provider; nothing is lost */
    par_runtime_t *rt = narrow(chunked(200, 0));
    par_stream_t *s = start(rt, GO);
    struct seen seen;
    sleep_ms(200);
    CHECK_INT(PAR_PENDING, result_status(s));
    CHECK(json_int(stream_info(s), "queued") <= 9);
    seen = drive(s, NULL, NULL);
    CHECK_WHOLE(seen, s);
    CHECK_INT(200, seen.deltas);
    CHECK_STR(counted(200), seen.text);
    CHECK_INT(0, json_int(stream_info(s), "dropped"));
    par_stream_free(s);
    finish(rt);
}

TEST(a_full_queue_can_be_cancelled) {
    par_runtime_t *rt = narrow(chunked(200, 0));
    par_stream_t *s = start(rt, GO);
    struct seen seen;
    sleep_ms(100);
    ST(PAR_OK, par_stream_cancel(s, NULL, 0, &E));
    EVENTUALLY(2000, result_status(s) == PAR_ERR_CANCELLED); /* though nobody reads */
    seen = drive(s, NULL, NULL);
    CHECK_WHOLE(seen, s);
    CHECK(is(seen.terminal, "cancelled"));
    par_stream_free(s);
    s = start(rt, GO);
    sleep_ms(50);
    TAKES(0, 3000, ST(PAR_OK, par_runtime_close(rt, 10000, &E)));
    par_stream_free(s);
    par_runtime_free(rt);
}

TEST(coalesce) { /* merged deltas: the run does not wait for its reader, and no text is lost */
    par_runtime_t *rt = narrow(chunked(500, 0));
    par_stream_t *s = start(rt, js("{'agent':'a','input':'x','overflow':'coalesce'}"));
    struct seen seen;
    EVENTUALLY(5000, result_status(s) == PAR_OK);
    seen = drive(s, NULL, NULL);
    CHECK_INT(PAR_END, seen.end);
    CHECK_INT(1, seen.terminals);
    CHECK(seen.deltas < 500);
    CHECK(seen.events <= 16);
    CHECK_STR(counted(500), seen.text);
    par_stream_free(s);
    finish(rt);
}

/* ---- one fd for any number of streams ------------------------------------------------------------------------------- */

TEST(notify_inbox) {
    enum { N = 6 };
    par_runtime_t *rt = runtime_with(chunked(20, 5));
    par_stream_t *s[N];
    char *texts[N] = {0};
    int i, ended[N] = {0}, open = N;
    int64_t deadline = now_ms() + slack(10000);
    for (i = 0; i < N; i++) {
        s[i] = start(rt, js("{'agent':'a','input':'x','notify':'inbox','tag':'%d','run_id':'run %d'}", i, i));
        cat(&texts[i], "");
    }
    while (open && now_ms() < deadline) {
        const char *ready = inbox(rt, 2000);
        char *out;
        par_status_t st;
        if (!ready) break;
        if (!is(ready, "ready")) continue;
        i = atoi(json_str(ready, "tag"));
        CHECK_STR(fmt("run %d", i), json_str(ready, "run_id"));
        while ((st = par_stream_poll(s[i], &out, NULL, NULL)) == PAR_OK) {
            const char *event = keep(out);
            if (is(event, "text_delta")) cat(&texts[i], json_str(event, "text"));
        }
        if (st == PAR_END && !ended[i]++) open--; /* it may announce what we have read already */
    }
    CHECK_INT(0, open);
    for (i = 0; i < N; i++) {
        CHECK_STR(counted(20), texts[i]);
        free(texts[i]);
        par_stream_free(s[i]);
    }
    finish(rt);
}

TEST(notify_inbox_is_one_message_per_filling) {
    par_runtime_t *rt = adding_runtime(CALLS_ADD);
    par_stream_t *s = start(rt, js("{'agent':'a','input':'x','notify':'inbox'}"));
    const char *event;
    uint64_t token = 0;
    int ready = 0;
    EVENTUALLY(5000, json_int(stream_info(s), "queued") >= 5); /* many events, unread */
    sleep_ms(100);
    while ((event = inbox(rt, 50)) != NULL) ready += is(event, "ready");
    CHECK_INT(1, ready);
    while ((event = next(s, 50)) != NULL)
        if (is(event, "tool_call")) token = token_of(event);
    inbox(rt, 50);
    CHECK_INT(PAR_TIMEOUT, status);
    ST(PAR_OK, par_tool_complete(rt, token, "3", PAR_NTS, &E));
    CHECK(is(inbox(rt, 5000), "ready"));
    par_stream_free(s);
    finish(rt);
}

TEST(without_notify_the_inbox_is_quiet) {
    par_runtime_t *rt = runtime_with(NULL);
    par_stream_t *s;
    inbox(rt, 0);
    s = start(rt, GO);
    drive(s, NULL, NULL);
    inbox(rt, 50);
    CHECK_INT(PAR_TIMEOUT, status);
    par_stream_free(s);
    finish(rt);
}

/* ---- what the text may be -------------------------------------------------------------------------------------------- */

TEST(any_text_survives) { /* every plane of Unicode, quotes, controls, NUL: in, through a run, and out as deltas and result */
    static const char *const texts[] = {
        "\\u0000 in the middle", "\\\"quotes\\\" and \\\\backslashes\\\\", "tab\\tnewline\\nbell\\u0007", "\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80",
        "\\ud83d\\ude00", "\xE2\x80\xA8 and \xE2\x80\xA9", "\xEF\xBB\xBF""bom", "\xF4\x8F\xBF\xBF", "{\\\"type\\\":\\\"completed\\\"}", "</script>",
    };
    par_runtime_t *rt = runtime_with(NULL);
    size_t i;
    for (i = 0; i < COUNT(texts); i++) {
        const char *request = fmt("{\"agent\":\"a\",\"input\":\"%s\"}", texts[i]), *want = json_str(request, "input");
        par_stream_t *s = start(rt, request);
        struct seen seen = drive(s, NULL, NULL);
        CHECK_WHOLE(seen, s);
        CHECK_STR(want, json_str(result_of(s), "text"));
        if (i > 0) CHECK_STR(want, seen.text); /* a NUL ends our own C strings */
        CHECK_INT(i == 0, strstr(json_raw(result_of(s), "text"), "\\u0000") != NULL);
        par_stream_free(s);
    }
    finish(rt);
}

TEST(an_event_bigger_than_the_queue) { /* passes alone, instead of never */
    enum { BIG = 3000000 };
    par_runtime_t *rt = runtime_with(NULL);
    char *text = t_alloc(BIG);
    par_stream_t *s;
    struct seen seen;
    memset(text, 'w', BIG);
    s = start(rt, js("{'agent':'a','input':'%s'}", text));
    seen = drive(s, NULL, NULL);
    CHECK_WHOLE(seen, s);
    CHECK_INT(BIG, strlen(seen.text));
    CHECK(!strcmp(text, seen.text));
    par_stream_free(s);
    finish(rt);
}

TEST(a_tag_is_any_json) {
    static const char *const tags[] = {"'t'", "7", "{'a':[1,{'b':null}]}", "true", "'\\u0000'"};
    par_runtime_t *rt = runtime_with(NULL);
    size_t i;
    for (i = 0; i < COUNT(tags); i++) {
        par_stream_t *s = start(rt, js("{'agent':'a','input':'x','tag':%s}", tags[i]));
        CHECK_STR(js("%s", tags[i]), json_raw(until(s, "completed"), "tag"));
        par_stream_free(s);
    }
    finish(rt);
}
