/* A tiny model server on a port of its own, in a thread: it answers as an OpenAI-compatible one would, or misbehaves in one
 * of the ways real servers do. It keeps the last request, so that a test sees what the model was sent. */
#ifndef PAR_TEST_SERVER_H
#define PAR_TEST_SERVER_H

#include "t.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

enum manners { HANG_UP, RESET, HANG_UP_AFTER_REQUEST, RESET_AFTER_HEADERS, NONSENSE, ANSWER, PAGE, BREAK_OFF, STALL, STALL_AFTER_DELTA, DRIP };

struct server { int listener, port, served, stop, stalled, left; enum manners manners; pthread_t thread; char head[4096], body[65536]; const char *page; };

/* Reads one request into server->head and server->body. */
static void server_read(struct server *server, int client) {
    static __thread char request[65536 + 4096];
    size_t have = 0, want = sizeof request - 1;
    char *end;
    while (have < want) {
        struct pollfd p = {client, POLLIN, 0};
        ssize_t n = poll(&p, 1, 2000) == 1 ? read(client, request + have, want - have) : 0;
        if (n <= 0) break;
        request[have += (size_t)n] = 0;
        if ((end = strstr(request, "\r\n\r\n")) != NULL && want == sizeof request - 1) {
            char *length = strcasestr(request, "\r\ncontent-length:");
            size_t total = (size_t)(end + 4 - request) + (length && length < end ? strtoul(length + 17, NULL, 10) : 0);
            if (total < want) want = total;
        }
    }
    request[have] = 0;
    end = strstr(request, "\r\n\r\n");
    pthread_mutex_lock(&t_lock);
    snprintf(server->head, sizeof server->head, "%.*s", end ? (int)(end - request) : 0, request);
    snprintf(server->body, sizeof server->body, "%s", end ? end + 4 : "");
    pthread_mutex_unlock(&t_lock);
}

static void server_write(int client, const char *text) {
    size_t n = strlen(text);
    while (n) {
        ssize_t written = send(client, text, n, MSG_NOSIGNAL);
        if (written <= 0) return;
        text += written, n -= (size_t)written;
    }
}

#define SSE_HEADERS "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
#define SSE_DELTA(content) "data: {\"id\":\"1\",\"object\":\"chat.completion.chunk\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"" content "\"}}]}\n\n"
#define SSE_END                                                                                                        \
    "data: {\"id\":\"1\",\"object\":\"chat.completion.chunk\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n" \
    "data: [DONE]\n\n"

/* Says nothing more until the client leaves. */
static void server_stall(struct server *server, int client) {
    struct pollfd p = {client, POLLIN, 0};
    char byte;
    BUMP(server->stalled);
    while (!LOAD(server->stop))
        if (poll(&p, 1, 5) == 1 && read(client, &byte, 1) <= 0) {
            BUMP(server->left);
            return;
        }
}

/* Says again and again that it is there, and nothing else, until the client leaves. */
static void server_drip(struct server *server, int client) {
    struct pollfd p = {client, POLLIN, 0};
    char byte;
    server_write(client, SSE_HEADERS);
    while (!LOAD(server->stop)) {
        server_write(client, ": still here\n\n");
        if (poll(&p, 1, 5) == 1 && read(client, &byte, 1) <= 0) {
            BUMP(server->left);
            return;
        }
    }
}

static void *serve(void *context) {
    struct server *server = context;
    while (!LOAD(server->stop)) {
        struct linger reset = {1, 0};
        struct pollfd p = {server->listener, POLLIN, 0};
        int client;
        if (poll(&p, 1, 50) != 1 || (client = accept(server->listener, NULL, NULL)) < 0) continue;
        if (server->manners >= HANG_UP_AFTER_REQUEST) server_read(server, client);
        if (server->manners == RESET_AFTER_HEADERS) server_write(client, SSE_HEADERS SSE_DELTA("x"));
        if (server->manners == NONSENSE) server_write(client, "\xFF garbage \r\n\r\n");
        if (server->manners == ANSWER) server_write(client, SSE_HEADERS SSE_DELTA("from the ") SSE_DELTA("server") SSE_END);
        if (server->manners == PAGE) server_write(client, server->page);
        if (server->manners == BREAK_OFF || server->manners == STALL_AFTER_DELTA) server_write(client, SSE_HEADERS SSE_DELTA("x "));
        if (server->manners == DRIP) server_drip(server, client);
        else if (server->manners >= STALL) server_stall(server, client);
        if (server->manners == RESET || server->manners == RESET_AFTER_HEADERS) setsockopt(client, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        close(client);
        BUMP(server->served);
    }
    return NULL;
}

/* `page`: what a server of the manner PAGE answers, head and all. */
UNUSED static void open_page(struct server *server, enum manners manners, const char *page) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    memset(server, 0, sizeof *server);
    server->manners = manners;
    server->page = page;
    server->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(server->listener, (struct sockaddr *)&address, size) || listen(server->listener, 64) ||
        getsockname(server->listener, (struct sockaddr *)&address, &size)) abort();
    server->port = ntohs(address.sin_port);
    server->thread = spawn(serve, server);
}

UNUSED static void open_server(struct server *server, enum manners manners) {
    open_page(server, manners, NULL);
}

UNUSED static void close_server(struct server *server) {
    STORE(server->stop, 1);
    join(server->thread);
    close(server->listener);
}

/* A runtime whose agent "a" talks to this server, without retries. */
UNUSED static par_runtime_t *on_server(const struct server *server) {
    par_runtime_t *rt = runtime(js("{'llm_providers':{'local':{'type':'openai','api_key':'k','base_url':'http://127.0.0.1:%d/v1',"
                                   "'retry':{'max_attempts':1},'timeouts':{'connect_ms':2000,'first_byte_ms':2000,'idle_ms':2000,'total_ms':5000}}}}",
                                   server->port));
    ST(PAR_OK, par_register_agent(rt, js("{'id':'a','model':'local/m'}"), PAR_NTS, &E));
    return rt;
}

#endif
