// Q-K masks: k where a neuron fires on the sum of q over a token's heads, or over all tokens of a channel; forward and
// backward. Compiled once per instruction set.
//
// Both read the joined qk and write each result once. Token masks run a tile of tokens through all time steps; a channel
// mask needs all tokens first, so its q halves are read in one pass and its k halves in another.
#include "masks.h"
#include "neuron_steps.h"

#include <omp.h>

namespace spimm::SPIMM_ISA {

// The sum of a register in an order that needs no more than log2(lanes) additions one after the other.
static inline float sum_of_lanes(Vec v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps(v);
#else
    float values[lanes];
    std::memcpy(values, &v, sizeof v);
    for (int half = lanes / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) values[i] += values[i + half];
    return values[0];
#endif
}

// The potentials before each step of n neurons that start from rest, and what they fire: [num_steps][size].
struct MaskNeurons {
    int64_t size;
    Floats v, mask;

    MaskNeurons(int64_t num_steps, int64_t n)
        : size(padded(n)), v((num_steps + 1) * size, 0.0f), mask(num_steps * size) {}

    void step(const Neuron &neuron, int64_t t, const float *sums, int64_t n) {
        advance(neuron, sums, at(v, t), at(v, t + 1), n);
        for (int64_t i = 0; i < n; i += lanes) {
            const Vec h = charge(neuron, load_vec(at(v, t) + i), load_vec(sums + i));
            store_vec(at(mask, t) + i, spikes_of(h, all(neuron.threshold)));
        }
    }
    float *at(Floats &tiles, int64_t t) const { return tiles.data() + t * size; }
};

template <class S> static void ask_for_large_pages(void *array, const MaskExtent &extent, int64_t channels) {
    prefer_large_pages(array, extent.num_steps * extent.images * extent.tokens * channels * static_cast<int64_t>(sizeof(S)));
}

// Tiles of tokens; a tile has `heads` neurons for each of its tokens.
struct TokenTiling : Tiling {
    int64_t heads, width, neurons;

    explicit TokenTiling(const MaskExtent &extent)
        : Tiling(extent.images * extent.tokens, extent.channels), heads(extent.heads), width(extent.channels / extent.heads),
          neurons(rows_per_tile * extent.heads) {}

    int64_t first(int64_t tile) const { return tile * rows_per_tile; }
    int64_t tokens(int64_t tile) const { return length(tile) / channels; }

    // The sums over each head of rows of channels that lie `stride` apart.
    template <class S> void sum_heads(const S *rows, int64_t stride, int64_t num_tokens, float *sums) const {
        for (int64_t token = 0; token < num_tokens; ++token, rows += stride)
            for (int64_t head = 0; head < heads; ++head) {
                Vec total{};
                for_each_register(width, [&](int64_t c, auto count) { total += load_vec(rows + head * width + c, count); });
                *sums++ = sum_of_lanes(total);
            }
    }

