// Charge, fire, reset with optional batch normalisation in front, forward and backward. Compiled once per instruction set.
//
// A register of neurons runs through all time steps, so that x is read once, spikes are written once and potentials never
// reach memory. Passes over the same array alternate in direction: the end of one is in the cache when the next begins.
#include "lif.h"
#include "affine.h"
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

    Onward(const Forward &io, const Neuron &neuron, const Extent &extent, const Walk &walk, const Affine &affine)
        : walk(walk), neuron(neuron), scale(walk.tiling, affine.scale), shift(walk.tiling, affine.shift),
          x(io.x, extent.x_shared ? 0 : walk.plane), residual(io.residual, walk.plane), added(io.added, walk.plane),
          v0(io.v0, 0), spikes(io.spikes, walk.plane, walk.T, true), membrane(io.membrane, walk.plane, walk.T, true),
          v_end(io.v_end, walk.plane, 1, true) {}
};

// Elements [i, end) of the tile at `begin`, U registers at a time; `part`: one, that is perhaps not full.
template <class S, bool soft, int U, bool part>
static void forward_span(const Onward<S> &on, int64_t begin, int64_t i, int64_t end) {
    const Steps<S> x = on.x, residual = on.residual, added = on.added, v0 = on.v0;
    const Steps<S> spikes = on.spikes, membrane = on.membrane, v_end = on.v_end;
    const Vec decay = all(on.neuron.decay), gain = all(on.neuron.gain), threshold = all(on.neuron.threshold);
    const int64_t T = on.walk.T, next = on.walk.next();
    for (; i < end; i += U * lanes) {
        const int64_t e = begin + i, count = std::min<int64_t>(lanes, end - i);
        Vec v[U], a[U], b[U];
        for (int u = 0; u < U; ++u) {
            a[u] = on.scale.at(i + u * lanes), b[u] = on.shift.at(i + u * lanes);
            v[u] = v0 ? read<part>(v0.at(0, e + u * lanes), count) : Vec{};
        }
        for (int64_t t = 0; t < T; ++t) {
            ask<U>(x.at(t, e), next);
            if (!spikes.stream) ask<U, true>(spikes.at(t, e), next);
#pragma GCC unroll 4
            for (int u = 0; u < U; ++u) {
                const int64_t k = e + u * lanes;
                Vec z = fma(read<part>(x.at(t, k), count), a[u], b[u]);
                if (residual) z += read<part>(residual.at(t, k), count);
                if (membrane) {
                    z = as_stored<S>(z);
                    write<part>(membrane.at(t, k), z, membrane.stream, count);
                }
                const Vec h = fma(decay, v[u], gain * z);
                if (added) {
                    const Vec out = (h >= threshold ? all(1.0f) : Vec{}) + read<part>(added.at(t, k), count);
                    write<part>(spikes.at(t, k), out, spikes.stream, count);
                } else
                    write_ones<part>(spikes.at(t, k), h >= threshold, spikes.stream, count);
                v[u] = after_reset<soft>(h, threshold);
            }
        }
        for (int u = 0; u < U && v_end; ++u) write<part>(v_end.at(0, e + u * lanes), v[u], v_end.stream, count);
    }
}

template <class S, bool soft> static void forward(const Onward<S> &on, int num_threads) {
#pragma omp parallel num_threads(num_threads)
    {
        on.walk.share().walk(on.walk.downwards, [&](int64_t tile) {
            const int64_t begin = on.walk.tiling.begin(tile), n = on.walk.tiling.length(tile);
            const int64_t whole = n / (together * lanes) * (together * lanes);
            forward_span<S, soft, together, false>(on, begin, 0, whole);
            forward_span<S, soft, 1, true>(on, begin, whole, n);
        });
        end_of_streaming();
    }
}

