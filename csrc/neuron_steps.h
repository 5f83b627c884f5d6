// Charge, fire, reset of neurons whose inputs lie in tiles of floats, one step at a time, forwards and backwards.
//
// Tiles are whole registers long (`padded`); what is beyond the neurons is zero, or at least finite with no gradient.
// Included by files that are compiled once per instruction set.
#pragma once

#include "steps.h"

#include <new>
#include <type_traits>

namespace spimm::SPIMM_ISA {

constexpr int64_t padded(int64_t n) { return (n + lanes - 1) / lanes * lanes; }

// Floats that begin on a cache line: a register that crosses from one to the next costs two accesses.
template <class T> struct LineAllocator {
    using value_type = T;
    T *allocate(size_t n) { return static_cast<T *>(::operator new(n * sizeof(T), std::align_val_t(64))); }
    void deallocate(T *values, size_t) { ::operator delete(values, std::align_val_t(64)); }
    bool operator==(const LineAllocator &) const { return true; }
};
using Floats = std::vector<float, LineAllocator<float>>;

// `count` of the elements of a register that are wanted: all, known when compiled, or fewer.
using Whole = std::integral_constant<int64_t, lanes>;

template <class S> inline Vec load_vec(const S *from, Whole) { return load_vec(from); }
template <class S> inline void store_vec(S *to, Vec value, Whole) { store_vec(to, value); }

// Calls f(i, count) for each register of n elements.
template <class F> inline void for_each_register(int64_t n, const F &f) {
    int64_t i = 0;
    for (; i + lanes <= n; i += lanes) f(i, Whole{});
    if (i < n) f(i, n - i);
}

inline Vec charge(const Neuron &neuron, Vec v, Vec z) { return fma(all(neuron.decay), v, neuron.gain * z); }

// The potentials after a step from those before it.
inline void advance(const Neuron &neuron, const float *z, const float *v, float *v_after, int64_t n) {
    const auto steps = [&]<bool soft>() {
        for (int64_t i = 0; i < n; i += lanes)
            store_vec(v_after + i, after_reset<soft>(charge(neuron, load_vec(v + i), load_vec(z + i)), all(neuron.threshold)));
    };
    neuron.soft_reset ? steps.template operator()<true>() : steps.template operator()<false>();
}

struct CoefficientSums { double total[3] = {}; };  // of (decay, gain, threshold)

// One step back in time. v: potentials before the step. `grad` goes from the gradient of the spikes to that of z, grad_v
// from that of the potentials after the step to those before it. Adds to `sums` (null: not wanted).
template <bool soft, Shape shape, bool learns>
void reverse_step_as(const Neuron &neuron, const float *v_tile, const float *z_tile, float *grad, float *grad_v, int64_t n,
                     CoefficientSums *sums) {
    const Vec threshold = all(neuron.threshold);
    const bool attached = !neuron.detach_reset;
    Vec to_coefficients[3] = {};
    for (int64_t i = 0; i < n; i += lanes) {
        const Vec v = load_vec(v_tile + i), z = load_vec(z_tile + i), h = charge(neuron, v, z);
        const Vec slope = surrogate_derivative<shape>(h - threshold, neuron.surrogate_a, neuron.surrogate_b);
        const Vec grad_s = load_vec(grad + i), grad_after = load_vec(grad_v + i);
        Vec through = soft ? grad_after : past_reset(h, threshold, grad_after);
        if (attached) through -= grad_after * slope * (soft ? threshold : h);
        const Vec grad_h = fma(grad_s, slope, through);
        store_vec(grad_v + i, neuron.decay * grad_h);
        store_vec(grad + i, neuron.gain * grad_h);
        if constexpr (learns)
            add_coefficient_gradients<soft>(to_coefficients, attached, threshold, h, v, z, slope, grad_s, grad_after, grad_h);
    }
    for (int k = 0; k < 3 && learns; ++k) sums->total[k] += sum(to_coefficients[k]);
}

inline void reverse_step(const Neuron &neuron, const float *v, const float *z, float *grad, float *grad_v, int64_t n,
                         CoefficientSums *sums) {
    with_shape(neuron.shape, [&]<Shape shape>() {
        const int form = (neuron.soft_reset ? 2 : 0) + (sums != nullptr ? 1 : 0);
        switch (form) {
        case 0: return reverse_step_as<false, shape, false>(neuron, v, z, grad, grad_v, n, sums);
        case 1: return reverse_step_as<false, shape, true>(neuron, v, z, grad, grad_v, n, sums);
        case 2: return reverse_step_as<true, shape, false>(neuron, v, z, grad, grad_v, n, sums);
        default: return reverse_step_as<true, shape, true>(neuron, v, z, grad, grad_v, n, sums);
        }
    });
}

}  // namespace spimm::SPIMM_ISA
