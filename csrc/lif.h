// Charge, fire, reset, with optional batch normalisation in front: the plain structs that cross the border to Python.
#pragma once

#include "storage.h"

namespace spimm {

// Shapes of surrogate derivatives; the numbers are those of spimm/surrogate.py.
enum class Shape : int { sigmoid = 0, atan = 1, rectangle = 2, triangle = 3, fast_sigmoid = 4, gaussian = 5 };

// h = decay v + gain z;  s = [h >= threshold];  hard reset: v = (1 - s) h;  soft reset: v = h - threshold s.
// Potentials are measured from the reset potential, so that a hard reset is always to 0.
struct Neuron {
    float decay, gain, threshold;
    bool soft_reset, detach_reset;
    Shape shape;
    float surrogate_a, surrogate_b;
};

// Arrays are [num_steps, rows, channels], channels fastest. `x_shared`: x has one step, used at every step.
// Without normalisation the channels carry no meaning: callers then pass rows = all elements of a step, channels = 1.
struct Extent {
    int64_t num_steps, rows, channels;
    bool x_shared;
};

// weight (x - mean) / sqrt(variance + eps) + bias; weight null: none. With statistics of the batch the forward pass
// writes mean and (biased) variance, and the gradient also flows through them.
struct Norm {
    const float *weight, *bias;
    float *mean, *variance;
    float eps;
    bool of_batch;
};

// z = Norm(x) + residual, spikes = LIF(z) + added. Any pointer but x and spikes may be null: no residual, nothing added,
// from rest, not wanted. Where the membrane is wanted, z is what was stored there. With `thresholds` there are as many
// LIFs, each with one of them in place of the neuron's own, from rest and without v_end and membrane; spikes is their sum.
struct Forward {
    const void *x, *residual, *added, *v0;
    Norm norm;
    void *spikes, *v_end, *membrane;
    const float *thresholds = nullptr;
    int num_thresholds = 0;
};

// With `membrane`, z is read from there and the residual is not. grad_weight and grad_bias hold one value per channel;
// grad_coefficients is that of (decay, gain, threshold), or of all `thresholds`. Null pointers as in Forward; gradients:
// zero, or not wanted.
struct Backward {
    const void *x, *residual, *membrane, *v0;
    Norm norm;
    const void *grad_spikes, *grad_v_end, *grad_membrane;
    void *grad_x, *grad_residual, *grad_v0;
    float *grad_weight, *grad_bias;
    double *grad_coefficients;
    const float *thresholds = nullptr;
    int num_thresholds = 0;
};

struct LifKernels {
    void (*channel_moments)(Storage, const void *x, int64_t rows, int64_t channels, double *mean, double *variance,
                            int num_threads);
    void (*forward)(Storage, const Forward &, const Neuron &, const Extent &, int num_threads);
    void (*backward)(Storage, const Backward &, const Neuron &, const Extent &, int num_threads);
};

}  // namespace spimm
