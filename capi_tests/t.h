/* t.h: the harness of the C tests. Every test runs in a process of its own, under alarm(), and every wait is bounded:
 * a crash or a hang costs one test, not the program.
 *
 *   TEST(name) { ... }              a test; TEST_FOR(seconds, name) for one that may take longer
 *   ST(PAR_OK, par_xxx(..., &E))    the call returns this status; E is the error object, kept until the next ST
 *   run(rt, request, answer)        a whole run on tape: nth(), count_of(), CHECK_SAID, CHECK_FAILED
 *   CHECK, CHECK_INT, CHECK_STR, CHECK_HAS, CHECK_LACKS, EVENTUALLY: each prints the expected and the actual value
 *
 * JSON is written with single quotes: js("{'agent':'%s'}", id). Texts returned by the helpers live until the test ends.
 * The last line of every program is exactly "N passed, N failed". `./stream wake` runs the tests whose name has "wake";
 * PAR_TEST_FAST=1 cuts the long loops (valgrind, sanitizers); PAR_TEST_SECONDS=n is every test's limit; PAR_TEST_SEED=n
 * replays one random case, PAR_TEST_SEEDS=n runs that many; PAR_TEST_IN_PROCESS=1 does not fork (debuggers). */
#ifndef PAR_TEST_H
#define PAR_TEST_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "par_ffi.h"

#define UNUSED __attribute__((unused))
#define COUNT(array) (sizeof(array) / sizeof *(array))

/* ---- tests ---------------------------------------------------------------------------------------------------- */

struct t_case { const char *name; void (*body)(void); unsigned seconds; struct t_case *next; };
static struct t_case *t_first, **t_last = &t_first;
static int t_failures;          /* of the running test; only through t_fail() */
static const char *t_name = ""; /* of the running test */
static pthread_mutex_t t_lock = PTHREAD_MUTEX_INITIALIZER;

#define TEST(name) TEST_FOR(30, name)
#define TEST_FOR(seconds, name)                                              \
    static void test_##name(void);                                           \
    static struct t_case t_case_##name = {#name, test_##name, seconds, NULL}; \
    __attribute__((constructor)) static void t_register_##name(void) {       \
        *t_last = &t_case_##name;                                            \
        t_last = &t_case_##name.next;                                        \
    }                                                                        \
    static void test_##name(void)

UNUSED static int fast(void) { return getenv("PAR_TEST_FAST") != NULL; }

/* Prints one failure: where, what, and as many "label: value" lines as given, ended by NULL. Always returns 0. */
UNUSED static int t_fail(const char *file, int line, const char *what, ...) {
    const char *label;
    va_list rest;
    pthread_mutex_lock(&t_lock);
    t_failures++;
    printf("  %s, %s:%d: %s\n", t_name, file, line, what);
    va_start(rest, what);
    while ((label = va_arg(rest, const char *)) != NULL) {
        const char *value = va_arg(rest, const char *);
        printf("    %-9s %s\n", label, value ? value : "(null)");
    }
    va_end(rest);
    fflush(stdout);
    pthread_mutex_unlock(&t_lock);
    return 0;
}

/* ---- text that lives until the test ends ---------------------------------------------------------------------- */

struct t_text { struct t_text *next; char text[]; };
static struct t_text *t_texts;

UNUSED static char *t_alloc(size_t size) {
    struct t_text *node = calloc(1, sizeof *node + size + 1);
    if (!node) abort();
    pthread_mutex_lock(&t_lock);
    node->next = t_texts;
    t_texts = node;
    pthread_mutex_unlock(&t_lock);
    return node->text;
}

UNUSED static void t_free_texts(void) {
    while (t_texts) {
        struct t_text *next = t_texts->next;
        free(t_texts);
        t_texts = next;
    }
}

/* Takes a text the library returned: copies it, par_free()s it. NULL stays NULL. */
UNUSED static char *keep(char *owned) {
    char *copy = NULL;
    if (owned) strcpy(copy = t_alloc(strlen(owned)), owned);
    par_free(owned);
    return copy;
}

UNUSED __attribute__((format(printf, 1, 2))) static char *fmt(const char *format, ...) {
    va_list args, again;
    char *text;
    int size;
    va_start(args, format);
    va_copy(again, args);
    size = vsnprintf(NULL, 0, format, args);
    text = t_alloc((size_t)size);
    vsnprintf(text, (size_t)size + 1, format, again);
    va_end(again);
    va_end(args);
    return text;
}

