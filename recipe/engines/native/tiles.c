/* Attention of many tokens, as in reading prompts: a tile of them at once, over the cells that any of them sees. Sums are
 * in single precision, as in llama.cpp's own tiles; cells that the mask hides from the whole tile cost nothing but a look
 * at it, so that a cache may be full of other sequences. Which cells make a block depends on all tokens of a tile, so that a
 * token's result depends on them by rounding; and what is no number in a cell may reach all tokens of a tile in which one
 * sees it.
 */
#include <math.h>
#include <string.h>

#include "attention.h"

#define AT_ONCE (LANES == 16 ? 6 : 2) /* rows (token, head) whose sums fit the registers; TILE is a multiple of it */
#define COMMON 4 /* times the cells that a token sees on the average: a tile that sees more is too scattered */

struct tile {
    float query[TILE][WIDEST], sum[TILE][WIDEST]; /* row = token * group + head */
    float maximum[TILE], weight[TILE];
    float key[BLOCK][WIDEST], score[TILE][BLOCK], bias[TILE][BLOCK]; /* of one block; bias by token */
    int64_t at[BLOCK];                                               /* its cells */
    int count;
};

/* Which of the eight cells from `at` on some token sees, two bits each; adds to `pairs` how many (token, cell) that are. */
static inline unsigned seen(const struct part *part, int64_t first, int tokens, int64_t at, int64_t *pairs) {
    unsigned found = 0;
    for (int t = 0; t < tokens; t++) {
        const unsigned bits = unlike(mask_of(part, first + t) + at, NOTHING);
        found |= bits;
        *pairs += __builtin_popcount(bits) / 2;
    }
    return found;
}

/* Whether the tokens see hardly any cells in common: then a tile would mostly work for nothing. */
static bool scattered(const struct part *part, int64_t first, int tokens) {
    int64_t pairs = 0, cells = 0;
    for (int64_t at = 0; part->mask && at < part->cells; at += 8) {
        cells += __builtin_popcount(seen(part, first, tokens, at, &pairs)) / 2;
    }
    return cells * tokens > COMMON * pairs;
}

/* The next cells from `*begin` on that some token sees, BLOCK at the most, and what the mask adds to their scores. Filled up
 * to whole vectors with cells that nobody sees. */
static void next_block(struct tile *tile, const struct part *part, int64_t first, int tokens, int64_t *begin) {
    int64_t at = *begin, pairs = 0;
    tile->count = 0;
    for (; at < part->cells && tile->count <= BLOCK - 8; at += 8) {
        const unsigned bits = part->mask ? seen(part, first, tokens, at, &pairs) : 0xFFFF;
        for (int i = 0; bits && i < 8; i++) {
            if (bits >> 2 * i & 1) tile->at[tile->count++] = at + i;
        }
    }
    *begin = at;
    for (int t = 0; t < tokens; t++) {
        const half *mask = mask_of(part, first + t);
        for (int c = 0; c < tile->count; c++) tile->bias[t][c] = mask ? number(mask[tile->at[c]]) : 0;
        for (int c = tile->count; c % LANES != 0; c++) tile->bias[t][c] = -INFINITY;
    }
    for (int c = tile->count; c % LANES != 0; c++) tile->at[c] = tile->at[tile->count - 1];
}

/* AT_ONCE rows' products with the block's keys. */
static inline __attribute__((always_inline)) void score(struct tile *tile, int row, int width) {
    for (int c = 0; c < tile->count; c += 4) {
        vec sum[AT_ONCE][4];
        for (int r = 0; r < AT_ONCE; r++) {
            for (int i = 0; i < 4; i++) sum[r][i] = all(0);
        }
        for (int d = 0; d < width; d += LANES) {
            vec key[4];
            for (int i = 0; i < 4; i++) key[i] = load(tile->key[c + i] + d);
            for (int r = 0; r < AT_ONCE; r++) {
                const vec query = load(tile->query[row + r] + d);
                for (int i = 0; i < 4; i++) sum[r][i] = fma_(key[i], query, sum[r][i]);
            }
        }
        for (int r = 0; r < AT_ONCE; r++) store_sums(tile->score[row + r] + c, sum[r]);
    }
}