// What the passes of one backward call share.
template <class S> struct Reverse {
    const Backward io;
    const Neuron neuron;
    const Extent extent;
    const Walk walk;
    const Affine affine;
    const PerChannel scale, shift, mean, ones;
    const Steps<S> x, residual, membrane, v0, grad_spikes, grad_v_end, grad_membrane, grad_residual, grad_v0, to_x, grad_x;

    Reverse(const Backward &io, const Neuron &neuron, const Extent &extent)
        : io(io), neuron(neuron), extent(extent), walk(extent, false), affine(io.norm, extent.channels),
          scale(walk.tiling, affine.scale), shift(walk.tiling, affine.shift), mean(walk.tiling, affine.mean),
          ones(walk.tiling, std::vector<float>(extent.channels, 1.0f)),
          x(io.x, extent.x_shared ? 0 : walk.plane), residual(io.residual, walk.plane), membrane(io.membrane, walk.plane),
          v0(io.v0, 0), grad_spikes(io.grad_spikes, walk.plane), grad_v_end(io.grad_v_end, 0),
          grad_membrane(io.grad_membrane, walk.plane),
          grad_residual(io.grad_residual, walk.plane, walk.T, false), grad_v0(io.grad_v0, walk.plane, 1, false),
          to_x(io.grad_x, walk.plane, extent.x_shared ? 1 : walk.T, true), grad_x(first_x()) {}

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
    std::vector<double> coefficients = std::vector<double>(3);
    std::vector<float> potentials;
};

