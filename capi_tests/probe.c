/* Broken on purpose: proves that the sanitizer or valgrind, which watches the tests, would have seen something.
 * `probe leak` forgets a text of the library, `probe overrun` reads behind one, `probe twice` frees one twice. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "par_ffi.h"

int main(int argc, char **argv) {
    const char *fault = argc > 1 ? argv[1] : "none";
    char *out = NULL;
    size_t len = 0;
    if (par_echo("[1,2,3,4,5,6,7]", PAR_NTS, &out, &len, NULL) != PAR_OK) return 2;
    if (!strcmp(fault, "overrun")) {
        volatile char *text = out;
        if (text[len + 1] == 'x') puts("x"); /* behind the NUL */
    }
    if (!strcmp(fault, "leak")) {
        out = NULL;
        return 0;
    }
    par_free(out);
    if (!strcmp(fault, "twice")) par_free(out);
    return 0;
}
