// Linear spiking self-attention, y = scale q (k^T v) per image and head: the plain structs that cross the border to Python.
#pragma once

#include "storage.h"

namespace spimm {

// qkv: [images, tokens, 3 channels], channels fastest, q's, then k's, then v's; an image is one step of one sample.
struct AttentionExtent {
    int64_t images, tokens, channels, heads;
};

struct AttentionKernels {
    // y: [images, tokens, channels], stored as qkv.
    void (*forward)(Storage, const void *qkv, void *y, const AttentionExtent &, float scale, int num_threads);
    // grad_y is laid out as y, grad_qkv as qkv.
    void (*backward)(Storage, const void *qkv, const void *grad_y, void *grad_qkv, const AttentionExtent &, float scale,
                     int num_threads);
};

}  // namespace spimm
