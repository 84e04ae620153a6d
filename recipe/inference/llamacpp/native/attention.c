/* Attention over keys and values in half precision. Takes the place of llama.cpp's function of the same arguments where it
 * can, and leaves it the rest (see `suits`).
 *
 * Few query tokens, as in decoding answers side by side, are done here, one by one. The arithmetic is that of
 * llama.cpp (as this project has it built: without AVX512-FP16), operation by operation and rounding by rounding (running
 * maximum, sums in half precision), so that answers stay the same. What differs is the order of the work: a key and a value
 * are read once for all heads that share them, the sums stay in registers, and exponentials are taken a vector at a time.
 * The exponential alone is another, by one unit of the last place in some cases of a thousand.
 *
 * Many tokens go to tiles.c, which comes back for the cells that hardly any of them sees.
 */
#include <math.h>
#include <string.h>

#include "attention.h"

#define HEADS (LANES / 4) /* whose sums fit the registers */

typedef void (*attention)(const struct params *, struct ggml_tensor *);

#define AHEAD 16 /* cells fetched before they are needed */

/* The next cells from `*begin` on that the mask lets through, BLOCK at the most. */
static void next_cells(struct cells *cells, const half *mask, int64_t *begin, int64_t end) {
    int64_t at = *begin;
    int count = 0;
    for (; at < end && count < BLOCK; at++) {
        while (mask && at + 8 <= end && !unlike(mask + at, NOTHING)) at += 8;
        if (at >= end) break;
        if (mask && mask[at] == NOTHING) continue;
        cells->at[count] = at;
        cells->bias[count++] = bias_of(mask, at);
    }
    *begin = at;
    cells->count = count;
}

/* A cell that is wanted later. After the last of a block it is a guess. */
static inline int64_t ahead(const struct cells *cells, int i) {
    return i + AHEAD < cells->count ? cells->at[i + AHEAD] : cells->at[i] + AHEAD;
}

/* What cells of one block do to the sums of `HEADS` rows. */
struct effects {
    float factor[HEADS][BLOCK]; /* of the value of a cell, or, where it brings a new maximum, of what was before */
    bool rises[HEADS][BLOCK];
};

/* Scores of LANES cells from the `first` on, and what they make of the running maximum. */
static inline __attribute__((always_inline)) void score(
    struct row *rows, struct effects *effects, const struct cells *cells, int first, int heads, int width,
    const struct part *part) {
    vec products[HEADS][LANES];
    for (int i = 0; i < LANES; i++) {
        const half *key = (const half *) (part->keys + cells->at[first + i] * part->key);
        const half *next = (const half *) (part->keys + ahead(cells, first + i) * part->key);
        vec parts[HEADS][4] = {0};
        for (int d = 0; d < width; d += SLAB) {
            vec k[4];
            fetch(next + d, SLAB, false);
            for (int j = 0; j < 4; j++) k[j] = load_half(key + d + j * LANES);
            for (int h = 0; h < heads; h++) {
                for (int j = 0; j < 4; j++) {
                    const vec q = load(rows[h].query + d + j * LANES);
                    parts[h][j] = fma_(k[j], q, parts[h][j]);
                }
            }
        }
        for (int h = 0; h < heads; h++) {
            products[h][i] = add(add(parts[h][0], parts[h][2]), add(parts[h][1], parts[h][3]));
        }
    }
    for (int h = 0; h < heads; h++) {
        float *factor = effects->factor[h] + first;
        bool *rises = effects->rises[h] + first;
        const vec scores = add(mul(sums(products[h]), all(part->scale)), load(cells->bias + first));
        memset(rises, 0, LANES);
        if (any_above(scores, all(rows[h].maximum))) {
            float each[LANES];
            store(each, scores);
            for (int i = 0; i < LANES; i++) {
                rises[i] = each[i] > rows[h].maximum;
                factor[i] = rises[i] ? rows[h].maximum - each[i] : each[i] - rows[h].maximum;
                if (rises[i]) rows[h].maximum = each[i];
            }
        } else {
            store(factor, sub(scores, all(rows[h].maximum)));
        }
        store(factor, exp_(load(factor)));
    }
}

