// Charge, fire, reset with optional batch normalisation in front, forward and backward. Compiled once per instruction set.
//
// A tile of one step's elements runs through all time steps, so that x is read once, spikes are written once and potentials
// never reach memory.
#include "lif.h"
#include "surrogates.h"
#include "tiles.h"

#include <omp.h>

namespace spimm::SPIMM_ISA {

// The inputs of the neurons, z = scale x + shift + residual, of one tile of one step.
template <class S, bool has_norm, bool has_residual> struct NeuronInput {
    const S *__restrict x, *__restrict residual;
    const float *__restrict scale, *__restrict shift;

    NeuronInput(const void *x, const void *residual, const float *scale, const float *shift, const Extent &extent, int64_t begin,
                int64_t t)
        : x(static_cast<const S *>(x) + begin + (extent.x_shared ? 0 : t * extent.rows * extent.channels)),
          residual(has_residual ? static_cast<const S *>(residual) + begin + t * extent.rows * extent.channels : nullptr),
          scale(scale), shift(shift) {}

    float operator[](int64_t i) const {
        float z = load(x[i]);
        if constexpr (has_norm) z = z * scale[i] + shift[i];
        if constexpr (has_residual) z += load(residual[i]);
        return z;
    }
};

static inline float after_reset(float h, float threshold, bool soft) {
    const bool fires = h >= threshold;
    return soft ? h - (fires ? threshold : 0.0f) : (fires ? 0.0f : h);
}

template <class S, bool has_norm, bool has_residual, bool soft>
static void forward(const Forward &io, const Neuron &neuron, const Extent &extent, int num_threads) {
    const Tiling tiling(extent.rows, extent.channels);
    const int64_t plane = extent.rows * extent.channels;
    const std::vector<float> scale = tiling.repeat(io.scale), shift = tiling.repeat(io.shift);
    const float decay = neuron.decay, gain = neuron.gain, threshold = neuron.threshold;
#pragma omp parallel num_threads(num_threads)
    {
        std::vector<float> v_tile(tiling.size);
        float *__restrict v = v_tile.data();
#pragma omp for schedule(static)
        for (int64_t tile = 0; tile < tiling.num_tiles; ++tile) {
            const int64_t begin = tiling.begin(tile), n = tiling.length(tile);
            load_state<S>(io.v0, begin, v, n);
            for (int64_t t = 0; t < extent.num_steps; ++t) {
                const NeuronInput<S, has_norm, has_residual> z(io.x, io.residual, scale.data(), shift.data(), extent, begin, t);
                S *__restrict spikes = static_cast<S *>(io.spikes) + begin + t * plane;
                prefetch_next<S>(z.x, 0, n);
                prefetch_next<S, true>(spikes, 0, n);
                for (int64_t i = 0; i < n; ++i) {
                    const float h = decay * v[i] + gain * z[i];
                    spikes[i] = store<S>(h >= threshold ? 1.0f : 0.0f);
                    v[i] = after_reset(h, threshold, soft);
                }
            }
            if (io.v_end != nullptr) store_tile<S>(v, io.v_end, begin, n);
        }
    }
}

// One step back in time over a tile: from the gradients of the spikes and of the potential after the reset to those of
// h times gain (grad_z) and of the potential before (grad_v, in place). `attached`: 1 if gradient flows through the reset.
template <bool soft>
static void reverse_step(const Neuron &neuron, const float *__restrict h, const float *__restrict grad_s,
                         float *__restrict grad_v, float *__restrict grad_z, int64_t n) {
    const float decay = neuron.decay, gain = neuron.gain, threshold = neuron.threshold;
    const float a = neuron.surrogate_a, b = neuron.surrogate_b, attached = neuron.detach_reset ? 0.0f : 1.0f;
    with_shape(neuron.shape, [&]<Shape shape>() {
        for (int64_t i = 0; i < n; ++i) {
            const float slope = surrogate_derivative<shape>(h[i] - threshold, a, b);
            const float fires = h[i] >= threshold ? 1.0f : 0.0f;
            const float keep = soft ? 1.0f - attached * threshold * slope : 1.0f - fires - attached * h[i] * slope;
            const float grad_h = grad_s[i] * slope + grad_v[i] * keep;
            grad_v[i] = decay * grad_h;
            grad_z[i] = gain * grad_h;
        }
    });
}

// What one step adds to the gradient of (decay, gain, threshold), before reverse_step; v is the potential before the step.
template <bool soft>
static void coefficient_gradients(const Neuron &neuron, const float *__restrict h, const float *__restrict v,
                                  const float *__restrict z, const float *__restrict grad_s, const float *__restrict grad_v,
                                  float *__restrict to_decay, float *__restrict to_gain, float *__restrict to_threshold,
                                  int64_t n) {
    const float threshold = neuron.threshold, attached = neuron.detach_reset ? 0.0f : 1.0f;
    const float a = neuron.surrogate_a, b = neuron.surrogate_b;
    with_shape(neuron.shape, [&]<Shape shape>() {
        for (int64_t i = 0; i < n; ++i) {
            const float slope = surrogate_derivative<shape>(h[i] - threshold, a, b);
            const float fires = h[i] >= threshold ? 1.0f : 0.0f;
            const float keep = soft ? 1.0f - attached * threshold * slope : 1.0f - fires - attached * h[i] * slope;
            const float through_reset = attached * (soft ? threshold : h[i]) * slope - (soft ? fires : 0.0f);
            const float grad_h = grad_s[i] * slope + grad_v[i] * keep;
            to_decay[i] += grad_h * v[i];
            to_gain[i] += grad_h * z[i];
            to_threshold[i] += grad_v[i] * through_reset - grad_s[i] * slope;
        }
    });
}

template <class S, bool has_norm, bool has_residual, bool soft>
static void backward(const Backward &io, const Neuron &neuron, const Extent &extent, int num_threads) {
    const Tiling tiling(extent.rows, extent.channels);
    const int64_t channels = extent.channels, plane = extent.rows * channels, T = extent.num_steps, size = tiling.size;
    const std::vector<float> scale = tiling.repeat(io.scale), shift = tiling.repeat(io.shift);
    const std::vector<float> mean = tiling.repeat(io.mean), rstd = tiling.repeat(io.rstd);
    const bool second_pass = has_norm && io.batch_statistics, frozen_norm = has_norm && !io.batch_statistics;
    const bool learns = io.grad_coefficients != nullptr;
    const float decay = neuron.decay, gain = neuron.gain, threshold = neuron.threshold;
    std::vector<std::vector<double>> parts(num_threads);

#pragma omp parallel num_threads(num_threads)
    {
        std::vector<float> h_tiles(T * size), scratch(6 * size);
        float *__restrict z_tile = scratch.data(), *__restrict v = z_tile + size, *__restrict grad_v = v + size;
        float *__restrict grad_s = grad_v + size, *__restrict grad_z = grad_s + size, *__restrict shared = grad_z + size;
        TileSum bias_sum(size, has_norm ? channels : 0), weight_sum(size, has_norm ? channels : 0);
        TileSum decay_sum(size, learns ? 1 : 0), gain_sum(size, learns ? 1 : 0), threshold_sum(size, learns ? 1 : 0);

#pragma omp for schedule(static)
        for (int64_t tile = 0; tile < tiling.num_tiles; ++tile) {
            const int64_t begin = tiling.begin(tile), n = tiling.length(tile);
            const auto input_at = [&](int64_t t) {
                return NeuronInput<S, has_norm, has_residual>(io.x, io.residual, scale.data(), shift.data(), extent, begin, t);
            };

            load_state<S>(io.v0, begin, v, n);
            for (int64_t t = 0; t < T; ++t) {
                float *__restrict h = h_tiles.data() + t * size;
                const auto z = input_at(t);
                prefetch_next<S>(z.x, 0, n);
                for (int64_t i = 0; i < n; ++i) {
                    h[i] = decay * v[i] + gain * z[i];
                    v[i] = after_reset(h[i], threshold, soft);
                }
            }

            load_state<S>(io.grad_v_end, begin, grad_v, n);
            std::fill(shared, shared + n, 0.0f);
            for (int64_t t = T - 1; t >= 0; --t) {
                const float *__restrict h = h_tiles.data() + t * size;
                load_tile<S>(io.grad_spikes, begin + t * plane, grad_s, n);
                prefetch_next<S>(io.grad_spikes, begin + t * plane, n);
                if (!extent.x_shared) prefetch_next<S, true>(io.grad_x, begin + t * plane, n);

                if (learns) {
                    const auto z = input_at(t);
                    for (int64_t i = 0; i < n; ++i) z_tile[i] = z[i];
                    if (t == 0) load_state<S>(io.v0, begin, v, n);
                    else
                        for (int64_t i = 0; i < n; ++i) v[i] = after_reset(h[i - size], threshold, soft);
                    coefficient_gradients<soft>(neuron, h, v, z_tile, grad_s, grad_v, decay_sum.tile.data(),
                                                gain_sum.tile.data(), threshold_sum.tile.data(), n);
                }

                reverse_step<soft>(neuron, h, grad_s, grad_v, grad_z, n);
                if constexpr (has_residual) store_tile<S>(grad_z, io.grad_residual, begin + t * plane, n);
                if constexpr (has_norm) {
                    const S *__restrict x = static_cast<const S *>(io.x) + begin + (extent.x_shared ? 0 : t * plane);
                    float *__restrict to_bias = bias_sum.tile.data(), *__restrict to_weight = weight_sum.tile.data();
                    const float *__restrict m = mean.data(), *__restrict r = rstd.data(), *__restrict a = scale.data();
                    for (int64_t i = 0; i < n; ++i) {
                        to_bias[i] += grad_z[i];
                        to_weight[i] += grad_z[i] * ((load(x[i]) - m[i]) * r[i]);
                    }
                    if (frozen_norm)
                        for (int64_t i = 0; i < n; ++i) grad_z[i] *= a[i];
                }
                if (extent.x_shared)
                    for (int64_t i = 0; i < n; ++i) shared[i] += grad_z[i];
                else
                    store_tile<S>(grad_z, io.grad_x, begin + t * plane, n);
            }
            if (extent.x_shared) store_tile<S>(shared, io.grad_x, begin, n);
            if (io.grad_v0 != nullptr) store_tile<S>(grad_v, io.grad_v0, begin, n);
            for (TileSum *sum : {&decay_sum, &gain_sum, &threshold_sum, &bias_sum, &weight_sum}) sum->end_of_tile();
        }
        for (TileSum *sum : {&decay_sum, &gain_sum, &threshold_sum, &bias_sum, &weight_sum})
            append(parts[omp_get_thread_num()], *sum);
    }

    const std::vector<double> total = add_up(parts);
    if (learns) std::copy_n(total.begin(), 3, io.grad_coefficients);
    if constexpr (has_norm) {
        std::copy_n(total.end() - 2 * channels, channels, io.grad_bias);
        std::copy_n(total.end() - channels, channels, io.grad_weight);
    }
    if (!second_pass) return;

    // grad_x = scale (grad_z - mean(grad_z) - xhat mean(grad_z xhat)) = k0 grad_z + k1 + k2 x
    const int64_t x_rows = extent.x_shared ? extent.rows : T * extent.rows;
    std::vector<float> constant(channels), linear(channels);
    for (int64_t c = 0; c < channels; ++c) {
        const double slope = -io.scale[c] * io.rstd[c] * io.grad_weight[c] / x_rows;
        linear[c] = static_cast<float>(slope);
        constant[c] = static_cast<float>(-io.scale[c] * io.grad_bias[c] / x_rows - slope * io.mean[c]);
    }
    const Tiling all_rows(x_rows, channels);
    const std::vector<float> k0_tile = all_rows.repeat(io.scale), k1_tile = all_rows.repeat(constant.data()),
                             k2_tile = all_rows.repeat(linear.data());
#pragma omp parallel for schedule(static) num_threads(num_threads)
    for (int64_t tile = 0; tile < all_rows.num_tiles; ++tile) {
        S *__restrict grad_x = static_cast<S *>(io.grad_x) + all_rows.begin(tile);
        const S *__restrict x = static_cast<const S *>(io.x) + all_rows.begin(tile);
        const float *__restrict k0 = k0_tile.data(), *__restrict k1 = k1_tile.data(), *__restrict k2 = k2_tile.data();
        const int64_t n = all_rows.length(tile);
        for (int64_t i = 0; i < n; ++i) grad_x[i] = store<S>(k0[i] * load(grad_x[i]) + k1[i] + k2[i] * load(x[i]));
    }
}

// Mean and biased variance of each channel. Values are shifted by the first row, which keeps the difference
// E[x^2] - E[x]^2 free of cancellation when the mean is large against the spread.
template <class S>
static void channel_moments(const S *x, int64_t rows, int64_t channels, double *mean, double *variance, int num_threads) {
    const Tiling tiling(rows, channels);
    std::vector<float> first(channels);
    for (int64_t c = 0; c < channels; ++c) first[c] = load(x[c]);
    const std::vector<float> origin_tile = tiling.repeat(first.data());
    std::vector<std::vector<double>> parts(num_threads);
#pragma omp parallel num_threads(num_threads)
    {
        TileSum value_sum(tiling.size, channels), square_sum(tiling.size, channels);
#pragma omp for schedule(static)
        for (int64_t tile = 0; tile < tiling.num_tiles; ++tile) {
            const S *__restrict from = x + tiling.begin(tile);
            const float *__restrict origin = origin_tile.data();
            float *__restrict value = value_sum.tile.data(), *__restrict square = square_sum.tile.data();
            const int64_t n = tiling.length(tile);
            for (int64_t i = 0; i < n; ++i) {
                const float d = load(from[i]) - origin[i];
                value[i] += d;
                square[i] += d * d;
            }
            value_sum.end_of_tile();
            square_sum.end_of_tile();
        }
        for (TileSum *sum : {&value_sum, &square_sum}) append(parts[omp_get_thread_num()], *sum);
    }
    const std::vector<double> total = add_up(parts);
    for (int64_t c = 0; c < channels; ++c) {
        const double offset = total[c] / rows;
        mean[c] = first[c] + offset;
        variance[c] = std::max(0.0, total[channels + c] / rows - offset * offset);
    }
}

template <class S>
static void forward_for(const Forward &io, const Neuron &neuron, const Extent &extent, int num_threads) {
    const int form = (io.scale != nullptr ? 4 : 0) + (io.residual != nullptr ? 2 : 0) + (neuron.soft_reset ? 1 : 0);
    switch (form) {
    case 0: return forward<S, false, false, false>(io, neuron, extent, num_threads);
    case 1: return forward<S, false, false, true>(io, neuron, extent, num_threads);
    case 2: return forward<S, false, true, false>(io, neuron, extent, num_threads);
    case 3: return forward<S, false, true, true>(io, neuron, extent, num_threads);
    case 4: return forward<S, true, false, false>(io, neuron, extent, num_threads);
    case 5: return forward<S, true, false, true>(io, neuron, extent, num_threads);
    case 6: return forward<S, true, true, false>(io, neuron, extent, num_threads);
    default: return forward<S, true, true, true>(io, neuron, extent, num_threads);
    }
}

template <class S>
static void backward_for(const Backward &io, const Neuron &neuron, const Extent &extent, int num_threads) {
    const int form = (io.scale != nullptr ? 4 : 0) + (io.residual != nullptr ? 2 : 0) + (neuron.soft_reset ? 1 : 0);
    switch (form) {
    case 0: return backward<S, false, false, false>(io, neuron, extent, num_threads);
    case 1: return backward<S, false, false, true>(io, neuron, extent, num_threads);
    case 2: return backward<S, false, true, false>(io, neuron, extent, num_threads);
    case 3: return backward<S, false, true, true>(io, neuron, extent, num_threads);
    case 4: return backward<S, true, false, false>(io, neuron, extent, num_threads);
    case 5: return backward<S, true, false, true>(io, neuron, extent, num_threads);
    case 6: return backward<S, true, true, false>(io, neuron, extent, num_threads);
    default: return backward<S, true, true, true>(io, neuron, extent, num_threads);
    }
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
