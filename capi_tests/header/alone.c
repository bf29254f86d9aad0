/* The header needs nothing before it. */
#include "par_ffi.h"

typedef char status_is_four_bytes[sizeof(par_status_t) == 4 ? 1 : -1];
typedef char nts_is_the_largest_size[PAR_NTS == (size_t)-1 ? 1 : -1];
