// Convolutions that add a row of weights for each spike and skip the zeros, and the weight gradient on the same principle.
#pragma once

#include "lif.h"

namespace spimm {

// Stride 1, square odd kernel, zeros around the image so that height and width stay. Arrays are [images, height, width,
// channels], channels fastest.
struct ConvExtent {
    int64_t images, height, width, in_channels, out_channels, kernel;
};

struct SpikeConvKernels {
    // Non-zero values of x among about `sample` of them, evenly spread, as a share of those looked at.
    double (*density)(Storage, const void *x, int64_t size, int64_t sample);
    // weight is [out, kernel, kernel, in], stored as x; bias [out] in float, or null. With num_steps 0 y is the convolution of
    // x [images, ...]; else LIF(convolution) + added, from rest, without gradients: x is [num_steps, images, ...], or one step
    // for all, added and y are [num_steps, images, height, width, out], and no potential reaches memory. added may be null.
    // Images among whose values no more than `limit` are not 0 add up their events. y does not depend on it by a bit.
    void (*forward)(Storage, const void *x, const void *weight, const float *bias, const void *added, void *y, const Neuron &,
                    const ConvExtent &, int64_t num_steps, bool x_shared, double limit, int num_threads);
    // grad_weight is [out, kernel, kernel, in], stored as x.
    void (*grad_weight)(Storage, const void *x, const void *grad_y, void *grad_weight, const ConvExtent &, int num_threads);
};

}  // namespace spimm
