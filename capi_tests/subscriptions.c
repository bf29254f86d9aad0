/* Subscriptions to events as a C program uses them: by the inbox, by the callback and as a stream; acknowledged, refused,
 * given up, and delivered again. */
#include "t.h"

#define ENDS "'types':['completed']"
#define QUICK ",'event_bus':{'initial_retry_delay':0.001,'max_retry_delay':0.002,'max_delivery_attempts':2}"

static par_runtime_t *opened(const char *keys) {
    par_runtime_t *rt = runtime(js("{'persistence':'sqlite:test.db','llm_providers':{'mock':{'type':'mock'}}%s}", keys));
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

static void says(par_runtime_t *rt, const char *run) {
    invoke(rt, js("{'agent':'a','input':'x','run_id':'%s'}", run));
}

static void acknowledge(par_runtime_t *rt, const char *message) {
    did(rt, "events.ack", js("{'delivery':%d}", (int)json_int(message, "delivery")));
}

/* How many there are, once there are so many. */
static int64_t letters(par_runtime_t *rt, int64_t n) {
    EVENTUALLY(10000, elements(did(rt, "events.dead_letters", "{}"), "items") == n);
    return elements(did(rt, "events.dead_letters", "{}"), "items");
}

TEST(the_inbox_gets_what_was_subscribed_to) {
    par_runtime_t *rt = opened("");
    const char *message;
    CHECK_STR("{\"name\":\"ends\"}", did(rt, "events.subscribe", js("{'name':'ends'," ENDS "}")));
    refuses(rt, "events.subscribe", js("{'name':'ends'}"), PAR_ERR_EXISTS, "params.name");
    refuses(rt, "events.subscribe", js("{'deliver':'callback'}"), PAR_ERR_NO_HANDLER, "params.deliver");
    says(rt, "r1");
    message = inbox(rt, slack(10000));
    CHECK_STR("event", json_str(message, "type"));
    CHECK_STR("ends", json_str(message, "subscription"));
    CHECK_STR("completed", json_str(message, "event.type"));
    CHECK_STR("r1", json_str(message, "event.run_id"));
    CHECK_INT(1, json_int(did(rt, "events.subscriptions", "{}"), "items.0.counts.delivered"));
    did(rt, "events.unsubscribe", js("{'name':'ends'}"));
    refuses(rt, "events.unsubscribe", js("{'name':'ends'}"), PAR_ERR_NOT_FOUND, NULL);
    says(rt, "r2");
    CHECK(inbox(rt, 0) == NULL);
    finish(rt);
}

TEST(a_delivery_is_acknowledged_or_refused_and_a_dead_letter_replayed) {
    par_runtime_t *rt = opened(QUICK);
    const char *message, *letter;
    int i;
    did(rt, "events.subscribe", js("{'name':'s'," ENDS ",'ack':true}"));
    says(rt, "r1");
    acknowledge(rt, message = inbox(rt, slack(10000)));
    refuses(rt, "events.ack", js("{'delivery':%d}", (int)json_int(message, "delivery")), PAR_ERR_STALE_TOKEN, "params.delivery");
    says(rt, "r2");
    for (i = 1; i <= 2; i++) {
        message = inbox(rt, slack(10000));
        CHECK_INT(i, json_int(message, "attempt"));
        did(rt, "events.nack", js("{'delivery':%d,'reason':'busy'}", (int)json_int(message, "delivery")));
    }
    CHECK_INT(1, letters(rt, 1));
    letter = did(rt, "events.dead_letters", "{}");
    CHECK_STR("s", json_str(letter, "items.0.subscription"));
    CHECK_STR("busy", json_str(letter, "items.0.reason"));
    CHECK_INT(2, json_int(letter, "items.0.attempts"));
    CHECK_INT(1, json_int(did(rt, "events.replay", js("{'ids':[%d]}", (int)json_int(letter, "items.0.id"))), "replayed"));
    message = inbox(rt, slack(10000));
    CHECK_STR("r2", json_str(message, "event.run_id"));
    acknowledge(rt, message);
    CHECK_INT(0, letters(rt, 0));
    CHECK_INT(1, json_int(info(rt), "event_bus.dead_letters.kept"));
    finish(rt);
}

struct heard { int calls; char last[4096]; };

static void hear(uintptr_t context, uint64_t token, const char *json, size_t len) {
    struct heard *heard = (struct heard *)context;
    (void)token, (void)len;
    if (!json_has(json, "\"subscription\"")) return; /* the callback has all events of its own, too */
    pthread_mutex_lock(&t_lock);
    snprintf(heard->last, sizeof heard->last, "%s", json);
    pthread_mutex_unlock(&t_lock);
    BUMP(heard->calls);
}

TEST(the_callback_gets_what_was_subscribed_to) {
    par_runtime_t *rt = opened(QUICK);
    struct heard heard = {0, ""};
    ST(PAR_OK, par_on_event(rt, hear, (uintptr_t)&heard, NULL, &E));
    did(rt, "events.subscribe", js("{'name':'c'," ENDS ",'deliver':'callback','ack':true,'delivery_timeout':60}"));
    says(rt, "r1");
    EVENTUALLY(10000, LOAD(heard.calls) == 1);
    CHECK_STR("r1", json_str(heard.last, "event.run_id"));
    acknowledge(rt, heard.last);
    says(rt, "r2");
    EVENTUALLY(10000, LOAD(heard.calls) == 2);
    /* Refused; and then nobody is there to be asked again. */
    ST(PAR_OK, par_on_event(rt, NULL, 0, NULL, &E));
    did(rt, "events.nack", js("{'delivery':%d}", (int)json_int(heard.last, "delivery")));
    CHECK_INT(1, letters(rt, 1));
    CHECK_STR("c", json_str(did(rt, "events.dead_letters", "{}"), "items.0.subscription"));
    CHECK_INT(2, LOAD(heard.calls));
    finish(rt);
}

TEST(a_subscription_is_a_stream_too) {
    par_runtime_t *rt = opened("");
    par_stream_t *s = NULL;
    struct pollfd readable;
    intptr_t fd = -1;
    const char *message;
    ST(PAR_ERR_SCHEMA, par_call_start(rt, "events.subscribe", PAR_NTS, js("{'deliver':'inbox'}"), PAR_NTS, &s, &E));
    CHECK_PATH("params.deliver");
    ST(PAR_OK, par_call_start(rt, "events.subscribe", PAR_NTS, js("{'name':'s'," ENDS "}"), PAR_NTS, &s, &E));
    ST(PAR_OK, par_stream_fd(s, &fd, &E));
    says(rt, "r1");
    readable.fd = (int)fd, readable.events = POLLIN;
    CHECK_INT(1, poll(&readable, 1, (int)slack(10000)));
    message = next(s, slack(10000));
    CHECK_STR("r1", json_str(message, "event.run_id"));
    ST(PAR_OK, par_stream_cancel(s, "enough", PAR_NTS, &E));
    message = next(s, slack(10000));
    CHECK_STR("cancelled", json_str(message, "type"));
    next(s, 0), CHECK_INT(PAR_END, status);
    par_stream_free(s);
    /* One that is read by nobody any more, and one that ends with the runtime. */
    ST(PAR_OK, par_call_start(rt, "events.subscribe", PAR_NTS, NULL, 0, &s, &E));
    par_stream_free(s);
    ST(PAR_OK, par_call_start(rt, "events.subscribe", PAR_NTS, NULL, 0, &s, &E));
    ST(PAR_OK, par_runtime_close(rt, slack(10000), &E));
    CHECK_STR("cancelled", json_str(next(s, slack(10000)), "type"));
    next(s, 0), CHECK_INT(PAR_END, status);
    par_stream_free(s);
    par_runtime_free(rt);
}

TEST(stored_events_are_followed_from_a_cursor_over_a_restart) {
    par_runtime_t *rt = opened("");
    const char *message, *cursor;
    did(rt, "events.subscribe", js("{'name':'s'," ENDS ",'reach':'store'}"));
    says(rt, "r1");
    message = inbox(rt, slack(10000));
    CHECK_STR("r1", json_str(message, "event.run_id"));
    cursor = json_str(message, "cursor");
    says(rt, "r2");
    finish(rt);
    rt = opened("");
    did(rt, "events.subscribe", js("{'name':'s'," ENDS ",'reach':'store','cursor':'%s'}", cursor));
    CHECK_STR("r2", json_str(inbox(rt, slack(10000)), "event.run_id"));
    refuses(rt, "events.subscribe", js("{'reach':'store','cursor':'x'}"), PAR_ERR_SCHEMA, "params.cursor");
    finish(rt);
}

TEST(what_is_outstanding_at_the_end_is_kept) {
    par_runtime_t *rt = opened(",'limits':{'inbox_queue_events':1}");
    did(rt, "events.subscribe", js("{'name':'s'," ENDS ",'overflow':'block'}"));
    says(rt, "r1"), says(rt, "r2");
    TAKES(0, 8000, ST(PAR_OK, par_runtime_close(rt, slack(10000), &E)));
    par_runtime_free(rt);
    rt = opened("");
    CHECK_INT(1, letters(rt, 1));
    CHECK_STR("r2", json_str(did(rt, "events.dead_letters", "{}"), "items.0.event.run_id"));
    finish(rt);
}
