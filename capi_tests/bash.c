/* The tool that runs programs: what it gives back, what it refuses, what it asks for, and that nothing is left of it. */
#include "t.h"

#include <sys/stat.h>

#define GO "{\"agent\":\"a\",\"input\":\"x\"}"

static char folder[64]; /* the workspace */

static void make(void) {
    FILE *file;
    strcpy(folder, "/tmp/par-bash-XXXXXX");
    CHECK(mkdtemp(folder) != NULL);
    file = fopen(fmt("%s/notes.txt", folder), "w");
    fputs("three\none\ntwo\n", file);
    fclose(file);
}

static void drop(void) { CHECK_INT(0, system(fmt("rm -rf %s", folder))); }

/* A runtime whose model calls bash once with these arguments; `keys` are further ones of the configuration. */
static par_runtime_t *calling(const char *input, const char *keys) {
    par_runtime_t *rt = mock_and(fmt("[{'tool_calls':[{'id':'c','name':'bash','input':%s}]},{'text':'done'}]", input),
                                 fmt(",'workspace':'%s'%s", folder, keys));
    agent(rt, "a", "['bash']");
    return rt;
}

static struct tape *ran(const char *input, const char *keys) {
    par_runtime_t *rt = calling(input, keys);
    struct tape *t = run(rt, GO, NULL);
    CHECK_SAID("done", t);
    finish(rt);
    return t;
}

#define UNASKED ",'bash_confirm':{'default_policy':'never'}"
#define CONTENT(tape) json_str(nth(tape, "tool_result", 0), "content")

/* What it answers, and what the model is told when it refuses. */
static const char *answer(const char *input) {
    struct tape *t = ran(input, UNASKED);
    CHECK_STR("false", json_raw(nth(t, "tool_result", 0), "is_error"));
    return CONTENT(t);
}

static const char *refusal(const char *input) {
    struct tape *t = ran(input, UNASKED);
    CHECK_STR("true", json_raw(nth(t, "tool_result", 0), "is_error"));
    CHECK_INT(0, count_of(t, "bash_invoked"));
    return CONTENT(t);
}

TEST(one_program) {
    const char *said;
    make();
    said = answer("{'argv':['cat','notes.txt']}");
    CHECK_STR("three\none\ntwo\n", json_str(said, "stdout"));
    CHECK_STR("", json_str(said, "stderr"));
    CHECK_INT(0, json_int(said, "exit_code"));
    CHECK_STR("false", json_raw(said, "truncated"));
    said = answer("{'command':{'type':'exec','program':'ls','args':['no-such-file']}}");
    CHECK_INT(2, json_int(said, "exit_code"));
    CHECK_HAS(json_str(said, "stderr"), "no-such-file");
    said = answer("{'command':{'type':'no_op'}}");
    CHECK_INT(0, json_int(said, "exit_code"));
    drop();
}

TEST(a_pipeline) {
    const char *said;
    make();
    said = answer("{'command':{'type':'pipeline','stages':[{'program':'sort','args':['notes.txt']},{'program':'head','args':['-n','1']}]}}");
    CHECK_STR("one\n", json_str(said, "stdout"));
    CHECK_STR("[0,0]", json_raw(said, "exit_codes"));
    /* A program whose reader has gone is ended by SIGPIPE, as everywhere. */
    said = answer("{'command':{'type':'pipeline','stages':[{'program':'yes'},{'program':'head','args':['-n','2']}]}}");
    CHECK_STR("y\ny\n", json_str(said, "stdout"));
    CHECK_STR("[141,0]", json_raw(said, "exit_codes"));
    drop();
}

TEST(arguments_are_only_arguments) {
    make();
    CHECK_STR("$(id) `id` ; ls ~ * \n", json_str(answer("{'argv':['echo','$(id) `id` ; ls ~ * ']}"), "stdout"));
    CHECK_HAS(refusal("{'argv':['echo hi; id']}"), "[bash_argv_invalid]");
    CHECK_HAS(refusal("{'argv':['cat','notes.txt','|','wc']}"), "pipeline");
    CHECK_HAS(refusal("{'argv':[]}"), "[bash_argv_invalid]");
    CHECK_HAS(refusal("{}"), "argv");
    CHECK_HAS(refusal("{'argv':'ls'}"), "not of type");
    CHECK_HAS(refusal("{'command':'ls | wc'}"), "schema");
    CHECK_HAS(refusal("{'argv':['ls'],'timeout':100000}"), "86400");
    CHECK_HAS(refusal("{'argv':['ls'],'cwd':'../'}"), "[workspace_parent_traversal]");
    CHECK_HAS(refusal("{'argv':['no-such-program']}"), "[bash_program_not_found]");
    drop();
}

