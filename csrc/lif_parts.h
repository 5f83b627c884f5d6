// What the passes of a LIF with optional batch normalisation share. Included by files that are compiled once per
// instruction set.
#pragma once

#include "affine.h"
#include "aligned.h"
#include "lif.h"
#include "steps.h"

namespace spimm::SPIMM_ISA {

constexpr int together = 4;  // registers that take each step side by side: their chains of dependent operations overlap

// Per-channel numbers repeated along a tile, with room for a register that begins at the tile's last element.
struct PerChannel {
    std::vector<float> values;

    PerChannel(const Tiling &tiling, const std::vector<float> &per_channel) : values(tiling.repeat(per_channel.data())) {
        values.resize(values.size() + lanes);
    }
    Vec at(int64_t i) const { return load_vec(values.data() + i); }
};

template <bool part> inline void add_to(std::vector<float> &sums, int64_t i, Vec value, int64_t count) {
    float *at = sums.data() + i;
    write<part>(at, read<part>(at, count) + value, false, count);
}

// How a pass walks over the tiles. Inner functions copy what they need to locals, which no store can alias.
struct Walk {
    const Tiling tiling;
    const int64_t plane, T;
    const bool downwards;

    Walk(const Extent &extent, bool downwards)
        : tiling(extent.rows, extent.channels, together * lanes), plane(extent.rows * extent.channels), T(extent.num_steps),
          downwards(downwards) {}
    int64_t next() const { return downwards ? -tiling.size : tiling.size; }
    Share share() const { return Share(tiling.num_tiles, omp_get_thread_num(), omp_get_num_threads()); }
};

template <class S> struct Onward {
    const Walk walk;
    const Neuron neuron;
    const PerChannel scale, shift;
    const Steps<S> x, residual, added, v0, spikes, membrane, v_end;
    const std::vector<float> thresholds;

    Onward(const Forward &io, const Neuron &neuron, const Extent &extent, const Walk &walk, const Affine &affine)
        : walk(walk), neuron(neuron), scale(walk.tiling, affine.scale), shift(walk.tiling, affine.shift),
          x(io.x, extent.x_shared ? 0 : walk.plane), residual(io.residual, walk.plane), added(io.added, walk.plane),
          v0(io.v0, 0), spikes(io.spikes, walk.plane, walk.T, true), membrane(io.membrane, walk.plane, walk.T, true),
          v_end(io.v_end, walk.plane, 1, true), thresholds(io.thresholds, io.thresholds + io.num_thresholds) {}
};

// What the passes of one backward call share.
template <class S> struct Reverse {
    const Backward io;
    const Neuron neuron;
    const Extent extent;
    const Walk walk;
    const Affine affine;
    const PerChannel scale, shift, mean, ones;
    const Steps<S> x, residual, membrane, v0, grad_spikes, grad_v_end, grad_membrane, grad_residual, grad_v0, to_x, grad_x;
    const std::vector<float> thresholds;

    Reverse(const Backward &io, const Neuron &neuron, const Extent &extent)
        : io(io), neuron(neuron), extent(extent), walk(extent, false), affine(io.norm, extent.channels),
          scale(walk.tiling, affine.scale), shift(walk.tiling, affine.shift), mean(walk.tiling, affine.mean),
          ones(walk.tiling, std::vector<float>(extent.channels, 1.0f)),
          x(io.x, extent.x_shared ? 0 : walk.plane), residual(io.residual, walk.plane), membrane(io.membrane, walk.plane),
          v0(io.v0, 0), grad_spikes(io.grad_spikes, walk.plane), grad_v_end(io.grad_v_end, 0),
          grad_membrane(io.grad_membrane, walk.plane),
          grad_residual(io.grad_residual, walk.plane, walk.T, false), grad_v0(io.grad_v0, walk.plane, 1, false),
          to_x(io.grad_x, walk.plane, extent.x_shared ? 1 : walk.T, true), grad_x(first_x()),
          thresholds(io.thresholds, io.thresholds + io.num_thresholds) {}

    // Of decay, gain and the thresholds.
    int64_t num_coefficients() const { return thresholds.empty() ? 3 : 2 + static_cast<int64_t>(thresholds.size()); }
    bool of_batch() const { return io.norm.weight != nullptr && io.norm.of_batch; }
    // Where grad_z waits for the second pass.
    bool in_residual() const { return grad_residual && !extent.x_shared; }
    // Where the first pass writes that of x: not if it is in the residual's, not past the caches if it is read again.
    Steps<S> first_x() const {
        Steps<S> first = to_x;
        if (of_batch()) first.stream = false;
        if (of_batch() && in_residual()) first.data = nullptr;
        return first;
    }

    // From rest, from spikes alone and to x alone, the reset detached: what training mostly asks for.
    bool is_plain() const {
        return !residual && !membrane && !v0 && !grad_v_end && !grad_membrane && !grad_residual && !grad_v0 &&
               !extent.x_shared && neuron.detach_reset && io.grad_coefficients == nullptr;
    }
};

struct ThreadSums {
    TileSum bias, weight;
    std::vector<double> coefficients;
    Aligned<float> potentials;
};

// Where the gradients of z go: of U registers at one step, then of what all steps sum.
template <class S, bool plain, int U, bool part> struct Delivery {
    const Steps<S> x, grad_x, grad_residual;
    const bool norm_sums, shared;
    Vec over_steps[U] = {}, to_bias[U] = {}, to_weight[U] = {};

    explicit Delivery(const Reverse<S> &re)
        : x(re.x), grad_x(re.grad_x), grad_residual(re.grad_residual), norm_sums(re.io.norm.weight != nullptr),
          shared(!plain && re.extent.x_shared) {}

    // e: elements before these in a step, i: in the tile.
    inline void step(const Reverse<S> &re, const PerChannel &k0, const Vec (&grad_z)[U], int64_t t, int64_t e, int64_t i, int64_t count) {
        if (norm_sums)
            for (int u = 0; u < U; ++u) {
                to_bias[u] += grad_z[u];
                const Vec centred = read<part>(x.at(t, e + u * lanes), count) - re.mean.at(i + u * lanes);
                to_weight[u] = fma(grad_z[u], centred, to_weight[u]);
            }
        if (!plain && grad_residual)
            for (int u = 0; u < U; ++u) write<part>(grad_residual.at(t, e + u * lanes), grad_z[u], false, count);
        if (shared)
            for (int u = 0; u < U; ++u) over_steps[u] += grad_z[u];
        else if (grad_x)
            for (int u = 0; u < U; ++u)
                write<part>(grad_x.at(t, e + u * lanes), grad_z[u] * k0.at(i + u * lanes), grad_x.stream, count);
    }
    inline void end(const PerChannel &k0, ThreadSums &mine, int64_t e, int64_t i, int64_t count) {
        for (int u = 0; u < U; ++u) {
            const int64_t k = e + u * lanes, j = i + u * lanes;
            if (norm_sums) {
                add_to<part>(mine.bias.tile, j, to_bias[u], count);
                add_to<part>(mine.weight.tile, j, to_weight[u], count);
            }
            if (shared) write<part>(grad_x.at(0, k), over_steps[u] * k0.at(j), grad_x.stream, count);
            over_steps[u] = to_bias[u] = to_weight[u] = Vec{};
        }
    }
};

}  // namespace spimm::SPIMM_ISA
