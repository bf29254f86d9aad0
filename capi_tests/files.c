/* The tools that read and write files, in a workspace made for each test: what they answer, what they leave behind, and what
 * they say when they refuse. */
#include "t.h"

#include <sys/stat.h>

#define GO "{\"agent\":\"a\",\"input\":\"x\"}"

static char folder[64]; /* the workspace */

static const char *in(const char *name) { return fmt("%s/%s", folder, name); }

static void put(const char *name, const char *text) {
    FILE *file = fopen(in(name), "w");
    if (!CHECK(file != NULL)) return;
    CHECK_INT(strlen(text), fwrite(text, 1, strlen(text), file));
    fclose(file);
}

static const char *got(const char *name) {
    char text[4096] = "";
    FILE *file = fopen(in(name), "r");
    if (!file) return NULL;
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    return fmt("%s", text);
}

static void make(void) {
    strcpy(folder, "/tmp/par-files-XXXXXX");
    CHECK(mkdtemp(folder) != NULL);
    mkdir(in("src"), 0755);
    put("src/main.c", "int main(void) {\n    return 0;\n}\n");
    put("notes.md", "one\ntwo\nthree\n");
}

static void drop(void) { CHECK_INT(0, system(fmt("rm -rf %s", folder))); }

/* The result of one call (arguments with single quotes), as the model sees it. */
static const char *result(const char *tool, const char *input, const char *is_error) {
    par_runtime_t *rt = mock_and(fmt("[{'tool_calls':[{'id':'c','name':'%s','input':%s}]},{'text':'done'}]", tool, input),
                                 fmt(",'workspace':'%s'", folder));
    struct tape *t;
    const char *event;
    agent(rt, "a", fmt("['%s']", tool));
    t = run(rt, GO, NULL);
    CHECK_SAID("done", t);
    finish(rt);
    event = nth(t, "tool_result", 0);
    CHECK_STR(is_error, json_raw(event, "is_error"));
    return json_str(event, "content");
}

#define OK(tool, input) result(tool, input, "false")
#define REFUSED(tool, input) result(tool, input, "true")

TEST(read_gives_numbered_lines) {
    make();
    CHECK_STR("   1\tone\n   2\ttwo\n   3\tthree\n", OK("read", "{'path':'notes.md'}"));
    CHECK_STR("   2\ttwo\n(more lines follow: go on with \"offset\": 3)", OK("read", "{'path':'notes.md','offset':2,'limit':1}"));
    CHECK_HAS(OK("read", fmt("{'path':'%s/notes.md'}", folder)), "one"); /* an absolute path into the workspace */
    CHECK_HAS(REFUSED("read", "{'path':'notes.md','offset':9}"), "3 lines");
    CHECK_HAS(REFUSED("read", "{'path':'nothing.md'}"), "[not_found]");
    CHECK_HAS(REFUSED("read", "{'path':'src'}"), "[is_a_folder]");
    CHECK_HAS(REFUSED("read", "{'path':'../x'}"), "[workspace_parent_traversal]");
    CHECK_HAS(REFUSED("read", "{'path':'/etc/passwd'}"), "[workspace_absolute_outside]");
    CHECK_HAS(REFUSED("read", "{'path':'notes.md','offset':0}"), "minimum of 1");
    drop();
}

TEST(read_refuses_what_is_no_text) {
    FILE *file;
    make();
    file = fopen(in("b.bin"), "w");
    fwrite("a\0b", 1, 3, file);
    fclose(file);
    CHECK_HAS(REFUSED("read", "{'path':'b.bin'}"), "[binary_file]");
    CHECK_INT(0, mkfifo(in("pipe"), 0600));
    CHECK_HAS(REFUSED("read", "{'path':'pipe'}"), "[not_a_file]"); /* and does not wait for a writer */
    put("latin1.txt", "caf\xe9\n");
    CHECK_HAS(OK("read", "{'path':'latin1.txt'}"), "not UTF-8");
    CHECK_INT(0, truncate(in("notes.md"), 11 << 20));
    CHECK_HAS(REFUSED("read", "{'path':'notes.md'}"), "[too_large]");
    drop();
}

TEST(ls_lists) {
    make();
    CHECK_HAS(OK("ls", "{}"), "{'name':'notes.md','type':'file','size':14,'modified':'20");
    CHECK_HAS(OK("ls", "{'path':'.'}"), "{'name':'src','type':'folder'");
    CHECK_LACKS(OK("ls", "{'pattern':'*.md'}"), "src");
    put("bad\xff.txt", "x");
    CHECK_HAS(OK("ls", "{}"), "not UTF-8");
    CHECK_HAS(REFUSED("ls", "{'path':'notes.md'}"), "[not_a_folder]");
    CHECK_HAS(REFUSED("ls", "{'pattern':'['}"), "[invalid_pattern]");
    drop();
}

