/* The web tools: pages of servers that the host allows, and none of those that a model must not come to. */
#include "server.h"

#include <stdlib.h>

#define GO "{\"agent\":\"a\",\"input\":\"x\"}"

/* One call of a tool by a scripted model, with `web` as configured: its tool_result event. */
static const char *call_of(const char *web, const char *name, const char *input) {
    par_runtime_t *rt = mock_and(fmt("[{'tool_calls':[{'id':'c','name':'%s','input':%s}]},{'text':'done'}]", name, input), fmt(",'web':%s", web));
    struct tape *t;
    agent(rt, "a", fmt("['%s']", name));
    t = run(rt, GO, NULL);
    CHECK_SAID("done", t);
    finish(rt);
    return nth(t, "tool_result", 0);
}

static const char *result_of(const char *web, const char *name, const char *input) {
    const char *event = call_of(web, name, input);
    CHECK_STR("false", json_raw(event, "is_error"));
    return json_str(event, "content");
}

static const char *failure_of(const char *web, const char *name, const char *input) {
    const char *event = call_of(web, name, input);
    CHECK_STR("true", json_raw(event, "is_error"));
    return json_str(event, "content");
}

static const char *here(const struct server *server) { /* allows this server and nothing else */
    return fmt("{'allow':['127.0.0.1:%d']}", server->port);
}

static const char *at(const struct server *server, const char *path) {
    return fmt("{'url':'http://127.0.0.1:%d%s'}", server->port, path);
}

#define HTML "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nConnection: close\r\n\r\n" \
    "<title>A &amp; B</title><script>no</script><nav>menu</nav><h1>Hi</h1><p>One <b>two</b><p>three<!-- and so on -->"

TEST(fetch_url) {
    struct server server;
    const char *result;
    open_page(&server, PAGE, HTML);
    result = result_of(here(&server), "fetch_url", at(&server, "/a?b=c#d"));
    CHECK_INT(200, atoi(json_raw(result, "status")));
    CHECK_HAS(json_str(result, "content"), "<title>A &amp; B</title>");
    CHECK_STR("false", json_raw(result, "truncated"));
    CHECK_HAS(server.head, "GET /a?b=c HTTP/1.1\r\n");
    result = result_of(here(&server), "fetch_url", fmt("{'url':'http://127.0.0.1:%d/','max_length':100}", server.port));
    CHECK_INT(100, strlen(json_str(result, "content")));
    CHECK_STR("true", json_raw(result, "truncated"));
    close_server(&server);
}

TEST(read_webpage) {
    struct server server;
    const char *result;
    open_page(&server, PAGE, HTML);
    result = result_of(here(&server), "read_webpage", at(&server, "/"));
    CHECK_STR("A & B", json_str(result, "title"));
    CHECK_STR("# Hi\n\nOne two\n\nthree", json_str(result, "text"));
    close_server(&server);
    open_page(&server, PAGE, "HTTP/1.1 503 Busy\r\nContent-Type: text/html\r\nConnection: close\r\n\r\nbusy");
    CHECK_HAS(failure_of(here(&server), "read_webpage", at(&server, "/")), "[http_status]");
    CHECK_HAS(failure_of(here(&server), "read_webpage", at(&server, "/")), "may try again");
    close_server(&server);
    open_page(&server, PAGE, "HTTP/1.1 200 OK\r\nContent-Type: application/pdf\r\nConnection: close\r\n\r\n%PDF");
    CHECK_HAS(failure_of(here(&server), "read_webpage", at(&server, "/")), "[unsupported_content_type]");
    close_server(&server);
}

TEST(web_search) {
    struct server server;
    const char *result;
    open_page(&server, PAGE, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
        "{\"results\":[{\"title\":\"T\",\"url\":\"https://t.example/\",\"content\":\"a <b>snippet</b>\"}]}");
    result = result_of(fmt("{'search':{'type':'searxng','url':'http://127.0.0.1:%d'}}", server.port), "web_search", "{'query':'a b'}");
    CHECK_HAS(result, "'title':'T','url':'https://t.example/','snippet':'a snippet'");
    CHECK_HAS(result, "'result_count':1");
    CHECK_HAS(server.head, "GET /search?q=a+b&format=json HTTP/1.1\r\n");
    result = result_of(fmt("{'search':{'type':'tavily','api_key':'k1','url':'http://127.0.0.1:%d'}}", server.port), "web_search", "{'query':'a b'}");
    CHECK_HAS(server.head, "authorization: Bearer k1\r\n");
    CHECK_HAS(server.body, "{'query':'a b','max_results':5}");
    close_server(&server);
    result = failure_of("{}", "web_search", "{'query':'a b'}");
    CHECK_HAS(result, "[search_not_configured]");
    CHECK_HAS(result, "searxng");
    CHECK_HAS(result, "brave");
    CHECK_HAS(result, "tavily");
}

