// Work here is proportional to the number of spikes: an input that is not 0 adds a row of weights to the outputs around it
// (forward) or gathers the output gradients around it (weight gradient). Rows are cut into blocks of output channels so
// that the block's weights, or a group of images' gradients, stay in the second-level cache; sums stay in registers.
#include "spike_conv.h"
#include "vector_math.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <vector>

#include <omp.h>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace spimm::SPIMM_ISA {

using Vector = float __attribute__((vector_size(64)));
constexpr int64_t lanes = 16;
constexpr int64_t cache_bytes = 512 * 1024;  // of the second-level cache, for what is read again and again
constexpr int64_t group_pixels = 1024;       // images are taken together until they have this many pixels

static inline Vector load_vector(const float *from) {
    Vector values;
    std::memcpy(&values, from, sizeof values);
    return values;
}

static inline void store_vector(float *to, Vector values) { std::memcpy(to, &values, sizeof values); }

struct FreeAligned {
    void operator()(float *values) const { ::operator delete[](values, std::align_val_t(64)); }
};
using Floats = std::unique_ptr<float[], FreeAligned>;

static Floats aligned_floats(int64_t size) {
    return Floats(static_cast<float *>(::operator new[](std::max<int64_t>(size, 1) * sizeof(float), std::align_val_t(64))));
}

// The places and values of what is not 0 in consecutive rows; `begin[r]` is where row r starts.
struct Events {
    std::vector<uint32_t> begin;
    std::unique_ptr<uint32_t[]> index;
    std::unique_ptr<float[]> value;
    bool binary = true;  // every value is 1

    Events(int64_t rows, int64_t row_size)
        : begin(rows + 1), index(new uint32_t[rows * row_size + lanes]), value(new float[rows * row_size + lanes]) {}
};

// Appends the non-zero values among n, whose places count from `first`; returns the new number of events.
template <class S> static uint32_t append_events(const S *x, int64_t n, uint32_t first, uint32_t count, Events &events) {
    uint32_t *index = events.index.get();
    float *value = events.value.get();
    bool binary = true;
    int64_t i = 0;
#if defined(__AVX512F__)
    const __m512i places = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __mmask16 odd = 0;
    for (; i + lanes <= n; i += lanes) {
        __m512 values;
        if constexpr (sizeof(S) == 4)
            values = _mm512_loadu_ps(reinterpret_cast<const float *>(x + i));
        else
            values = _mm512_castsi512_ps(_mm512_slli_epi32(
                _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(x + i))), 16));
        const __mmask16 active = _mm512_cmp_ps_mask(values, _mm512_setzero_ps(), _CMP_NEQ_UQ);
        odd |= _mm512_mask_cmp_ps_mask(active, values, _mm512_set1_ps(1.0f), _CMP_NEQ_UQ);
        const __m512i here = _mm512_add_epi32(_mm512_set1_epi32(first + static_cast<uint32_t>(i)), places);
        _mm512_storeu_si512(index + count, _mm512_maskz_compress_epi32(active, here));
        _mm512_storeu_ps(value + count, _mm512_maskz_compress_ps(active, values));
        count += __builtin_popcount(active);
    }
    binary = odd == 0;
#endif
    for (; i < n; ++i) {
        const float found = load(x[i]);
        index[count] = first + static_cast<uint32_t>(i);
        value[count] = found;
        count += found != 0.0f;
        binary &= found == 0.0f || found == 1.0f;
    }
    events.binary &= binary;
    return count;
}

template <class S>
static void list_events(const S *x, int64_t pixels, int64_t pixels_per_line, int64_t channels, Events &events) {
    uint32_t count = 0;
    events.binary = true;
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
        events.begin[pixel] = count;
        const auto first = static_cast<uint32_t>(pixel % pixels_per_line * channels);
        count = append_events(x + pixel * channels, channels, first, count, events);
    }
    events.begin[pixels] = count;
}

static int64_t images_per_group(const ConvExtent &e, int num_threads) {
    const int64_t wanted = std::max<int64_t>(1, group_pixels / (e.height * e.width));
    return std::min(wanted, std::max<int64_t>(1, e.images / num_threads));
}

// Vectors in a block of output channels: the widest of few choices that fits, unless a narrower one pads less.
static int64_t block_width(int64_t out_channels, int64_t row_count, int64_t widest) {
    const int64_t vectors = (out_channels + lanes - 1) / lanes;
    int64_t best = 1, best_padded = vectors;
    for (const int64_t width : {2, 3, 4, 6, 8}) {
        const int64_t padded = (vectors + width - 1) / width * width;
        const bool fits = width <= 2 || row_count * width * lanes * static_cast<int64_t>(sizeof(float)) <= cache_bytes;
        if (width <= widest && width <= vectors && fits && padded <= best_padded + best_padded / 8) best = width, best_padded = padded;
    }
    return best;
}

