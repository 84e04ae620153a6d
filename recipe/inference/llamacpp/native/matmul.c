/* Products of a weight matrix in half precision or bfloat16 with two and more tokens: where decoding side by side and
 * reading prompts spend most of their time. Takes the place of llama.cpp's function of the same arguments where it can, and
 * leaves it the rest (see `suits`).
 *
 * Each number is the sum that llama.cpp makes, in its order, so that the result is the same bit for bit. What differs: the
 * weights that come next are fetched while the present ones are worked on, sums are finished four at a time, tokens are
 * dealt to tiles of nearly one size, and no thread waits for another.
 */
#include "vectors.h"

#define ROWS 4                        /* of weights in a tile */
#define TOKENS (LANES == 16 ? 6 : 3)  /* in a tile at the most: its sums fit the registers */
#define TOKENS_NEAR 96                /* whose numbers stay in the processor's cache while weights go by */
#define LONGEST 4096                  /* numbers of a row: from there on rows outgrow the first level of it */

typedef bool (*matmul)(const struct params *, int64_t, int64_t, int64_t, const void *, int64_t, const void *, int64_t,
                       void *, int64_t, int, int, int);

/* Numbers of two bytes, rows of them `stride` numbers apart. */
struct matrix {
    const half *data;
    int64_t stride;
};

/* Numbers that one vector of operands holds; 0 where the type is left to llama.cpp. */
static inline int64_t operands(int type) {
#ifdef __AVX512BF16__
    if (type == GGML_TYPE_BF16) return 2 * LANES;
#endif
    return type == GGML_TYPE_F16 ? LANES : 0;
}

static inline __attribute__((always_inline)) vec operand(int type, const half *p) {
#ifdef __AVX512BF16__
    if (type == GGML_TYPE_BF16) return load_bfloat(p);
#endif
    return load_half(p);
}

static inline __attribute__((always_inline)) vec multiply_add(int type, vec a, vec b, vec c) {
#ifdef __AVX512BF16__
    if (type == GGML_TYPE_BF16) return fma_bfloat(a, b, c);
#endif
    return fma_(a, b, c);
}

/* ROWS weights' products with `count` tokens, `k` numbers long, into `c` [count][stride]. */
static inline __attribute__((always_inline)) void tile(
    int type, int count, struct matrix a, struct matrix b, int64_t k, float *c, int64_t stride) {
    vec sum[TOKENS][ROWS];
    for (int j = 0; j < count; j++) {
        for (int i = 0; i < ROWS; i++) sum[j][i] = all(0);
    }
    for (int64_t at = 0; at < k; at += operands(type)) {
        vec token[TOKENS];
        for (int j = 0; j < count; j++) token[j] = operand(type, b.data + j * b.stride + at);
        for (int i = 0; i < ROWS; i++) {
            const vec weight = operand(type, a.data + i * a.stride + at);
            for (int j = 0; j < count; j++) sum[j][i] = multiply_add(type, weight, token[j], sum[j][i]);
        }
    }
    for (int j = 0; j < count; j++) store_sums(c + j * stride, sum[j]);
}

/* Rows `first` to `last` of the weights `a`, times `tokens` of `b`. */
static inline __attribute__((always_inline)) void multiply(
    int type, struct matrix a, int64_t first, int64_t last, struct matrix b, int64_t tokens, int64_t k, float *c,
    int64_t stride) {
    const int64_t tiles = (tokens + TOKENS - 1) / TOKENS;
    const int64_t bytes = ROWS * a.stride * (int64_t) sizeof(half), share = (bytes / tiles / LINE + 1) * LINE;
    for (int64_t row = first; row < last; row += ROWS) {
        const struct matrix weights = {a.data + row * a.stride, a.stride};
        const char *next = (const char *) (weights.data + ROWS * a.stride);
        for (int64_t t = 0; t < tiles; t++) {
            const int64_t begin = tokens * t / tiles, count = tokens * (t + 1) / tiles - begin;
            for (int64_t at = t * share; row + ROWS < last && at < (t + 1) * share; at += LINE) fetch_later(next + at);
            const struct matrix part = {b.data + begin * b.stride, b.stride};
            float *place = c + begin * stride + row;
#define TILE(count) tile(type, count, weights, part, k, place, stride)
            /* Numbers the compiler knows: the sums stay in registers. */
            switch (count) {
                case 1: TILE(1); break;
                case 2: TILE(2); break;
                case 3: TILE(3); break;
#if LANES == 16
                case 4: TILE(4); break;
                case 5: TILE(5); break;
                case 6: TILE(6); break;
#endif
            }
        }
    }
}

/* What is done here. llama.cpp keeps: one token, rows that aren't a multiple of the tile's or of a vector long, very long
 * ones, and other types. All threads decide alike: its own function has them wait for each other. */
static bool suits(int64_t m, int64_t n, int64_t k, int a_type, int b_type, int c_type) {
    const int64_t lanes = operands(a_type);
    return lanes && b_type == a_type && c_type == GGML_TYPE_F32 && n >= 2 && m % ROWS == 0 && k % lanes == 0 && k <= LONGEST;
}

/* Weights a [m][lda] of k numbers a row, tokens b [n][ldb], results c [n][ldc]: c[j][i] = a[i] * b[j]. Each thread does some
 * rows of weights. False where nobody does it in this way. */
static bool forward(const struct params *params, int64_t m, int64_t n, int64_t k, const void *a, int64_t lda, const void *b,
                    int64_t ldb, void *c, int64_t ldc, int a_type, int b_type, int c_type) {
    if (!suits(m, n, k, a_type, b_type, c_type)) {
        return ((matmul) sre_matmul.own)(params, m, n, k, a, lda, b, ldb, c, ldc, a_type, b_type, c_type);
    }
    count_call(&sre_matmul, params);
    const int64_t blocks = m / ROWS, parts = (n + TOKENS_NEAR - 1) / TOKENS_NEAR;
    const int64_t first = blocks * params->thread / params->threads * ROWS;
    const int64_t last = blocks * (params->thread + 1) / params->threads * ROWS;
    for (int64_t part = 0; part < parts; part++) {
        const int64_t begin = n * part / parts, tokens = n * (part + 1) / parts - begin;
        const struct matrix weights = {a, lda}, inputs = {(const half *) b + begin * ldb, ldb};
        float *results = (float *) c + begin * ldc;
        if (a_type == GGML_TYPE_F16) multiply(GGML_TYPE_F16, weights, first, last, inputs, tokens, k, results, ldc);
#ifdef __AVX512BF16__
        if (a_type == GGML_TYPE_BF16) multiply(GGML_TYPE_BF16, weights, first, last, inputs, tokens, k, results, ldc);
#endif
    }
    return true;
}

struct kernel sre_matmul = {"llamafile_sgemm", (void *) forward, NULL, 0};