TEST(a_policy_refuses_and_says_why) {
    struct tape *t;
    make();
    CHECK_HAS(refusal("{'argv':['sh','-c','id']}"), "give each program by itself");
    CHECK_HAS(refusal("{'argv':['find','.','-exec','id',';']}"), "[bash_policy_rejected]");
    CHECK_HAS(refusal("{'argv':['rm','-rf','/']}"), "removes everything");
    t = ran("{'argv':['touch','new']}", UNASKED ",'shell':{'policy':'read_only'}");
    CHECK_HAS(CONTENT(t), "[bash_policy_rejected]");
    t = ran("{'argv':['date']}", UNASKED ",'shell':{'policy':{'name':'mine','default':'allow','rules':[{'programs':['date'],"
            "'decision':'deny','justification':'time is an illusion','match':[['date','-u']],'not_match':[['ls']]}]}}");
    CHECK_HAS(CONTENT(t), "time is an illusion");
    drop();
}

TEST(a_policy_whose_examples_do_not_hold_is_refused) {
    par_runtime_t *rt = NULL;
    ST(PAR_ERR_SCHEMA, par_runtime_create(PAR_ABI_VERSION, js("{'shell':{'policy':{'default':'allow','rules':[{'programs':['git'],'any_arg':['^push$'],"
       "'decision':'deny','justification':'no','match':[['git','push'],['git','pull']]}]}}}"), PAR_NTS, &rt, &E));
    CHECK_PATH("config.shell.policy.rules[0].match[1]");
    ST(PAR_ERR_SCHEMA, par_runtime_create(PAR_ABI_VERSION, js("{'shell':{'policy':'coders'}}"), PAR_NTS, &rt, &E));
    CHECK_HAS(par_error_json(E), "coder");
    ST(PAR_ERR_SCHEMA, par_runtime_create(PAR_ABI_VERSION, js("{'shell':{'path':['bin']}}"), PAR_NTS, &rt, &E));
    CHECK_PATH("config.shell.path[0]");
    ST(PAR_ERR_SCHEMA, par_runtime_create(PAR_ABI_VERSION, js("{'bash_confirm':{'patterns':[{'pattern':'(','policy':'never'}]}}"), PAR_NTS, &rt, &E));
}

/* ---- approvals ------------------------------------------------------------------------------------------------------ */

static const char *decision;

static void decide(void *rt, const char *event) {
    if (is(event, "approval_request"))
        ST(PAR_OK, par_approval_resolve(rt, json_str(event, "approval_id"), PAR_NTS, js("%s", decision), PAR_NTS, &E));
}

static struct tape *asked(const char *input, const char *keys, const char *says) {
    par_runtime_t *rt = calling(input, keys);
    par_stream_t *s = start(rt, GO);
    struct tape *t = tape_of(rt, NULL);
    const char *event;
    decision = says;
    while ((event = next(s, 10000)) != NULL) {
        t_record(t, event);
        decide(rt, event);
    }
    CHECK_INT(PAR_END, status);
    par_stream_free(s);
    finish(rt);
    return t;
}

TEST(every_command_is_asked_for_unless_told_otherwise) {
    struct tape *t;
    char *out;
    par_runtime_t *rt;
    make();
    t = asked("{'argv':['echo','hi']}", "", "'approve'");
    CHECK_HAS(json_str(nth(t, "approval_request", 0), "reason"), "echo hi");
    CHECK_STR("hi\n", json_str(CONTENT(t), "stdout"));
    t = asked("{'argv':['echo','hi']}", "", "'reject'");
    CHECK_INT(0, count_of(t, "bash_invoked"));
    CHECK_HAS(CONTENT(t), "not executed");
    /* What the policy refuses is not asked for; and an approval does not let it pass. */
    t = asked("{'argv':['sh','-c','id']}", "", "'approve'");
    CHECK_INT(0, count_of(t, "approval_request"));
    CHECK_HAS(CONTENT(t), "[bash_policy_rejected]");
    t = asked("{'argv':['echo','hi']}", "", "{'type':'edit','input':{'argv':['sh','-c','id']}}");
    CHECK_HAS(CONTENT(t), "[bash_policy_rejected]");
    t = asked("{'argv':['echo','hi']}", "", "{'type':'edit','input':{'argv':['echo','ho']}}");
    CHECK_STR("ho\n", json_str(CONTENT(t), "stdout"));
    /* By pattern: what is risky, and what the patterns say. */
#define BY_PATTERN ",'bash_confirm':{'default_policy':'pattern','patterns':[{'pattern':'^echo','policy':'always'},{'pattern':'^echo hi','policy':'never'}]}"
    CHECK_INT(0, count_of(asked("{'argv':['date']}", BY_PATTERN, "'reject'"), "approval_request"));
    CHECK_INT(1, count_of(asked("{'argv':['rm','x']}", BY_PATTERN, "'reject'"), "approval_request"));
    CHECK_INT(1, count_of(asked("{'argv':['echo','ho']}", BY_PATTERN, "'reject'"), "approval_request"));
    CHECK_INT(0, count_of(asked("{'argv':['echo','hi']}", BY_PATTERN, "'reject'"), "approval_request"));
    /* A blocking call has nobody to ask. */
    rt = calling("{'argv':['echo']}", "");
    ST(PAR_ERR_NO_HANDLER, par_invoke(rt, GO, PAR_NTS, 5000, &out, NULL, &E));
    finish(rt);
    /* Where nothing is asked for it runs; but for what the policy itself asks for, and the model is told so. */
    rt = calling("{'argv':['echo']}", UNASKED);
    ST(PAR_OK, par_invoke(rt, GO, PAR_NTS, 5000, &out, NULL, &E));
    CHECK_HAS(keep(out), "'is_error':false");
    finish(rt);
    rt = calling("{'argv':['find','.','-delete']}", UNASKED);
    ST(PAR_OK, par_invoke(rt, GO, PAR_NTS, 5000, &out, NULL, &E));
    CHECK_HAS(keep(out), "'is_error':true");
    finish(rt);
    drop();
}