/* Scores into weights: their exponentials against the running maximum, to which earlier sums are brought. */
static void weigh(struct tile *tile, int row, const float *bias, float scale, int width) {
    float *score = tile->score[row];
    vec most = all(-INFINITY), sum = all(0);
    for (int c = 0; c < tile->count; c += LANES) {
        const vec x = add(mul(load(score + c), all(scale)), load(bias + c));
        store(score + c, x);
        most = larger(x, most);
    }
    const float before = tile->maximum[row], maximum = fmaxf(before, greatest(most));
    const float against = maximum == -INFINITY ? 0 : maximum; /* it may see none of them: their weights are 0 */
    if (maximum > before) {
        const float factor = expf(before - maximum);
        for (int d = 0; d < width; d += LANES) store(tile->sum[row] + d, mul(load(tile->sum[row] + d), all(factor)));
        tile->weight[row] *= factor;
        tile->maximum[row] = maximum;
    }
    for (int c = 0; c < tile->count; c += LANES) {
        const vec weight = exp_(sub(load(score + c), all(against)));
        store(score + c, weight);
        sum = add(sum, weight);
    }
    tile->weight[row] += total(sum);
}

/* Add the block's values, SLAB numbers from `d` on, to the sums of AT_ONCE rows. */
static inline __attribute__((always_inline)) void gather(struct tile *tile, int row, int d, const struct part *part) {
    vec sum[AT_ONCE][4];
    for (int r = 0; r < AT_ONCE; r++) {
        for (int j = 0; j < 4; j++) sum[r][j] = load(tile->sum[row + r] + d + j * LANES);
    }
    for (int c = 0; c < tile->count; c++) {
        const half *value = (const half *) (part->values + tile->at[c] * part->value) + d;
        vec v[4];
        for (int j = 0; j < 4; j++) v[j] = load_half(value + j * LANES);
        for (int r = 0; r < AT_ONCE; r++) {
            const vec weight = all(tile->score[row + r][c]);
            for (int j = 0; j < 4; j++) sum[r][j] = fma_(v[j], weight, sum[r][j]);
        }
    }
    for (int r = 0; r < AT_ONCE; r++) {
        for (int j = 0; j < 4; j++) store(tile->sum[row + r] + d + j * LANES, sum[r][j]);
    }
}

static inline __attribute__((always_inline)) void attend(
    struct tile *tile, const struct part *part, int64_t first, int tokens, int width) {
    const int rows = tokens * part->group, filled = (rows + AT_ONCE - 1) / AT_ONCE * AT_ONCE;
    for (int row = 0; row < filled; row++) {
        const float *query = query_of(part, first + row / part->group, row % part->group);
        for (int d = 0; d < width; d += LANES) {
            store(tile->query[row] + d, row < rows ? load(query + d) : all(0));
            store(tile->sum[row] + d, all(0));
        }
        memset(tile->score[row], 0, sizeof tile->score[row]);
        tile->maximum[row] = -INFINITY;
        tile->weight[row] = 0;
    }
    for (int64_t begin = 0; begin < part->cells;) {
        next_block(tile, part, first, tokens, &begin);
        if (!tile->count) break;
        for (int c = 0; c < (tile->count + 3) / 4 * 4; c++) {
            const half *key = (const half *) (part->keys + tile->at[c] * part->key);
            for (int d = 0; d < width; d += LANES) store(tile->key[c] + d, load_half(key + d));
        }
        for (int row = 0; row < filled; row += AT_ONCE) {
            score(tile, row, width);
            for (int r = row; r < row + AT_ONCE && r < rows; r++) {
                weigh(tile, r, tile->bias[r / part->group], part->scale, width);
            }
            for (int d = 0; d < width; d += SLAB) gather(tile, row, d, part);
        }
    }
    for (int row = 0; row < rows; row++) {
        const int64_t token = first + row / part->group;
        write_result(part, token, row % part->group, width, tile->sum[row], tile->weight[row]);
    }
}

bool sre_attend_tile(const struct part *part, int64_t first, int tokens) {
    if (tokens * part->group > TILE || part->cells % 8 != 0 || scattered(part, first, tokens)) return false;
    static _Thread_local struct tile tile; /* too much for the stack of some threads */
    if (part->width == 64) {
        attend(&tile, part, first, tokens, 64); /* a number the compiler knows: it unrolls the loops */
    } else {
        attend(&tile, part, first, tokens, part->width);
    }
    return true;
}
