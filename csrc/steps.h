// Arrays of time steps, registers of them, and what one step of the neuron does. Included by files that are compiled once
// per instruction set.
#pragma once

#include "memory.h"
#include "surrogates.h"
#include "tiles.h"

namespace spimm::SPIMM_ISA {

// A [num_steps, rows, channels] array in reach of one tile; null stays null. `stream`: written past the caches.
template <class S> struct Steps {
    S *data;
    int64_t step;
    bool stream = false;

    Steps(const void *array, int64_t step) : data(static_cast<S *>(const_cast<void *>(array))), step(step) {}
    Steps(void *array, int64_t step, int64_t num_steps, bool for_stream) : Steps(array, step) {
        const int64_t bytes = step * static_cast<int64_t>(sizeof(S));
        stream = for_stream && streams(num_steps * bytes) && reinterpret_cast<uintptr_t>(array) % 64 == 0 && bytes % 64 == 0;
        prefer_large_pages(array, num_steps * bytes);
    }
    explicit operator bool() const { return data != nullptr; }
    S *at(int64_t t, int64_t i) const { return data + t * step + i; }
};

template <bool part, class S> inline Vec read(const S *from, int64_t count) {
    if constexpr (part) return load_vec(from, count);
    return load_vec(from);
}

template <bool part, class S> inline void write(S *to, Vec value, bool stream, int64_t count) {
    if constexpr (part) store_vec(to, value, count);
    else if (stream) stream_vec(to, value);
    else store_vec(to, value);
}

// 1 where the neuron fires, else 0.
template <bool part> inline void write_ones(float *to, Mask fires, bool stream, int64_t count) {
    write<part>(to, fires ? all(1.0f) : Vec{}, stream, count);
}
template <bool part> inline void write_ones(bfloat16 *to, Mask fires, bool stream, int64_t count) {
    const Halves ones = low_halves(std::bit_cast<Words>(fires) & 0x3f80u);
    if constexpr (part) store_halves(to, ones, count);
    else if (stream) stream_halves(to, ones);
    else std::memcpy(to, &ones, sizeof ones);
}

inline Vec spikes_of(Vec h, Vec threshold) { return h >= threshold ? all(1.0f) : Vec{}; }

// Asks for the same place of the tile to be visited next: the T steps lie too far apart for the processor to guess.
template <int U, bool to_write = false, class S> inline void ask(const S *at, int64_t next) {
    constexpr int elements = 64 / sizeof(S);
    for (int i = 0; i < U * lanes; i += elements) __builtin_prefetch(at + next + i, to_write ? 1 : 0, 2);
}

// The gradient of the potential that goes past a reset to rest. Times 0, not 0: what is not a number stays so.
inline Vec past_reset(Vec h, Vec threshold, Vec grad_v) { return grad_v * (h >= threshold ? Vec{} : all(1.0f)); }

template <bool soft> inline Vec after_reset(Vec h, Vec threshold) {
    const Vec fired = soft ? h - threshold : Vec{};
    return h >= threshold ? fired : h;
}

// One step back in time, U registers of neurons side by side: from the gradients of their spikes and of the potentials after
// the step to those of the potentials before the reset. `slope` is that of the surrogate.
template <class S, Shape shape, bool soft, int U>
inline void reverse_fire(const Vec (&h)[U], const Vec (&grad_s)[U], const Vec (&grad_v)[U], Vec threshold, bool attached,
                         float slope_a, float slope_b, Vec (&slope)[U], Vec (&grad_h)[U]) {
    for (int u = 0; u < U; ++u) {
        slope[u] = surrogate_slope<shape, S>(h[u] - threshold, slope_a, slope_b);
        const Vec through = soft ? grad_v[u] : past_reset(h[u], threshold, grad_v[u]);
        grad_h[u] = fma(grad_s[u], slope[u], through);
    }
    if (attached)
        for (int u = 0; u < U; ++u) grad_h[u] -= grad_v[u] * slope[u] * (soft ? threshold : h[u]);
}

// Adds what one step gives to the gradients of (decay, gain, threshold); v is the potential before the step.
template <bool soft>
inline void add_coefficient_gradients(Vec sums[3], bool attached, Vec threshold, Vec h, Vec v, Vec z, Vec slope, Vec grad_s,
                                      Vec grad_v, Vec grad_h) {
    const Vec none{};
    const Vec through_reset = (attached ? slope * (soft ? threshold : h) : none) - (soft ? spikes_of(h, threshold) : none);
    sums[0] = fma(grad_h, v, sums[0]);
    sums[1] = fma(grad_h, z, sums[1]);
    sums[2] += grad_v * through_reset - grad_s * slope;
}

}  // namespace spimm::SPIMM_ISA