/* ---- events --------------------------------------------------------------------------------------------------------- */

TEST(the_events_say_what_ran_and_what_contained_it) {
    struct tape *t;
    const char *invoked, *completed;
    make();
    mkdir(fmt("%s/sub", folder), 0755);
    t = ran("{'argv':['cat','-'],'cwd':'sub'}", UNASKED);
    invoked = nth(t, "bash_invoked", 0), completed = nth(t, "bash_completed", 0);
    CHECK_STR(js("[['cat','-']]"), json_raw(invoked, "argv"));
    CHECK_STR("sub", json_str(invoked, "cwd"));
    CHECK_STR("low", json_str(invoked, "risk"));
    CHECK_STR("coder", json_str(invoked, "policy"));
    CHECK_HAS(json_raw(invoked, "programs"), "/cat");
    CHECK_STR("true", json_raw(invoked, "sandbox.no_new_privileges"));
    CHECK_STR("open", json_str(invoked, "sandbox.network"));
    CHECK_STR("exited", json_str(completed, "status"));
    CHECK_INT(0, json_int(completed, "exit_code"));
    CHECK_STR(json_raw(invoked, "sandbox"), json_raw(completed, "sandbox"));
    CHECK_STR("c", json_str(completed, "tool_call_id"));
    t = ran("{'argv':['sleep','30'],'timeout':0.2}", UNASKED);
    CHECK_STR("timed_out", json_str(nth(t, "bash_completed", 0), "status"));
    CHECK_INT(124, json_int(CONTENT(t), "exit_code"));
    CHECK_STR("true", json_raw(CONTENT(t), "timed_out"));
    t = ran("{'argv':['sleep','1.3']}", UNASKED);
    CHECK(count_of(t, "tool_progress") >= 1);
    CHECK(json_int(nth(t, "tool_progress", 0), "note.elapsed_ms") >= 1000);
    drop();
}

/* ---- the host is not disturbed -------------------------------------------------------------------------------------- */

static int child_signals;

static void on_child(int signal) { (void)signal, child_signals++; }

TEST(the_children_of_the_host_are_its_own) {
    struct sigaction action;
    par_runtime_t *rt;
    par_stream_t *s;
    int how = 0, fds;
    pid_t own;
    make();
    memset(&action, 0, sizeof action);
    action.sa_handler = on_child;
    sigaction(SIGCHLD, &action, NULL);
    CHECK_STR("hi\n", json_str(answer("{'argv':['echo','hi']}"), "stdout"));
    fds = fd_count();
    CHECK_INT(0, child_signals); /* no signal of our children */
    CHECK_INT(-1, waitpid(-1, &how, WNOHANG)); /* and none of them is the host's */
    CHECK_INT(ECHILD, errno);
    own = fork();
    if (own == 0) _exit(7);
    CHECK_STR("hi\n", json_str(answer("{'argv':['echo','hi']}"), "stdout"));
    while (waitpid(own, &how, 0) < 0 && errno == EINTR) {}
    CHECK_INT(7, WEXITSTATUS(how)); /* nobody else took it */
    CHECK_INT(1, child_signals);
    /* A host that ignores its children's ends, and one that leaves the run. */
    signal(SIGCHLD, SIG_IGN);
    CHECK_STR("hi\n", json_str(answer("{'argv':['echo','hi']}"), "stdout"));
    rt = calling("{'argv':['sleep','60'],'timeout':60}", UNASKED);
    s = start(rt, GO);
    until(s, "bash_invoked");
    TAKES(0, 2000, ST(PAR_OK, par_runtime_close(rt, 10000, &E)));
    CHECK_INT(PAR_END, drive(s, NULL, NULL).end);
    par_stream_free(s);
    par_runtime_free(rt);
    CHECK_INT(fds, fd_count());
    signal(SIGCHLD, SIG_DFL);
    drop();
}

TEST(a_cancelled_run_leaves_nothing) {
    par_runtime_t *rt;
    par_stream_t *s;
    struct seen seen;
    make();
    rt = calling("{'argv':['sleep','98765'],'timeout':90}", UNASKED);
    s = start(rt, GO);
    until(s, "bash_invoked");
    ST(PAR_OK, par_stream_cancel(s, NULL, 0, &E));
    TAKES(0, 2000, seen = drive(s, NULL, NULL));
    CHECK(is(seen.terminal, "cancelled"));
    CHECK_HAS(seen.types, "bash_completed");
    par_stream_free(s);
    finish(rt);
    CHECK_INT(256, system("pgrep -f 'sleep 9876[5]' >/dev/null"));
    drop();
}
