/* Attention of a tile of tokens at once, in single precision as llama.cpp's own tiles have it. A cell that several of them see is read once for all; one that few see, as each
 * answer's own, only those take, one by one. What the mask hides from the whole tile costs nothing but a look at it, so that
 * a cache may be full of other sequences. Which cells make a block depends on all tokens of a tile, so that a token's result
 * depends on them by rounding; and what is no number in a cell may reach tokens of a tile that don't see it.
 */
#include <math.h>

#include "attention.h"

#define AT_ONCE (LANES == 16 ? 6 : 2) /* rows whose sums fit the registers; TILE is a multiple of it */

struct tile {
    struct row rows[TILE]; /* token * group + head */
    struct cells own[TILE]; /* by token: what few see, until there is a block of it */
    /* The block of what several see; a bias for each token, and which of them see any of it. */
    float key[BLOCK * WIDEST], score[TILE][BLOCK], bias[TILE][BLOCK];
    bool sees[TILE];
    int64_t at[BLOCK];
    int count;
};

static void attend_own(struct tile *tile, const struct part *part, int token) {
    if (tile->own[token].count) sre_attend_cells(part, tile->rows + token * part->group, tile->own + token);
    tile->own[token].count = 0;
}

/* Keep for later those of eight cells from `at` on that the token sees and that `bits` names, two bits each. */
static void keep_own(struct tile *tile, const struct part *part, int token, const half *mask, int64_t at, unsigned bits) {
    struct cells *own = tile->own + token;
    for (int i = 0; i < 8; i++) {
        if (!(bits >> 2 * i & 1)) continue;
        own->at[own->count] = at + i;
        own->bias[own->count++] = bias_of(mask, at + i);
        fetch(part->keys + (at + i) * part->key, part->width, true);
        fetch(part->values + (at + i) * part->value, part->width, true);
    }
    if (own->count > BLOCK - 8) attend_own(tile, part, token);
}

/* Add those of eight cells from `at` on that `bits` names to the block, and what a token's mask adds to their scores. */
static void add_common(struct tile *tile, const struct part *part, int64_t at, unsigned bits) {
    for (int i = 0; i < 8; i++) {
        if (!(bits >> 2 * i & 1)) continue;
        fetch(part->keys + (at + i) * part->key, part->width, false);
        tile->at[tile->count++] = at + i;
    }
}
static void add_bias(float *bias, const half *mask, int64_t at, unsigned bits) {
    if (mask && bits == 0xFFFF) {
        eight_numbers(bias, mask + at);
        return;
    }
    for (int i = 0; i < 8; i++) {
        if (bits >> 2 * i & 1) *bias++ = bias_of(mask, at + i);
    }
}

/* The next cells from `*begin` on that at least `several` tokens see, BLOCK at the most, and what the mask adds to their
 * scores. Filled up to whole vectors with cells that nobody sees. What fewer see is taken or kept for later. */
static void next_block(
    struct tile *tile, const struct part *part, int64_t first, int tokens, int several, int64_t *begin) {
    int64_t at = *begin;
    tile->count = 0;
    for (int t = 0; t < tokens; t++) tile->sees[t] = false;
    for (; at < part->cells && tile->count <= BLOCK - 8; at += 8) {
        unsigned seen[TILE], any = 0;
        eight hidden = none();
        for (int t = 0; t < tokens; t++) {
            const half *mask = mask_of(part, first + t);
            seen[t] = mask ? unlike_counted(mask + at, NOTHING, &hidden) : 0xFFFF;
            any |= seen[t];
        }
        if (!any) continue;
        const unsigned common = at_most(hidden, tokens - several);
        const int count = tile->count;
        add_common(tile, part, at, common);
        for (int t = 0; t < tokens; t++) {
            const half *mask = mask_of(part, first + t);
            if (common) add_bias(tile->bias[t] + count, mask, at, common);
            if (seen[t] & common) tile->sees[t] = true;
            if (seen[t] & ~common) keep_own(tile, part, t, mask, at, seen[t] & ~common);
        }
    }
    *begin = at;
    for (int c = tile->count; c % LANES != 0; c++) {
        tile->at[c] = tile->at[tile->count - 1];
        for (int t = 0; t < tokens; t++) tile->bias[t][c] = -INFINITY;
    }
}

/* Whether any token of AT_ONCE rows sees any of the block. */
static bool any_sees(const struct tile *tile, int row, int group, int tokens) {
    for (int t = row / group; t <= (row + AT_ONCE - 1) / group && t < tokens; t++) {
        if (tile->sees[t]) return true;
    }
    return false;
}

