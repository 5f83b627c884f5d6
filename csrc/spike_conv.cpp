// Work here is proportional to the number of spikes: an input that is not 0 adds a row of weights to the outputs around it.
#include "spike_conv.h"
#include "dense_conv.h"
#include "events.h"

#include <omp.h>

namespace spimm::SPIMM_ISA {

template <class S, int width, bool binary>
static inline void add_rows(Vec (&sum)[width], const Events &events, uint32_t from, uint32_t to, const S *rows) {
    for (uint32_t e = from; e < to; ++e)
        add_row<S, width, binary>(sum, rows + static_cast<int64_t>(events.index[e]) * (width * lanes), events.value[e]);
}

constexpr int widest_with_neuron = 6;  // registers of sums beside as many of potentials

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

// One block of output channels of a group of images, without a neuron: the sums have the registers to themselves.
template <class S, int width, bool binary>
static void sum_block(const ConvCall<S> &call, const Events &events, const Blocks<S, width> &blocks, int64_t block, int64_t image,
                      int64_t images) {
    const ConvExtent &e = call.e;
    const S *rows = blocks.rows_of(block);
    const int64_t n = blocks.channels_of(block);
    S *to = call.y + image * call.plane() * e.out_channels + block * blocks.size;
    Vec start[width];
    for (int j = 0; j < width; ++j) start[j] = load_vec(blocks.bias_of(block) + j * lanes);
    for (int64_t line = 0; line < images * e.height; ++line)
        for (int64_t c = 0; c < e.width; ++c) {
            Vec sum[width];
            for (int j = 0; j < width; ++j) sum[j] = start[j];
            add_pixel<S, width, binary>(sum, events, rows, line, line % e.height, c, e);
            store_block<S, width>(sum, to + (line * e.width + c) * e.out_channels, n);
        }
}

// The same with the neuron after it: potentials stay in registers from step to step.
template <class S, int width, bool binary>
static void fire_images(const ConvCall<S> &call, const Events &events, const Blocks<S, width> &blocks, int64_t block, int64_t image,
                        int64_t images) {
    const ConvExtent &e = call.e;
    const S *rows = blocks.rows_of(block);
    const float *bias = blocks.bias_of(block);
    const int64_t n = blocks.channels_of(block), step = call.pixels() * e.out_channels;
    const int64_t place = image * call.plane() * e.out_channels + block * blocks.size;
    for (int64_t line = 0; line < images * e.height; ++line)
        for (int64_t c = 0; c < e.width; ++c) {
            Vec v[width] = {}, sum[width];
            for (int64_t t = 0; t < call.num_steps; ++t) {
                if (t < call.x_steps()) {
                    for (int j = 0; j < width; ++j) sum[j] = load_vec(bias + j * lanes);
                    add_pixel<S, width, binary>(sum, events, rows, t * images * e.height + line, line % e.height, c, e);
                }
                const int64_t to = t * step + place + (line * e.width + c) * e.out_channels;
                fire_block<S, width>(call.neuron, v, sum, call.added == nullptr ? nullptr : call.added + to, call.y + to, n);
            }
        }
}

template <class S, int width, bool binary>
static void forward_block(const ConvCall<S> &call, const Events &events, const Blocks<S, width> &blocks, int64_t block, int64_t image,
                          int64_t images) {
    if (call.num_steps == 0)
        sum_block<S, width, binary>(call, events, blocks, block, image, images);
    else if constexpr (width <= widest_with_neuron)
        fire_images<S, width, binary>(call, events, blocks, block, image, images);
}

// Images that are taken together, and whether their input is sparse.
struct Groups {
    int64_t size;
    std::vector<char> sparse;

