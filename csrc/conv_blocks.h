// The weights of a convolution in blocks of output channels, and how the sums of a block reach memory. Included by files
// that are compiled once per instruction set.
#pragma once

#include "neuron_steps.h"
#include "rows.h"

#include <type_traits>

namespace spimm::SPIMM_ISA {

// What is convolved, and the neuron after it unless `num_steps` is 0. x: [x_steps, images, ...]; added may be null.
template <class S> struct ConvCall {
    const S *x, *added;
    S *y;
    Neuron neuron;
    int64_t num_steps;
    bool x_shared;
    ConvExtent e;

    int64_t x_steps() const { return num_steps == 0 || x_shared ? 1 : num_steps; }
    int64_t weights() const { return e.out_channels * e.kernel * e.kernel * e.in_channels; }
    int64_t plane() const { return e.height * e.width; }
    int64_t pixels() const { return e.images * plane(); }
    ConvCall as_one_line() const {  // what a 1x1 kernel sees
        ConvCall call = *this;
        call.e.width = pixels(), call.e.height = call.e.images = 1;
        return call;
    }
};

template <class P, class S> inline P converted(S value) {
    if constexpr (std::is_same_v<P, S>) return value;
    else return store<P>(load(value));
}

// [out, rows] -> [blocks, rows, width lanes] stored as P, zeros after the last channel.
template <class P, class S>
inline Aligned<P> in_blocks(const S *weight, int64_t rows, int64_t out_channels, int64_t width, int num_threads) {
    constexpr int64_t chunk = 16;
    const int64_t size = width * lanes, blocks = (out_channels + size - 1) / size;
    Aligned<P> packed = aligned<P>(blocks * rows * size);
#pragma omp parallel for collapse(2) num_threads(num_threads) schedule(static)
    for (int64_t block = 0; block < blocks; ++block)
        for (int64_t begin = 0; begin < rows; begin += chunk) {
            const int64_t end = std::min(rows, begin + chunk);
            P *to = packed.get() + block * rows * size;
            for (int64_t o = 0; o < size; ++o) {
                const int64_t place = slot<P>(o), channel = block * size + o;
                for (int64_t row = begin; row < end; ++row)
                    to[row * size + place] = channel < out_channels ? converted<P>(weight[channel * rows + row]) : P{};
            }
        }
    return packed;
}

// What a call convolves with, cut into blocks of `width` registers of output channels; no bias is a bias of 0.
template <class P, int width> struct Blocks {
    static constexpr int64_t size = width * lanes;
    int64_t out_channels, row_count, count;
    Aligned<P> weight;
    std::vector<float> bias;

    template <class S>
    Blocks(const S *weight, const float *bias, const ConvExtent &e, int num_threads)
        : out_channels(e.out_channels), row_count(e.kernel * e.kernel * e.in_channels), count((out_channels + size - 1) / size),
          weight(in_blocks<P>(weight, row_count, out_channels, width, num_threads)), bias(count * size, 0.0f) {
        if (bias == nullptr) return;
        for (int64_t o = 0; o < out_channels; ++o) this->bias[o] = bias[o] + 0.0f;  // a sum that starts at -0 minds what is skipped
    }

    const P *rows_of(int64_t block) const { return weight.get() + block * row_count * size; }
    const float *bias_of(int64_t block) const { return bias.data() + block * size; }
    int64_t channels_of(int64_t block) const { return std::min(size, out_channels - block * size); }
};

template <class S, int width>
inline void store_block(const Vec (&sum)[width], S *to, int64_t n) {
    if constexpr (sizeof(S) == sizeof(float))
        if (n == width * lanes) {
            for (int j = 0; j < width; ++j) store_vec(reinterpret_cast<float *>(to) + j * lanes, sum[j]);
            return;
        }
    float values[width * lanes];
    for (int j = 0; j < width; ++j) store_vec(values + j * lanes, sum[j]);
    if (n == width * lanes)
        for (int64_t i = 0; i < width * lanes; ++i) to[i] = store<S>(values[i]);
    else
        for (int64_t i = 0; i < n; ++i) to[i] = store<S>(values[i]);
}

template <class S, int width>
inline void add_block(Vec (&sum)[width], const S *from, int64_t n) {
    float values[width * lanes] = {};
    for (int64_t i = 0; i < n; ++i) values[i] = load(from[i]);
    for (int j = 0; j < width; ++j) sum[j] += load_vec(values + j * lanes);
}

// One step of the neurons that charge with `sum` from potentials v: stores spikes + added (null: nothing).
template <class S, int width>
inline void fire_block(const Neuron &neuron, Vec (&v)[width], const Vec (&sum)[width], const S *added, S *spikes, int64_t n) {
    const Vec threshold = all(neuron.threshold);
    Vec out[width];
    for (int j = 0; j < width; ++j) {
        const Vec h = charge(neuron, v[j], sum[j]);
        out[j] = spikes_of(h, threshold);
        v[j] = neuron.soft_reset ? after_reset<true>(h, threshold) : after_reset<false>(h, threshold);
    }
    if (added != nullptr) add_block<S, width>(out, added, n);
    store_block<S, width>(out, spikes, n);
}

}  // namespace spimm::SPIMM_ISA
