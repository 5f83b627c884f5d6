// Work here is proportional to the number of spikes: an input that is not 0 adds a row of weights to the outputs around it.
#include "spike_conv.h"
#include "events.h"
#include "rows.h"

#include <omp.h>

namespace spimm::SPIMM_ISA {

// [out, rows] -> [blocks, rows, width lanes], zeros behind the last channel.
template <class S> static Aligned<S> in_blocks(const S *weight, int64_t rows, int64_t out_channels, int64_t width, int num_threads) {
    constexpr int64_t chunk = 16;
    const int64_t size = width * lanes, blocks = (out_channels + size - 1) / size;
    Aligned<S> packed = aligned<S>(blocks * rows * size);
#pragma omp parallel for collapse(2) num_threads(num_threads) schedule(static)
    for (int64_t block = 0; block < blocks; ++block)
        for (int64_t begin = 0; begin < rows; begin += chunk) {
            const int64_t end = std::min(rows, begin + chunk);
            S *to = packed.get() + block * rows * size;
            for (int64_t o = 0; o < size; ++o) {
                const int64_t place = slot<S>(o), channel = block * size + o;
                for (int64_t row = begin; row < end; ++row)
                    to[row * size + place] = channel < out_channels ? weight[channel * rows + row] : S{};
            }
        }
    return packed;
}

// What a call convolves with, cut into blocks of `width` registers of output channels; no bias is a bias of 0.
template <class S, int width> struct Blocks {
    static constexpr int64_t size = width * lanes;
    int64_t out_channels, row_count, count;
    Aligned<S> weight;
    std::vector<float> bias;

    Blocks(const S *weight, const float *bias, const ConvExtent &e, int num_threads)
        : out_channels(e.out_channels), row_count(e.kernel * e.kernel * e.in_channels), count((out_channels + size - 1) / size),
          weight(in_blocks(weight, row_count, out_channels, width, num_threads)), bias(count * size, 0.0f) {
        if (bias != nullptr) std::copy_n(bias, out_channels, this->bias.begin());
    }

    const S *rows_of(int64_t block) const { return weight.get() + block * row_count * size; }
    const float *bias_of(int64_t block) const { return bias.data() + block * size; }
    int64_t channels_of(int64_t block) const { return std::min(size, out_channels - block * size); }
};

template <class S, int width, bool binary>
static inline void add_rows(Vec (&sum)[width], const Events &events, uint32_t from, uint32_t to, const S *rows) {
    for (uint32_t e = from; e < to; ++e)
        add_row<S, width, binary>(sum, rows + static_cast<int64_t>(events.index[e]) * (width * lanes), events.value[e]);
}

template <class S, int width>
static inline void store_block(const Vec (&sum)[width], S *to, int64_t n) {
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
static inline void add_block(Vec (&sum)[width], const S *from, int64_t n) {
    float values[width * lanes] = {};
    for (int64_t i = 0; i < n; ++i) values[i] = load(from[i]);
    for (int j = 0; j < width; ++j) sum[j] += load_vec(values + j * lanes);
}

// What the spikes around pixel (line, c) add to it: `line` counts over images, r within its image. A line lists its events
// by column * in + channel, so that the events of the kernel's columns around a pixel follow each other and meet
// consecutive rows of weights.
template <class S, int width, bool binary>
static inline void add_pixel(Vec (&sum)[width], const Events &events, const S *rows, int64_t line, int64_t r, int64_t c,
                             const ConvExtent &e) {
    const int64_t reach = e.kernel / 2, first = std::max<int64_t>(0, c - reach), last = std::min(e.width - 1, c + reach);
    for (int64_t d = std::max(-reach, -r); d <= std::min(reach, e.height - 1 - r); ++d) {
        const int64_t pixels = (line + d) * e.width;
        const int64_t row = ((d + reach) * e.kernel - (c - reach)) * e.in_channels;
        add_rows<S, width, binary>(sum, events, events.begin[pixels + first], events.begin[pixels + last + 1],
                                   rows + row * (width * lanes));
    }
}

// One block of output channels of a group of images.
template <class S, int width, bool binary>
static void forward_block(const Events &events, const S *rows, const float *bias, S *y, int64_t images, int64_t n, const ConvExtent &e) {
    Vec start[width];
    for (int j = 0; j < width; ++j) start[j] = load_vec(bias + j * lanes);
    for (int64_t line = 0; line < images * e.height; ++line)
        for (int64_t c = 0; c < e.width; ++c) {
            Vec sum[width];
            for (int j = 0; j < width; ++j) sum[j] = start[j];
            add_pixel<S, width, binary>(sum, events, rows, line, line % e.height, c, e);
            store_block<S, width>(sum, y + (line * e.width + c) * e.out_channels, n);
        }
}

// Steps of one sequence of a neuron in front of which the convolution stands: a group of `images` at each of the steps,
// the steps of x `images` images apart and those of the output `step` values.
struct Sequence {
    int64_t num_steps, images, step;
    bool x_shared;
};

// LIF(convolution) + added for one block of output channels; potentials stay in registers from step to step.
template <class S, int width, bool binary>
static void forward_lif_block(const Events &events, const S *rows, const float *bias, const S *added, S *spikes, int64_t n,
                              const Neuron &neuron, const Sequence &sequence, const ConvExtent &e) {
    const Vec decay = all(neuron.decay), gain = all(neuron.gain), threshold = all(neuron.threshold);
    const Mask one = std::bit_cast<Mask>(all(1.0f));
    for (int64_t line = 0; line < sequence.images * e.height; ++line)
        for (int64_t c = 0; c < e.width; ++c) {
            Vec v[width], sum[width], out[width];
            for (int j = 0; j < width; ++j) v[j] = Vec{};
            for (int64_t t = 0; t < sequence.num_steps; ++t) {
                if (t == 0 || !sequence.x_shared) {
                    for (int j = 0; j < width; ++j) sum[j] = load_vec(bias + j * lanes);
                    add_pixel<S, width, binary>(sum, events, rows, t * sequence.images * e.height + line, line % e.height, c, e);
                }
                for (int j = 0; j < width; ++j) {
                    const Vec h = decay * v[j] + gain * sum[j];
                    const Mask fires = h >= threshold;
                    out[j] = std::bit_cast<Vec>(fires & one);
                    v[j] = neuron.soft_reset ? h - threshold * out[j] : std::bit_cast<Vec>(~fires & std::bit_cast<Mask>(h));
                }
                const int64_t pixel = t * sequence.step + (line * e.width + c) * e.out_channels;
                if (added != nullptr) add_block<S, width>(out, added + pixel, n);
                store_block<S, width>(out, spikes + pixel, n);
            }
        }
}

template <class S, int width>
static void forward_with(const S *x, const S *weight, const float *bias, S *y, const ConvExtent &e, int num_threads) {
    const Blocks<S, width> blocks(weight, bias, e, num_threads);
    const int64_t plane = e.height * e.width;
    const int64_t group = images_per_group(e, num_threads), groups = (e.images + group - 1) / group;
#pragma omp parallel num_threads(num_threads)
    {
        Events events(group * plane, e.in_channels);
#pragma omp for schedule(dynamic)
        for (int64_t g = 0; g < groups; ++g) {
            const int64_t images = std::min(group, e.images - g * group);
            list_events(x + g * group * plane * e.in_channels, images * plane, e.width, e.in_channels, events);
            for (int64_t block = 0; block < blocks.count; ++block) {
                const S *rows = blocks.rows_of(block);
                const float *start = blocks.bias_of(block);
                S *to = y + g * group * plane * e.out_channels + block * blocks.size;
                const int64_t n = blocks.channels_of(block);
                if (events.binary)
                    forward_block<S, width, true>(events, rows, start, to, images, n, e);
                else
                    forward_block<S, width, false>(events, rows, start, to, images, n, e);
            }
        }
    }
}

template <class S>
static void forward(const S *x, const S *weight, const float *bias, S *y, const ConvExtent &e, int num_threads) {
    with_width<S>(block_width<S>(e.out_channels, e.kernel * e.kernel * e.in_channels, 8),
                  [&]<int width>() { forward_with<S, width>(x, weight, bias, y, e, num_threads); });
}

template <class S, int width>
static void forward_lif_with(const S *x, const S *weight, const float *bias, const S *added, S *spikes, const Neuron &neuron,
                             const ConvExtent &e, int64_t num_steps, bool x_shared, int num_threads) {
    const Blocks<S, width> blocks(weight, bias, e, num_threads);
    const int64_t plane = e.height * e.width;
    const int64_t x_steps = x_shared ? 1 : num_steps;
    const int64_t group = std::max<int64_t>(1, images_per_group(e, num_threads) / x_steps), groups = (e.images + group - 1) / group;
#pragma omp parallel num_threads(num_threads)
    {
        Events events(x_steps * group * plane, e.in_channels);
#pragma omp for schedule(dynamic)
        for (int64_t g = 0; g < groups; ++g) {
            const Sequence sequence{num_steps, std::min(group, e.images - g * group), e.images * plane * e.out_channels, x_shared};
            for (int64_t t = 0; t < x_steps; ++t)
                list_events(x + (t * e.images + g * group) * plane * e.in_channels, sequence.images * plane, e.width, e.in_channels,
                            events, t * sequence.images * plane);
            for (int64_t block = 0; block < blocks.count; ++block) {
                const S *rows = blocks.rows_of(block);
                const float *start = blocks.bias_of(block);
                const int64_t place = g * group * plane * e.out_channels + block * blocks.size, n = blocks.channels_of(block);
                const S *add = added == nullptr ? nullptr : added + place;
                if (events.binary)
                    forward_lif_block<S, width, true>(events, rows, start, add, spikes + place, n, neuron, sequence, e);
                else
                    forward_lif_block<S, width, false>(events, rows, start, add, spikes + place, n, neuron, sequence, e);
            }
        }
    }
}

template <class S> static double density(const S *x, int64_t size, int64_t sample) {
    constexpr int64_t run = 256;
    const int64_t runs = std::max<int64_t>(1, std::min(sample, size) / run), stride = std::max(run, size / runs);
    int64_t active = 0, seen = 0;
    for (int64_t begin = 0; begin < size; begin += stride) {
        const int64_t n = std::min(run, size - begin);
        int32_t found = 0;
        for (int64_t i = 0; i < n; ++i) found += load(x[begin + i]) != 0.0f;
        active += found;
        seen += n;
    }
    return seen == 0 ? 0.0 : static_cast<double>(active) / static_cast<double>(seen);
}

static double any_density(Storage storage, const void *x, int64_t size, int64_t sample) {
    double found = 0;
    with_storage(storage, [&](auto s) { found = density(static_cast<const decltype(s) *>(x), size, sample); });
    return found;
}

static void any_forward(Storage storage, const void *x, const void *weight, const float *bias, void *y, const ConvExtent &e,
                        int num_threads) {
    with_storage(storage, [&](auto s) {
        using S = decltype(s);
        forward(static_cast<const S *>(x), static_cast<const S *>(weight), bias, static_cast<S *>(y), e, num_threads);
    });
}

static void any_forward_lif(Storage storage, const void *x, const void *weight, const float *bias, const void *added, void *spikes,
                            const Neuron &neuron, const ConvExtent &e, int64_t num_steps, bool x_shared, int num_threads) {
    with_storage(storage, [&](auto s) {
        using S = decltype(s);
        with_width<S>(block_width<S>(e.out_channels, e.kernel * e.kernel * e.in_channels, 6), [&]<int width>() {
            if constexpr (width <= 6)
                forward_lif_with<S, width>(static_cast<const S *>(x), static_cast<const S *>(weight), bias,
                                           static_cast<const S *>(added), static_cast<S *>(spikes), neuron, e, num_steps, x_shared,
                                           num_threads);
        });
    });
}

void grad_weight(Storage, const void *x, const void *grad_y, void *grad_weight, const ConvExtent &, int num_threads);

extern const SpikeConvKernels spike_conv_kernels;
const SpikeConvKernels spike_conv_kernels{any_density, any_forward, any_forward_lif, grad_weight};

}  // namespace spimm::SPIMM_ISA