    // One number a head, repeated for its channels, in rows of which the last has room for one register more. Whole
    // registers are written, in order, whatever the width: the next head's begin covers what is too much.
    void repeat_for_channels(const float *numbers, int64_t num_tokens, float *rows) const {
        for (int64_t i = 0; i < num_tokens * heads; ++i)
            for (int64_t c = 0; c < width; c += lanes) store_vec(rows + i * width + c, all(numbers[i]));
    }
};

template <class S>
static void token_forward(const MaskForward &io, const Neuron &neuron, const MaskExtent &extent, int num_threads) {
    const TokenTiling tiling(extent);
    const int64_t channels = extent.channels, heads = tiling.heads;
    ask_for_large_pages<S>(io.out, extent, channels);
#pragma omp parallel num_threads(num_threads)
    {
        MaskNeurons neurons(extent.num_steps, tiling.neurons);
        Floats sums(neurons.size), mask_rows(tiling.size + lanes);
#pragma omp for schedule(static)
        for (int64_t tile = 0; tile < tiling.num_tiles; ++tile) {
            const int64_t tokens = tiling.tokens(tile), n = tokens * heads;
            for (int64_t t = 0; t < extent.num_steps; ++t) {
                const int64_t first = t * tiling.rows + tiling.first(tile);
                const S *qk = static_cast<const S *>(io.qk) + first * 2 * channels;
                S *out = static_cast<S *>(io.out) + first * channels;
                prefetch_next<S>(qk, 0, tokens * 2 * channels);
                prefetch_next<S, true>(out, 0, tokens * channels);
                tiling.sum_heads(qk, 2 * channels, tokens, sums.data());
                neurons.step(neuron, t, sums.data(), n);
                const float *mask = neurons.at(neurons.mask, t);
                std::copy_n(sums.data(), n, io.sums + first * heads);
                store_tile<S>(mask, io.mask, first * heads, n);
                tiling.repeat_for_channels(mask, tokens, mask_rows.data());
                for (int64_t token = 0; token < tokens; ++token)
                    for_each_register(channels, [&](int64_t c, auto count) {
                        const Vec k = load_vec(qk + (token * 2 + 1) * channels + c, count);
                        const int64_t i = token * channels + c;
                        store_vec(out + i, load_vec(mask_rows.data() + i) * k, count);
                    });
            }
        }
    }
}

template <class S>
static void token_backward(const MaskBackward &io, const Neuron &neuron, const MaskExtent &extent, int num_threads) {
    const TokenTiling tiling(extent);
    const int64_t channels = extent.channels, heads = tiling.heads, T = extent.num_steps;
    ask_for_large_pages<S>(io.grad_qk, extent, 2 * channels);
    std::vector<std::vector<double>> parts(num_threads);
#pragma omp parallel num_threads(num_threads)
    {
        MaskNeurons neurons(T, tiling.neurons);
        const int64_t size = neurons.size;
        Floats sums(T * size), scratch(2 * size), rows(tiling.size + lanes), products(tiling.size + lanes);
        float *grad = scratch.data(), *grad_v = grad + size;
        CoefficientSums coefficient_sums;
#pragma omp for schedule(static)
        for (int64_t tile = 0; tile < tiling.num_tiles; ++tile) {
            const int64_t tokens = tiling.tokens(tile), n = tokens * heads;
            for (int64_t t = 0; t < T; ++t) {
                std::copy_n(io.sums + (t * tiling.rows + tiling.first(tile)) * heads, n, sums.data() + t * size);
                neurons.step(neuron, t, sums.data() + t * size, n);
            }
            std::fill(scratch.begin(), scratch.end(), 0.0f);
            for (int64_t t = T - 1; t >= 0; --t) {
                const int64_t first = t * tiling.rows + tiling.first(tile);
                const S *qk = static_cast<const S *>(io.qk) + first * 2 * channels;
                const S *grad_out = static_cast<const S *>(io.grad_out) + first * channels;
                S *grad_qk = static_cast<S *>(io.grad_qk) + first * 2 * channels;
                prefetch_next<S>(qk, 0, tokens * 2 * channels);
                prefetch_next<S>(grad_out, 0, tokens * channels);
                prefetch_next<S, true>(grad_qk, 0, tokens * 2 * channels);
                tiling.repeat_for_channels(neurons.at(neurons.mask, t), tokens, rows.data());
                for (int64_t token = 0; token < tokens; ++token)
                    for_each_register(channels, [&](int64_t c, auto count) {
                        const int64_t i = token * channels + c, k = (token * 2 + 1) * channels + c;
                        const Vec g = load_vec(grad_out + i, count);
                        store_vec(products.data() + i, g * load_vec(qk + k, count));
                        store_vec(grad_qk + k, g * load_vec(rows.data() + i), count);
                    });
                tiling.sum_heads(products.data(), channels, tokens, grad);
                std::fill(grad + n, grad + size, 0.0f);
                reverse_step(neuron, neurons.at(neurons.v, t), sums.data() + t * size, grad, grad_v, n,
                             io.grad_coefficients == nullptr ? nullptr : &coefficient_sums);
                tiling.repeat_for_channels(grad, tokens, rows.data());
                for (int64_t token = 0; token < tokens; ++token)
                    for_each_register(channels, [&](int64_t c, auto count) {
                        store_vec(grad_qk + token * 2 * channels + c, load_vec(rows.data() + token * channels + c), count);
                    });
            }
        }
        parts[omp_get_thread_num()].assign(coefficient_sums.total, coefficient_sums.total + 3);
    }
    if (io.grad_coefficients != nullptr) std::copy_n(add_up(parts).begin(), 3, io.grad_coefficients);
}

// Chunks of the tokens of one image at one step.
struct ChannelChunks {
    int64_t tokens, tokens_per_chunk, chunks_per_image, num_chunks;