/* 'a' -> "a", in place. */
UNUSED static char *t_quotes(char *text) {
    char *p;
    for (p = text; *p; p++)
        if (*p == '\'') *p = '"';
    return text;
}

/* js("{'n':%d}", 1): printf, then single quotes become double ones. */
#define js(...) t_quotes(fmt(__VA_ARGS__))

/* A growing text: cat(&text, "more"). free() it. */
UNUSED static void cat(char **text, const char *more) {
    size_t old = *text ? strlen(*text) : 0, add = strlen(more);
    *text = realloc(*text, old + add + 1);
    if (!*text) abort();
    memcpy(*text + old, more, add + 1);
}

/* ---- time, process -------------------------------------------------------------------------------------------- */

UNUSED static int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

UNUSED static void sleep_ms(int64_t ms) {
    struct timespec t = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};
    while (nanosleep(&t, &t) && errno == EINTR) {}
}

/* How slow this run may be: times that are checked from above are multiplied by it. */
UNUSED static int64_t slack(int64_t ms) { return fast() ? ms * 10 : ms; }

UNUSED static int t_entries(const char *path) {
    DIR *dir = opendir(path);
    int n = 0;
    if (!dir) return -1;
    while (readdir(dir)) n++;
    closedir(dir);
    return n;
}

UNUSED static int thread_count(void) { return t_entries("/proc/self/task") - 2; /* . and .. */ }
UNUSED static int fd_count(void) { return t_entries("/proc/self/fd") - 3; /* and that of the directory itself */ }

UNUSED static long rss_kb(void) {
    FILE *status = fopen("/proc/self/status", "r");
    char line[256];
    long kb = -1;
    while (status && fgets(line, sizeof line, status))
        if (sscanf(line, "VmRSS: %ld", &kb) == 1) break;
    if (status) fclose(status);
    return kb;
}

/* ---- checks --------------------------------------------------------------------------------------------------- */

static __thread par_error_t *E; /* the error of the last ST() on this thread */

UNUSED static void t_clear(void) {
    par_error_free(E);
    E = NULL;
}

UNUSED static int t_status(const char *file, int line, const char *call, par_status_t want, par_status_t got) {
    if (got == want && (got < 0 || !E) && (!E || par_error_status(E) == got)) return 1;
    return t_fail(file, line, call, "expected", fmt("%s (%d)", par_status_name(want), (int)want), "actual",
                  fmt("%s (%d)", par_status_name(got), (int)got), "error", E ? par_error_json(E) : "(none)", NULL);
}

UNUSED static int t_int(const char *file, int line, const char *what, int64_t want, int64_t got) {
    if (got == want) return 1;
    return t_fail(file, line, what, "expected", fmt("%" PRId64, want), "actual", fmt("%" PRId64, got), NULL);
}

UNUSED static int t_str(const char *file, int line, const char *what, const char *want, const char *got) {
    if (got == want || (got && want && !strcmp(got, want))) return 1;
    return t_fail(file, line, what, "expected", want, "actual", got, NULL);
}

UNUSED static int t_has(const char *file, int line, const char *what, int want, const char *text, const char *part) {
    const char *needle = t_quotes(fmt("%s", part));
    if ((text && strstr(text, needle)) == want) return 1;
    return t_fail(file, line, what, want ? "wanted" : "unwanted", needle, "in", text, NULL);
}

#define ST(want, call) (t_clear(), t_status(__FILE__, __LINE__, #call, want, (call)))
#define CHECK(condition) ((condition) ? 1 : t_fail(__FILE__, __LINE__, #condition, (char *)NULL))
#define CHECK_INT(want, got) t_int(__FILE__, __LINE__, #got, (int64_t)(want), (int64_t)(got))
#define CHECK_STR(want, got) t_str(__FILE__, __LINE__, #got, want, got)
#define CHECK_HAS(text, part) t_has(__FILE__, __LINE__, #text, 1, text, part)
#define CHECK_LACKS(text, part) t_has(__FILE__, __LINE__, #text, 0, text, part)

