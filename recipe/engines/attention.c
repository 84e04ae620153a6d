/* Attention of few query tokens a sequence, over keys and values in half precision: what decoding many answers side by
 * side spends most of its time on. Takes the place of llama.cpp's function of the same arguments where it can, and leaves
 * it the rest (see `ours`).
 *
 * The arithmetic is llama.cpp's own, operation by operation and rounding by rounding (running maximum, sums in half
 * precision), so that answers stay the same. What differs is the order of the work: a key and a value are read once for
 * all heads that share them, the sums stay in registers, and exponentials are taken a vector at a time. The exponential
 * alone is another, by one unit of the last place in some cases of a thousand.
 *
 * attention.py compiles it for the machine it runs on, against the header that llama-cpp-python has installed.
 */
#define _GNU_SOURCE
#include <immintrin.h>
#include <link.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ggml.h"

#define NAME "ggml_compute_forward_flash_attn_ext"

typedef uint16_t half;

/* The first fields of what ggml hands each thread: its number, and how many there are. */
struct params {
    int thread, threads;
};

typedef void (*attention)(const struct params *, struct ggml_tensor *);
static attention original;
static long calls;

#if defined(__AVX512F__)
#define LANES 16
#define HEADS 4 /* whose sums fit the registers */
typedef __m512 vec;
typedef __m512d wide;
static inline vec load(const float *p) { return _mm512_loadu_ps(p); }
static inline void store(float *p, vec x) { _mm512_storeu_ps(p, x); }
static inline vec all(float x) { return _mm512_set1_ps(x); }
static inline vec add(vec a, vec b) { return _mm512_add_ps(a, b); }
static inline vec sub(vec a, vec b) { return _mm512_sub_ps(a, b); }
static inline vec mul(vec a, vec b) { return _mm512_mul_ps(a, b); }
static inline vec fma_(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
static inline bool any_above(vec x, vec y) { return _mm512_cmp_ps_mask(x, y, _CMP_GT_OQ) != 0; }
static inline vec load_half(const half *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) p)); }
static inline vec round_half(vec x) { return _mm512_cvtph_ps(_mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT)); }

static inline vec larger(vec a, vec b) { return _mm512_max_ps(a, b); }
static inline wide wide_all(double x) { return _mm512_set1_pd(x); }
static inline wide wide_sub(wide a, wide b) { return _mm512_sub_pd(a, b); }
static inline wide wide_fma(wide a, wide b, wide c) { return _mm512_fmadd_pd(a, b, c); }
static inline wide wide_fnma(wide a, wide b, wide c) { return _mm512_fnmadd_pd(a, b, c); }
static inline wide times_power(wide x, wide power) { /* of 2: the lowest bits of `power` */
    const __m512i shifted = _mm512_slli_epi64(_mm512_castpd_si512(power), 52);
    return _mm512_castsi512_pd(_mm512_add_epi64(_mm512_castpd_si512(x), shifted));
}
static inline wide low_half(vec x) { return _mm512_cvtps_pd(_mm512_castps512_ps256(x)); }
static inline wide high_half(vec x) {
    return _mm512_cvtps_pd(_mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(x), 1)));
}
static inline vec joined(wide low, wide high) {
    const __m512d first = _mm512_castps_pd(_mm512_castps256_ps512(_mm512_cvtpd_ps(low)));
    return _mm512_castpd_ps(_mm512_insertf64x4(first, _mm256_castps_pd(_mm512_cvtpd_ps(high)), 1));
}

/* The sum of each of 16 vectors, added as _mm512_reduce_add_ps does: halves, quarters, pairs, ones. */
static inline vec halves(vec a, vec b) {
    return add(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xEE));
}
static inline vec quarters(vec a, vec b) {
    return add(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xDD));
}
static inline vec pairs(vec a, vec b) { return add(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xEE)); }
static inline vec ones(vec a, vec b) { return add(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xDD)); }
static inline vec four(const vec *x) { return quarters(halves(x[0], x[4]), halves(x[8], x[12])); }
static inline vec sums(const vec *x) { return ones(pairs(four(x), four(x + 1)), pairs(four(x + 2), four(x + 3))); }

