/* Vectors of single-precision numbers, by AVX-512 or AVX2: the only file that names an instruction. */
#ifndef SRE_VECTORS_H
#define SRE_VECTORS_H

#include <immintrin.h>

#include "native.h"

#if defined(__AVX512F__)
#define LANES 16
#define V(name) _mm512_##name
typedef __m512 vec;
typedef __m512d wide;
#elif defined(__AVX2__) && defined(__F16C__) && defined(__FMA__)
#define LANES 8
#define V(name) _mm256_##name
typedef __m256 vec;
typedef __m256d wide;
#else
#error "neither AVX-512 nor AVX2 with half precision"
#endif

static inline vec load(const float *p) { return V(loadu_ps)(p); }
static inline void store(float *p, vec x) { V(storeu_ps)(p, x); }
static inline vec all(float x) { return V(set1_ps)(x); }
static inline vec add(vec a, vec b) { return V(add_ps)(a, b); }
static inline vec sub(vec a, vec b) { return V(sub_ps)(a, b); }
static inline vec mul(vec a, vec b) { return V(mul_ps)(a, b); }
static inline vec fma_(vec a, vec b, vec c) { return V(fmadd_ps)(a, b, c); }
static inline vec larger(vec a, vec b) { return V(max_ps)(a, b); }
static inline wide wide_all(double x) { return V(set1_pd)(x); }
static inline wide wide_sub(wide a, wide b) { return V(sub_pd)(a, b); }
static inline wide wide_fma(wide a, wide b, wide c) { return V(fmadd_pd)(a, b, c); }
static inline wide wide_fnma(wide a, wide b, wide c) { return V(fnmadd_pd)(a, b, c); }

#if LANES == 16
static inline bool any_above(vec x, vec y) { return _mm512_cmp_ps_mask(x, y, _CMP_GT_OQ) != 0; }
static inline vec load_half(const half *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) p)); }
static inline vec round_half(vec x) { return _mm512_cvtph_ps(_mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT)); }

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

/* The 128-bit parts of four vectors, added as _mm512_reduce_add_ps begins: halves, then quarters. */
static inline void quads(const vec *x, __m128 *out) {
    const vec all_four = quarters(halves(x[0], x[1]), halves(x[2], x[3]));
    out[0] = _mm512_castps512_ps128(all_four);
    out[1] = _mm512_extractf32x4_ps(all_four, 1);
    out[2] = _mm512_extractf32x4_ps(all_four, 2);
    out[3] = _mm512_extractf32x4_ps(all_four, 3);
}

#else
static inline bool any_above(vec x, vec y) { return _mm256_movemask_ps(_mm256_cmp_ps(x, y, _CMP_GT_OQ)) != 0; }
static inline vec load_half(const half *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) p)); }
static inline vec round_half(vec x) { return _mm256_cvtph_ps(_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT)); }

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

/* The halves of four vectors, added. */
static inline void quads(const vec *x, __m128 *out) {
    for (int i = 0; i < 4; i++) out[i] = _mm_add_ps(_mm256_extractf128_ps(x[i], 1), _mm256_castps256_ps128(x[i]));
}
#endif

/* The exponential: of NaN it is NaN. */
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

/* The sum of each of four vectors, added in llama.cpp's order: down to four numbers, pairs, ones. */
static inline void store_sums(float *p, const vec *x) {
    __m128 q[4];
    quads(x, q);
    const __m128 first = _mm_add_ps(_mm_movelh_ps(q[0], q[1]), _mm_movehl_ps(q[1], q[0]));
    const __m128 second = _mm_add_ps(_mm_movelh_ps(q[2], q[3]), _mm_movehl_ps(q[3], q[2]));
    _mm_storeu_ps(p, _mm_add_ps(_mm_shuffle_ps(first, second, 0x88), _mm_shuffle_ps(first, second, 0xDD)));
}

#ifdef __AVX512BF16__
/* 32 numbers of bfloat16, and their products added two by two to `c`. */
static inline vec load_bfloat(const half *p) { return load((const float *) p); }
static inline vec fma_bfloat(vec a, vec b, vec c) { return _mm512_dpbf16_ps(c, (__m512bh) a, (__m512bh) b); }
#endif

/* Have a cache line brought near: to the first level, or to the second where it is wanted only later. */
static inline void fetch_near(const void *line) { _mm_prefetch(line, _MM_HINT_T0); }
static inline void fetch_later(const void *line) { _mm_prefetch(line, _MM_HINT_T1); }
#define LINE 64 /* bytes */

/* A half as a number; eight of them. */
static inline float number(half x) { return _cvtsh_ss(x); }
static inline void eight_numbers(float *p, const half *halves) {
    _mm256_storeu_ps(p, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) halves)));
}

/* Which of eight halves are other than `what`: two bits each. One of them counts, for each, how often it was `what`; then
 * there is which of them it was at most so often. */
typedef __m128i eight;
static inline eight none(void) { return _mm_setzero_si128(); }
static inline unsigned unlike_counted(const half *p, half what, eight *alike) {
    const __m128i same = _mm_cmpeq_epi16(_mm_loadu_si128((const __m128i *) p), _mm_set1_epi16((short) what));
    *alike = _mm_sub_epi16(*alike, same);
    return (unsigned) _mm_movemask_epi8(same) ^ 0xFFFF;
}
static inline unsigned unlike(const half *p, half what) {
    eight alike = none();
    return unlike_counted(p, what, &alike);
}
static inline unsigned at_most(eight count, int most) {
    return (unsigned) _mm_movemask_epi8(_mm_cmpgt_epi16(count, _mm_set1_epi16((short) most))) ^ 0xFFFF;
}

/* The greatest number and the sum of a vector. */
static inline float greatest(vec x) {
    float each[LANES], most;
    store(each, x);
    most = each[0];
    for (int i = 1; i < LANES; i++) most = each[i] > most ? each[i] : most;
    return most;
}
static inline float total(vec x) {
    float each[LANES], sum = 0;
    store(each, x);
    for (int i = 0; i < LANES; i++) sum += each[i];
    return sum;
}

#endif