/* The condition becomes true within so many ms. It is not evaluated again once it was. */
#define EVENTUALLY(ms, condition)                                                                                     \
    do {                                                                                                              \
        int64_t until_ = now_ms() + slack(ms);                                                                        \
        int met_;                                                                                                     \
        while (!(met_ = (condition)) && now_ms() < until_) sleep_ms(2);                                               \
        if (!met_) t_fail(__FILE__, __LINE__, #condition, "waited", fmt("%d ms", (int)slack(ms)), (char *)NULL);      \
    } while (0)

/* The statement takes between these many ms; the upper bound is stretched on slow runs. */
#define TAKES(low, high, statement)                                                                                   \
    do {                                                                                                              \
        int64_t began_ = now_ms(), took_;                                                                             \
        statement;                                                                                                    \
        took_ = now_ms() - began_;                                                                                    \
        if (took_ < (low) || took_ > slack(high))                                                                     \
            t_fail(__FILE__, __LINE__, #statement, "expected", fmt("%d to %d ms", (int)(low), (int)slack(high)),      \
                   "actual", fmt("%d ms", (int)took_), (char *)NULL);                                                 \
    } while (0)

/* ---- just enough JSON ----------------------------------------------------------------------------------------- */

UNUSED static int json_has(const char *text, const char *part) { return text && strstr(text, part) != NULL; }

UNUSED static const char *t_space(const char *p) {
    while (*p == ' ' || *p == '\n' || *p == '\t' || *p == '\r') p++;
    return p;
}

UNUSED static const char *t_skip(const char *p) { /* past one value */
    int depth = 0;
    p = t_space(p);
    do {
        if (*p == '"') {
            for (p++; *p && *p != '"'; p++)
                if (*p == '\\' && p[1]) p++;
            if (*p) p++;
        } else if (*p == '{' || *p == '[') {
            depth++, p++;
        } else if (*p == '}' || *p == ']') {
            depth--, p++;
        } else if (depth) {
            p++;
        } else {
            while (*p && !strchr(",]} \n\t\r", *p)) p++;
        }
    } while (depth > 0 && *p);
    return p;
}

/* The value at "error.path" or "items.0.name"; NULL when there is none. */
UNUSED static const char *json_at(const char *text, const char *path) {
    const char *p = text ? t_space(text) : NULL;
    while (p && *path) {
        size_t n = strcspn(path, ".");
        int array = *p == '[', found = 0;
        long index = array ? strtol(path, NULL, 10) : 0;
        if (*p != '{' && *p != '[') return NULL;
        for (p = t_space(p + 1); *p && *p != '}' && *p != ']';) {
            if (array) {
                found = index-- == 0;
            } else {
                const char *end = t_skip(p);
                found = (size_t)(end - p) == n + 2 && !strncmp(p + 1, path, n);
                p = t_space(t_space(end) + 1); /* past the colon */
            }
            if (found) break;
            p = t_space(t_skip(p));
            if (*p == ',') p = t_space(p + 1);
        }
        if (!found) return NULL;
        path += n + (path[n] == '.');
    }
    return p;
}

/* The integer at the path; -1 when there is none. */
UNUSED static int64_t json_int(const char *text, const char *path) {
    const char *p = json_at(text, path);
    return p && (*p == '-' || (*p >= '0' && *p <= '9')) ? strtoll(p, NULL, 10) : -1;
}

/* The JSON text of the value at the path; NULL when there is none. */
UNUSED static const char *json_raw(const char *text, const char *path) {
    const char *p = json_at(text, path);
    return p ? fmt("%.*s", (int)(t_skip(p) - p), p) : NULL;
}

UNUSED static unsigned t_hex4(const char *p) {
    char digits[5] = {0};
    memcpy(digits, p, 4);
    return (unsigned)strtoul(digits, NULL, 16);
}

/* The string at the path, decoded; NULL when there is none. */
UNUSED static const char *json_str(const char *text, const char *path) {
    const char *p = json_at(text, path);
    char *out, *o;
    if (!p || *p != '"') return NULL;
    o = out = t_alloc((size_t)(t_skip(p) - p));
    for (p++; *p && *p != '"'; p++) {
        unsigned code;
        if (*p != '\\') { *o++ = *p; continue; }
        switch (*++p) {
        case 'n': *o++ = '\n'; break;
        case 't': *o++ = '\t'; break;
        case 'r': *o++ = '\r'; break;
        case 'b': *o++ = '\b'; break;
        case 'f': *o++ = '\f'; break;
        case 'u':
            code = t_hex4(p + 1), p += 4;
            if (code >= 0xD800 && code < 0xDC00) code = 0x10000 + ((code - 0xD800) << 10) + (t_hex4(p + 3) - 0xDC00), p += 6;
            if (code < 0x80) { *o++ = (char)code; break; }
            if (code >= 0x10000) *o++ = (char)(0xF0 | code >> 18), *o++ = (char)(0x80 | (code >> 12 & 0x3F));
            else if (code >= 0x800) *o++ = (char)(0xE0 | code >> 12);
            if (code >= 0x800) *o++ = (char)(0x80 | (code >> 6 & 0x3F));
            else *o++ = (char)(0xC0 | code >> 6);
            *o++ = (char)(0x80 | (code & 0x3F));
            break;
        default: *o++ = *p;
        }
    }
    return out;
}

/* ---- a runtime on the mock provider --------------------------------------------------------------------------- */

/* Nothing is kept, and closing drains nothing, unless the config says so: most cases are about something else. */
UNUSED static par_runtime_t *runtime(const char *config) {
    par_runtime_t *rt = NULL;
    if (!strstr(config, "\"persistence\""))
        config = fmt("{\"persistence\":\"noop\"%s%s", config[1] == '}' ? "" : ",", config + 1);
    if (!strstr(config, "\"shutdown\""))
        config = fmt("{\"shutdown\":{\"drain_timeout\":0},%s", config + 1);
    ST(PAR_OK, par_runtime_create(PAR_ABI_VERSION, config, PAR_NTS, &rt, &E));
    return rt;
}

/* A runtime whose mock provider answers with these turns (a JSON array, single quotes; NULL echoes). */
UNUSED static par_runtime_t *mock(const char *turns) {
    return runtime(js("{'llm_providers':{'mock':{'type':'mock'%s%s}}}", turns ? ",'turns':" : "", turns ? turns : ""));
}

UNUSED static void agent(par_runtime_t *rt, const char *id, const char *tools) {
    ST(PAR_OK, par_register_agent(rt, js("{'id':'%s','model':'mock/m','tools':%s}", id, tools ? tools : "[]"), PAR_NTS, &E));
}

/* Registers a tool of two integers; `more` is further keys, each with a leading comma. */
UNUSED static void tool(par_runtime_t *rt, const char *name, const char *more) {
    ST(PAR_OK, par_register_tool(rt, js("{'name':'%s','description':'Adds.','input_schema':{'type':'object','properties':"
        "{'a':{'type':'integer'},'b':{'type':'integer'}},'required':['a','b']}%s}", name, more ? more : ""), PAR_NTS, &E));
}

/* A runtime with the mock provider and further keys, each with a leading comma. */
UNUSED static par_runtime_t *mock_and(const char *turns, const char *keys) {
    return runtime(js("{'llm_providers':{'mock':{'type':'mock','turns':%s}}%s}", turns, keys));
}

/* Registers an agent with further keys, each with a leading comma. */
UNUSED static void agent_and(par_runtime_t *rt, const char *id, const char *keys) {
    ST(PAR_OK, par_register_agent(rt, js("{'id':'%s','model':'mock/m'%s}", id, keys), PAR_NTS, &E));
}

UNUSED static void finish(par_runtime_t *rt) {
    ST(PAR_OK, par_runtime_close(rt, 10000, &E));
    par_runtime_free(rt);
}

UNUSED static par_stream_t *start(par_runtime_t *rt, const char *request) {
    par_stream_t *s = NULL;
    ST(PAR_OK, par_stream_start(rt, request, PAR_NTS, &s, &E));
    return s;
}

UNUSED static const char *invoke(par_runtime_t *rt, const char *request) {
    char *out = NULL;
    ST(PAR_OK, par_invoke(rt, request, PAR_NTS, 20000, &out, NULL, &E));
    return keep(out);
}

static __thread par_status_t status; /* of the last next(), inbox() or ask() */

/* The next event of a stream; NULL when none came in time or the stream has ended: see `status`. */
UNUSED static const char *next(par_stream_t *s, int64_t ms) {
    char *out = NULL;
    t_clear();
    status = par_stream_wait(s, ms, &out, NULL, &E);
    return keep(out);
}

UNUSED static const char *inbox(par_runtime_t *rt, int64_t ms) {
    char *out = NULL;
    t_clear();
    status = par_inbox_wait(rt, ms, &out, NULL, &E);
    return keep(out);
}

UNUSED static const char *ask(par_runtime_t *rt, const char *method, const char *params) {
    char *out = NULL;
    t_clear();
    status = par_call(rt, method, PAR_NTS, params, PAR_NTS, 10000, &out, NULL, &E);
    return keep(out);
}

UNUSED static const char *info(par_runtime_t *rt) {
    char *out = NULL;
    ST(PAR_OK, par_runtime_info(rt, &out, NULL, &E));
    return keep(out);
}

UNUSED static const char *stream_info(par_stream_t *s) {
    char *out = NULL;
    ST(PAR_OK, par_stream_info(s, &out, NULL, &E));
    return keep(out);
}

UNUSED static par_status_t result_status(par_stream_t *s) {
    char *out = NULL;
    par_status_t st = par_stream_result(s, &out, NULL, NULL);
    par_free(out);
    return st;
}

UNUSED static int is(const char *event, const char *type) {
    const char *actual = json_str(event, "type");
    return actual && !strcmp(actual, type);
}

UNUSED static int is_terminal(const char *event) {
    return is(event, "completed") || is(event, "failed") || is(event, "cancelled") || is(event, "suspended");
}

UNUSED static uint64_t token_of(const char *event) {
    int64_t token = json_int(event, "token");
    return token > 0 ? (uint64_t)token : 0;
}

/* Reads until an event of this type; NULL when the stream ends or 10 s pass first. */
UNUSED static const char *until(par_stream_t *s, const char *type) {
    int64_t deadline = now_ms() + slack(10000);
    while (now_ms() < deadline) {
        const char *event = next(s, 1000);
        if (event && is(event, type)) return event;
        if (status == PAR_END || status < 0) break;
    }
    t_fail(__FILE__, __LINE__, "until(): the event never came", "type", type, "status", par_status_name(status), NULL);
    return NULL;
}

/* What a whole stream said. */
struct seen {
    par_status_t end;               /* PAR_END, or what stopped the reading */
    int events, terminals, deltas;
    int gaps;                       /* events whose seq is not the one before plus one */
    const char *types;              /* " run_started turn_started ..." */
    const char *text, *reasoning;   /* the deltas, joined */
    const char *terminal;           /* the last terminal event */
    int after_terminal;             /* events that came after it */
};

/* Reads a stream to its end; `answer`, when given, sees each event. */
UNUSED static struct seen drive(par_stream_t *s, void (*answer)(void *, const char *), void *context) {
    struct seen seen = {0};
    char *types = NULL, *text = NULL, *reasoning = NULL;
    int64_t deadline = now_ms() + slack(20000), seq = -1;
    cat(&types, ""), cat(&text, ""), cat(&reasoning, "");
    while (now_ms() < deadline) {
        const char *event = next(s, 1000), *delta = json_str(event, "text");
        seen.end = status;
        if (status == PAR_TIMEOUT || status == PAR_WOKEN) continue;
        if (status != PAR_OK) break;
        seen.events++;
        seen.after_terminal += seen.terminals > 0;
        seen.gaps += seq >= 0 && json_int(event, "seq") != seq + 1;
        seq = json_int(event, "seq");
        cat(&types, " "), cat(&types, json_str(event, "type") ? json_str(event, "type") : "?");
        if (is(event, "text_delta")) seen.deltas++, cat(&text, delta ? delta : "?");
        if (is(event, "reasoning_delta")) cat(&reasoning, delta ? delta : "?");
        if (is_terminal(event)) seen.terminals++, seen.terminal = event;
        if (answer) answer(context, event);
    }
    seen.types = fmt("%s ", types), seen.text = fmt("%s", text), seen.reasoning = fmt("%s", reasoning);
    free(types), free(text), free(reasoning);
    return seen;
}

/* Every stream, whatever happened to it: one terminal event, nothing behind it, END for ever; and no gap before it. */
#define CHECK_ENDED(seen, stream)                                                                                     \
    (CHECK_INT(PAR_END, (seen).end), CHECK_INT(1, (seen).terminals), CHECK_INT(0, (seen).after_terminal),             \
     next(stream, 0), CHECK_INT(PAR_END, status), next(stream, 0), CHECK_INT(PAR_END, status))
#define CHECK_WHOLE(seen, stream) (CHECK_ENDED(seen, stream), CHECK_INT(0, (seen).gaps))

/* ---- a run with all its events ------------------------------------------------------------------------------------ */

/* A run read to its end. */
struct tape {
    par_runtime_t *rt;
    const char *answer; /* to every tool call; NULL: nobody answers */
    int n;
    const char *events[600], *end; /* `end` is the terminal event */
    struct seen seen;
};

UNUSED static void t_record(void *context, const char *event) {
    struct tape *tape = context;
    if (tape->n < (int)COUNT(tape->events)) tape->events[tape->n++] = event;
    if (tape->answer && is(event, "tool_call"))
        par_tool_complete(tape->rt, token_of(event), js("%s", tape->answer), PAR_NTS, NULL);
}

UNUSED static struct tape *tape_of(par_runtime_t *rt, const char *answer) {
    struct tape *tape = (struct tape *)(void *)t_alloc(sizeof *tape);
    tape->rt = rt, tape->answer = answer;
    return tape;
}

/* Reads a stream to its end, frees it, and keeps what it said. */
UNUSED static struct tape *record(par_runtime_t *rt, par_stream_t *s, const char *answer) {
    struct tape *tape = tape_of(rt, answer);
    tape->seen = drive(s, t_record, tape);
    CHECK_ENDED(tape->seen, s);
    tape->end = tape->seen.terminal;
    par_stream_free(s);
    return tape;
}

/* Runs a request; every tool call gets this answer (JSON, single quotes). */
UNUSED static struct tape *run(par_runtime_t *rt, const char *request, const char *answer) {
    return record(rt, start(rt, request), answer);
}

/* The nth event of a type, from 0; NULL when there are fewer. */
UNUSED static const char *nth(const struct tape *tape, const char *type, int n) {
    int i;
    for (i = 0; i < tape->n; i++)
        if (is(tape->events[i], type) && n-- == 0) return tape->events[i];
    return NULL;
}

UNUSED static int count_of(const struct tape *tape, const char *type) {
    int i, n = 0;
    for (i = 0; i < tape->n; i++) n += is(tape->events[i], type);
    return n;
}

UNUSED static int t_said(const char *file, int line, const char *want, const struct tape *tape) {
    const char *text = json_str(tape->end, "text");
    if (is(tape->end, "completed") && text && !strcmp(text, want)) return 1;
    return t_fail(file, line, "the run ends with an answer", "expected", want, "actual", tape->end, NULL);
}

UNUSED static int t_failed(const char *file, int line, par_status_t want, const char *code, const char *error) {
    const char *actual = json_str(error, "code");
    if (json_int(error, "status") == want && (!code || (actual && !strcmp(actual, code)))) return 1;
    return t_fail(file, line, "it fails", "expected", fmt("%s, %s", par_status_name(want), code ? code : "any code"),
                  "actual", error, NULL);
}

UNUSED static const char *t_error_of(const struct tape *tape) {
    return is(tape->end, "failed") ? json_raw(tape->end, "error") : tape->end;
}

/* The run completed with this text; it failed with this status and code (NULL: any); so did the last call. */
#define CHECK_SAID(text, tape) t_said(__FILE__, __LINE__, text, tape)
#define CHECK_FAILED(status, code, tape) t_failed(__FILE__, __LINE__, status, code, t_error_of(tape))
#define CHECK_ERROR(status, code) t_failed(__FILE__, __LINE__, status, code, par_error_json(E))
#define CHECK_PATH(want) CHECK_STR(want, json_str(par_error_json(E), "path"))

/* How a blocking run ended, when not well; E holds the error. */
UNUSED static par_status_t attempt(par_runtime_t *rt, const char *request) {
    char *out = NULL;
    par_status_t st;
    t_clear();
    st = par_invoke(rt, request, PAR_NTS, 10000, &out, NULL, &E);
    par_free(out);
    return st;
}

/* A session, as sessions.get tells it. */
UNUSED static const char *session_of(par_runtime_t *rt, const char *name) {
    return ask(rt, "sessions.get", js("{'session':'%s'}", name));
}

UNUSED static int elements(const char *text, const char *path) {
    int n = 0;
    if (!json_at(text, path)) return -1;
    while (json_at(text, fmt("%s.%d", path, n))) n++;
    return n;
}

/* Messages as any provider takes them: each tool call is answered at once, in order, and nothing else is. */
UNUSED static void valid(const char *json, const char *path) {
    int i, j, k, n = elements(json, path);
    CHECK(n > 0);
    for (i = 0; i < n; i++) {
        const char *message = json_raw(json, fmt("%s.%d", path, i)), *role = json_str(message, "role");
        if (!role || !strcmp(role, "tool")) t_fail(__FILE__, __LINE__, "a result without its call", "messages", json_raw(json, path), NULL);
        if (!role || strcmp(role, "assistant")) continue;
        for (j = k = 0; j < elements(message, "parts"); j++) {
            const char *part = json_raw(message, fmt("parts.%d", j)), *answer;
            if (!is(part, "tool_call")) continue;
            answer = json_raw(json, fmt("%s.%d", path, i + ++k));
            CHECK_STR(json_str(part, "tool_call_id"), json_str(answer, "tool_call_id"));
            CHECK_STR("tool", json_str(answer, "role"));
        }
        i += k;
    }
}

/* ---- every function, called with good arguments ---------------------------------------------------------------- */

/* X(call, blocks): in scope must be rt, s, out, len, fd, s2, err. Close and the frees are left out on purpose. */
#define EVERY_RUNTIME_CALL(X)                                                                                         \
    X(par_runtime_info(rt, &out, &len, &err), 0)                                                                      \
    X(par_register_agent(rt, js("{'id':'zz','model':'mock/m'}"), PAR_NTS, &err), 0)                                   \
    X(par_unregister_agent(rt, "zz", PAR_NTS, &err), 0)                                                               \
    X(par_register_tool(rt, js("{'name':'zz','description':'d','input_schema':{'type':'object'}}"), PAR_NTS, &err), 0) \
    X(par_unregister_tool(rt, "zz", PAR_NTS, &err), 0)                                                                \
    X(par_list(rt, "agents", PAR_NTS, &out, &len, &err), 0)                                                           \
    X(par_invoke(rt, js("{'agent':'a','input':'x'}"), PAR_NTS, 5000, &out, &len, &err), 1)                            \
    X(par_call(rt, "tools.list", PAR_NTS, NULL, 0, 5000, &out, &len, &err), 1)                                        \
    X(par_call_start(rt, "tools.list", PAR_NTS, NULL, 0, &s2, &err), 0)                                               \
    X(par_stream_start(rt, js("{'agent':'a','input':'x'}"), PAR_NTS, &s2, &err), 0)                                   \
    X(par_run_cancel(rt, "no-such-run", PAR_NTS, NULL, 0, &err), 0)                                                   \
    X(par_run_steer(rt, "no-such-run", PAR_NTS, "\"x\"", PAR_NTS, &err), 0)                                           \
    X(par_run_status(rt, "no-such-run", PAR_NTS, &out, &len, &err), 0)                                                \
    X(par_tool_complete(rt, 1, "1", PAR_NTS, &err), 0)                                                                \
    X(par_tool_fail(rt, 1, js("{'message':'m'}"), PAR_NTS, &err), 0)                                                  \
    X(par_tool_progress(rt, 1, "1", PAR_NTS, &err), 0)                                                                \
    X(par_approval_resolve(rt, "no-such-approval", PAR_NTS, "\"approve\"", PAR_NTS, &err), 0)                         \
    X(par_inbox_poll(rt, &out, &len, &err), 0)                                                                        \
    X(par_inbox_wait(rt, 0, &out, &len, &err), 1)                                                                     \
    X(par_inbox_drain(rt, 8, &out, &len, &err), 0)                                                                    \
    X(par_inbox_wake(rt), 0)                                                                                          \
    X(par_inbox_fd(rt, &fd, &err), 0)                                                                                 \
    X(par_on_tool(rt, NULL, 0, NULL, &err), 0)                                                                        \
    X(par_on_approval(rt, NULL, 0, NULL, &err), 0)                                                                    \
    X(par_on_event(rt, NULL, 0, NULL, &err), 0)                                                                       \
    X(par_on_log(rt, 3, NULL, 0, NULL, &err), 0)                                                                      \
    X(par_on_wakeup(rt, NULL, 0, NULL, &err), 0)

#define EVERY_STREAM_CALL(X)                                                                                          \
    X(par_stream_poll(s, &out, &len, &err), 0)                                                                        \
    X(par_stream_wait(s, 0, &out, &len, &err), 1)                                                                     \
    X(par_stream_drain(s, 8, &out, &len, &err), 0)                                                                    \
    X(par_stream_result(s, &out, &len, &err), 0)                                                                      \
    X(par_stream_info(s, &out, &len, &err), 0)                                                                        \
    X(par_stream_cancel(s, NULL, 0, &err), 0)                                                                         \
    X(par_stream_wake(s), 0)                                                                                          \
    X(par_stream_fd(s, &fd, &err), 0)

/* ---- randomness, threads ---------------------------------------------------------------------------------------- */

UNUSED static uint64_t rnd(uint64_t *state) { /* splitmix64 */
    uint64_t z = *state += UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}

UNUSED static pthread_t spawn(void *(*body)(void *), void *argument) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, body, argument)) abort();
    return thread;
}

