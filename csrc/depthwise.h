// Depth-wise convolutions whose input may hold several branches: each has kernels of its own, and the output is their sum.
#pragma once

#include "storage.h"

namespace spimm {

// Square odd kernel with zeros around the image: the output has ceil(height / stride) rows. Arrays have channels fastest:
// x [images, height, width, branches, channels], y [images, out height, out width, channels, multiplier], and weight is
// [branches, channels, multiplier, kernel, kernel] in float.
struct DepthwiseExtent {
    int64_t images, height, width, channels, multiplier, branches, kernel, stride;

    int64_t out_height() const { return (height + stride - 1) / stride; }
    int64_t out_width() const { return (width + stride - 1) / stride; }
};

struct DepthwiseKernels {
    void (*forward)(Storage, const void *x, const float *weight, void *y, const DepthwiseExtent &, int num_threads);
    void (*grad_x)(Storage, const void *grad_y, const float *weight, void *grad_x, const DepthwiseExtent &, int num_threads);
    void (*grad_weight)(Storage, const void *x, const void *grad_y, float *grad_weight, const DepthwiseExtent &, int num_threads);
};

}  // namespace spimm
