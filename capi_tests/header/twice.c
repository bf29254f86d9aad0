/* Included twice, and in a second translation unit of the same program: see main.c. */
#include "par_ffi.h"
#include "par_ffi.h"

unsigned long version_seen_here(void);

unsigned long version_seen_here(void) { return (unsigned long)par_abi_version(); }