// [rows, out] -> [blocks, rows, width lanes], zeros behind the last channel.
static Floats in_blocks(const float *weight, int64_t rows, int64_t out_channels, int64_t width, int num_threads) {
    const int64_t size = width * lanes, blocks = (out_channels + size - 1) / size;
    Floats packed = aligned_floats(blocks * rows * size);
#pragma omp parallel for num_threads(num_threads) schedule(static)
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t block = 0; block < blocks; ++block) {
            float *to = packed.get() + (block * rows + row) * size;
            const int64_t n = std::min(size, out_channels - block * size);
            std::copy_n(weight + row * out_channels + block * size, n, to);
            std::fill(to + n, to + size, 0.0f);
        }
    return packed;
}

template <int width, bool binary>
static inline void add_rows(Vector (&sum)[width], const Events &events, uint32_t from, uint32_t to, const float *rows) {
    for (uint32_t e = from; e < to; ++e) {
        const float *row = rows + static_cast<int64_t>(events.index[e]) * (width * lanes);
        for (int j = 0; j < width; ++j) {
            const Vector weight = load_vector(row + j * lanes);
            sum[j] += binary ? weight : weight * events.value[e];
        }
    }
}

template <class S, int width>
static inline void store_block(const Vector (&sum)[width], S *to, int64_t n) {
    if constexpr (sizeof(S) == sizeof(float))
        if (n == width * lanes) {
            for (int j = 0; j < width; ++j) store_vector(reinterpret_cast<float *>(to) + j * lanes, sum[j]);
            return;
        }
    float values[width * lanes];
    for (int j = 0; j < width; ++j) store_vector(values + j * lanes, sum[j]);
    if (n == width * lanes)
        for (int64_t i = 0; i < width * lanes; ++i) to[i] = store<S>(values[i]);
    else
        for (int64_t i = 0; i < n; ++i) to[i] = store<S>(values[i]);
}

// One block of output channels of a group of images. An image's line lists its events by column * in + channel, so that
// the events of the kernel's columns around a pixel follow each other and meet consecutive rows of weights.
template <class S, int width, bool binary>
static void forward_block(const Events &events, const float *rows, const float *bias, S *y, int64_t images, int64_t n, const ConvExtent &e) {
    const int64_t reach = e.kernel / 2;
    Vector start[width];
    for (int j = 0; j < width; ++j) start[j] = load_vector(bias + j * lanes);
    for (int64_t line = 0; line < images * e.height; ++line) {
        const int64_t r = line % e.height, first_line = std::max<int64_t>(-reach, -r), last_line = std::min(reach, e.height - 1 - r);
        for (int64_t c = 0; c < e.width; ++c) {
            const int64_t first = std::max<int64_t>(0, c - reach), last = std::min(e.width - 1, c + reach);
            Vector sum[width];
            for (int j = 0; j < width; ++j) sum[j] = start[j];
            for (int64_t d = first_line; d <= last_line; ++d) {
                const int64_t pixels = (line + d) * e.width;
                const int64_t row = ((d + reach) * e.kernel - (c - reach)) * e.in_channels;
                add_rows<width, binary>(sum, events, events.begin[pixels + first], events.begin[pixels + last + 1],
                                        rows + row * (width * lanes));
            }
            store_block<S, width>(sum, y + (line * e.width + c) * e.out_channels, n);
        }
    }
}

template <class S, int width>
static void forward_with(const S *x, const float *weight, const float *bias, S *y, const ConvExtent &e, int num_threads) {
    const int64_t size = width * lanes, blocks = (e.out_channels + size - 1) / size;
    const int64_t row_count = e.kernel * e.kernel * e.in_channels, plane = e.height * e.width;
    const Floats rows = in_blocks(weight, row_count, e.out_channels, width, num_threads);
    std::vector<float> padded_bias(blocks * size, 0.0f);
    if (bias != nullptr) std::copy_n(bias, e.out_channels, padded_bias.begin());
    const int64_t group = images_per_group(e, num_threads), groups = (e.images + group - 1) / group;
#pragma omp parallel num_threads(num_threads)
    {
        Events events(group * plane, e.in_channels);
#pragma omp for schedule(dynamic)
        for (int64_t g = 0; g < groups; ++g) {
            const int64_t images = std::min(group, e.images - g * group);
            list_events(x + g * group * plane * e.in_channels, images * plane, e.width, e.in_channels, events);
            for (int64_t block = 0; block < blocks; ++block) {
                const float *block_rows = rows.get() + block * row_count * size, *block_bias = padded_bias.data() + block * size;
                S *to = y + g * group * plane * e.out_channels + block * size;
                const int64_t n = std::min(size, e.out_channels - block * size);
                if (events.binary)
                    forward_block<S, width, true>(events, block_rows, block_bias, to, images, n, e);
                else
                    forward_block<S, width, false>(events, block_rows, block_bias, to, images, n, e);
            }
        }
    }
}

