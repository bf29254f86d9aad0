/* The shortest agent: one question, one answer.
 *
 *     cc invoke.c -lpar -o invoke && ./invoke
 *
 * It runs offline, on the scripted mock provider. For a real model, configure one in CONFIG, such as
 * {"persistence": "noop", "llm_providers": {"openai": {"type": "openai", "api_key": {"env": "OPENAI_API_KEY"}}}}, and name it in AGENT. */
#include <stdio.h>

#include "par_ffi.h"

static const char CONFIG[] =
    "{\"persistence\": \"noop\", \"llm_providers\": {\"mock\": {\"type\": \"mock\", \"turns\": [{\"text\": \"Hello! How can I help?\"}]}}}";

static const char AGENT[] =
    "{\"id\": \"greeter\", \"model\": \"mock/any\", \"system_prompt\": \"You are friendly and brief.\"}";

static const char REQUEST[] =
    "{\"agent\": \"greeter\", \"input\": \"Hi there.\"}";

int main(void) {
    par_runtime_t *rt = NULL;
    par_error_t *err = NULL;
    char *result = NULL;
    int ok = par_runtime_create(PAR_ABI_VERSION, CONFIG, PAR_NTS, &rt, &err) == PAR_OK
          && par_register_agent(rt, AGENT, PAR_NTS, &err) == PAR_OK
          && par_invoke(rt, REQUEST, PAR_NTS, 30000, &result, NULL, &err) == PAR_OK;

    if (ok)
        puts(result); /* {"run_id": ..., "status": "completed", "text": "Hello! How can I help?", ...} */
    else
        fprintf(stderr, "invoke: %s\n", par_error_message(err));

    par_free(result); /* freeing NULL is fine, here and everywhere */
    par_error_free(err);
    par_runtime_close(rt, 5000, NULL);
    par_runtime_free(rt);
    return ok ? 0 : 1;
}
