/* LD_PRELOAD: counts allocations of the whole process, and writes the number to the file $COUNT_ALLOCS_TO at exit. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t), *__libc_memalign(size_t, size_t);

static atomic_ulong allocations;
#define COUNTED(call) (atomic_fetch_add_explicit(&allocations, 1, memory_order_relaxed), (call))

void *malloc(size_t n) { return COUNTED(__libc_malloc(n)); }
void *calloc(size_t n, size_t each) { return COUNTED(__libc_calloc(n, each)); }
void *realloc(void *p, size_t n) { return COUNTED(__libc_realloc(p, n)); }
void *memalign(size_t align, size_t n) { return COUNTED(__libc_memalign(align, n)); }
void *aligned_alloc(size_t align, size_t n) { return COUNTED(__libc_memalign(align, n)); }
int posix_memalign(void **out, size_t align, size_t n) { return (*out = COUNTED(__libc_memalign(align, n))) ? 0 : ENOMEM; }

__attribute__((destructor)) static void report(void) {
    const char *path = getenv("COUNT_ALLOCS_TO");
    unsigned long total = atomic_load(&allocations);
    FILE *file = path ? fopen(path, "w") : NULL;
    if (file) fprintf(file, "%lu\n", total), fclose(file);
}
