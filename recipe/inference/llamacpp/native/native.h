/* What the kernels and install.c share. */
#ifndef SRE_NATIVE_H
#define SRE_NATIVE_H

#include <stdbool.h>
#include <stdint.h>

#include "ggml.h"

typedef uint16_t half;

/* The first fields of what ggml hands each thread: its number, and how many there are. */
struct params {
    int thread, threads;
};

/* A function of ggml's CPU library and ours in its place; llama.cpp's own does what ours leaves to it. */
struct kernel {
    const char *name;
    void *ours, *own;
    long calls;
};

extern struct kernel sre_attention, sre_matmul;

/* Counted by one thread of those that share a call. */
static inline void count_call(struct kernel *kernel, const struct params *params) {
    if (params->thread == 0) kernel->calls++;
}

#endif
