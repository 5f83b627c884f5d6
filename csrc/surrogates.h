// ds/du of every surrogate, u = h - threshold. Equations and sources: spimm/surrogate.py.
#pragma once

#include "lif.h"
#include "vectors.h"

namespace spimm::SPIMM_ISA {

// V: float, or a vector of floats.
template <Shape shape, class V> inline V surrogate_derivative(V u, float a, float b) {
    const V zero{}, far = zero + 1e15f;  // the square of what is limited to `far` has a reciprocal
    if constexpr (shape == Shape::sigmoid) {  // a s (1 - s), s = 1 / (1 + exp(-a u)), is even: exp(-a |u|) serves both sides
        const V e = power_of_two(absolute(u) * (-1.44269504f * a)), r = reciprocal(1.0f + e);
        return (a * e) * (r * r);
    } else if constexpr (shape == Shape::atan) {
        const V w = u * (1.57079632679f * a);
        return (0.5f * a) * reciprocal(at_most(1e29f, 1.0f + w * w));
    } else if constexpr (shape == Shape::rectangle) {  // height a, half-width b
        return absolute(u) < zero + b ? zero + a : zero;
    } else if constexpr (shape == Shape::triangle) {  // height a, half-width b
        const V w = a - absolute(u) * (a / b);
        return w < zero ? zero : w;  // NaN stays
    } else if constexpr (shape == Shape::fast_sigmoid) {
        const V w = absolute(u) * a, limited = w > far ? far : w, r = reciprocal(1.0f + limited);
        return r * r;
    } else {  // Gaussian: density of N(0, a^2)
        return (0.39894228f / a) * power_of_two(u * u * (-0.5f * 1.44269504f / (a * a)));
    }
}

// The same for the gradients of bfloat16, whose rounding is coarser than a rough reciprocal.
template <Shape shape, class S> inline Vec surrogate_slope(Vec u, float a, float b) {
    if constexpr (shape == Shape::atan && sizeof(S) != sizeof(float)) {
        const Vec w = u * (1.57079632679f * a);
        return (0.5f * a) * rough_reciprocal(1.0f + w * w);
    }
    return surrogate_derivative<shape>(u, a, b);
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

}  // namespace spimm::SPIMM_ISA
