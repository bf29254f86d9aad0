#include "par_ffi.h"
#include "par_ffi.h"

unsigned long version_seen_here(void);

int main(void) { return version_seen_here() == (unsigned long)par_abi_version() && par_abi_version() == PAR_ABI_VERSION ? 0 : 1; }
