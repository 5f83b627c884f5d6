// The weight gradient of a depth-wise convolution.
#pragma once

#include "storage.h"

namespace spimm {

// Stride 1, square odd kernel, zeros around the image so that height and width stay. Arrays are [images, height, width,
// channels], channels fastest.
struct DepthwiseExtent {
    int64_t images, height, width, channels, kernel;
};

struct DepthwiseKernels {
    // grad_weight is [channels, kernel, kernel], in float.
    void (*grad_weight)(Storage, const void *x, const void *grad_y, float *grad_weight, const DepthwiseExtent &, int num_threads);
};

}  // namespace spimm