UNUSED static void join(pthread_t thread) { pthread_join(thread, NULL); }

/* Counters shared with other threads. */
#define BUMP(counter) __atomic_add_fetch(&(counter), 1, __ATOMIC_SEQ_CST)
#define LOAD(counter) __atomic_load_n(&(counter), __ATOMIC_SEQ_CST)
#define STORE(counter, value) __atomic_store_n(&(counter), value, __ATOMIC_SEQ_CST)

/* The folder that a case runs in: what it leaves behind, such as a database, no other one finds. */
static char t_folder[] = "/tmp/par-test-XXXXXX";

UNUSED static int t_remove(const char *path, const struct stat *info, int kind, struct FTW *walk) {
    (void)info, (void)kind, (void)walk;
    return remove(path);
}

/* Runs body() in a child process under alarm(); how it ended: the exit code, or 1000 + the signal. */
UNUSED static int in_child(unsigned seconds, void (*body)(void)) {
    int how = 0;
    pid_t child;
    fflush(NULL);
    child = fork();
    if (child == 0) {
        t_failures = 0;
        if (!strstr(t_folder, "XXXXXX") && chdir(t_folder)) abort();
        alarm(getenv("PAR_TEST_SECONDS") ? (unsigned)atoi(getenv("PAR_TEST_SECONDS")) : fast() ? seconds * 5 : seconds);
        body();
        t_clear();
        t_free_texts();
        exit(t_failures ? 1 : 0);
    }
    while (waitpid(child, &how, 0) < 0 && errno == EINTR) {}
    return WIFEXITED(how) ? WEXITSTATUS(how) : 1000 + WTERMSIG(how);
}

