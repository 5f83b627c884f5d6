// Batch norm, 3x3 max-pool of stride 2 and padding 1, charge, fire, reset: the plain structs that cross the border to Python.
#pragma once

#include "lif.h"

namespace spimm {

// x: [num_steps or 1, images, height, width, channels], channels fastest; pooled: ceil(height / 2), ceil(width / 2).
// `x_shared`: x has one step, used at every step.
struct PoolExtent {
    int64_t num_steps, images, height, width, channels;
    bool x_shared;
};

struct PoolForward {
    const void *x;
    Norm norm;
    void *spikes;
};

// grad_pooled (stored as x) and `winners` (which of a window's nine elements was the largest) are scratch memory of the
// size of the pooled x, winners 64 bytes longer. The rest as Backward of lif.h.
struct PoolBackward {
    const void *x;
    Norm norm;
    const void *grad_spikes;
    void *grad_pooled;
    uint8_t *winners;
    void *grad_x;
    float *grad_weight, *grad_bias;
    double *grad_coefficients;
};

struct PoolKernels {
    void (*forward)(Storage, const PoolForward &, const Neuron &, const PoolExtent &, int num_threads);
    void (*backward)(Storage, const PoolBackward &, const Neuron &, const PoolExtent &, int num_threads);
};

}  // namespace spimm
