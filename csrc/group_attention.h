// Softmax attention within groups of tokens, softmax(scale q k^T + bias) v per group and head.
#pragma once

#include "storage.h"

namespace spimm {

// qkv: [images, tokens, inputs, heads, width], channels fastest; inputs is 3 (q, k, v) or 1 (all the same). members:
// [groups, positions], the token at each position of a group, or -1 for none; every token is in one group.
struct GroupExtent {
    int64_t images, tokens, inputs, heads, width, groups, positions;
    float scale;
};

struct GroupKernels {
    // bias: [heads, positions, positions] in float, query by key. y: [images, tokens, heads, width], stored as qkv.
    void (*forward)(Storage, const void *qkv, const float *bias, const int32_t *members, void *y, const GroupExtent &,
                    int num_threads);
    // grad_y is laid out as y, grad_qkv as qkv, grad_bias as bias.
    void (*backward)(Storage, const void *qkv, const float *bias, const int32_t *members, const void *grad_y, void *grad_qkv,
                     float *grad_bias, const GroupExtent &, int num_threads);
};

}  // namespace spimm