#elif defined(__AVX2__) && defined(__F16C__) && defined(__FMA__)
#define LANES 8
#define HEADS 2
typedef __m256 vec;
typedef __m256d wide;
static inline vec load(const float *p) { return _mm256_loadu_ps(p); }
static inline void store(float *p, vec x) { _mm256_storeu_ps(p, x); }
static inline vec all(float x) { return _mm256_set1_ps(x); }
static inline vec add(vec a, vec b) { return _mm256_add_ps(a, b); }
static inline vec sub(vec a, vec b) { return _mm256_sub_ps(a, b); }
static inline vec mul(vec a, vec b) { return _mm256_mul_ps(a, b); }
static inline vec fma_(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
static inline bool any_above(vec x, vec y) { return _mm256_movemask_ps(_mm256_cmp_ps(x, y, _CMP_GT_OQ)) != 0; }
static inline vec load_half(const half *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) p)); }
static inline vec round_half(vec x) { return _mm256_cvtph_ps(_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT)); }

static inline vec larger(vec a, vec b) { return _mm256_max_ps(a, b); }
static inline wide wide_all(double x) { return _mm256_set1_pd(x); }
static inline wide wide_sub(wide a, wide b) { return _mm256_sub_pd(a, b); }
static inline wide wide_fma(wide a, wide b, wide c) { return _mm256_fmadd_pd(a, b, c); }
static inline wide wide_fnma(wide a, wide b, wide c) { return _mm256_fnmadd_pd(a, b, c); }
static inline wide times_power(wide x, wide power) { /* of 2: the lowest bits of `power` */
    const __m256i shifted = _mm256_slli_epi64(_mm256_castpd_si256(power), 52);
    return _mm256_castsi256_pd(_mm256_add_epi64(_mm256_castpd_si256(x), shifted));
}
static inline wide low_half(vec x) { return _mm256_cvtps_pd(_mm256_castps256_ps128(x)); }
static inline wide high_half(vec x) { return _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1)); }
static inline vec joined(wide low, wide high) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm256_cvtpd_ps(low)), _mm256_cvtpd_ps(high), 1);
}