// `plain`: see Reverse. Writes the gradients of v0, of the residual and of the normalised input, the last times k0.
template <class S, Shape shape, bool soft, bool plain, int U, bool part>
static void backward_span(const Reverse<S> &re, const PerChannel &k0, ThreadSums &mine, int64_t begin, int64_t i, int64_t end) {
    const Steps<S> x = re.x, residual = re.residual, membrane = re.membrane, v0 = re.v0, grad_spikes = re.grad_spikes;
    const Steps<S> grad_v_end = re.grad_v_end, grad_membrane = re.grad_membrane, grad_x = re.grad_x;
    const Steps<S> grad_residual = re.grad_residual, grad_v0 = re.grad_v0;
    const Vec decay = all(re.neuron.decay), gain = all(re.neuron.gain), threshold = all(re.neuron.threshold), none{};
    const float slope_a = re.neuron.surrogate_a, slope_b = re.neuron.surrogate_b;
    const bool norm_sums = re.io.norm.weight != nullptr;
    const bool learns = !plain && re.io.grad_coefficients != nullptr;
    const bool attached = !plain && !re.neuron.detach_reset, shared = !plain && re.extent.x_shared;
    const int64_t T = re.walk.T, next = re.walk.next();
    Vec coefficient_sums[3] = {};
    float *potentials = mine.potentials.data();
    const auto kept = [&](int64_t t, int u) { return load_vec(potentials + (t * U + u) * lanes); };

    for (; i < end; i += U * lanes) {
        const int64_t e = begin + i, count = std::min<int64_t>(lanes, end - i);
        const auto input = [&](int64_t t, int u) {
            const int64_t k = e + u * lanes;
            if (!plain && membrane) return read<part>(membrane.at(t, k), count);
            const Vec z = fma(read<part>(x.at(t, k), count), re.scale.at(i + u * lanes), re.shift.at(i + u * lanes));
            return !plain && residual ? z + read<part>(residual.at(t, k), count) : z;
        };
        const auto start = [&](int u) { return !plain && v0 ? read<part>(v0.at(0, e + u * lanes), count) : none; };
        Vec v[U], grad_v[U], over_steps[U] = {}, to_bias[U] = {}, to_weight[U] = {};
        for (int u = 0; u < U; ++u) {
            v[u] = start(u);
            grad_v[u] = !plain && grad_v_end ? read<part>(grad_v_end.at(0, e + u * lanes), count) : none;
        }
        for (int64_t t = 0; t < T; ++t) {
            ask<U>(!plain && membrane ? membrane.at(t, e) : x.at(t, e), next);
#pragma GCC unroll 4
            for (int u = 0; u < U; ++u) {
                const Vec h = fma(decay, v[u], gain * input(t, u));
                store_vec(potentials + (t * U + u) * lanes, h);
                v[u] = after_reset<soft>(h, threshold);
            }
        }
        for (int64_t t = T - 1; t >= 0; --t) {
            ask<U>(grad_spikes.at(t, e), next);
            if (!grad_x.stream) ask<U, true>(grad_x.at(shared ? 0 : t, e), next);
            // Without a branch, so that the compiler can lay the long dependent chains of the registers side by side.
            Vec h[U], slope[U], grad_s[U], grad_h[U], grad_z[U];
            for (int u = 0; u < U; ++u) {
                h[u] = kept(t, u), grad_s[u] = read<part>(grad_spikes.at(t, e + u * lanes), count);
                slope[u] = surrogate_derivative<shape>(h[u] - threshold, slope_a, slope_b);
                const Vec through = soft ? grad_v[u] : (h[u] >= threshold ? none : grad_v[u]);
                grad_h[u] = fma(grad_s[u], slope[u], through);
            }
            if (attached)
                for (int u = 0; u < U; ++u) grad_h[u] -= grad_v[u] * slope[u] * (soft ? threshold : h[u]);
            if (learns)
                for (int u = 0; u < U; ++u) {
                    const Vec before = t == 0 ? start(u) : after_reset<soft>(kept(t - 1, u), threshold);
                    add_coefficient_gradients<soft>(coefficient_sums, attached, threshold, h[u], before, input(t, u), slope[u],
                                                    grad_s[u], grad_v[u], grad_h[u]);
                }
            for (int u = 0; u < U; ++u) {
                grad_v[u] = decay * grad_h[u];
                grad_z[u] = gain * grad_h[u];
            }
            if (!plain && grad_membrane)
                for (int u = 0; u < U; ++u) grad_z[u] += read<part>(grad_membrane.at(t, e + u * lanes), count);
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
        for (int u = 0; u < U; ++u) {
            const int64_t k = e + u * lanes, j = i + u * lanes;
            if (norm_sums) {
                add_to<part>(mine.bias.tile, j, to_bias[u], count);
                add_to<part>(mine.weight.tile, j, to_weight[u], count);
            }
            if (shared) write<part>(grad_x.at(0, k), over_steps[u] * k0.at(j), grad_x.stream, count);
            if (!plain && grad_v0) write<part>(grad_v0.at(0, k), grad_v[u], false, count);
        }
    }
    if (learns)
        for (int c = 0; c < 3; ++c) mine.coefficients[c] += sum(coefficient_sums[c]);
}

template <class S, Shape shape, bool soft, bool plain>
static void backward_pass(const Reverse<S> &re, const PerChannel &k0, int num_threads) {
    const int64_t channels = re.io.norm.weight != nullptr ? re.extent.channels : 0;
    const Tiling &tiling = re.walk.tiling;
    std::vector<std::vector<double>> parts(num_threads);
#pragma omp parallel num_threads(num_threads)
    {
        ThreadSums mine{TileSum(tiling.size, channels), TileSum(tiling.size, channels)};
        mine.potentials.resize(re.walk.T * together * lanes);
        re.walk.share().walk(re.walk.downwards, [&](int64_t tile) {
            const int64_t begin = tiling.begin(tile), n = tiling.length(tile);
            const int64_t whole = n / (together * lanes) * (together * lanes);
            backward_span<S, shape, soft, plain, together, false>(re, k0, mine, begin, 0, whole);
            if (whole < n) backward_span<S, shape, soft, false, 1, true>(re, k0, mine, begin, whole, n);
            mine.bias.end_of_tile();
            mine.weight.end_of_tile();
        });
        end_of_streaming();
        std::vector<double> &part = parts[omp_get_thread_num()];
        part = mine.coefficients;
        append(part, mine.bias);
        append(part, mine.weight);
    }
    const std::vector<double> total = add_up(parts);
    if (re.io.grad_coefficients != nullptr) std::copy_n(total.begin(), 3, re.io.grad_coefficients);
    for (int64_t c = 0; c < channels; ++c) {
        re.io.grad_bias[c] = static_cast<float>(total[3 + c]);
        re.io.grad_weight[c] = static_cast<float>(total[3 + channels + c] * re.affine.rstd[c]);
    }
}

// With statistics of the batch: grad_x = scale (grad_z - mean(grad_z) - xhat mean(grad_z xhat)) = scale grad_z + k1 + k2 x,
// from grad_z where the pass before left it: in the gradient of the residual, if that is wanted, else in grad_x itself.
template <class S> static void through_statistics(const Reverse<S> &re, int num_threads) {
    const Tiling &tiling = re.walk.tiling;
    const int64_t channels = re.extent.channels, x_steps = re.extent.x_shared ? 1 : re.walk.T, x_rows = x_steps * re.extent.rows;
    std::vector<float> constant(channels), linear(channels);
    for (int64_t c = 0; c < channels; ++c) {
        const double scale = re.affine.scale[c], slope = -scale * re.affine.rstd[c] * re.io.grad_weight[c] / x_rows;
        linear[c] = static_cast<float>(slope);
        constant[c] = static_cast<float>(-scale * re.io.grad_bias[c] / x_rows - slope * re.affine.mean[c]);
    }
    const PerChannel k1(tiling, constant), k2(tiling, linear);
    const Steps<S> from = re.in_residual() ? re.grad_residual : re.grad_x, x = re.x, to = re.to_x;
    const bool stream = re.in_residual() && to.stream;
#pragma omp parallel num_threads(num_threads)
    {
        const Share share(x_steps * tiling.num_tiles, omp_get_thread_num(), omp_get_num_threads());
        share.walk(true, [&](int64_t index) {
            const int64_t tile = index / x_steps, n = tiling.length(tile);  // first those that the pass before had last
            const int64_t begin = index % x_steps * re.walk.plane + tiling.begin(tile), next = -tiling.size;
            const auto block = [&]<bool part>(int64_t i) {
                const int64_t k = begin + i, count = n - i;
                const Vec offset = fma(read<part>(x.at(0, k), count), k2.at(i), k1.at(i));
                write<part>(to.at(0, k), fma(read<part>(from.at(0, k), count), re.scale.at(i), offset), stream, count);
            };
            int64_t i = 0;
            for (; i + lanes <= n; i += lanes) {
                ask<1>(x.at(0, begin + i), next);
                ask<1, true>(from.at(0, begin + i), next);
                block.template operator()<false>(i);
            }
            if (i < n) block.template operator()<true>(i);
        });
        end_of_streaming();
    }
}

template <class S, Shape shape, bool soft> static void backward(const Reverse<S> &re, int num_threads) {
    const PerChannel &k0 = re.of_batch() ? re.ones : re.scale;
    re.is_plain() ? backward_pass<S, shape, soft, true>(re, k0, num_threads)
                  : backward_pass<S, shape, soft, false>(re, k0, num_threads);
    if (re.of_batch()) through_statistics(re, num_threads);
}

template <class S>
static void forward_for(const Forward &io, const Neuron &neuron, const Extent &extent, int num_threads) {
    const int64_t x_rows = (extent.x_shared ? 1 : extent.num_steps) * extent.rows;
    take_moments<S>(io.norm, io.x, x_rows, extent.channels, num_threads);
    const Onward<S> on(io, neuron, extent, Walk(extent, io.norm.of_batch), Affine(io.norm, extent.channels));
    neuron.soft_reset ? forward<S, true>(on, num_threads) : forward<S, false>(on, num_threads);
}

template <class S>
static void backward_for(const Backward &io, const Neuron &neuron, const Extent &extent, int num_threads) {
    const Reverse<S> re(io, neuron, extent);
    with_shape(neuron.shape, [&]<Shape shape>() {
        neuron.soft_reset ? backward<S, shape, true>(re, num_threads) : backward<S, shape, false>(re, num_threads);
    });
}

static void any_moments(Storage storage, const void *x, int64_t rows, int64_t channels, double *mean, double *variance,
                        int num_threads) {
    if (storage == Storage::float32)
        channel_moments(static_cast<const float *>(x), rows, channels, mean, variance, num_threads);
    else
        channel_moments(static_cast<const bfloat16 *>(x), rows, channels, mean, variance, num_threads);
}

static void any_forward(Storage storage, const Forward &io, const Neuron &neuron, const Extent &extent, int num_threads) {
    storage == Storage::float32 ? forward_for<float>(io, neuron, extent, num_threads)
                                : forward_for<bfloat16>(io, neuron, extent, num_threads);
}

static void any_backward(Storage storage, const Backward &io, const Neuron &neuron, const Extent &extent, int num_threads) {
    storage == Storage::float32 ? backward_for<float>(io, neuron, extent, num_threads)
                                : backward_for<bfloat16>(io, neuron, extent, num_threads);
}

extern const LifKernels lif_kernels;
const LifKernels lif_kernels{any_moments, any_forward, any_backward};

}  // namespace spimm::SPIMM_ISA