/* Add the values of a block's cells, SLAB numbers from `d` on, to the sums. */
static inline __attribute__((always_inline)) void gather(
    struct row *rows, const struct effects *effects, const struct cells *cells, int d, int heads, bool single,
    const struct part *part) {
    vec sum[HEADS][4];
    for (int h = 0; h < heads; h++) {
        for (int j = 0; j < 4; j++) sum[h][j] = load(rows[h].sum + d + j * LANES);
    }
    for (int i = 0; i < cells->count; i++) {
        const half *value = (const half *) (part->values + cells->at[i] * part->value) + d;
        vec v[4];
        fetch((const half *) (part->values + ahead(cells, i) * part->value) + d, SLAB, false);
        for (int j = 0; j < 4; j++) v[j] = load_half(value + j * LANES);
        for (int h = 0; h < heads; h++) {
            vec factor = all(effects->factor[h][i]);
            if (__builtin_expect(effects->rises[h][i], 0)) {
                for (int j = 0; j < 4; j++) sum[h][j] = kept(mul(sum[h][j], factor), single);
                factor = all(1);
            }
            for (int j = 0; j < 4; j++) sum[h][j] = kept(fma_(v[j], factor, sum[h][j]), single);
        }
    }
    for (int h = 0; h < heads; h++) {
        for (int j = 0; j < 4; j++) store(rows[h].sum + d + j * LANES, sum[h][j]);
    }
}

/* Have `heads` rows of one token see a block of cells. */
static inline __attribute__((always_inline)) void attend(
    const struct part *part, struct row *rows, const struct cells *cells, int heads, int width, bool single) {
    struct effects effects;
    for (int i = 0; i < cells->count; i += LANES) score(rows, &effects, cells, i, heads, width, part);
    for (int d = 0; d < width; d += SLAB) gather(rows, &effects, cells, d, heads, single, part);
    float weight[HEADS];
    for (int h = 0; h < heads; h++) weight[h] = rows[h].weight;
    for (int i = 0; i < cells->count; i++) {
        for (int h = 0; h < heads; h++) {
            const float factor = effects.factor[h][i];
            weight[h] = effects.rises[h][i] ? fmaf(weight[h], factor, 1) : weight[h] + factor;
        }
    }
    for (int h = 0; h < heads; h++) rows[h].weight = weight[h];
}

static void attend_block(const struct part *part, struct row *rows, struct cells *cells, int heads, bool single) {
    for (int i = cells->count; i % LANES != 0; i++) { /* filled up, so that whole vectors can be read; never used */
        cells->at[i] = cells->at[cells->count - 1];
        cells->bias[i] = -INFINITY;
    }
#define CASES(width, single) \
    heads == 1 ? attend(part, rows, cells, 1, width, single) : \
    heads == 2 || HEADS == 2 ? attend(part, rows, cells, 2, width, single) : \
    heads == 3 ? attend(part, rows, cells, 3, width, single) : attend(part, rows, cells, 4, width, single)
    /* Numbers the compiler knows: it unrolls their loops. */
    if (part->width == 64 && single) {
        CASES(64, true);
    } else if (part->width == 64) {
        CASES(64, false);
    } else if (single) {
        CASES(part->width, true);
    } else {
        CASES(part->width, false);
    }
}

void sre_attend_cells(const struct part *part, struct row *rows, struct cells *cells) {
    for (int head = 0; head < part->group; head += HEADS) {
        attend_block(part, rows + head, cells, part->group - head < HEADS ? part->group - head : HEADS, true);
    }
}

/* One query token, all its heads, as llama.cpp does it. */
static void attend_token(const struct part *part, int64_t token) {
    for (int head = 0; head < part->group; head += HEADS) {
        const int heads = part->group - head < HEADS ? part->group - head : HEADS;
        struct row rows[HEADS];
        struct cells cells;
        for (int h = 0; h < heads; h++) begin_row(rows + h, part, token, head + h, part->width, false);
        for (int64_t begin = 0; begin < part->cells;) {
            next_cells(&cells, mask_of(part, token), &begin, part->cells);
            attend_block(part, rows, &cells, heads, false);
        }
        for (int h = 0; h < heads; h++) write_result(part, token, head + h, part->width, rows + h);
    }
}

/* Tokens, from which on llama.cpp works on tiles, too, in single precision. */
#define MANY 64

/* How many tokens are worked on at once: small enough for all threads to have some, where there are enough. 0: one by one,
 * as llama.cpp does it. */