int main(int argc, char **argv) {
    struct t_case *test;
    int passed = 0, failed = 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (test = t_first; test; test = test->next) {
        int64_t began = now_ms();
        int how;
        if (argc > 1 && !strstr(test->name, argv[1])) continue;
        t_name = test->name;
        if (getenv("PAR_TEST_IN_PROCESS")) { /* for a debugger */
            t_failures = 0;
            test->body();
            t_clear();
            how = t_failures != 0;
        } else {
            strcpy(strrchr(t_folder, '-'), "-XXXXXX");
            if (!mkdtemp(t_folder)) abort();
            how = in_child(test->seconds, test->body);
            nftw(t_folder, t_remove, 16, FTW_DEPTH | FTW_PHYS);
        }
        if (how == 0) passed++;
        else failed++;
        printf("%-4s %s (%d ms)%s\n", how ? "FAIL" : "ok", test->name, (int)(now_ms() - began),
               how <= 1 ? "" : how == 1000 + SIGALRM ? ": hung" : how > 1000 ? fmt(": died of %s", strsignal(how - 1000))
               : how == 99 ? ": memory errors, see above" : fmt(": exit code %d", how));
    }
    t_free_texts();
    printf("%d passed, %d failed\n", passed, failed);
    return failed ? 1 : 0;
}

#endif
