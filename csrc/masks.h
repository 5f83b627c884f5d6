// Q-K masks: the plain structs that cross the border to Python.
#pragma once

#include "lif.h"

namespace spimm {

// qk: [num_steps, images, tokens, 2 channels], channels fastest, q's and then k's.
struct MaskExtent {
    int64_t num_steps, images, tokens, channels, heads;  // heads: of token_mask
};

// out: [num_steps, images, tokens, channels]. mask (stored as qk) and sums (of q, the inputs of the mask's neurons):
// [num_steps, images, tokens, heads] for tokens, [num_steps, images, channels] for channels.
struct MaskForward {
    const void *qk;
    void *out, *mask;
    float *sums;
};

struct MaskBackward {
    const void *qk;
    const float *sums;
    const void *grad_out;
    void *grad_qk;
    double *grad_coefficients;  // of (decay, gain, threshold), or null
};

struct MaskKernels {
    void (*token_forward)(Storage, const MaskForward &, const Neuron &, const MaskExtent &, int num_threads);
    void (*token_backward)(Storage, const MaskBackward &, const Neuron &, const MaskExtent &, int num_threads);
    void (*channel_forward)(Storage, const MaskForward &, const Neuron &, const MaskExtent &, int num_threads);
    void (*channel_backward)(Storage, const MaskBackward &, const Neuron &, const MaskExtent &, int num_threads);
};

}  // namespace spimm
