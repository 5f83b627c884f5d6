// ds/du of every surrogate over a tile of u = h - threshold. Equations and sources: spimm/surrogate.py.
#pragma once

#include "kernels.h"
#include "vector_math.h"

namespace spimm {

inline void surrogate_derivative(const Neuron &neuron, const float *u, float *out, int64_t size) {
    const float a = neuron.surrogate_a, b = neuron.surrogate_b;
    switch (neuron.shape) {
    case Shape::sigmoid:  // a s (1 - s), s = 1 / (1 + exp(-a u)); even in u, so exp(-a |u|) serves both sides
        for (int64_t i = 0; i < size; ++i) {
            const float e = exp_of_negative(-a * absolute(u[i]));
            const float d = 1.0f + e;
            out[i] = a * e / (d * d);
        }
        break;
    case Shape::atan: {
        const float slope = 1.57079632679f * a;
        for (int64_t i = 0; i < size; ++i) {
            const float w = slope * u[i];
            out[i] = 0.5f * a / (1.0f + w * w);
        }
        break;
    }
    case Shape::rectangle:  // height a, half-width b
        for (int64_t i = 0; i < size; ++i) out[i] = absolute(u[i]) < b ? a : 0.0f;
        break;
    case Shape::triangle:  // height a, half-width b
        for (int64_t i = 0; i < size; ++i) {
            const float w = a - absolute(u[i]) * (a / b);
            out[i] = w > 0.0f ? w : 0.0f;
        }
        break;
    case Shape::fast_sigmoid:
        for (int64_t i = 0; i < size; ++i) {
            const float d = 1.0f + a * absolute(u[i]);
            out[i] = 1.0f / (d * d);
        }
        break;
    case Shape::gaussian: {  // density of N(0, a^2)
        const float height = 0.39894228f / a, rate = -0.5f / (a * a);
        for (int64_t i = 0; i < size; ++i) out[i] = height * exp_of_negative(rate * u[i] * u[i]);
        break;
    }
    }
}

}  // namespace spimm
