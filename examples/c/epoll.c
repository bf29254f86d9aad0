/* Several agents at once on one thread: each stream has a file descriptor that is readable when there is something to read,
 * and epoll waits for all of them, beside whatever else an event loop waits for.
 *
 *     cc -std=gnu99 epoll.c -lpar -o epoll && ./epoll */
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "par_ffi.h"

/* Three models of different speed, on the mock provider. */
static const char CONFIG[] =
    "{\"persistence\": \"noop\", \"llm_providers\": {"
    " \"hare\":     {\"type\": \"mock\", \"turns\": [{\"delay_ms\": 40,  \"text\": \"I run. I run. I nap.\","
    "               \"chunks\": [\"I run.\", \" I run.\", \" I nap.\"]}]},"
    " \"fox\":      {\"type\": \"mock\", \"turns\": [{\"delay_ms\": 90,  \"text\": \"I watch them both.\","
    "               \"chunks\": [\"I watch\", \" them\", \" both.\"]}]},"
    " \"tortoise\": {\"type\": \"mock\", \"turns\": [{\"delay_ms\": 150, \"text\": \"Slow and steady wins.\","
    "               \"chunks\": [\"Slow\", \" and steady\", \" wins.\"]}]}}}";

static const char *const NAMES[] = {"hare", "fox", "tortoise"};
enum { RUNNERS = 3 };

struct runner { const char *name; par_stream_t *stream; };

static int failed(const char *what, par_error_t *err) {
    fprintf(stderr, "epoll: %s: %s\n", what, par_error_message(err));
    par_error_free(err);
    return 0;
}

/* Registers an agent on the model of this name, starts it, and has its descriptor watched. */
static int start(par_runtime_t *rt, int poller, struct runner *runner) {
    struct epoll_event interest = {.events = EPOLLIN, .data.ptr = runner};
    char agent[128], request[128];
    par_error_t *err = NULL;
    intptr_t fd = -1;
    snprintf(agent, sizeof agent, "{\"id\": \"%s\", \"model\": \"%s/any\"}", runner->name, runner->name);
    snprintf(request, sizeof request, "{\"agent\": \"%s\", \"input\": \"Go!\"}", runner->name);
    if (par_register_agent(rt, agent, PAR_NTS, &err) || par_stream_start(rt, request, PAR_NTS, &runner->stream, &err)
        || par_stream_fd(runner->stream, &fd, &err))
        return failed(runner->name, err);
    return epoll_ctl(poller, EPOLL_CTL_ADD, (int)fd, &interest) == 0;
}

/* Prints the words of one event. Text of real models has escapes: see print_text() in stream_tools.c. */
static void print_event(const struct runner *runner, const char *event) {
    const char *text = strstr(event, "\"text\":\"");
    if (strstr(event, "\"type\":\"text_delta\"") && text) {
        text += strlen("\"text\":\"");
        printf("%-9s%.*s\n", runner->name, (int)strcspn(text, "\""), text);
    }
}

/* Takes what is there, and never blocks. False when the stream is over; the library itself reads the descriptor. */
static int read_events(struct runner *runner) {
    par_error_t *err = NULL;
    char *event = NULL;
    par_status_t st;
    while ((st = par_stream_poll(runner->stream, &event, NULL, &err)) == PAR_OK) {
        print_event(runner, event);
        par_free(event);
    }
    if (st == PAR_PENDING) return 1;
    if (st < 0) failed(runner->name, err);
    else printf("%-9s(finished)\n", runner->name);
    return 0;
}

int main(void) {
    struct runner runners[RUNNERS] = {{NULL, NULL}};
    struct epoll_event ready[RUNNERS];
    int poller = epoll_create1(EPOLL_CLOEXEC), running = 0, i;
    par_runtime_t *rt = NULL;
    par_error_t *err = NULL;

    if (par_runtime_create(PAR_ABI_VERSION, CONFIG, PAR_NTS, &rt, &err)) return failed("create", err), 1;
    for (i = 0; i < RUNNERS; i++) {
        runners[i].name = NAMES[i];
        running += start(rt, poller, &runners[i]);
    }
    while (running > 0) {
        int n = epoll_wait(poller, ready, RUNNERS, -1);
        for (i = 0; i < n; i++) {
            struct runner *runner = ready[i].data.ptr;
            if (read_events(runner)) continue;
            par_stream_free(runner->stream); /* closes the descriptor, which leaves epoll by that */
            running--;
        }
    }
    close(poller);
    par_runtime_close(rt, 5000, NULL);
    par_runtime_free(rt);
    return 0;
}
