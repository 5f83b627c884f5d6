// Several LIFs with one input, which differ in their thresholds, side by side. Where they are summed, see Forward in lif.h.
#pragma once

#include "lif.h"

namespace spimm {

// Arrays are those of Extent. out holds the spikes of one LIF after the other: [num_steps, rows, num_thresholds, channels].
// The neuron's own threshold is not used.
struct MultiForward {
    const void *x;
    const float *thresholds;
    int num_thresholds;
    void *out;
};

// grad_coefficients is that of (decay, gain, thresholds...), or null: not wanted.
struct MultiBackward {
    const void *x;
    const float *thresholds;
    int num_thresholds;
    const void *grad_out;
    void *grad_x;
    double *grad_coefficients;
};

struct MultiLifKernels {
    void (*forward)(Storage, const MultiForward &, const Neuron &, const Extent &, int num_threads);
    void (*backward)(Storage, const MultiBackward &, const Neuron &, const Extent &, int num_threads);
};

}  // namespace spimm
