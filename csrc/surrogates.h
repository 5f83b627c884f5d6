// ds/du of every surrogate, u = h - threshold. Equations and sources: spimm/surrogate.py.
#pragma once

#include "lif.h"
#include "vector_math.h"

namespace spimm {

template <Shape shape> inline float surrogate_derivative(float u, float a, float b) {
    if constexpr (shape == Shape::sigmoid) {  // a s (1 - s), s = 1 / (1 + exp(-a u)), is even: exp(-a |u|) serves both sides
        const float e = exp_of_negative(-a * absolute(u));
        return a * e / ((1.0f + e) * (1.0f + e));
    } else if constexpr (shape == Shape::atan) {
        const float w = 1.57079632679f * a * u;
        return 0.5f * a / (1.0f + w * w);
    } else if constexpr (shape == Shape::rectangle) {  // height a, half-width b
        return absolute(u) < b ? a : 0.0f;
    } else if constexpr (shape == Shape::triangle) {  // height a, half-width b
        const float w = a - absolute(u) * (a / b);
        return w > 0.0f ? w : 0.0f;
    } else if constexpr (shape == Shape::fast_sigmoid) {
        const float d = 1.0f + a * absolute(u);
        return 1.0f / (d * d);
    } else {  // Gaussian: density of N(0, a^2)
        return 0.39894228f / a * exp_of_negative(-0.5f / (a * a) * u * u);
    }
}

// Calls f.template operator()<shape>(), which brings a shape known at run time into a loop as a constant.
template <class F> inline void with_shape(Shape shape, const F &f) {
    switch (shape) {
    case Shape::sigmoid: return f.template operator()<Shape::sigmoid>();
    case Shape::atan: return f.template operator()<Shape::atan>();
    case Shape::rectangle: return f.template operator()<Shape::rectangle>();
    case Shape::triangle: return f.template operator()<Shape::triangle>();
    case Shape::fast_sigmoid: return f.template operator()<Shape::fast_sigmoid>();
    case Shape::gaussian: return f.template operator()<Shape::gaussian>();
    }
}

}  // namespace spimm