template <class S>
static void forward(const S *x, const float *weight, const float *bias, S *y, const ConvExtent &e, int num_threads) {
    switch (block_width(e.out_channels, e.kernel * e.kernel * e.in_channels, 8)) {
    case 1: return forward_with<S, 1>(x, weight, bias, y, e, num_threads);
    case 2: return forward_with<S, 2>(x, weight, bias, y, e, num_threads);
    case 3: return forward_with<S, 3>(x, weight, bias, y, e, num_threads);
    case 4: return forward_with<S, 4>(x, weight, bias, y, e, num_threads);
    case 6: return forward_with<S, 6>(x, weight, bias, y, e, num_threads);
    default: return forward_with<S, 8>(x, weight, bias, y, e, num_threads);
    }
}

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

// A block of output channels of a group's gradients, in float, with kernel / 2 zeros around each image.
template <class S>
static void pad_block(const S *grad, float *to, int64_t images, int64_t n, int64_t size, const ConvExtent &e) {
    const int64_t around = e.kernel - 1, reach = e.kernel / 2, padded = e.width + around;
    for (int64_t image = 0; image < images; ++image)
        for (int64_t r = 0; r < e.height; ++r) {
            float *line = to + ((image * (e.height + around) + r + reach) * padded + reach) * size;
            for (int64_t c = 0; c < e.width; ++c) {
                const S *from = grad + ((image * e.height + r) * e.width + c) * e.out_channels;
                float *pixel = line + c * size;
                for (int64_t i = 0; i < n; ++i) pixel[i] = load(from[i]);
            }
        }
}

// grad_weight[c, kr, kc] += sum over the events of channel c of the gradients (kr, kc) before them. The gradients of a
// line's `kernel` columns follow each other: one event adds them all.
template <int kernel, int width, bool binary>
static void gather_block(const EventsByChannel &events, const float *grad, float *grad_weight, const ConvExtent &e) {
    constexpr int64_t size = width * lanes;
    constexpr int count = kernel * width;
    const int64_t padded = e.width + kernel - 1;
    for (int64_t c = 0; c < e.in_channels; ++c) {
        const uint32_t from = events.begin[c], to = events.begin[c + 1];
        if (from == to) continue;
        for (int kr = 0; kr < kernel; ++kr) {
            const float *lines = grad + (kernel - 1 - kr) * padded * size;
            float *rows = grad_weight + (c * kernel + kr) * kernel * size;
            Vector sum[count];
            for (int j = 0; j < count; ++j) sum[j] = load_vector(rows + j * lanes);
            for (uint32_t i = from; i < to; ++i) {
                const float *around = lines + static_cast<int64_t>(events.place[i]) * size;
                for (int j = 0; j < count; ++j) {
                    const Vector value = load_vector(around + j * lanes);
                    sum[j] += binary ? value : value * events.value[i];
                }
            }
            for (int j = 0; j < count; ++j) store_vector(rows + j * lanes, sum[j]);
        }
    }
}