    explicit ChannelChunks(const MaskExtent &extent)
        : tokens(extent.tokens), tokens_per_chunk(std::max<int64_t>(1, 16 * tile_target / extent.channels)),
          chunks_per_image((tokens + tokens_per_chunk - 1) / tokens_per_chunk),
          num_chunks(extent.num_steps * extent.images * chunks_per_image) {}

    int64_t image(int64_t chunk) const { return chunk / chunks_per_image; }  // step and image
    int64_t begin(int64_t chunk) const { return image(chunk) * tokens + inside(chunk); }
    int64_t length(int64_t chunk) const { return std::min(tokens_per_chunk, tokens - inside(chunk)); }
    int64_t inside(int64_t chunk) const { return chunk % chunks_per_image * tokens_per_chunk; }
};

// The sums over the tokens of each image at each step, [num_steps * images][channels], from those over the chunks.
static void add_chunks(const ChannelChunks &chunks, const Floats &parts, int64_t stride, int64_t channels,
                       float *sums) {
    for (int64_t chunk = 0; chunk < chunks.num_chunks; ++chunk) {
        const float *part = parts.data() + chunk * stride;
        float *to = sums + chunks.image(chunk) * channels;
        for (int64_t c = 0; c < channels; ++c) to[c] = part[c] + (chunk % chunks.chunks_per_image == 0 ? 0.0f : to[c]);
    }
}

// The mask's neurons, all of them, run through all steps; sums: [num_steps][images * channels].
static MaskNeurons channel_neurons(const Neuron &neuron, const MaskExtent &extent, const float *sums) {
    const int64_t n = extent.images * extent.channels;
    MaskNeurons neurons(extent.num_steps, n);
    Floats inputs(neurons.size, 0.0f);
    for (int64_t t = 0; t < extent.num_steps; ++t) {
        std::copy_n(sums + t * n, n, inputs.data());
        neurons.step(neuron, t, inputs.data(), n);
    }
    return neurons;
}

template <class S>
static void channel_forward(const MaskForward &io, const Neuron &neuron, const MaskExtent &extent, int num_threads) {
    const ChannelChunks chunks(extent);
    const int64_t channels = extent.channels, stride = padded(channels), n = extent.images * channels;
    const S *qk = static_cast<const S *>(io.qk);
    ask_for_large_pages<S>(io.out, extent, channels);
    Floats parts(chunks.num_chunks * stride, 0.0f);
#pragma omp parallel for schedule(static) num_threads(num_threads)
    for (int64_t chunk = 0; chunk < chunks.num_chunks; ++chunk) {
        float *part = parts.data() + chunk * stride;
        for (int64_t token = chunks.begin(chunk), end = token + chunks.length(chunk); token < end; ++token)
            for_each_register(channels, [&](int64_t c, auto count) {
                store_vec(part + c, load_vec(part + c) + load_vec(qk + token * 2 * channels + c, count));
            });
    }
    std::fill(io.sums, io.sums + extent.num_steps * n, 0.0f);
    add_chunks(chunks, parts, stride, channels, io.sums);
    MaskNeurons neurons = channel_neurons(neuron, extent, io.sums);
    for (int64_t t = 0; t < extent.num_steps; ++t) store_tile<S>(neurons.at(neurons.mask, t), io.mask, t * n, n);
#pragma omp parallel for schedule(static) num_threads(num_threads)
    for (int64_t chunk = 0; chunk < chunks.num_chunks; ++chunk) {
        const int64_t image = chunks.image(chunk);
        const float *mask = neurons.at(neurons.mask, image / extent.images) + image % extent.images * channels;
        for (int64_t token = chunks.begin(chunk), end = token + chunks.length(chunk); token < end; ++token)
            for_each_register(channels, [&](int64_t c, auto count) {
                const Vec k = load_vec(qk + (token * 2 + 1) * channels + c, count);
                store_vec(static_cast<S *>(io.out) + token * channels + c, load_vec(mask + c, count) * k, count);
            });
    }
}

template <class S>
static void channel_backward(const MaskBackward &io, const Neuron &neuron, const MaskExtent &extent, int num_threads) {
    const ChannelChunks chunks(extent);
    const int64_t channels = extent.channels, stride = padded(channels), n = extent.images * channels, T = extent.num_steps;
    const S *qk = static_cast<const S *>(io.qk), *grad_out = static_cast<const S *>(io.grad_out);
    S *grad_qk = static_cast<S *>(io.grad_qk);
    ask_for_large_pages<S>(io.grad_qk, extent, 2 * channels);
    MaskNeurons neurons = channel_neurons(neuron, extent, io.sums);
    Floats parts(chunks.num_chunks * stride, 0.0f);
#pragma omp parallel for schedule(static) num_threads(num_threads)
    for (int64_t chunk = 0; chunk < chunks.num_chunks; ++chunk) {
        const int64_t image = chunks.image(chunk);
        const float *mask = neurons.at(neurons.mask, image / extent.images) + image % extent.images * channels;
        float *part = parts.data() + chunk * stride;
        for (int64_t token = chunks.begin(chunk), end = token + chunks.length(chunk); token < end; ++token)
            for_each_register(channels, [&](int64_t c, auto count) {
                const int64_t k = (token * 2 + 1) * channels + c;
                const Vec g = load_vec(grad_out + token * channels + c, count);
                store_vec(part + c, fma(load_vec(qk + k, count), g, load_vec(part + c)));
                store_vec(grad_qk + k, load_vec(mask + c, count) * g, count);
            });
    }

    Floats grads(T * n, 0.0f), scratch(3 * neurons.size, 0.0f);
    add_chunks(chunks, parts, stride, channels, grads.data());
    float *sums = scratch.data(), *grad = sums + neurons.size, *grad_v = grad + neurons.size;
    CoefficientSums coefficient_sums;
    for (int64_t t = T - 1; t >= 0; --t) {
        std::copy_n(io.sums + t * n, n, sums);
        std::copy_n(grads.data() + t * n, n, grad);
        std::fill(grad + n, grad + neurons.size, 0.0f);
        reverse_step(neuron, neurons.at(neurons.v, t), sums, grad, grad_v, n,
                     io.grad_coefficients == nullptr ? nullptr : &coefficient_sums);
        std::copy_n(grad, n, grads.data() + t * n);
    }
    if (io.grad_coefficients != nullptr) std::copy_n(coefficient_sums.total, 3, io.grad_coefficients);

#pragma omp parallel for schedule(static) num_threads(num_threads)
    for (int64_t chunk = 0; chunk < chunks.num_chunks; ++chunk) {
        const float *grad_sums = grads.data() + chunks.image(chunk) * channels;
        for (int64_t token = chunks.begin(chunk), end = token + chunks.length(chunk); token < end; ++token)
            for_each_register(channels, [&](int64_t c, auto count) {
                store_vec(grad_qk + token * 2 * channels + c, load_vec(grad_sums + c, count), count);
            });
    }
}

// One entry of the table: f for the storage that the call names.
template <auto for_float, auto for_bfloat16> struct Either;
template <class Io, void (*for_float)(const Io &, const Neuron &, const MaskExtent &, int),
          void (*for_bfloat16)(const Io &, const Neuron &, const MaskExtent &, int)>
struct Either<for_float, for_bfloat16> {
    static void run(Storage storage, const Io &io, const Neuron &neuron, const MaskExtent &extent, int num_threads) {
        (storage == Storage::float32 ? for_float : for_bfloat16)(io, neuron, extent, num_threads);
    }
};

extern const MaskKernels mask_kernels;
const MaskKernels mask_kernels{
    Either<token_forward<float>, token_forward<bfloat16>>::run, Either<token_backward<float>, token_backward<bfloat16>>::run,
    Either<channel_forward<float>, channel_forward<bfloat16>>::run,
    Either<channel_backward<float>, channel_backward<bfloat16>>::run};

}  // namespace spimm::SPIMM_ISA