/* A row's products with the block's keys. */
static inline __attribute__((always_inline)) void score(struct tile *tile, int row, int width) {
    const float *query = tile->rows[row].query;
    for (int c = 0; c < tile->count; c += LANES) {
        vec products[LANES];
        for (int i = 0; i < LANES; i++) products[i] = all(0);
        for (int d = 0; d < width; d += LANES) {
            const vec q = load(query + d);
            for (int i = 0; i < LANES; i++) products[i] = fma_(load(tile->key + (c + i) * width + d), q, products[i]);
        }
        store(tile->score[row] + c, sums(products));
    }
}

/* A row's scores into weights: their exponentials against the running maximum, to which earlier sums are brought. */
static void weigh(struct row *row, float *score, int count, const float *bias, float scale, int width) {
    vec most = all(-INFINITY), sum = all(0);
    for (int c = 0; c < count; c += LANES) {
        const vec x = add(mul(load(score + c), all(scale)), load(bias + c));
        store(score + c, x);
        most = larger(x, most);
    }
    const float maximum = fmaxf(row->maximum, greatest(most));
    const float against = maximum == -INFINITY ? 0 : maximum; /* it may see none of them: their weights are 0 */
    if (maximum > row->maximum) {
        const float factor = expf(row->maximum - maximum);
        for (int d = 0; d < width; d += LANES) store(row->sum + d, mul(load(row->sum + d), all(factor)));
        row->weight *= factor;
        row->maximum = maximum;
    }
    for (int c = 0; c < count; c += LANES) {
        const vec weight = exp_(sub(load(score + c), all(against)));
        store(score + c, weight);
        sum = add(sum, weight);
    }
    row->weight += total(sum);
}

/* Add the block's values, SLAB numbers from `d` on, to the sums of AT_ONCE rows; what rows beyond the last sum up to is
 * never read. */
static inline __attribute__((always_inline)) void gather(struct tile *tile, int row, int d, const struct part *part) {
    vec sum[AT_ONCE][4];
    for (int r = 0; r < AT_ONCE; r++) {
        for (int j = 0; j < 4; j++) sum[r][j] = load(tile->rows[row + r].sum + d + j * LANES);
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
        for (int j = 0; j < 4; j++) store(tile->rows[row + r].sum + d + j * LANES, sum[r][j]);
    }
}

static inline __attribute__((always_inline)) void attend(
    struct tile *tile, const struct part *part, int64_t first, int tokens, int width) {
    const int rows = tokens * part->group;
    /* As many as fill the rows that are worked on at once; but an answer's own cells, which it alone sees, are better done
     * one by one. */
    const int fill = AT_ONCE > 2 * part->group ? AT_ONCE / part->group : 2;
    const int several = tokens == 1 && part->group >= AT_ONCE ? 1 : fill;
    for (int r = 0; r < rows; r++) {
        begin_row(tile->rows + r, part, first + r / part->group, r % part->group, width, true);
    }
    for (int64_t begin = 0; begin < part->cells;) {
        next_block(tile, part, first, tokens, several, &begin);
        for (int c = 0; c < (tile->count + LANES - 1) / LANES * LANES; c++) {
            const half *key = (const half *) (part->keys + tile->at[c] * part->key);
            fetch(part->values + tile->at[c] * part->value, width, false);
            for (int d = 0; d < width; d += LANES) store(tile->key + c * width + d, load_half(key + d));
        }
        for (int r = 0; r < rows && tile->count; r += AT_ONCE) {
            if (!any_sees(tile, r, part->group, tokens)) continue;
            for (int i = r; i < r + AT_ONCE && i < rows; i++) {
                score(tile, i, width);
                weigh(tile->rows + i, tile->score[i], tile->count, tile->bias[i / part->group], part->scale, width);
            }
            for (int d = 0; d < width; d += SLAB) gather(tile, r, d, part);
        }
    }
    for (int t = 0; t < tokens; t++) attend_own(tile, part, t);
    for (int r = 0; r < rows; r++) {
        write_result(part, first + r / part->group, r % part->group, width, tile->rows + r);
    }
}

void sre_attend_tile(const struct part *part, int64_t first, int tokens) {
    static _Thread_local struct tile tile; /* too much for the stack of some threads */
    if (part->width == 64) {
        attend(&tile, part, first, tokens, 64); /* a number the compiler knows: it unrolls the loops */
    } else {
        attend(&tile, part, first, tokens, part->width);
    }
}