template <class S, int kernel, int width>
static void grad_weight_with(const S *x, const S *grad, float *grad_weight, const ConvExtent &e, int num_threads) {
    constexpr int64_t size = width * lanes;
    const int64_t blocks = (e.out_channels + size - 1) / size, plane = e.height * e.width;
    const int64_t group = images_per_group(e, num_threads), groups = (e.images + group - 1) / group;
    const int64_t row_count = e.in_channels * kernel * kernel, part = blocks * row_count * size;
    const int64_t padded_plane = (e.height + kernel - 1) * (e.width + kernel - 1);
    const Floats parts = aligned_floats(num_threads * part);
#pragma omp parallel num_threads(num_threads)
    {
        float *mine = parts.get() + omp_get_thread_num() * part;
        std::fill(mine, mine + part, 0.0f);
        Events events(group * plane, e.in_channels);
        EventsByChannel by_channel(group * plane, e.in_channels);
        const Floats padded = aligned_floats(group * padded_plane * size);
        std::fill(padded.get(), padded.get() + group * padded_plane * size, 0.0f);
#pragma omp for schedule(static)
        for (int64_t g = 0; g < groups; ++g) {
            const int64_t images = std::min(group, e.images - g * group);
            list_events(x + g * group * plane * e.in_channels, images * plane, e.width, e.in_channels, events);
            by_channel.sort(events, images, e);
            for (int64_t block = 0; block < blocks; ++block) {
                const int64_t n = std::min(size, e.out_channels - block * size);
                if (n < size) std::fill(padded.get(), padded.get() + group * padded_plane * size, 0.0f);
                pad_block(grad + g * group * plane * e.out_channels + block * size, padded.get(), images, n, size, e);
                float *to = mine + block * row_count * size;
                if (events.binary)
                    gather_block<kernel, width, true>(by_channel, padded.get(), to, e);
                else
                    gather_block<kernel, width, false>(by_channel, padded.get(), to, e);
            }
        }
#pragma omp for schedule(static)
        for (int64_t row = 0; row < row_count; ++row) {
            // a row of gradients holds the kernel's columns from the last to the first
            const int64_t column = row % kernel, mirrored = row - column + (kernel - 1 - column);
            for (int64_t block = 0; block < blocks; ++block) {
                const int64_t n = std::min(size, e.out_channels - block * size);
                float *to = grad_weight + row * e.out_channels + block * size;
                const float *from = parts.get() + (block * row_count + mirrored) * size;
                std::copy_n(from, n, to);
                for (int thread = 1; thread < num_threads; ++thread)
                    for (int64_t i = 0; i < n; ++i) to[i] += from[thread * part + i];
            }
        }
    }
}

template <class S, int kernel>
static void grad_weight_of(const S *x, const S *grad, float *grad_weight, const ConvExtent &e, int num_threads) {
    // of a group's gradients a block stays in the cache
    const int64_t pixels = images_per_group(e, num_threads) * (e.height + kernel - 1) * (e.width + kernel - 1);
    switch (block_width(e.out_channels, pixels, kernel == 1 ? 8 : 4)) {
    case 1: return grad_weight_with<S, kernel, 1>(x, grad, grad_weight, e, num_threads);
    case 2: return grad_weight_with<S, kernel, 2>(x, grad, grad_weight, e, num_threads);
    case 3: return grad_weight_with<S, kernel, 3>(x, grad, grad_weight, e, num_threads);
    case 4: return grad_weight_with<S, kernel, 4>(x, grad, grad_weight, e, num_threads);
    default:
        if constexpr (kernel == 1) {
            if (block_width(e.out_channels, pixels, 8) == 6) return grad_weight_with<S, 1, 6>(x, grad, grad_weight, e, num_threads);
            return grad_weight_with<S, 1, 8>(x, grad, grad_weight, e, num_threads);
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

template <class F> static void with_storage(Storage storage, const F &f) {
    storage == Storage::float32 ? f(float{}) : f(bfloat16{});
}

static double any_density(Storage storage, const void *x, int64_t size, int64_t sample) {
    double found = 0;
    with_storage(storage, [&](auto s) { found = density(static_cast<const decltype(s) *>(x), size, sample); });
    return found;
}

static void any_forward(Storage storage, const void *x, const float *weight, const float *bias, void *y, const ConvExtent &e,
                        int num_threads) {
    with_storage(storage, [&](auto s) {
        using S = decltype(s);
        forward(static_cast<const S *>(x), weight, bias, static_cast<S *>(y), e, num_threads);
    });
}

static void any_grad_weight(Storage storage, const void *x, const void *grad_y, float *grad_weight, const ConvExtent &e,
                            int num_threads) {
    with_storage(storage, [&](auto s) {
        using S = decltype(s);
        const S *from = static_cast<const S *>(x), *grad = static_cast<const S *>(grad_y);
        switch (e.kernel) {
        case 1: return grad_weight_of<S, 1>(from, grad, grad_weight, e, num_threads);
        case 3: return grad_weight_of<S, 3>(from, grad, grad_weight, e, num_threads);
        case 5: return grad_weight_of<S, 5>(from, grad, grad_weight, e, num_threads);
        default: return grad_weight_of<S, 7>(from, grad, grad_weight, e, num_threads);
        }
    });
}

extern const SpikeConvKernels spike_conv_kernels;
const SpikeConvKernels spike_conv_kernels{any_density, any_forward, any_grad_weight};

}  // namespace spimm::SPIMM_ISA
