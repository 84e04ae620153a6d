/* Included before the C++ files of llama.cpp (see Makefile), so that GCC compiles its AMX kernels rightly.
 *
 * GCC's own header doesn't tell the compiler that these two instructions read memory: GCC 12 then leaves out most of the
 * numbers that llama.cpp has stored for them (bug 114098), and the process dies of an illegal instruction.
 */
#if defined(__AMX_TILE__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>

#define _tile_loadconfig(config) __asm__ volatile("ldtilecfg\t%0" : : "m"(*(const char(*)[64])(config)))

#undef _tile_loadd
#define _tile_loadd(tile, base, stride) sre_tile_loadd(tile, base, stride)
#define sre_tile_loadd(tile, base, stride) \
    __asm__ volatile("tileloadd\t(%0,%1,1), %%tmm" #tile : : "r"((const void *) (base)), "r"((long) (stride)) : "memory")
#endif
