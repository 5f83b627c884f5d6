// Spike times under the dynamic firing threshold: the plain structs that cross the border to Python.
#pragma once

#include "storage.h"

namespace spimm {

// Maps are [images, height, width, channels], channels fastest; pooled ones [images, height / pool, width / pool, channels],
// rounded down. A pool of 1 takes any row of values as one map.
struct SpikeExtent {
    int64_t images, height, width, channels, pool;
};

struct FiringWindow {
    float length, clip;
    bool closed;  // a potential of exactly 0 at its end is a spike
};

struct RelPSPKernels {
    // drive: two maps, of the potentials where the window starts and of their slopes; spikes: two pooled maps, of what is
    // left of the window when a neuron fires and of whether it does.
    void (*forward)(Storage, const void *drive, void *spikes, const FiringWindow &, const SpikeExtent &, int num_threads);
    // grad: of the first map of spikes; grad_drive: as drive.
    void (*backward)(Storage, const void *drive, const void *grad, void *grad_drive, const FiringWindow &, const SpikeExtent &,
                     int num_threads);
};

}  // namespace spimm