TEST(find_finds) {
    make();
    CHECK_STR(js("{'paths':['notes.md','src/main.c'],'truncated':false}"), OK("find", "{'pattern':'*.*'}"));
    CHECK_STR(js("{'paths':['src/main.c'],'truncated':false}"), OK("find", "{'pattern':'src/**/*.c'}"));
    CHECK_STR(js("{'paths':['notes.md'],'truncated':false}"), OK("find", "{'pattern':'*.*','max_depth':0}"));
    CHECK_STR(js("{'paths':['src'],'truncated':false}"), OK("find", "{'pattern':'*','type':'folder'}"));
    CHECK_STR(js("{'paths':['src/main.c'],'truncated':false}"), OK("find", "{'pattern':'*.c','path':'src'}"));
    CHECK_HAS(OK("find", "{'pattern':'*','max_results':1}"), "'truncated':true");
    put(".gitignore", "*.md\n");
    CHECK_LACKS(OK("find", "{'pattern':'*'}"), "notes.md");
    CHECK_HAS(OK("find", "{'pattern':'*','include_ignored':true}"), "notes.md");
    CHECK_HAS(REFUSED("find", "{'pattern':'*','path':'none'}"), "[not_found]");
    drop();
}

TEST(grep_matches_anywhere_in_a_line) {
    make();
    CHECK_HAS(OK("grep", "{'pattern':'turn \\\\d+;'}"), "src/main.c:2:    return 0;");
    CHECK_HAS(OK("grep", "{'pattern':'TWO','ignore_case':true}"), "notes.md:2:two");
    CHECK_HAS(OK("grep", "{'pattern':'two','context_lines':1}"), "['notes.md-1-one','notes.md:2:two','notes.md-3-three']");
    CHECK_HAS(OK("grep", "{'pattern':'t','path':'notes.md'}"), "notes.md:2:two");
    CHECK_LACKS(OK("grep", "{'pattern':'t','glob':'*.md'}"), "main.c");
    CHECK_HAS(OK("grep", "{'pattern':'o','max_results':1}"), "'truncated':true");
    CHECK_HAS(OK("grep", "{'pattern':'absent'}"), "'lines':[],'matches':0");
    CHECK_HAS(REFUSED("grep", "{'pattern':'('}"), "[invalid_pattern]");
    put("b.bin", "two\n");
    CHECK_INT(0, truncate(in("b.bin"), 100));
    CHECK_HAS(OK("grep", "{'pattern':'two'}"), "'files_skipped':1");
    drop();
}

TEST(write_is_whole_or_not_at_all) {
    struct stat before, after;
    make();
    CHECK_STR(js("{'path':'new.txt','bytes':2,'action':'created'}"), OK("write", "{'path':'new.txt','content':'hi'}"));
    CHECK_STR("hi", got("new.txt"));
    CHECK_INT(0, chmod(in("notes.md"), 0640));
    stat(in("notes.md"), &before);
    CHECK_HAS(OK("write", "{'path':'notes.md','content':'changed'}"), "overwritten");
    stat(in("notes.md"), &after);
    CHECK_STR("changed", got("notes.md"));
    CHECK_INT(0640, after.st_mode & 0777);
    CHECK(before.st_ino != after.st_ino); /* replaced by a rename */
    CHECK_HAS(REFUSED("write", "{'path':'a/b/c.txt','content':'x'}"), "create_dirs");
    CHECK_HAS(OK("write", "{'path':'a/b/c.txt','content':'x','create_dirs':true}"), "created");
    CHECK_STR("x", got("a/b/c.txt"));
    CHECK_HAS(REFUSED("write", "{'path':'src','content':'x'}"), "[is_a_folder]");
    CHECK_HAS(REFUSED("write", "{'path':'.git/hooks/pre-commit','content':'x','create_dirs':true}"), "[workspace_protected_location]");
    CHECK(got(".git/hooks/pre-commit") == NULL);
    CHECK_INT(0, symlink("notes.md", in("link.md")));
    CHECK_HAS(REFUSED("write", "{'path':'link.md','content':'x'}"), "[workspace_symlink]");
    CHECK_STR("changed", got("notes.md"));
    CHECK_INT(5, t_entries(folder) - 2); /* nothing is left beside: notes.md, src, new.txt, a, link.md */
    drop();
}

