// The weight gradient of a convolution of spikes: an input that is not 0 gathers the output gradients around it.
#include "events.h"
#include "rows.h"
#include "spike_conv.h"

#include <omp.h>

namespace spimm::SPIMM_ISA {

// The events of a group of images by input channel: `place` is the pixel in a padded image.
struct EventsByChannel {
    std::vector<uint32_t> begin, next;
    std::unique_ptr<uint32_t[]> place;
    std::unique_ptr<float[]> value;

    EventsByChannel(int64_t pixels, int64_t channels)
        : begin(channels + 1), next(channels), place(new uint32_t[pixels * channels]), value(new float[pixels * channels]) {}

    void sort(const Events &events, int64_t images, const ConvExtent &e) {
        const int64_t plane = e.height * e.width, around = e.kernel - 1, padded = e.width + around;
        const auto channels = static_cast<uint32_t>(e.in_channels);
        std::fill(begin.begin(), begin.end(), 0u);
        for (int64_t pixel = 0; pixel < images * plane; ++pixel) {
            const uint32_t first = static_cast<uint32_t>(pixel % e.width) * channels;
            for (uint32_t i = events.begin[pixel]; i < events.begin[pixel + 1]; ++i) ++begin[events.index[i] - first + 1];
        }
        for (int64_t c = 0; c < e.in_channels; ++c) begin[c + 1] += begin[c];
        std::copy_n(begin.begin(), e.in_channels, next.begin());
        for (int64_t pixel = 0; pixel < images * plane; ++pixel) {
            const int64_t column = pixel % e.width, image = pixel / plane, line = pixel / e.width % e.height;
            const auto here = static_cast<uint32_t>((image * (e.height + around) + line) * padded + column);
            const uint32_t first = static_cast<uint32_t>(column) * channels;
            for (uint32_t i = events.begin[pixel]; i < events.begin[pixel + 1]; ++i) {
                const uint32_t to = next[events.index[i] - first]++;
                place[to] = here;
                value[to] = events.value[i];
            }
        }
    }
};

// A block of output channels of a group's gradients with kernel / 2 zeros around each image.
template <class S>
static void pad_block(const S *grad, S *to, int64_t images, int64_t n, int64_t size, const ConvExtent &e) {
    const int64_t around = e.kernel - 1, reach = e.kernel / 2, padded = e.width + around;
    for (int64_t image = 0; image < images; ++image)
        for (int64_t r = 0; r < e.height; ++r) {
            S *line = to + ((image * (e.height + around) + r + reach) * padded + reach) * size;
            for (int64_t c = 0; c < e.width; ++c) {
                const S *from = grad + ((image * e.height + r) * e.width + c) * e.out_channels;
                store_slots(from, line + c * size, n);
            }
        }
}

// grad_weight[c, kr, kc] += sum over the events of channel c of the gradients (kr, kc) before them. The gradients of a
// line's `kernel` columns follow each other: one event adds them all.
template <class S, int kernel, int width, bool binary>
static void gather_block(const EventsByChannel &events, const S *grad, float *grad_weight, const ConvExtent &e) {
    constexpr int64_t size = width * lanes;
    constexpr int count = kernel * width;
    const int64_t padded = e.width + kernel - 1;
    for (int64_t c = 0; c < e.in_channels; ++c) {
        const uint32_t from = events.begin[c], to = events.begin[c + 1];
        if (from == to) continue;
        for (int kr = 0; kr < kernel; ++kr) {
            const S *lines = grad + (kernel - 1 - kr) * padded * size;
            float *rows = grad_weight + (c * kernel + kr) * kernel * size;
            Vec sum[count];
            for (int j = 0; j < count; ++j) sum[j] = load_vec(rows + j * lanes);
            for (uint32_t i = from; i < to; ++i)
                add_row<S, count, binary>(sum, lines + static_cast<int64_t>(events.place[i]) * size, events.value[i]);
            for (int j = 0; j < count; ++j) store_vec(rows + j * lanes, sum[j]);
        }
    }
}

template <class S, int kernel, int width>
static void grad_weight_with(const S *x, const S *grad, S *grad_weight, const ConvExtent &e, int num_threads) {
    constexpr int64_t size = width * lanes;
    const int64_t blocks = (e.out_channels + size - 1) / size, plane = e.height * e.width;
    const int64_t group = images_per_group(e, num_threads), groups = (e.images + group - 1) / group;
    const int64_t row_count = e.in_channels * kernel * kernel, part = blocks * row_count * size;
    const int64_t padded_plane = (e.height + kernel - 1) * (e.width + kernel - 1);
    const Aligned<float> parts = aligned<float>(num_threads * part);
#pragma omp parallel num_threads(num_threads)
    {
        float *mine = parts.get() + omp_get_thread_num() * part;
        std::fill(mine, mine + part, 0.0f);
        Events events(group * plane, e.in_channels);
        EventsByChannel by_channel(group * plane, e.in_channels);
        const Aligned<S> padded = aligned<S>(group * padded_plane * size);
        std::fill(padded.get(), padded.get() + group * padded_plane * size, S{});
#pragma omp for schedule(static)
        for (int64_t g = 0; g < groups; ++g) {
            const int64_t images = std::min(group, e.images - g * group);
            const S *inputs = x + g * group * plane * e.in_channels, *gradients = grad + g * group * plane * e.out_channels;
            if (all_finite(gradients, images * plane * e.out_channels, 1))
                list_events(inputs, images * plane, e.width, e.in_channels, events);
            else
                list_all(inputs, images * plane, e.width, e.in_channels, events);
            by_channel.sort(events, images, e);
            for (int64_t block = 0; block < blocks; ++block) {
                const int64_t n = std::min(size, e.out_channels - block * size);
                if (n < size) std::fill(padded.get(), padded.get() + group * padded_plane * size, S{});
                pad_block(gradients + block * size, padded.get(), images, n, size, e);
                float *to = mine + block * row_count * size;
                if (events.binary)
                    gather_block<S, kernel, width, true>(by_channel, padded.get(), to, e);
                else
                    gather_block<S, kernel, width, false>(by_channel, padded.get(), to, e);
            }
        }
#pragma omp for collapse(2) schedule(static)
        for (int64_t tap = 0; tap < kernel * kernel; ++tap)
            for (int64_t o = 0; o < e.out_channels; ++o) {
                // a line of a block holds the kernel's columns from the last to the first
                const int64_t mirrored = tap - tap % kernel + kernel - 1 - tap % kernel;
                const float *from = parts.get() + (o / size * row_count + mirrored) * size + o % size;
                S *to = grad_weight + (o * kernel * kernel + tap) * e.in_channels;
                for (int64_t c = 0; c < e.in_channels; ++c) {
                    float sum = 0.0f;
                    for (int thread = 0; thread < num_threads; ++thread) sum += from[thread * part + c * kernel * kernel * size];
                    to[c] = store<S>(sum);
                }
            }
    }
}

template <class S, int kernel>
static void grad_weight_of(const S *x, const S *grad, S *grad_weight, const ConvExtent &e, int num_threads) {
    // a block of a group's gradients stays in the cache, and the sums of a line of the kernel in registers
    const int64_t pixels = images_per_group(e, num_threads) * (e.height + kernel - 1) * (e.width + kernel - 1);
    constexpr int widest = kernel == 1 ? 8 : 4;
    with_width<S>(block_width<S>(e.out_channels, pixels, widest), [&]<int width>() {
        if constexpr (width <= widest) grad_weight_with<S, kernel, width>(x, grad, grad_weight, e, num_threads);
    });
}

void grad_weight(Storage storage, const void *x, const void *grad_y, void *grad_weight, const ConvExtent &e,
                            int num_threads) {
    with_storage(storage, [&](auto s) {
        using S = decltype(s);
        const S *from = static_cast<const S *>(x), *grad = static_cast<const S *>(grad_y);
        S *to = static_cast<S *>(grad_weight);
        switch (e.kernel) {
        case 1: return grad_weight_of<S, 1>(from, grad, to, e, num_threads);
        case 3: return grad_weight_of<S, 3>(from, grad, to, e, num_threads);
        case 5: return grad_weight_of<S, 5>(from, grad, to, e, num_threads);
        default: return grad_weight_of<S, 7>(from, grad, to, e, num_threads);
        }
    });
}

}  // namespace spimm::SPIMM_ISA