static int64_t at_once(const struct ggml_tensor *result, int threads) {
    const struct ggml_tensor *q = result->src[0], *k = result->src[1];
    const int64_t group = q->ne[2] / k->ne[2];
    if (q->ne[1] < MANY || group > TILE || k->ne[1] % 8 != 0) return 0;
    int64_t size = TILE / group;
    while (size > 1 && (q->ne[1] + size - 1) / size * k->ne[2] * q->ne[3] < threads) size--;
    return size;
}

/* What is done here. llama.cpp keeps: one token of one sequence, whose cells it splits among the threads; too little for all
 * threads; other types than half precision; ALiBi, soft caps, sinks, and odd widths. All threads decide alike: its own
 * function has them wait for each other. */
static bool suits(const struct ggml_tensor *result, int threads) {
    const struct ggml_tensor *q = result->src[0], *k = result->src[1], *v = result->src[2], *mask = result->src[3];
    float alibi, cap;
    memcpy(&alibi, result->op_params + 1, sizeof alibi);
    memcpy(&cap, result->op_params + 2, sizeof cap);
    const bool plain = alibi == 0 && cap == 0 && !result->src[4];
    const bool types = q->type == GGML_TYPE_F32 && k->type == GGML_TYPE_F16 && v->type == GGML_TYPE_F16 &&
                       (!mask || (mask->type == GGML_TYPE_F16 && mask->ne[2] == 1));
    const bool close = q->nb[0] == sizeof(float) && k->nb[0] == sizeof(half) && v->nb[0] == sizeof(half);
    const bool shape = q->ne[0] % SLAB == 0 && q->ne[0] <= WIDEST && v->ne[0] == q->ne[0] && v->ne[2] == k->ne[2] &&
                       v->ne[3] == k->ne[3] && q->ne[3] == k->ne[3];
    const bool split = q->ne[1] == 1 && q->ne[3] == 1 && k->ne[1] >= 512;
    return plain && types && close && shape && !split && q->ne[1] * q->ne[3] * k->ne[2] >= threads;
}

/* q [width, tokens, heads, streams], k and v [width, cells, shared heads, streams], mask [cells, tokens, 1, streams or 1];
 * the result [width, heads, tokens, streams]. */
static struct part part_of(const struct ggml_tensor *result, int64_t kv, int64_t stream) {
    const struct ggml_tensor *q = result->src[0], *k = result->src[1], *v = result->src[2], *mask = result->src[3];
    const int64_t group = q->ne[2] / k->ne[2];
    struct part part = {
        .queries = (const char *) q->data + kv * group * q->nb[2] + stream * q->nb[3],
        .keys = (const char *) k->data + kv * k->nb[2] + stream * k->nb[3],
        .values = (const char *) v->data + kv * v->nb[2] + stream * v->nb[3],
        .mask = mask ? (const char *) mask->data + stream % mask->ne[3] * mask->nb[3] : NULL,
        .results = (char *) result->data + kv * group * result->nb[1] + stream * result->nb[3],
        .query_token = q->nb[1],
        .query_head = q->nb[2],
        .key = k->nb[1],
        .value = v->nb[1],
        .mask_token = mask ? mask->nb[1] : 0,
        .result_token = result->nb[2],
        .result_head = result->nb[1],
        .cells = k->ne[1],
        .group = (int) group,
        .width = (int) q->ne[0],
    };
    memcpy(&part.scale, result->op_params, sizeof part.scale);
    return part;
}

static void forward(const struct params *params, struct ggml_tensor *result) {
    if (!suits(result, params->threads)) {
        ((attention) sre_attention.own)(params, result);
        return;
    }
    count_call(&sre_attention, params);
    const struct ggml_tensor *q = result->src[0], *k = result->src[1];
    const int64_t tokens = q->ne[1], shared = k->ne[2], tile = at_once(result, params->threads);
    const int64_t size = tile ? tile : 1, count = (tokens + size - 1) / size;
    /* Dealt in turn: of one sequence, later tokens see more cells. */
    for (int64_t unit = params->thread; unit < q->ne[3] * count * shared; unit += params->threads) {
        const struct part part = part_of(result, unit % shared, unit / shared / count);
        const int64_t first = unit / shared % count * size, last = first + size < tokens ? first + size : tokens;
        if (tile) {
            sre_attend_tile(&part, first, (int) (last - first));
        } else {
            attend_token(&part, first);
        }
    }
}

struct kernel sre_attention = {"ggml_compute_forward_flash_attn_ext", (void *) forward, NULL, 0};
