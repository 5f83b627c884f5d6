// Charge, fire, reset with optional batch normalisation in front, forward and backward. Compiled once per instruction set.
//
// A register of neurons runs through all time steps, so that x is read once, spikes are written once and potentials never
// reach memory. Passes over the same array alternate in direction: the end of one is in the cache when the next begins.
#include "lif_parts.h"
#include "several.h"

namespace spimm::SPIMM_ISA {

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
    const bool several = !on.thresholds.empty();
#pragma omp parallel num_threads(num_threads)
    {
        const Aligned<float> scratch = aligned<float>(several ? 2 * on.walk.T * together * lanes : 0);
        on.walk.share().walk(on.walk.downwards, [&](int64_t tile) {
            const int64_t begin = on.walk.tiling.begin(tile), n = on.walk.tiling.length(tile);
            const int64_t whole = n / (together * lanes) * (together * lanes);
            if (several) return forward_several<S, soft>(on, scratch.get(), begin, whole, n);
            forward_span<S, soft, together, false>(on, begin, 0, whole);
            forward_span<S, soft, 1, true>(on, begin, whole, n);
        });
        end_of_streaming();
    }
}

// `plain`: see Reverse. Writes the gradients of v0, of the residual and of the normalised input, the last times k0.
template <class S, Shape shape, bool soft, bool plain, int U, bool part>
static void backward_span(const Reverse<S> &re, const PerChannel &k0, ThreadSums &mine, int64_t begin, int64_t i, int64_t end) {
    const Steps<S> x = re.x, residual = re.residual, membrane = re.membrane, v0 = re.v0, grad_spikes = re.grad_spikes;
    const Steps<S> grad_v_end = re.grad_v_end, grad_membrane = re.grad_membrane, grad_x = re.grad_x, grad_v0 = re.grad_v0;
    const Vec decay = all(re.neuron.decay), gain = all(re.neuron.gain), threshold = all(re.neuron.threshold), none{};
    const float slope_a = re.neuron.surrogate_a, slope_b = re.neuron.surrogate_b;
    const bool learns = !plain && re.io.grad_coefficients != nullptr;
    const bool attached = !plain && !re.neuron.detach_reset, shared = !plain && re.extent.x_shared;
    Delivery<S, plain, U, part> delivery(re);
    const int64_t T = re.walk.T, next = re.walk.next();
    Vec coefficient_sums[3] = {};
    float *potentials = mine.potentials.get();
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
        Vec v[U], grad_v[U];
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
            for (int u = 0; u < U; ++u) h[u] = kept(t, u), grad_s[u] = read<part>(grad_spikes.at(t, e + u * lanes), count);
            reverse_fire<S, shape, soft>(h, grad_s, grad_v, threshold, attached, slope_a, slope_b, slope, grad_h);
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
            delivery.step(re, k0, grad_z, t, e, i, count);
        }
        delivery.end(k0, mine, e, i, count);
        for (int u = 0; u < U && !plain && grad_v0; ++u) write<part>(grad_v0.at(0, e + u * lanes), grad_v[u], false, count);
    }
    if (learns)
        for (int c = 0; c < 3; ++c) mine.coefficients[c] += sum(coefficient_sums[c]);
}

template <class S, Shape shape, bool soft, bool plain>
static void backward_pass(const Reverse<S> &re, const PerChannel &k0, int num_threads) {
    const int64_t channels = re.io.norm.weight != nullptr ? re.extent.channels : 0;
    const Tiling &tiling = re.walk.tiling;
    const bool several = !re.thresholds.empty();
    std::vector<std::vector<double>> parts(num_threads);
#pragma omp parallel num_threads(num_threads)
    {
        ThreadSums mine{TileSum(tiling.size, channels), TileSum(tiling.size, channels)};
        mine.coefficients.resize(re.num_coefficients());
        mine.potentials = aligned<float>((several ? 3 : 1) * re.walk.T * together * lanes);
        re.walk.share().walk(re.walk.downwards, [&](int64_t tile) {
            const int64_t begin = tiling.begin(tile), n = tiling.length(tile);
            const int64_t whole = n / (together * lanes) * (together * lanes);
            if constexpr (!plain) {
                if (several) backward_several<S, shape, soft>(re, k0, mine, begin, whole, n);
            }
            if (plain || !several) {
                backward_span<S, shape, soft, plain, together, false>(re, k0, mine, begin, 0, whole);
                if (whole < n) backward_span<S, shape, soft, false, 1, true>(re, k0, mine, begin, whole, n);
            }
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
    const int64_t first = re.num_coefficients();
    if (re.io.grad_coefficients != nullptr) std::copy_n(total.begin(), first, re.io.grad_coefficients);
    for (int64_t c = 0; c < channels; ++c) {
        re.io.grad_bias[c] = static_cast<float>(total[first + c]);
        re.io.grad_weight[c] = static_cast<float>(total[first + channels + c] * re.affine.rstd[c]);
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
    re.is_plain() && re.thresholds.empty() ? backward_pass<S, shape, soft, true>(re, k0, num_threads)
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