TEST(nothing_inside_is_reached) {
    static const char *const urls[] = {
        "http://127.0.0.1:%d/", "http://localhost:%d/", "http://2130706433:%d/", "http://0177.0.0.1:%d/", "http://0x7f.1:%d/",
        "http://[::1]:%d/", "http://[::ffff:127.0.0.1]:%d/", "http://[64:ff9b::7f00:1]:%d/", "http://[2002:7f00:1::]:%d/",
        "http://169.254.169.254:%d/latest/meta-data/", "http://10.0.0.1:%d/", "http://0.0.0.0:%d/",
    };
    struct server server;
    size_t i;
    open_page(&server, PAGE, HTML);
    for (i = 0; i < COUNT(urls); i++) {
        char url[200];
        const char *failure;
        snprintf(url, sizeof url, urls[i], server.port);
        t_clear();
        failure = failure_of("{}", i % 2 ? "fetch_url" : "read_webpage", fmt("{'url':'%s'}", url));
        CHECK_HAS(failure, "[address_refused]");
        CHECK_HAS(failure, "web.allow");
    }
    CHECK_HAS(failure_of("{}", "fetch_url", "{'url':'http://user:pass@example.org/'}"), "[invalid_url]");
    CHECK_HAS(failure_of("{}", "fetch_url", "{'url':'file:///etc/passwd'}"), "[invalid_url]");
    CHECK_INT(0, LOAD(server.served));
    close_server(&server);
}

TEST(a_redirect_does_not_lead_inside) {
    struct server outside, inside;
    open_page(&inside, PAGE, HTML);
    open_page(&outside, PAGE, fmt("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:%d/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", inside.port));
    CHECK_HAS(failure_of(here(&outside), "fetch_url", at(&outside, "/")), "[address_refused]");
    CHECK_INT(0, LOAD(inside.served));
    close_server(&outside);
    close_server(&inside);
}

TEST(a_proxy_of_the_environment_is_not_asked) {
    struct server server, proxy;
    open_page(&server, PAGE, HTML);
    open_page(&proxy, PAGE, HTML);
    setenv("http_proxy", fmt("http://127.0.0.1:%d", proxy.port), 1);
    setenv("ALL_PROXY", fmt("http://127.0.0.1:%d", proxy.port), 1);
    CHECK_HAS(result_of(here(&server), "fetch_url", at(&server, "/")), "Hi");
    CHECK_HAS(failure_of("{}", "fetch_url", at(&server, "/")), "[address_refused]");
    unsetenv("http_proxy");
    unsetenv("ALL_PROXY");
    CHECK_INT(0, LOAD(proxy.served));
    close_server(&server);
    close_server(&proxy);
}

TEST(a_page_that_never_comes_is_left_when_the_run_is_cancelled) {
    struct server server;
    par_runtime_t *rt;
    par_stream_t *s;
    char *event;
    open_server(&server, STALL);
    rt = mock_and(fmt("[{'tool_calls':[{'id':'c','name':'fetch_url','input':%s}]}]", at(&server, "/")), fmt(",'web':%s", here(&server)));
    agent(rt, "a", "['fetch_url']");
    s = start(rt, GO);
    EVENTUALLY(5000, LOAD(server.stalled) == 1);
    ST(PAR_OK, par_stream_cancel(s, "enough", PAR_NTS, &E));
    while (par_stream_wait(s, 10000, &event, NULL, &E) == PAR_OK) par_free(event);
    par_stream_free(s);
    finish(rt);
    EVENTUALLY(5000, LOAD(server.left) == 1);
    close_server(&server);
}

TEST(what_is_configured_wrongly) {
    static const struct { const char *web, *path; } bad[] = {
        {"{'alow':[]}", "config.web.alow"},
        {"{'allow':['http://h']}", "config.web.allow[0]"},
        {"{'max_bytes':1}", "config.web.max_bytes"},
        {"{'search':{'type':'google'}}", "config.web.search.type"},
        {"{'search':{'type':'brave'}}", "config.web.search"},
        {"{'search':{'type':'searxng','url':'x'}}", "config.web.search.url"},
    };
    size_t i;
    for (i = 0; i < COUNT(bad); i++) {
        par_runtime_t *rt = NULL;
        t_clear();
        ST(PAR_ERR_SCHEMA, par_runtime_create(PAR_ABI_VERSION, js("{'web':%s}", bad[i].web), PAR_NTS, &rt, &E));
        CHECK_STR(bad[i].path, json_str(par_error_json(E), "path"));
    }
}
