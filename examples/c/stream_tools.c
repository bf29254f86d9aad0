/* A streaming agent that calls a function of this program: text is printed as it comes, and when the model wants to add two
 * numbers, it is add() below that adds them. One thread, no callbacks.
 *
 *     cc stream_tools.c -lpar -o stream_tools && ./stream_tools
 *
 * Offline it plays a script on the mock provider. With OPENAI_API_KEY set it talks to a real server instead: OpenAI, or any
 * other that speaks its protocol at OPENAI_BASE_URL (http://127.0.0.1:8080/v1), with the model OPENAI_MODEL. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "par_ffi.h"

/* The script: what the model says in its first turn, and what in its second, when it has the sum. */
static const char SCRIPT[] =
    "{\"persistence\": \"noop\", \"llm_providers\": {\"mock\": {\"type\": \"mock\", \"turns\": ["
    " {\"text\": \"Let me work that out with the tool you gave me.\", \"delay_ms\": 60,"
    "  \"chunks\": [\"Let me\", \" work\", \" that\", \" out\", \" with\", \" the tool\", \" you\", \" gave\", \" me.\"],"
    "  \"tool_calls\": [{\"id\": \"c1\", \"name\": \"add\", \"input\": {\"a\": 17, \"b\": 25}}],"
    "  \"usage\": {\"input_tokens\": 61, \"output_tokens\": 29}},"
    " {\"text\": \"17 and 25 make 42, the answer to everything.\", \"delay_ms\": 60,"
    "  \"chunks\": [\"17\", \" and\", \" 25\", \" make\", \" 42\", \",\", \" the\", \" answer\", \" to\", \" everything\", \".\"],"
    "  \"expect\": {\"last_message_contains\": \"42\"},"
    "  \"usage\": {\"input_tokens\": 98, \"output_tokens\": 14}}]}}}";

static const char SERVER[] =
    "{\"persistence\": \"noop\", \"llm_providers\": {\"openai\": {\"type\": \"openai\", \"api_key\": {\"env\": \"OPENAI_API_KEY\"}, \"base_url\": \"%s\"}}}";

static const char TOOL[] =
    "{\"name\": \"add\", \"description\": \"Adds two numbers and returns their sum.\", \"effect\": \"pure\","
    " \"input_schema\": {\"type\": \"object\", \"required\": [\"a\", \"b\"],"
    "  \"properties\": {\"a\": {\"type\": \"number\"}, \"b\": {\"type\": \"number\"}}}}";

static const char AGENT[] =
    "{\"id\": \"calculator\", \"model\": \"%s\", \"tools\": [\"add\"],"
    " \"system_prompt\": \"You are a calculator. Use the tool add for every sum, then answer in one sentence.\"}";

static const char REQUEST[] =
    "{\"agent\": \"calculator\", \"input\": \"How much is 17 + 25?\"}";

/* ---- just enough JSON: quotes inside a JSON text are always escaped, so a key with its quotes is found by searching ---- */

/* The value of the first such key at or behind `json`; NULL when there is none. */
static const char *find(const char *json, const char *key) {
    char quoted[64];
    const char *at;
    snprintf(quoted, sizeof quoted, "\"%s\":", key);
    at = strstr(json, quoted);
    return at ? at + strlen(quoted) : NULL;
}

static double number(const char *json, const char *key) {
    const char *value = find(json, key);
    return value ? strtod(value, NULL) : 0;
}

static int type_is(const char *event, const char *type) {
    const char *value = find(event, "type");
    size_t n = strlen(type);
    return value && value[0] == '"' && !strncmp(value + 1, type, n) && value[1 + n] == '"';
}

/* Prints the string under this key. Of the escapes, those that occur in what a model says. */
static void print_text(const char *json, const char *key) {
    const char *c = find(json, key);
    if (!c || *c != '"') return;
    while (*++c && *c != '"') {
        if (*c != '\\') putchar(*c);
        else putchar(*++c == 'n' ? '\n' : *c == 't' ? '\t' : *c);
    }
    fflush(stdout);
}

/* ---- the agent --------------------------------------------------------------------------------------------------------- */

static double add(double a, double b) { return a + b; }

/* The model asks, we answer: once, by the token of the call. From this thread or from any other, now or later. */
static par_status_t answer_call(par_runtime_t *rt, const char *event, par_error_t **err) {
    const char *input = find(event, "input");
    uint64_t token = strtoull(find(event, "token"), NULL, 10);
    double a = number(input, "a"), b = number(input, "b");
    char sum[32];
    snprintf(sum, sizeof sum, "%.15g", add(a, b));
    printf("\n  [add(%g, %g) = %s]\n", a, b, sum);
    return par_tool_complete(rt, token, sum, PAR_NTS, err);
}

static par_status_t handle(par_runtime_t *rt, const char *event, par_error_t **err) {
    if (type_is(event, "text_delta")) print_text(event, "text");
    if (type_is(event, "tool_call")) return answer_call(rt, event, err);
    if (type_is(event, "completed"))
        printf("\n  [done: %g tokens in, %g out]\n", number(event, "input_tokens"), number(event, "output_tokens"));
    return PAR_OK; /* other events, today's and tomorrow's, may be ignored */
}

/* Runs the request to its end; the status of the run. */
static par_status_t converse(par_runtime_t *rt, par_error_t **err) {
    par_stream_t *s = NULL;
    char *event = NULL, *result = NULL;
    par_status_t st = par_stream_start(rt, REQUEST, PAR_NTS, &s, err);
    while (st >= 0 && (st = par_stream_wait(s, PAR_WAIT_FOREVER, &event, NULL, err)) != PAR_END) {
        if (st != PAR_OK) continue;
        st = handle(rt, event, err);
        par_free(event);
    }
    if (st == PAR_END) st = par_stream_result(s, &result, NULL, err);
    par_free(result);
    par_stream_free(s);
    return st;
}

/* The environment's word, or else ours. */
static const char *setting(const char *name, const char *otherwise) {
    const char *value = getenv(name);
    return value && *value ? value : otherwise;
}

int main(void) {
    int real = *setting("OPENAI_API_KEY", "") != 0;
    char config[4096], agent[1024], model[256] = "mock/script";
    par_runtime_t *rt = NULL;
    par_error_t *err = NULL;
    int ok;

    snprintf(config, sizeof config, "%s", SCRIPT);
    if (real) {
        snprintf(config, sizeof config, SERVER, setting("OPENAI_BASE_URL", "https://api.openai.com/v1"));
        snprintf(model, sizeof model, "openai/%s", setting("OPENAI_MODEL", "gpt-4o-mini"));
    }
    snprintf(agent, sizeof agent, AGENT, model);
    printf("How much is 17 + 25?  (%s)\n\n", model);

    ok = par_runtime_create(PAR_ABI_VERSION, config, PAR_NTS, &rt, &err) == PAR_OK
      && par_register_tool(rt, TOOL, PAR_NTS, &err) == PAR_OK
      && par_register_agent(rt, agent, PAR_NTS, &err) == PAR_OK
      && converse(rt, &err) == PAR_OK;
    if (!ok) fprintf(stderr, "stream_tools: %s\n", par_error_message(err));

    par_error_free(err);
    par_runtime_close(rt, 5000, NULL);
    par_runtime_free(rt);
    return ok ? 0 : 1;
}