/* The sum of each of 8 vectors, added as llama.cpp does: halves, then neighbours twice. */
static inline vec halves(vec a, vec b) {
    return add(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
}
static inline vec sums(const vec *x) {
    const vec low = _mm256_hadd_ps(halves(x[0], x[4]), halves(x[1], x[5]));
    return _mm256_hadd_ps(low, _mm256_hadd_ps(halves(x[2], x[6]), halves(x[3], x[7])));
}
#else
#error "neither AVX-512 nor AVX2 with half precision"
#endif

static inline wide exp_wide(wide x) {
    const wide shift = wide_all(0x1.8p52); /* adding it rounds to a whole number, in the lowest bits */
    const wide shifted = wide_fma(x, wide_all(1.4426950408889634), shift);
    const wide r = wide_fnma(wide_sub(shifted, shift), wide_all(0.6931471805599453), x);
    wide p = wide_all(1.0 / 362880);
    const double c[] = {1.0 / 40320, 1.0 / 5040, 1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 0.5, 1, 1};
    for (int i = 0; i < 9; i++) p = wide_fma(p, r, wide_all(c[i]));
    return times_power(p, shifted);
}

static inline vec exp_(vec x) {
    x = larger(all(-110), x); /* its exponential is 0 as a float; in this order NaN stays */
    return joined(exp_wide(low_half(x)), exp_wide(high_half(x)));
}

#define SLAB (4 * LANES) /* numbers of a head that are worked on at once */
#define WIDEST 256       /* numbers of a head */
#define BLOCK 64         /* cells worked on at once */
#define AHEAD 16         /* cells fetched before they are needed */
#define NOTHING 0xFC00   /* a mask's minus infinity */

/* Cells of one block that the mask lets through, and what the mask adds to their scores. */
struct cells {
    int count;
    int64_t at[BLOCK + LANES];
    float bias[BLOCK + LANES];
};

/* Heads that share keys and values: the state of their running softmax. */
struct state {
    float query[HEADS][WIDEST], sum[HEADS][WIDEST]; /* `sum` holds numbers of half precision */
    float maximum[HEADS], weight[HEADS];
    float factor[HEADS][BLOCK + LANES]; /* of the value of a cell, or, where it brings a new maximum, of what was before */
    bool rises[HEADS][BLOCK + LANES];
};

/* The next cells from `*begin` on that the mask lets through, BLOCK at the most. */
static void next_cells(struct cells *cells, const half *mask, int64_t *begin, int64_t end) {
    const __m128i nothing = _mm_set1_epi16((short) NOTHING);
    int64_t at = *begin;
    int count = 0;
    for (; at < end && count < BLOCK; at++) {
        while (mask && at + 8 <= end &&
               _mm_movemask_epi8(_mm_cmpeq_epi16(_mm_loadu_si128((const __m128i *) (mask + at)), nothing)) == 0xFFFF) {
            at += 8;
        }
        if (at >= end) break;
        if (mask && mask[at] == NOTHING) continue;
        cells->at[count] = at;
        cells->bias[count++] = mask && mask[at] ? _cvtsh_ss(mask[at]) : 0.0f;
    }
    *begin = at;
    cells->count = count;
    for (int i = count; i % LANES != 0; i++) { /* filled up, so that whole vectors can be read; never used */
        cells->at[i] = cells->at[count - 1];
        cells->bias[i] = -INFINITY;
    }
}

/* Have a slab of some later cell brought near. */
static inline void fetch(const char *slab) {
    for (size_t line = 0; line < SLAB * sizeof(half); line += 64) _mm_prefetch(slab + line, _MM_HINT_T0);
}

/* Scores of LANES cells from the `first` on, and what they make of the running maximum. */
static inline __attribute__((always_inline)) void score(
    struct state *state, const struct cells *cells, int first, int heads, int width, const char *keys, size_t stride,
    float scale) {
    vec products[HEADS][LANES];
    for (int i = 0; i < LANES; i++) {
        const half *key = (const half *) (keys + cells->at[first + i] * stride);
        vec parts[HEADS][4] = {0};
        for (int d = 0; d < width; d += SLAB) {
            vec k[4];
            fetch((const char *) (key + d) + AHEAD * stride);
            for (int j = 0; j < 4; j++) k[j] = load_half(key + d + j * LANES);
            for (int h = 0; h < heads; h++) {
                for (int j = 0; j < 4; j++) {
                    const vec q = load(state->query[h] + d + j * LANES);
                    parts[h][j] = fma_(k[j], q, parts[h][j]);
                }
            }
        }
        for (int h = 0; h < heads; h++) {
            products[h][i] = add(add(parts[h][0], parts[h][2]), add(parts[h][1], parts[h][3]));
        }
    }
    for (int h = 0; h < heads; h++) {
        float *factor = state->factor[h] + first;
        bool *rises = state->rises[h] + first;
        const vec scores = add(mul(sums(products[h]), all(scale)), load(cells->bias + first));
        memset(rises, 0, LANES);
        if (any_above(scores, all(state->maximum[h]))) {
            float each[LANES];
            store(each, scores);
            for (int i = 0; i < LANES; i++) {
                rises[i] = each[i] > state->maximum[h];
                factor[i] = rises[i] ? state->maximum[h] - each[i] : each[i] - state->maximum[h];
                if (rises[i]) state->maximum[h] = each[i];
            }
        } else {
            store(factor, sub(scores, all(state->maximum[h])));
        }
        store(factor, exp_(load(factor)));
    }
}

/* Add the values of a block's cells, SLAB numbers from `d` on, to the sums. */
static inline __attribute__((always_inline)) void gather(
    struct state *state, const struct cells *cells, int d, int heads, const char *values, size_t stride) {
    vec sum[HEADS][4];
    for (int h = 0; h < heads; h++) {
        for (int j = 0; j < 4; j++) sum[h][j] = load(state->sum[h] + d + j * LANES);
    }
    for (int i = 0; i < cells->count; i++) {
        const half *value = (const half *) (values + cells->at[i] * stride) + d;
        vec v[4];
        fetch((const char *) value + AHEAD * stride);
        for (int j = 0; j < 4; j++) v[j] = load_half(value + j * LANES);
        for (int h = 0; h < heads; h++) {
            vec factor = all(state->factor[h][i]);
            if (__builtin_expect(state->rises[h][i], 0)) {
                for (int j = 0; j < 4; j++) sum[h][j] = round_half(mul(sum[h][j], factor));
                factor = all(1);
            }
            for (int j = 0; j < 4; j++) sum[h][j] = round_half(fma_(v[j], factor, sum[h][j]));
        }
    }
    for (int h = 0; h < heads; h++) {
        for (int j = 0; j < 4; j++) store(state->sum[h] + d + j * LANES, sum[h][j]);
    }
}

/* One query token, `heads` heads of it: queries and results [heads][width] floats apart by their strides in bytes. */
static inline __attribute__((always_inline)) void attend(
    int heads, int width, const char *queries, size_t query_stride, const char *keys, size_t key_stride,
    const char *values, size_t value_stride, const half *mask, int64_t length, float scale, char *results,
    size_t result_stride) {
    struct state state;
    struct cells cells;
    for (int h = 0; h < heads; h++) {
        const float *query = (const float *) (queries + h * query_stride);
        for (int d = 0; d < width; d += LANES) {
            store(state.query[h] + d, round_half(load(query + d)));
            store(state.sum[h] + d, all(0));
        }
        state.maximum[h] = -INFINITY;
        state.weight[h] = 0;
    }
    for (int64_t begin = 0; begin < length;) {
        next_cells(&cells, mask, &begin, length);
        for (int i = 0; i < cells.count; i += LANES) score(&state, &cells, i, heads, width, keys, key_stride, scale);
        for (int d = 0; d < width; d += SLAB) gather(&state, &cells, d, heads, values, value_stride);
        for (int i = 0; i < cells.count; i++) {
            for (int h = 0; h < heads; h++) {
                const float factor = state.factor[h][i];
                state.weight[h] = state.rises[h][i] ? fmaf(state.weight[h], factor, 1) : state.weight[h] + factor;
            }
        }
    }
    for (int h = 0; h < heads; h++) {
        float *result = (float *) (results + h * result_stride);
        const vec share = all(state.weight[h] == 0 ? 0 : 1 / state.weight[h]);
        for (int d = 0; d < width; d += LANES) store(result + d, mul(load(state.sum[h] + d), share));
    }
}

/* What is done here. llama.cpp keeps: 64 tokens of a sequence and more, which it does in tiles; one token of one sequence,
 * whose cells it splits among the threads; too little for all threads; other types than half precision; ALiBi, soft caps,
 * sinks, and odd widths. All threads decide alike: its own function has them wait for each other. */
static bool ours(const struct ggml_tensor *result, int threads) {
    const struct ggml_tensor *q = result->src[0], *k = result->src[1], *v = result->src[2], *mask = result->src[3];
    float alibi, cap;
    memcpy(&alibi, result->op_params + 1, sizeof alibi);
    memcpy(&cap, result->op_params + 2, sizeof cap);
    const bool plain = alibi == 0 && cap == 0 && !result->src[4] && (!mask || (mask->type == GGML_TYPE_F16 && mask->ne[2] == 1));
    const bool types = q->type == GGML_TYPE_F32 && k->type == GGML_TYPE_F16 && v->type == GGML_TYPE_F16;
    const bool shape = q->ne[0] % SLAB == 0 && q->ne[0] <= WIDEST && v->ne[0] == q->ne[0] && v->ne[2] == k->ne[2] &&
                       v->ne[3] == k->ne[3] && q->ne[3] == k->ne[3];
    const bool split = q->ne[1] == 1 && q->ne[3] == 1 && k->ne[1] >= 512;
    return plain && types && shape && q->ne[1] < 64 && !split && q->ne[1] * q->ne[3] * k->ne[2] >= threads;
}

/* q [width, tokens, heads, streams], k and v [width, cells, shared heads, streams], mask [cells, tokens, 1, streams or 1];
 * the result [width, heads, tokens, streams]. */
static void forward(const struct params *params, struct ggml_tensor *result) {
    if (!ours(result, params->threads)) {
        original(params, result);
        return;
    }
    if (params->thread == 0) calls++;
    const struct ggml_tensor *q = result->src[0], *k = result->src[1], *v = result->src[2], *mask = result->src[3];
    float scale;
    memcpy(&scale, result->op_params, sizeof scale);
    const int64_t tokens = q->ne[1], shared = k->ne[2], group = q->ne[2] / shared, units = q->ne[3] * tokens * shared;
    const int64_t end = units * (params->thread + 1) / params->threads;
    for (int64_t unit = units * params->thread / params->threads; unit < end; unit++) {
        const int64_t kv = unit % shared, token = unit / shared % tokens, stream = unit / shared / tokens;
        const char *keys = (const char *) k->data + kv * k->nb[2] + stream * k->nb[3];
        const char *values = (const char *) v->data + kv * v->nb[2] + stream * v->nb[3];
        const half *row = NULL;
        if (mask) row = (const half *) ((const char *) mask->data + token * mask->nb[1] + stream % mask->ne[3] * mask->nb[3]);
        for (int64_t done = 0; done < group; done += HEADS) {
            const int64_t head = kv * group + done;
            const char *query = (const char *) q->data + token * q->nb[1] + head * q->nb[2] + stream * q->nb[3];
            char *place = (char *) result->data + head * result->nb[1] + token * result->nb[2] + stream * result->nb[3];
            const int heads = (int) (group - done < HEADS ? group - done : HEADS), width = (int) q->ne[0];
#define ATTEND(heads, width) \
    attend(heads, width, query, q->nb[2], keys, k->nb[1], values, v->nb[1], row, k->ne[1], scale, place, result->nb[1])
#define CASES(width) \
    heads == 1 ? ATTEND(1, width) : heads == 2 || HEADS == 2 ? ATTEND(2, width) : heads == 3 ? ATTEND(3, width) : ATTEND(4, width)
            /* Numbers the compiler knows: it unrolls their loops. */
            if (width == 64) {
                CASES(64);
            } else {
                CASES(width);
            }
        }
    }
}

/* --- putting it in place: the one slot through which ggml's CPU library calls its attention --- */

struct search {
    void *own, *wanted;
    int found;
};

/* The part of `object` of this type that holds the address, if any. */
static const ElfW(Phdr) *part_with(const struct dl_phdr_info *object, unsigned type, const void *address) {
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = object->dlpi_phdr + i;
        const ElfW(Addr) offset = (ElfW(Addr)) address - object->dlpi_addr - part->p_vaddr;
        if (part->p_type == type && offset < part->p_memsz) return part;
    }
    return NULL;
}

