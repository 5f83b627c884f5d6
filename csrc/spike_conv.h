// Convolutions that add a row of weights for each spike and skip the zeros, and the weight gradient on the same principle.
#pragma once

#include "storage.h"

namespace spimm {

// Stride 1, square odd kernel, zeros around the image so that height and width stay. Arrays are [images, height, width,
// channels], channels fastest.
struct ConvExtent {
    int64_t images, height, width, in_channels, out_channels, kernel;
};

struct SpikeConvKernels {
    // Non-zero values of x among about `sample` of them, evenly spread, as a share of those looked at.
    double (*density)(Storage, const void *x, int64_t size, int64_t sample);
    // weight is [kernel, kernel, in, out] in float; bias [out] or null.
    void (*forward)(Storage, const void *x, const float *weight, const float *bias, void *y, const ConvExtent &, int num_threads);
    // grad_weight is [in, kernel, kernel, out] in float.
    void (*grad_weight)(Storage, const void *x, const void *grad_y, float *grad_weight, const ConvExtent &, int num_threads);
};

}  // namespace spimm