TEST(edit_replaces_what_is_there_once) {
    make();
    CHECK_STR(js("{'path':'notes.md','applied':2,'lines':[3,1]}"),
              OK("edit", "{'path':'notes.md','edits':[{'old':'three','new':'3'},{'old':'one\\n','new':''}]}"));
    CHECK_STR("two\n3\n", got("notes.md"));
    CHECK_HAS(REFUSED("edit", "{'path':'notes.md','edits':[{'old':'3','new':'x'},{'old':'four','new':'y'}]}"), "[edit_old_text_not_found]");
    put("twice", "a b a\n");
    CHECK_HAS(REFUSED("edit", "{'path':'twice','edits':[{'old':'a','new':'x'}]}"), "[edit_ambiguous]");
    CHECK_HAS(REFUSED("edit", "{'path':'twice','edits':[{'old':'a b','new':'x'},{'old':'b a','new':'y'}]}"), "[edit_overlap]");
    CHECK_HAS(REFUSED("edit", "{'path':'twice','edits':[{'old':'','new':'x'}]}"), "[edit_empty]");
    CHECK_HAS(REFUSED("edit", "{'path':'twice','edits':[]}"), "edits");
    CHECK_HAS(REFUSED("edit", "{'path':'none','edits':[{'old':'a','new':'b'}]}"), "[not_found]");
    CHECK_STR("two\n3\n", got("notes.md")); /* nothing was half done */
    CHECK_STR("a b a\n", got("twice"));
    drop();
}

/* ---- which folder --------------------------------------------------------------------------------------------------- */

TEST(a_run_may_have_a_workspace_of_its_own) {
    par_runtime_t *rt;
    struct tape *t;
    char *out;
    make();
    rt = mock_and("[{'tool_calls':[{'id':'c','name':'ls','input':{}}]},{'text':'done'}]", fmt(",'workspace':'%s'", folder));
    agent(rt, "a", "['builtin:readonly']");
    t = run(rt, js("{'agent':'a','input':'x','workspace':'%s/src'}", folder), NULL);
    CHECK_HAS(json_str(nth(t, "tool_result", 0), "content"), "main.c");
    CHECK_LACKS(json_str(nth(t, "tool_result", 0), "content"), "notes.md");
    ST(PAR_ERR_IO, par_invoke(rt, js("{'agent':'a','input':'x','workspace':'%s/none'}", folder), PAR_NTS, 1000, &out, NULL, &E));
    CHECK_PATH("request.workspace");
    finish(rt);
    drop();
}

TEST(a_workspace_that_cannot_be_is_told_at_once) {
    par_runtime_t *rt = NULL;
    ST(PAR_ERR_IO, par_runtime_create(PAR_ABI_VERSION, js("{'workspace':'/no/such/folder'}"), PAR_NTS, &rt, &E));
    CHECK_PATH("config.workspace");
    ST(PAR_ERR_SCHEMA, par_runtime_create(PAR_ABI_VERSION, js("{'workspace':'/etc'}"), PAR_NTS, &rt, &E));
    CHECK_PATH("config.workspace");
    ST(PAR_ERR_SCHEMA, par_runtime_create(PAR_ABI_VERSION, js("{'workspace':{'root':'/tmp','hard_link':'allow'}}"), PAR_NTS, &rt, &E));
    CHECK_HAS(par_error_json(E), "hard_links");
    ST(PAR_ERR_SCHEMA, par_runtime_create(PAR_ABI_VERSION, js("{'workspace':''}"), PAR_NTS, &rt, &E));
}

TEST(hard_links_are_read_only_where_that_is_allowed) {
    par_runtime_t *rt;
    struct tape *t;
    make();
    CHECK_INT(0, link(in("notes.md"), in("other.md")));
    CHECK_HAS(REFUSED("read", "{'path':'other.md'}"), "[workspace_hard_link]");
    CHECK_HAS(OK("grep", "{'pattern':'two'}"), "'files_skipped':2");
    rt = mock_and("[{'tool_calls':[{'id':'c','name':'read','input':{'path':'other.md'}}]},{'text':'done'}]",
                  fmt(",'workspace':{'root':'%s','hard_links':'allow'}", folder));
    agent(rt, "a", "['read']");
    t = run(rt, GO, NULL);
    CHECK_HAS(json_str(nth(t, "tool_result", 0), "content"), "two");
    finish(rt);
    drop();
}
