/* What the two ways of attention share: token by token (attention.c), and tiles of tokens (tiles.c). */
#ifndef SRE_ATTENTION_H
#define SRE_ATTENTION_H

#include "vectors.h"

#define SLAB (4 * LANES) /* numbers of a head that are worked on at once */
#define WIDEST 256       /* numbers of a head */
#define BLOCK 64         /* cells worked on at once */
#define NOTHING 0xFC00   /* a mask's minus infinity */

/* The heads that share the keys and values of one head of a stream. Strides are in bytes. */
struct part {
    const char *queries, *keys, *values, *mask; /* mask: NULL where every token sees every cell */
    char *results;
    size_t query_token, query_head, key, value, mask_token, result_token, result_head;
    int64_t cells;
    float scale;
    int group, width; /* heads, and the numbers of each */
};

static inline const half *mask_of(const struct part *part, int64_t token) {
    return part->mask ? (const half *) (part->mask + token * part->mask_token) : NULL;
}

static inline const float *query_of(const struct part *part, int64_t token, int head) {
    return (const float *) (part->queries + token * part->query_token + head * part->query_head);
}

/* What a head of a token comes to: its sum of weighted values by the sum of the weights. */
static inline __attribute__((always_inline)) void write_result(
    const struct part *part, int64_t token, int head, int width, const float *sum, float weight) {
    float *result = (float *) (part->results + token * part->result_token + head * part->result_head);
    const vec share = all(weight == 0 ? 0 : 1 / weight);
    for (int d = 0; d < width; d += LANES) store(result + d, mul(load(sum + d), share));
}

#define TILE 48 /* (token, head) pairs that are worked on at once at the most */

static inline int64_t tile_tokens(int64_t group) { return group < TILE ? TILE / group : 1; }

/* The results of `count` tokens from the `first` on, tile_tokens at the most. False, and nothing done, where they see
 * hardly any cells in common, have more heads than a tile takes, or the cells are no multiple of eight. */
bool sre_attend_tile(const struct part *part, int64_t first, int count);

#endif
