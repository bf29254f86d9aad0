/* The benchmark's exchanges through libpar, as a C programmer would write them: `bench SCENARIO PORT COUNT SIZE
 * [VARIANT]` prints one line of JSON with the keys that the floor prints. There is one host thread and no JSON library:
 * what is wanted from an event is found in its text.
 *
 * Variants: flight `turn` waits on the streams in turn instead of the inbox; tools `callback` is par_invoke with
 * par_on_tool instead of a stream; crowd `fd` is an epoll over the streams' own descriptors instead of the inbox's. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>

#include "par_ffi.h"

enum { IN_FLIGHT = 64, DRAIN = 1024, LATE_MS = 500 };

static par_runtime_t *rt;
static const char *variant;

/* ---- failing */

static void die(const char *what, par_status_t status, par_error_t *err) {
    fprintf(stderr, "bench: %s: %s: %s\n", what, par_status_name(status), par_error_json(err));
    exit(1);
}

#define TRY(call)                                          \
    do {                                                   \
        par_error_t *err = NULL;                           \
        par_status_t status_ = (call);                     \
        if (status_ != PAR_OK) die(#call, status_, err);   \
    } while (0)

/* ---- measuring */

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static double cpu_us(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1e6 + (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
}

static double memory_kb(const char *key) {
    char line[256];
    double kb = 0;
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        if (!strncmp(line, key, strlen(key))) kb = strtod(line + strlen(key) + 1, NULL);
    if (status) fclose(status);
    return kb;
}

static uint64_t watch_ns;
static double watch_cpu;

static void start_watch(void) {
    watch_ns = now_ns();
    watch_cpu = cpu_us();
}

static double wall_us(void) { return (double)(now_ns() - watch_ns) / 1e3; }

static void print_each(size_t count, size_t chunks) {
    double wall = wall_us(), cpu = cpu_us() - watch_cpu;
    printf("{\"wall_us\":%f,\"cpu_us\":%f,\"per_second\":%f,\"chunks_per_second\":%f}\n", wall / (double)count,
           cpu / (double)count, (double)count * 1e6 / wall, (double)chunks * 1e6 / wall);
}

static float *added; /* microseconds from the server's clock to here, one for each token */
static size_t added_room, added_seen;

static void make_room_for_tokens(size_t tokens) {
    added_room = tokens;
    added = malloc(tokens * sizeof *added);
    for (size_t i = 0; i < tokens; i++) added[i] = 1; /* touched now, so that it does not count as a stream's memory */
}

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static double added_percentile(double part) {
    qsort(added, added_seen, sizeof *added, by_value);
    return added_seen ? added[(size_t)((double)added_seen * part)] : 0;
}

/* ---- reading events */

static const char *find(const char *text, size_t n, const char *what) {
    return text ? memmem(text, n, what, strlen(what)) : NULL;
}

/* What follows a key, from `text` on; NULL when it is not there. */
static const char *after(const char *text, const char *end, const char *key) {
    const char *at = find(text, text ? (size_t)(end - text) : 0, key);
    return at ? at + strlen(key) : NULL;
}

static void complete_call(const char *event, const char *end) {
    const char *token = after(event, end, "\"token\":"), *input = after(event, end, "\"input\":");
    const char *a = after(input, end, "\"a\":"), *b = after(input, end, "\"b\":");
    char sum[32];
    if (!token || !a || !b) die("tool_call without token or input", PAR_ERR_INTERNAL, NULL);
    int n = snprintf(sum, sizeof sum, "%g", strtod(a, NULL) + strtod(b, NULL));
    TRY(par_tool_complete(rt, strtoull(token, NULL, 10), sum, (size_t)n, &err));
}

struct seen {
    size_t chunks, calls, completed, failed;
};

/* Looks at every event of an array, or at one: they are told apart by their `type`, and answered where they ask. */
static void look(struct seen *seen, const char *events, size_t n) {
    const char *end = events + n, *type = events;
    while ((type = after(type, end, "\"type\":\"")) != NULL) {
        if (!strncmp(type, "text_delta\"", 11)) {
            const char *stamp = added ? after(type, end, "\"text\":\"@") : NULL;
            seen->chunks++;
            if (stamp && added_seen < added_room) added[added_seen++] = (float)((double)(now_ns() - strtoull(stamp, NULL, 10)) / 1e3);
        } else if (!strncmp(type, "tool_call\"", 10)) {
            seen->calls++;
            complete_call(type, end);
        } else if (!strncmp(type, "completed\"", 10)) {
            seen->completed++;
        } else if (!strncmp(type, "failed\"", 7) || !strncmp(type, "cancelled\"", 10)) {
            if (!seen->failed++) fprintf(stderr, "bench: %.*s\n", (int)n, events);
        }
    }
}

/* Takes what is queued now; false after the stream's end. */
static int take_queued(struct seen *seen, par_stream_t *stream) {
    for (;;) {
        char *events;
        size_t n;
        par_error_t *err = NULL;
        par_status_t status = par_stream_drain(stream, DRAIN, &events, &n, &err);
        if (status == PAR_END) return 0;
        if (status == PAR_PENDING) return 1;
        if (status != PAR_OK) die("par_stream_drain", status, err);
        look(seen, events, n);
        par_free(events);
    }
}

/* One event, waiting for it; false after the stream's end. */
static int take_next(struct seen *seen, par_stream_t *stream) {
    char *event;
    size_t n;
    par_error_t *err = NULL;
    par_status_t status = par_stream_wait(stream, PAR_WAIT_FOREVER, &event, &n, &err);
    if (status == PAR_END) return 0;
    if (status != PAR_OK) die("par_stream_wait", status, err);
    look(seen, event, n);
    par_free(event);
    return 1;
}

/* ---- setting up */

static const char TOOL[] =
    "{\"name\":\"add\",\"description\":\"Adds two numbers.\",\"input_schema\":{\"type\":\"object\",\"properties\":"
    "{\"a\":{\"type\":\"number\"},\"b\":{\"type\":\"number\"}},\"required\":[\"a\",\"b\"]}}";

static void set_up(int port, int sse, const char *model, int with_tool) {
    char text[1024];
    snprintf(text, sizeof text,
             "{\"persistence\":\"noop\",\"llm_providers\":{\"bench\":{\"type\":\"openai\",\"api_key\":\"k\","
             "\"base_url\":\"http://127.0.0.1:%d/v1\",\"stream\":%s}}}",
             port, sse ? "true" : "false");
    TRY(par_runtime_create(PAR_ABI_VERSION, text, PAR_NTS, &rt, &err));
    if (with_tool) TRY(par_register_tool(rt, TOOL, PAR_NTS, &err));
    snprintf(text, sizeof text,
             "{\"id\":\"bench\",\"system_prompt\":\"You are a benchmark: answer in one sentence.\",\"model\":\"bench/%s\"%s}", model,
             with_tool ? ",\"tools\":[\"add\"]" : "");
    TRY(par_register_agent(rt, text, PAR_NTS, &err));
}

/* The agent on the scripted provider, so that nothing but the loop itself is measured. */
static void set_up_scripted(const char *turns, const char *runtime_keys, const char *agent_keys, size_t tools) {
    size_t room = strlen(turns) + 4096;
    char *text = malloc(room), names[1024] = "";
    snprintf(text, room, "{\"persistence\":\"noop\",\"llm_providers\":{\"bench\":{\"type\":\"mock\",\"turns\":[%s]}}%s}", turns,
             runtime_keys);
    TRY(par_runtime_create(PAR_ABI_VERSION, text, PAR_NTS, &rt, &err));
    TRY(par_register_tool(rt, TOOL, PAR_NTS, &err));
    for (size_t i = 1; i < tools; i++) {
        snprintf(text, room,
                 "{\"name\":\"tool_%zu\",\"description\":\"Does what tools do, the %zuth way.\",\"input_schema\":{\"type\":\"object\","
                 "\"properties\":{\"query\":{\"type\":\"string\"},\"limit\":{\"type\":\"integer\"}}}}", i, i);
        TRY(par_register_tool(rt, text, PAR_NTS, &err));
        snprintf(names + strlen(names), sizeof names - strlen(names), ",\"tool_%zu\"", i);
    }
    snprintf(text, room,
             "{\"id\":\"bench\",\"system_prompt\":\"You are a benchmark.\",\"model\":\"bench/any\",\"max_iterations\":1000,"
             "\"loop_guard\":{\"max_repeats\":0},\"tools\":[\"add\"%s%s]%s}", tools > 1 ? ",\"read_blob\"" : "", names, agent_keys);
    TRY(par_register_agent(rt, text, PAR_NTS, &err));
    free(text);
}

static void tear_down(void) {
    TRY(par_runtime_close(rt, 5000, &err));
    par_runtime_free(rt);
}

#define REQUEST "{\"agent\":\"bench\",\"input\":\"What does the quick brown fox do?\""

/* Whether the host only waits for results and calls of its tool: then that is all it asks for. */
static int only_results;

static par_stream_t *start(void) {
    par_stream_t *stream;
    TRY(par_stream_start(rt, only_results ? REQUEST ",\"events\":\"result\"}" : REQUEST "}", PAR_NTS, &stream, &err));
    return stream;
}

/* A stream that announces itself in the inbox under a number. */
static par_stream_t *start_announced(size_t slot) {
    char request[256];
    par_stream_t *stream;
    snprintf(request, sizeof request, REQUEST ",\"notify\":\"inbox\",\"tag\":\"%zu\",\"events\":\"%s\"}", slot,
             only_results ? "result" : "all");
    TRY(par_stream_start(rt, request, PAR_NTS, &stream, &err));
    return stream;
}

/* ---- one after the other */

static void on_tool(uintptr_t user_data, uint64_t token, const char *json, size_t n) {
    (void)token;
    ((struct seen *)user_data)->calls++;
    complete_call(json, json + n);
}

static void invoke(struct seen *seen) {
    char *result;
    size_t n;
    TRY(par_invoke(rt, REQUEST "}", PAR_NTS, PAR_WAIT_FOREVER, &result, &n, &err));
    seen->completed += find(result, n, "\"status\":\"completed\"") != NULL;
    par_free(result);
}

static void stream_to_end(struct seen *seen) {
    par_stream_t *stream = start();
    while (take_next(seen, stream) && take_queued(seen, stream)) {}
    par_stream_free(stream);
}

static void sequential(size_t count, size_t warm_up, int streaming, size_t calls_each) {
    struct seen seen = {0};
    int callback = !strcmp(variant, "callback");
    only_results = calls_each > 0;
    if (callback) TRY(par_on_tool(rt, on_tool, (uintptr_t)&seen, NULL, &err));
    for (size_t i = 0; i < count + warm_up; i++) {
        if (i == warm_up) {
            memset(&seen, 0, sizeof seen);
            start_watch();
        }
        (streaming && !callback ? stream_to_end : invoke)(&seen);
    }
    if (seen.completed != count || seen.calls != count * calls_each) {
        fprintf(stderr, "bench: %zu of %zu completed, %zu of %zu calls\n", seen.completed, count, seen.calls, count * calls_each);
        exit(1);
    }
    print_each(count, seen.chunks);
}

/* ---- many at once */

/* The numbers under which the inbox announces streams now, waiting for one: returns how many. */
static size_t announced(size_t *slots, size_t room, int64_t timeout_ms) {
    size_t found = 0;
    char *messages;
    size_t n;
    par_error_t *err = NULL;
    par_status_t status = par_inbox_wait(rt, timeout_ms, &messages, &n, &err);
    while (status == PAR_OK) {
        const char *at = messages, *end = messages + n;
        while (found < room && (at = after(at, end, "\"tag\":\"")) != NULL) slots[found++] = strtoul(at, NULL, 10);
        par_free(messages);
        if (found == room) return found;
        status = par_inbox_drain(rt, (uint32_t)(room - found), &messages, &n, &err);
    }
    if (status < 0) die("par_inbox_wait", status, err);
    return found;
}

static void rush_by_inbox(struct seen *seen, size_t count) {
    par_stream_t *streams[IN_FLIGHT];
    size_t slots[IN_FLIGHT], left = count - IN_FLIGHT, live = IN_FLIGHT;
    for (size_t i = 0; i < IN_FLIGHT; i++) streams[i] = start_announced(i);
    while (live) {
        size_t n = announced(slots, IN_FLIGHT, PAR_WAIT_FOREVER);
        for (size_t i = 0; i < n; i++) {
            size_t slot = slots[i];
            if (!streams[slot] || take_queued(seen, streams[slot])) continue;
            par_stream_free(streams[slot]);
            streams[slot] = left ? start_announced(slot) : NULL;
            if (left) left--;
            else live--;
        }
    }
}

static void rush_in_turn(struct seen *seen, size_t count) {
    par_stream_t *streams[IN_FLIGHT];
    for (size_t i = 0; i < IN_FLIGHT; i++) streams[i] = start();
    for (size_t i = 0; i < count; i++) {
        par_stream_t **stream = &streams[i % IN_FLIGHT];
        while (take_next(seen, *stream) && take_queued(seen, *stream)) {}
        par_stream_free(*stream);
        *stream = i + IN_FLIGHT < count ? start() : NULL;
    }
}

static void flight(size_t count) {
    struct seen seen = {0};
    only_results = 1;
    void (*rush)(struct seen *, size_t) = strcmp(variant, "turn") ? rush_by_inbox : rush_in_turn;
    rush(&seen, 2000);
    memset(&seen, 0, sizeof seen);
    start_watch();
    rush(&seen, count);
    if (seen.completed != count) die("not all completed", PAR_ERR_INTERNAL, NULL);
    print_each(count, seen.chunks);
}

/* A thousand streams, read as they become readable. */
struct crowd {
    size_t count, live, late;
    par_stream_t **streams;
    uint64_t *started;
    uint64_t limit_ns;
    struct seen seen;
    int epoll;
};

static void open_crowd(struct crowd *crowd, size_t count) {
    crowd->count = crowd->live = count;
    crowd->streams = calloc(count, sizeof *crowd->streams);
    crowd->started = calloc(count, sizeof *crowd->started);
    crowd->epoll = strcmp(variant, "fd") ? -1 : epoll_create1(0);
    for (size_t i = 0; i < count; i++) {
        crowd->started[i] = now_ns();
        crowd->streams[i] = crowd->epoll < 0 ? start_announced(i) : start();
        if (crowd->epoll >= 0) {
            intptr_t fd;
            struct epoll_event event = {.events = EPOLLIN, .data.u64 = i};
            TRY(par_stream_fd(crowd->streams[i], &fd, &err));
            epoll_ctl(crowd->epoll, EPOLL_CTL_ADD, (int)fd, &event);
        }
    }
}

/* Serves the crowd until all have ended, or until a moment (0: none), or until so many tokens were seen (0: any). */
static void serve_crowd(struct crowd *crowd, uint64_t until_ns, size_t until_chunks) {
    while (crowd->live && !(until_chunks && crowd->seen.chunks >= until_chunks)) {
        size_t slots[256], n = 0;
        int64_t timeout_ms = PAR_WAIT_FOREVER;
        if (until_ns) {
            uint64_t now = now_ns();
            if (now >= until_ns) return;
            timeout_ms = (int64_t)((until_ns - now) / 1000000) + 1;
        }
        if (crowd->epoll < 0) {
            n = announced(slots, 256, timeout_ms);
        } else {
            struct epoll_event events[256];
            int ready = epoll_wait(crowd->epoll, events, 256, (int)timeout_ms);
            for (; ready > 0 && n < (size_t)ready; n++) slots[n] = events[n].data.u64;
        }
        for (size_t i = 0; i < n; i++) {
            size_t slot = slots[i];
            if (!crowd->streams[slot] || take_queued(&crowd->seen, crowd->streams[slot])) continue;
            if (crowd->limit_ns && now_ns() - crowd->started[slot] > crowd->limit_ns) crowd->late++;
            par_stream_free(crowd->streams[slot]);
            crowd->streams[slot] = NULL;
            crowd->live--;
        }
    }
}

static void crowd(size_t count, size_t size) {
    struct crowd crowd = {.limit_ns = (50 * (uint64_t)(size + 1) + LATE_MS) * 1000000u};
    make_room_for_tokens(count * size);
    double before_kb = memory_kb("VmRSS:");
    start_watch();
    open_crowd(&crowd, count);
    serve_crowd(&crowd, 0, 0);
    double percent = 100 * (cpu_us() - watch_cpu) / wall_us();
    size_t failed = count - crowd.seen.completed;
    printf("{\"cpu_percent\":%f,\"kb_per_stream\":%f,\"late\":%zu,\"failed\":%zu,\"added_p50_us\":%f,\"added_p99_us\":%f,\"tokens\":%zu}\n",
           percent, (memory_kb("VmHWM:") - before_kb) / (double)count, crowd.late, failed, added_percentile(.5),
           added_percentile(.99), crowd.seen.chunks);
}

static void idle(size_t count, size_t silence_ms) {
    struct crowd crowd = {0};
    open_crowd(&crowd, count);
    serve_crowd(&crowd, 0, count);
    start_watch();
    serve_crowd(&crowd, now_ns() + silence_ms * 500000u, 0);
    double cpu = 1e3 * (cpu_us() - watch_cpu) / wall_us();
    serve_crowd(&crowd, 0, 0);
    printf("{\"idle_cpu_ms_per_second\":%f,\"failed\":%zu}\n", cpu, count - crowd.seen.completed);
}

/* ---- the rest */

static void spaced(size_t count, size_t size) {
    struct seen seen = {0};
    make_room_for_tokens(count * size);
    for (size_t i = 0; i < count; i++) stream_to_end(&seen);
    printf("{\"added_p50_us\":%f,\"added_p99_us\":%f,\"tokens\":%zu}\n", added_percentile(.5), added_percentile(.99), added_seen);
}

/* ---- the loop alone */

#define NO_BLOB "{\"tool_calls\":[{\"name\":\"read_blob\",\"input\":{\"handle\":\"none\"}}]},"
#define MIDDLEWARE ",\"middleware\":[{\"type\":\"pii_mask\"},{\"type\":\"sanitize_tool_output\"},{\"type\":\"validation\"}]"

/* Microseconds of one run of so many turns, each with a call of a tool inside the library. */
static double run_of_turns(size_t count, size_t turns) {
    char *script = calloc(turns + 1, sizeof NO_BLOB + 16);
    struct seen seen = {0};
    for (size_t i = 1; i < turns; i++) strcat(script, NO_BLOB);
    strcat(script, "{\"text\":\"done\"}");
    set_up_scripted(script, MIDDLEWARE, "", 19);
    TRY(par_on_tool(rt, on_tool, (uintptr_t)&seen, NULL, &err));
    for (size_t i = 0; i < count / 10 + 1; i++) invoke(&seen);
    start_watch();
    for (size_t i = 0; i < count; i++) invoke(&seen);
    double each = wall_us() / (double)count;
    if (seen.completed != count + count / 10 + 1) die("not all completed", PAR_ERR_INTERNAL, NULL);
    tear_down();
    free(script);
    return each;
}

static void turns(size_t count, size_t size) {
    double one = run_of_turns(count * 4, 1), many = run_of_turns(count, size);
    printf("{\"us_per_turn\":%f,\"us_per_run\":%f}\n", (many - one) / (double)(size - 1), one);
}

#define THREE_CALLS                                                                                                        \
    "{\"tool_calls\":[{\"name\":\"add\",\"input\":{\"a\":1,\"b\":2}},{\"name\":\"add\",\"input\":{\"a\":3,\"b\":4}},"                    \
    "{\"name\":\"add\",\"input\":{\"a\":5,\"b\":6}}]},"

/* Loops of three rounds of three host tools; and what so many of them leave in memory. */
static void loops(size_t count) {
    struct seen seen = {0};
    only_results = 1;
    set_up_scripted(THREE_CALLS THREE_CALLS THREE_CALLS "{\"text\":\"done\"}", "", "", 1);
    void (*rush)(struct seen *, size_t) = strcmp(variant, "turn") ? rush_by_inbox : rush_in_turn;
    rush(&seen, 2000);
    memset(&seen, 0, sizeof seen);
    double before = memory_kb("VmRSS");
    start_watch();
    rush(&seen, count);
    if (seen.completed != count || seen.calls != count * 9) die("not all completed", PAR_ERR_INTERNAL, NULL);
    double wall = wall_us();
    printf("{\"us\":%f,\"per_second\":%f,\"bytes_kept_per_run\":%f}\n", wall / (double)count, (double)count * 1e6 / wall,
           (memory_kb("VmRSS") - before) * 1024 / (double)count);
    tear_down();
}

static void startup(void) {
    struct seen seen = {0};
    start_watch();
    TRY(par_runtime_create(PAR_ABI_VERSION, "{\"llm_providers\":{\"mock\":{\"type\":\"mock\",\"turns\":[{\"text\":\"hi\"}]}}}", PAR_NTS, &rt, &err));
    TRY(par_register_agent(rt, "{\"id\":\"bench\",\"model\":\"mock/any\"}", PAR_NTS, &err));
    invoke(&seen);
    tear_down();
    printf("{\"ms\":%f}\n", wall_us() / 1e3);
}

int main(int argc, char **argv) {
    if (argc < 5) {
        fprintf(stderr, "bench SCENARIO PORT COUNT SIZE [VARIANT]\n");
        return 2;
    }
    size_t count = strtoul(argv[3], NULL, 10), size = strtoul(argv[4], NULL, 10);
    char name[32], model[64] = "text";
    char *suffix = (snprintf(name, sizeof name, "%s", argv[1]), strstr(name, "-sse"));
    int sse = suffix != NULL, port = atoi(argv[2]);
    if (suffix) *suffix = 0;
    variant = argc > 5 ? argv[5] : "";
    if (!strcmp(name, "startup")) {
        startup();
        return 0;
    }
    if (!strcmp(name, "turns") || !strcmp(name, "loops")) {
        if (!strcmp(name, "turns")) turns(count, size);
        else loops(count);
        return 0;
    }
    if (!strcmp(name, "tools")) strcpy(model, "tools-3x3");
    if (!strcmp(name, "burst")) snprintf(model, sizeof model, "stream-%zu", size);
    if (!strcmp(name, "spaced")) snprintf(model, sizeof model, "stream-20ms-%zu", size);
    if (!strcmp(name, "crowd")) snprintf(model, sizeof model, "stream-50ms-%zu", size);
    if (!strcmp(name, "idle")) snprintf(model, sizeof model, "idle-%zums", size);
    set_up(port, sse || strncmp(model, "stream", 6) == 0 || strncmp(model, "idle", 4) == 0, model, !strcmp(name, "tools"));
    if (!strcmp(name, "invoke")) sequential(count, 200, 0, 0);
    else if (!strcmp(name, "tools")) sequential(count, 50, 1, 9);
    else if (!strcmp(name, "burst")) sequential(count, 5, 1, 0);
    else if (!strcmp(name, "flight")) flight(count);
    else if (!strcmp(name, "spaced")) spaced(count, size);
    else if (!strcmp(name, "crowd")) crowd(count, size);
    else if (!strcmp(name, "idle")) idle(count, size);
    else fprintf(stderr, "bench: no scenario %s\n", name);
    tear_down();
    return 0;
}