    int64_t begin(int64_t g) const { return g * size; }
    int64_t images(int64_t g, const ConvExtent &e) const { return std::min(size, e.images - begin(g)); }
};

template <class S, int width>
static void sparse_groups(const ConvCall<S> &call, const Groups &groups, const Blocks<S, width> &blocks, int num_threads) {
    const int64_t plane = call.plane();
    const ConvExtent &e = call.e;
#pragma omp parallel num_threads(num_threads)
    {
        Events events(call.x_steps() * groups.size * plane, e.in_channels);
#pragma omp for schedule(dynamic)
        for (size_t g = 0; g < groups.sparse.size(); ++g) {
            if (!groups.sparse[g]) continue;
            const int64_t image = groups.begin(g), images = groups.images(g, e);
            for (int64_t t = 0; t < call.x_steps(); ++t)
                list_events(call.x + (t * call.pixels() + image * plane) * e.in_channels, images * plane, e.width, e.in_channels, events,
                            t * images * plane);
            for (int64_t block = 0; block < blocks.count; ++block)
                if (events.binary)
                    forward_block<S, width, true>(call, events, blocks, block, image, images);
                else
                    forward_block<S, width, false>(call, events, blocks, block, image, images);
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

template <class S> static Groups judge(const ConvCall<S> &call, double limit, int num_threads) {
    constexpr int64_t sample = 1024;  // values looked at in a group's step
    const int64_t steps = call.x_steps(), step = call.plane() * call.e.in_channels;
    Groups groups{std::max<int64_t>(1, images_per_group(call.e, num_threads) / steps), {}};
    for (int64_t image = 0; image < call.e.images; image += groups.size) {
        const int64_t size = std::min(groups.size, call.e.images - image) * step;
        double found = 0;
        for (int64_t t = 0; t < steps; ++t) found += density(call.x + (t * call.e.images + image) * step, size, sample);
        groups.sparse.push_back(found <= limit * static_cast<double>(steps));
    }
    return groups;
}

// Both ways of convolving give the same bits: which of them a group of images takes is a matter of speed.
template <class S> static void forward(const ConvCall<S> &call, const S *weight, const float *bias, double limit, int num_threads) {
    Groups groups = judge(call, limit, num_threads);
    const auto is_sparse = [](char sparse) { return sparse != 0; };
    if (std::ranges::any_of(groups.sparse, is_sparse) && !all_finite(weight, call.weights(), num_threads))
        std::ranges::fill(groups.sparse, 0);  // 0 times infinity is not 0: no product may be left out
    if (std::ranges::any_of(groups.sparse, is_sparse)) {
        const int64_t widest = call.num_steps == 0 ? 8 : widest_with_neuron;
        with_width<S>(block_width<S>(call.e.out_channels, call.weights() / call.e.out_channels, widest), [&]<int width>() {
            sparse_groups<S, width>(call, groups, Blocks<S, width>(weight, bias, call.e, num_threads), num_threads);
        });
    }
    std::vector<Panel> panels;
    const auto dense = std::ranges::count(groups.sparse, 0);
    for (size_t g = 0; g < groups.sparse.size(); ++g)
        if (!groups.sparse[g]) cut(call, groups.begin(g), groups.images(g, call.e), 1 + 4 * num_threads / dense, panels);
    if (dense != 0) dense_panels(call, weight, bias, panels, num_threads);
}

static double any_density(Storage storage, const void *x, int64_t size, int64_t sample) {
    double found = 0;
    with_storage(storage, [&](auto s) { found = density(static_cast<const decltype(s) *>(x), size, sample); });
    return found;
}

static void any_forward(Storage storage, const void *x, const void *weight, const float *bias, const void *added, void *y,
                        const Neuron &neuron, const ConvExtent &e, int64_t num_steps, bool x_shared, double limit, int num_threads) {
    with_storage(storage, [&](auto s) {
        using S = decltype(s);
        const ConvCall<S> call{static_cast<const S *>(x), static_cast<const S *>(added), static_cast<S *>(y), neuron, num_steps, x_shared, e};
        forward(call, static_cast<const S *>(weight), bias, limit, num_threads);
    });
}

void grad_weight(Storage, const void *x, const void *grad_y, void *grad_weight, const ConvExtent &, int num_threads);

extern const SpikeConvKernels spike_conv_kernels;
const SpikeConvKernels spike_conv_kernels{any_density, any_forward, grad_weight};

}  // namespace spimm::SPIMM_ISA
