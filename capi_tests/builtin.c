/* The tools that come with the library, each called by a scripted model: what it answers, and what it says to arguments
 * that make no sense. */
#include "t.h"

#define GO "{\"agent\":\"a\",\"input\":\"x\"}"

/* One call of a built-in tool with these arguments (JSON, single quotes): its tool_result event. */
static const char *call_of(const char *name, const char *input) {
    par_runtime_t *rt = mock(fmt("[{'tool_calls':[{'id':'c','name':'%s','input':%s}]},{'text':'done'}]", name, input));
    struct tape *t;
    agent(rt, "a", fmt("['%s']", name));
    t = run(rt, GO, NULL);
    CHECK_SAID("done", t);
    finish(rt);
    return nth(t, "tool_result", 0);
}

/* What it answers, or what the model is told when it fails. */
static const char *result_of(const char *name, const char *input) {
    const char *event = call_of(name, input);
    CHECK_STR("false", json_raw(event, "is_error"));
    return json_str(event, "content");
}

static const char *failure_of(const char *name, const char *input) {
    const char *event = call_of(name, input);
    CHECK_STR("true", json_raw(event, "is_error"));
    return json_str(event, "content");
}

TEST(calculator) {
    CHECK_STR("11.5", result_of("calculator", "{'expression':'(2 + 3) * 2 + 6 / 4'}"));
    CHECK_STR("121932631112635269", result_of("calculator", "{'expression':'123456789 * 987654321'}"));
    CHECK_HAS(failure_of("calculator", "{'expression':'1 / 0'}"), "divides by zero");
    CHECK_HAS(failure_of("calculator", "{'expression':'2 +'}"), "the expression ends");
    CHECK_HAS(failure_of("calculator", "{'expression':'system(1)'}"), "is not known");
    CHECK_HAS(failure_of("calculator", "{}"), "required property");
}

TEST(get_time) {
    const char *time = result_of("get_time", "{}");
    CHECK_INT(20, strlen(time));
    CHECK(strncmp(time, "20", 2) == 0 && time[10] == 'T' && time[19] == 'Z');
}

TEST(echo) {
    CHECK_STR("a 'quoted' \xc3\xa9", result_of("echo", "{'text':'a \\u0027quoted\\u0027 \\u00e9'}"));
    CHECK_HAS(failure_of("echo", "{'text':1}"), "not of type");
    CHECK_HAS(failure_of("echo", "{'text':'a','more':1}"), "more");
}

TEST(generate_uuid) {
    const char *uuid = result_of("generate_uuid", "{}");
    CHECK_INT(36, strlen(uuid));
    CHECK_INT('4', uuid[14]);
    CHECK(strcmp(uuid, result_of("generate_uuid", "{}")) != 0);
}

TEST(hash_text) {
    CHECK_HAS(result_of("hash_text", "{'text':'abc'}"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    CHECK_HAS(result_of("hash_text", "{'text':'abc','algorithm':'md5'}"), "900150983cd24fb0d6963f7d28e17f72");
    CHECK_HAS(result_of("hash_text", "{'text':'abc','algorithm':'sha1'}"), "a9993e364706816aba3e25717850c26c9cd0d89d");
    CHECK_HAS(result_of("hash_text", "{'text':'abc','algorithm':'sha512'}"), "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea2");
    CHECK_HAS(failure_of("hash_text", "{'text':'abc','algorithm':'crc32'}"), "crc32");
}

TEST(generate_password) {
    const char *password = result_of("generate_password", "{'length':32,'include_symbols':false}");
    CHECK_INT(32, strlen(password));
    CHECK_INT(32, strspn(password, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"));
    CHECK_INT(16, strlen(result_of("generate_password", "{}")));
    CHECK(strcmp(password, result_of("generate_password", "{'length':32,'include_symbols':false}")) != 0);
    CHECK_HAS(failure_of("generate_password", "{'length':3}"), "minimum of 4");
    CHECK_HAS(failure_of("generate_password", "{'length':129}"), "maximum of 128");
}

TEST(string_stats) {
    CHECK_STR(js("{'characters':9,'bytes':10,'words':3,'lines':2}"), result_of("string_stats", "{'text':'one\\nt\\u00e9 3\\n'}"));
}

TEST(json_format) {
    CHECK_STR(js("{\n  'a': [\n    1\n  ]\n}"), result_of("json_format", "{'json':'{\\u0022a\\u0022:[1]}'}"));
    CHECK_HAS(failure_of("json_format", "{'json':'{a:1}'}"), "byte 1");
}

TEST(convert_temperature) {
    CHECK_STR(js("{'value':212.0,'unit':'F','original_value':100.0,'original_unit':'C'}"), result_of("convert_temperature", "{'value':100}"));
    CHECK_HAS(result_of("convert_temperature", "{'value':0,'from':'K','to':'C'}"), "-273.15");
    CHECK_HAS(failure_of("convert_temperature", "{'value':-300}"), "0 K");
    CHECK_HAS(failure_of("convert_temperature", "{'value':1,'to':'R'}"), "C");
}

TEST(url_encode) {
    CHECK_STR("a%20b%2F%C3%A9~", result_of("url_encode", "{'text':'a b/\\u00e9~'}"));
    CHECK_STR("a b/\xc3\xa9~", result_of("url_encode", "{'text':'a%20b%2F%C3%A9~','decode':true}"));
    CHECK_HAS(failure_of("url_encode", "{'text':'%ff','decode':true}"), "not UTF-8");
}

/* ---- how they are enabled ------------------------------------------------------------------------------------------- */

TEST(a_set_has_its_tools) { /* and overlaps with names */
    par_runtime_t *rt = mock("[{'tool_calls':[{'id':'c','name':'echo','input':{'text':'hi'}}]},{'text':'done'}]");
    struct tape *t;
    agent(rt, "a", "['builtin:readonly','echo']");
    t = run(rt, GO, NULL);
    CHECK_SAID("done", t);
    CHECK_STR("hi", json_str(nth(t, "tool_result", 0), "content"));
    finish(rt);
}

TEST(a_tool_of_the_host_goes_before_one_of_the_library) {
    par_runtime_t *rt = mock("[{'tool_calls':[{'id':'c','name':'echo','input':{'a':1,'b':2}}]},{'text':'done'}]");
    struct tape *t;
    tool(rt, "echo", NULL);
    agent(rt, "a", "['builtin:readonly']");
    t = run(rt, GO, "3");
    CHECK_SAID("done", t);
    CHECK_STR("3", json_str(nth(t, "tool_result", 0), "content"));
    finish(rt);
}

TEST(a_name_that_is_none_is_told) {
    par_runtime_t *rt = mock(NULL);
    ST(PAR_ERR_NOT_FOUND, par_register_agent(rt, js("{'id':'a','model':'mock/m','tools':['echo','calculater']}"), PAR_NTS, &E));
    CHECK_PATH("agent.tools[1]");
    CHECK_HAS(par_error_json(E), "calculator");
    ST(PAR_ERR_NOT_FOUND, par_register_agent(rt, js("{'id':'a','model':'mock/m','tools':['builtin:read_only']}"), PAR_NTS, &E));
    CHECK_HAS(par_error_json(E), "builtin:readonly");
    finish(rt);
}
