// Batch norm, 3x3 max-pool of stride 2 and padding 1, charge, fire, reset, forward and backward. Compiled once per
// instruction set.
//
// A tile is part of a row of pooled pixels; it runs through all time steps, so that x is read once from memory (rows that
// two windows share come from the cache) and no potential is written. The backward takes two passes: over pooled pixels,
// to recompute potentials and maxima, and over all pixels, each of which gathers from the windows that it lies in.
#include "pool.h"
#include "affine.h"
#include "neuron_steps.h"
#include "windows.h"

namespace spimm::SPIMM_ISA {

static Floats pad(const std::vector<float> &per_channel) {
    Floats values(padded(static_cast<int64_t>(per_channel.size())), 0.0f);
    std::copy(per_channel.begin(), per_channel.end(), values.begin());
    return values;
}

// Sums over channels in float, moved every few tiles to sums in double.
struct ChannelSum {
    Floats recent;
    std::vector<double> total;
    int64_t pending = 0;

    explicit ChannelSum(int64_t size) : recent(size, 0.0f), total(size, 0.0) {}
    void flush() {
        for (size_t c = 0; c < total.size(); ++c) total[c] += recent[c];
        std::fill(recent.begin(), recent.end(), 0.0f);
        pending = 0;
    }
    void end_of_tile() {
        if (++pending == 32) flush();
    }
};

template <class S, bool soft>
static void forward(const PoolForward &io, const Neuron &neuron, const PoolExtent &extent, int num_threads) {
    const Pooling pooling(extent);
    const int64_t channels = extent.channels, image_size = extent.height * extent.width * channels;
    const Affine affine(io.norm, channels);
    const Floats scale = pad(affine.scale), shift = pad(affine.shift);
#pragma omp parallel num_threads(num_threads)
    {
        Floats z_tile(pooling.size), v_tile(pooling.size), x_tile(pooling.size);
        std::vector<uint8_t> winners(pooling.columns * channels);
#pragma omp for schedule(static)
        for (int64_t index = 0; index < pooling.num_tiles; ++index) {
            const PooledTile tile(pooling, index);
            std::fill(v_tile.begin(), v_tile.end(), 0.0f);
            for (int64_t t = 0; t < extent.num_steps; ++t) {
                const int64_t x_step = extent.x_shared ? 0 : t;
                const S *image = static_cast<const S *>(io.x) + (x_step * extent.images + tile.image) * image_size;
                if (t == 0 || !extent.x_shared)
                    if (!pool_tile(image, extent, pooling, tile, scale.data(), shift.data(), z_tile.data()))
                        pool_tile_with_winners<S, true>(image, extent, pooling, tile, scale.data(), shift.data(), z_tile.data(),
                                                        x_tile.data(), winners.data());
                S *spikes = static_cast<S *>(io.spikes) +
                            (t * extent.images * pooling.height * pooling.width + tile.pixel) * channels;
                for (int64_t column = 0; column < tile.columns; ++column)
                    for_each_register(channels, [&](int64_t c, auto count) {
                        const int64_t i = column * pooling.stride + c;
                        const Vec h = charge(neuron, load_vec(v_tile.data() + i), load_vec(z_tile.data() + i));
                        store_vec(spikes + column * channels + c, spikes_of(h, all(neuron.threshold)), count);
                        store_vec(v_tile.data() + i, after_reset<soft>(h, all(neuron.threshold)));
                    });
            }
        }
    }
}

// From the gradient of the spikes to that of the pooled potentials, and the sums over them.
template <class S>
static void backward_to_pooled(const PoolBackward &io, const Neuron &neuron, const PoolExtent &extent, int num_threads) {
    const Pooling pooling(extent);
    const int64_t channels = extent.channels, image_size = extent.height * extent.width * channels, T = extent.num_steps;
    const int64_t x_steps = extent.x_shared ? 1 : T, size = pooling.size;
    const int64_t pooled_size = extent.images * pooling.height * pooling.width * channels;
    const Affine affine(io.norm, channels);
    const Floats scale = pad(affine.scale), shift = pad(affine.shift), mean = pad(affine.mean);
    std::vector<std::vector<double>> parts(num_threads);
#pragma omp parallel num_threads(num_threads)
    {
        Floats z_tiles(x_steps * size), x_tiles(x_steps * size), v_tiles((T + 1) * size), scratch(3 * size);
        float *grad = scratch.data(), *grad_v = grad + size, *total = grad_v + size;
        ChannelSum bias_sum(pooling.stride), weight_sum(pooling.stride);
        CoefficientSums coefficient_sums, *sums = io.grad_coefficients == nullptr ? nullptr : &coefficient_sums;
#pragma omp for schedule(static)
        for (int64_t index = 0; index < pooling.num_tiles; ++index) {
            const PooledTile tile(pooling, index);
            const int64_t n = tile.columns * pooling.stride;
            for (int64_t t = 0; t < T; ++t) {
                const int64_t x_step = extent.x_shared ? 0 : t;
                float *z = z_tiles.data() + x_step * size, *v = v_tiles.data() + t * size;
                if (t == x_step) {
                    const S *image = static_cast<const S *>(io.x) + (t * extent.images + tile.image) * image_size;
                    const auto pool = [&]<bool with_care>() {
                        return pool_tile_with_winners<S, with_care>(
                            image, extent, pooling, tile, scale.data(), shift.data(), z, x_tiles.data() + t * size,
                            io.winners + t * pooled_size + tile.pixel * channels);
                    };
                    if (!pool.template operator()<false>()) pool.template operator()<true>();
                }
                advance(neuron, z, v, v + size, n);
            }

            std::fill(grad, grad + 3 * size, 0.0f);
            for (int64_t t = T - 1; t >= 0; --t) {
                const int64_t x_step = extent.x_shared ? 0 : t;
                const S *grad_spikes = static_cast<const S *>(io.grad_spikes) + t * pooled_size + tile.pixel * channels;
                for (int64_t column = 0; column < tile.columns; ++column)
                    for_each_register(channels, [&](int64_t c, auto count) {
                        store_vec(grad + column * pooling.stride + c, load_vec(grad_spikes + column * channels + c, count));
                    });
                reverse_step(neuron, v_tiles.data() + t * size, z_tiles.data() + x_step * size, grad, grad_v, n, sums);
                if (extent.x_shared) {
                    for (int64_t i = 0; i < n; i += lanes) store_vec(total + i, load_vec(total + i) + load_vec(grad + i));
                    if (t > 0) continue;
                }
                const float *g_tile = extent.x_shared ? total : grad, *x_tile = x_tiles.data() + x_step * size;
                S *grad_pooled = static_cast<S *>(io.grad_pooled) + x_step * pooled_size + tile.pixel * channels;
                float *to_bias = bias_sum.recent.data(), *to_weight = weight_sum.recent.data();
                for (int64_t column = 0; column < tile.columns; ++column)
                    for_each_register(channels, [&](int64_t c, auto count) {
                        const int64_t i = column * pooling.stride + c;
                        const Vec g = load_vec(g_tile + i);
                        const Vec x = load_vec(x_tile + i) - load_vec(mean.data() + c);
                        store_vec(to_bias + c, load_vec(to_bias + c) + g);
                        store_vec(to_weight + c, fma(g, x, load_vec(to_weight + c)));
                        store_vec(grad_pooled + column * channels + c, g, count);
                    });
            }
            bias_sum.end_of_tile();
            weight_sum.end_of_tile();
        }
        std::vector<double> &part = parts[omp_get_thread_num()];
        for (ChannelSum *sum : {&bias_sum, &weight_sum}) {
            sum->flush();
            part.insert(part.end(), sum->total.begin(), sum->total.end());
        }
        part.insert(part.end(), coefficient_sums.total, coefficient_sums.total + 3);
    }
    const std::vector<double> total = add_up(parts);
    for (int64_t c = 0; c < channels; ++c) {
        io.grad_bias[c] = static_cast<float>(total[c]);
        io.grad_weight[c] = static_cast<float>(total[pooling.stride + c] * affine.rstd[c]);
    }
    if (io.grad_coefficients != nullptr) std::copy_n(total.end() - 3, 3, io.grad_coefficients);
}

// The windows that a pixel lies in, where in memory, and as which of their nine elements.
template <class S> struct Sources {
    int count = 0;
    const S *grad[4];
    const uint8_t *winners[4];
    uint32_t number[4];

    Sources(const S *grad_image, const uint8_t *winners_image, const Covering &rows, const Covering &columns, int64_t width,
            int64_t channels) {
        for (int64_t r = 0; r < rows.count; ++r)
            for (int64_t c = 0; c < columns.count; ++c, ++count) {
                const int64_t offset = (rows.window[r] * width + columns.window[c]) * channels;
                grad[count] = grad_image + offset;
                winners[count] = winners_image + offset;
                number[count] = static_cast<uint32_t>(rows.place[r] * 3 + columns.place[c]);
            }
    }

    template <int num, class Count> Vec gather(int64_t c, Count count) const {
        Vec total{};
        for (int k = 0; k < num; ++k) {
            Bytes bytes;
            std::memcpy(&bytes, winners[k] + c, sizeof bytes);
            const Vec g = load_vec(grad[k] + c, count);
            total += widen(bytes) == number[k] ? g : Vec{};
        }
        return total;
    }
};

// grad_x = k0 g + k1 + k2 x, with k1 = k2 = 0 where the statistics were given; g is gathered from the windows.
template <class S, bool of_batch>
static void backward_to_x(const PoolBackward &io, const PoolExtent &extent, int num_threads) {
    const int64_t channels = extent.channels, width = extent.width, x_steps = extent.x_shared ? 1 : extent.num_steps;
    const int64_t num_rows = x_steps * extent.images * extent.height, count = num_rows * width;
    const Pooling pooling(extent);
    const Affine affine(io.norm, channels);
    const Floats scale = pad(affine.scale);
    Floats constant(padded(channels), 0.0f), linear(padded(channels), 0.0f);
    for (int64_t c = 0; c < channels; ++c) {
        const double slope = -static_cast<double>(scale[c]) * affine.rstd[c] * io.grad_weight[c] / count;
        linear[c] = static_cast<float>(slope);
        constant[c] = static_cast<float>(-static_cast<double>(scale[c]) * io.grad_bias[c] / count - slope * affine.mean[c]);
    }
    const int64_t pixel_bytes = channels * static_cast<int64_t>(sizeof(S));
    const bool on_lines = reinterpret_cast<uintptr_t>(io.grad_x) % 64 == 0 && pixel_bytes % 64 == 0;
    const bool stream = on_lines && streams(count * pixel_bytes);
    prefer_large_pages(io.grad_x, count * pixel_bytes);
#pragma omp parallel num_threads(num_threads)
    {
        Share(num_rows, omp_get_thread_num(), omp_get_num_threads()).walk(true, [&](int64_t row) {
            const int64_t image = row / extent.height * pooling.height * pooling.width * channels;
            const Covering rows(row % extent.height, pooling.height);
            for (int64_t column = 0; column < width; ++column) {
                const Sources<S> sources(static_cast<const S *>(io.grad_pooled) + image, io.winners + image, rows,
                                         Covering(column, pooling.width), pooling.width, channels);
                const int64_t offset = (row * width + column) * channels;
                const S *x = static_cast<const S *>(io.x) + offset;
                S *grad_x = static_cast<S *>(io.grad_x) + offset;
                const auto pixel = [&]<int num>() {
                    for_each_register(channels, [&](int64_t c, auto part) {
                        Vec g = load_vec(scale.data() + c) * sources.template gather<num>(c, part);
                        if constexpr (of_batch)
                            g += fma(load_vec(linear.data() + c), load_vec(x + c, part), load_vec(constant.data() + c));
                        if (stream) stream_vec(grad_x + c, g);
                        else store_vec(grad_x + c, g, part);
                    });
                };
                switch (sources.count) {
                case 1: pixel.template operator()<1>(); break;
                case 2: pixel.template operator()<2>(); break;
                default: pixel.template operator()<4>();
                }
            }
        });
        end_of_streaming();
    }
}

template <class S>
static void forward_for(const PoolForward &io, const Neuron &neuron, const PoolExtent &extent, int num_threads) {
    const int64_t x_rows = (extent.x_shared ? 1 : extent.num_steps) * extent.images * extent.height * extent.width;
    take_moments<S>(io.norm, io.x, x_rows, extent.channels, num_threads);
    neuron.soft_reset ? forward<S, true>(io, neuron, extent, num_threads) : forward<S, false>(io, neuron, extent, num_threads);
}

template <class S>
static void backward_for(const PoolBackward &io, const Neuron &neuron, const PoolExtent &extent, int num_threads) {
    backward_to_pooled<S>(io, neuron, extent, num_threads);
    io.norm.of_batch ? backward_to_x<S, true>(io, extent, num_threads) : backward_to_x<S, false>(io, extent, num_threads);
}

static void any_forward(Storage storage, const PoolForward &io, const Neuron &neuron, const PoolExtent &extent, int num_threads) {
    storage == Storage::float32 ? forward_for<float>(io, neuron, extent, num_threads)
                                : forward_for<bfloat16>(io, neuron, extent, num_threads);
}

static void any_backward(Storage storage, const PoolBackward &io, const Neuron &neuron, const PoolExtent &extent,
                         int num_threads) {
    storage == Storage::float32 ? backward_for<float>(io, neuron, extent, num_threads)
                                : backward_for<bfloat16>(io, neuron, extent, num_threads);
}

extern const PoolKernels pool_kernels;
const PoolKernels pool_kernels{any_forward, any_backward};

}  // namespace spimm::SPIMM_ISA
