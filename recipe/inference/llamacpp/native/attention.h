/* What the two ways of attention share: token by token (attention.c), and tiles of tokens (tiles.c). */
#ifndef SRE_ATTENTION_H
#define SRE_ATTENTION_H

#include <math.h>

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

/* What a mask adds to a cell's score. */
static inline float bias_of(const half *mask, int64_t cell) { return mask ? number(mask[cell]) : 0; }

/* Have `count` numbers of a key or a value brought near; not quite so near where they are wanted only later. */
static inline void fetch(const void *first, int count, bool later) {
    for (const char *line = first; line < (const char *) first + count * (int) sizeof(half); line += LINE) {
        if (later) {
            fetch_later(line);
        } else {
            fetch_near(line);
        }
    }
}

static inline const float *query_of(const struct part *part, int64_t token, int head) {
    return (const float *) (part->queries + token * part->query_token + head * part->query_head);
}

#define TILE 48 /* rows that are worked on at once at the most */

/* A head of a query token, and what its softmax has come to with the cells so far. */
struct row {
    _Alignas(LINE) float query[WIDEST], sum[WIDEST];
    float maximum, weight;
};

/* What is kept of a number: in single precision all of it, otherwise half. */
static inline __attribute__((always_inline)) vec kept(vec x, bool single) { return single ? x : round_half(x); }

/* A head of a token that has seen no cell yet. */
static inline __attribute__((always_inline)) void begin_row(
    struct row *row, const struct part *part, int64_t token, int head, int width, bool single) {
    const float *query = query_of(part, token, head);
    for (int d = 0; d < width; d += LANES) {
        store(row->query + d, kept(load(query + d), single));
        store(row->sum + d, all(0));
    }
    row->maximum = -INFINITY;
    row->weight = 0;
}

/* What a head of a token comes to: its sum of weighted values by the sum of the weights. */
static inline __attribute__((always_inline)) void write_result(
    const struct part *part, int64_t token, int head, int width, const struct row *row) {
    float *result = (float *) (part->results + token * part->result_token + head * part->result_head);
    const vec share = all(row->weight == 0 ? 0 : 1 / row->weight);
    for (int d = 0; d < width; d += LANES) store(result + d, mul(load(row->sum + d), share));
}

/* Cells that a token sees, and what the mask adds to their scores. */
struct cells {
    int count;
    int64_t at[BLOCK];
    float bias[BLOCK];
};

/* Have a token, all of whose heads are in `rows`, see these cells, in single precision. */
void sre_attend_cells(const struct part *part, struct row *rows, struct cells *cells);

/* The results of `tokens` from the `first` on, whose heads are TILE at the most; the cells are a multiple of eight. */
void sre_attend_tile(const struct part *part, int64_t first, int tokens);

#endif