static int set_slots(const struct dl_phdr_info *object, const ElfW(Rela) *entry, size_t bytes, const ElfW(Sym) *symbols,
                     const char *names, void *wanted) {
    const uintptr_t page = (uintptr_t) sysconf(_SC_PAGESIZE);
    int found = 0;
    for (size_t i = 0; i < bytes / sizeof *entry; i++) {
        const unsigned long type = ELF64_R_TYPE(entry[i].r_info);
        const char *name = names + symbols[ELF64_R_SYM(entry[i].r_info)].st_name;
        if ((type != R_X86_64_JUMP_SLOT && type != R_X86_64_GLOB_DAT) || strcmp(name, NAME) != 0) continue;
        void **slot = (void **) (object->dlpi_addr + entry[i].r_offset);
        void *start = (void *) ((uintptr_t) slot & ~(page - 1));
        if (mprotect(start, page, PROT_READ | PROT_WRITE) != 0) continue;
        *slot = wanted;
        if (part_with(object, PT_GNU_RELRO, slot)) mprotect(start, page, PROT_READ);
        found++;
    }
    return found;
}

static int look(struct dl_phdr_info *object, size_t size, void *data) {
    struct search *search = data;
    (void) size;
    if (!part_with(object, PT_LOAD, search->own)) return 0;
    for (int i = 0; i < object->dlpi_phnum; i++) {
        if (object->dlpi_phdr[i].p_type != PT_DYNAMIC) continue;
        const ElfW(Rela) *plt = NULL, *other = NULL;
        const ElfW(Sym) *symbols = NULL;
        const char *names = NULL;
        size_t plt_bytes = 0, other_bytes = 0;
        for (const ElfW(Dyn) *entry = (const ElfW(Dyn) *) (object->dlpi_addr + object->dlpi_phdr[i].p_vaddr);
             entry->d_tag != DT_NULL; entry++) {
            /* glibc has made these addresses, musl leaves offsets */
            ElfW(Addr) address = entry->d_un.d_ptr;
            if (address < object->dlpi_addr) address += object->dlpi_addr;
            if (entry->d_tag == DT_JMPREL) plt = (const ElfW(Rela) *) address;
            if (entry->d_tag == DT_RELA) other = (const ElfW(Rela) *) address;
            if (entry->d_tag == DT_SYMTAB) symbols = (const ElfW(Sym) *) address;
            if (entry->d_tag == DT_STRTAB) names = (const char *) address;
            if (entry->d_tag == DT_PLTRELSZ) plt_bytes = entry->d_un.d_val;
            if (entry->d_tag == DT_RELASZ) other_bytes = entry->d_un.d_val;
        }
        if (!symbols || !names) continue;
        if (plt) search->found += set_slots(object, plt, plt_bytes, symbols, names, search->wanted);
        if (other) search->found += set_slots(object, other, other_bytes, symbols, names, search->wanted);
    }
    return 1;
}

/* Let the library whose attention is `own` call ours in its place; or, `use` being false, its own again. Not while it runs.
 * The number of slots set: 0 where there is none. */
int sre_attention_use(void *own, bool use) {
    original = (attention) own;
    struct search search = {own, use ? (void *) forward : own, 0};
    dl_iterate_phdr(look, &search);
    return search.found;
}

/* How many times it was called. */
long sre_attention_calls(void) { return calls; }

/* What it takes a tensor for, to be held against the library's own. */
size_t sre_attention_tensor_bytes(void) { return sizeof(struct ggml_tensor); }
