// Spikes as lists: the places and values of what is not 0. Included by files that are compiled once per instruction set.
#pragma once

#include "neuron_steps.h"
#include "vectors.h"

#include <memory>
#include <vector>

namespace spimm::SPIMM_ISA {

// Whether no value is NaN or infinite.
template <class S> inline bool all_finite(const S *values, int64_t size, int num_threads) {
    using Bits = std::conditional_t<sizeof(S) == sizeof(float), uint32_t, uint16_t>;
    constexpr Bits exponent = sizeof(S) == sizeof(float) ? 0x7f800000u : 0x7f80u;
    constexpr int64_t chunk = 16384;
    Bits largest = 0;
#pragma omp parallel for num_threads(num_threads) schedule(static) reduction(max : largest)
    for (int64_t begin = 0; begin < size; begin += chunk) {
        const int64_t end = std::min(size, begin + chunk);
        Bits here = 0;  // in a register, several values at a time
        for (int64_t i = begin; i < end; ++i) {
            const Bits found = std::bit_cast<Bits>(values[i]) & exponent;
            here = found > here ? found : here;
        }
        largest = std::max(largest, here);
    }
    return largest < exponent;
}

// Where values that are not 0, and their places, are appended. Writes up to `lanes` beyond the last.
struct EventList {
    float *value;
    uint32_t *index;
    int64_t count = 0;
    bool binary = true;  // every value is 1

    void append(Vec values, uint32_t first) {
#if defined(__AVX512F__)
        const __m512 found = static_cast<__m512>(values);
        const __m512i places = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        const __mmask16 active = _mm512_cmp_ps_mask(found, _mm512_setzero_ps(), _CMP_NEQ_UQ);
        binary &= _mm512_mask_cmp_ps_mask(active, found, _mm512_set1_ps(1.0f), _CMP_NEQ_UQ) == 0;
        const __m512i here = _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(first)), places);
        _mm512_storeu_si512(index + count, _mm512_maskz_compress_epi32(active, here));
        _mm512_storeu_ps(value + count, _mm512_maskz_compress_ps(active, found));
        count += __builtin_popcount(active);
#else
        for (int i = 0; i < lanes; ++i) {
            index[count] = first + i;
            value[count] = values[i];
            count += values[i] != 0.0f;
            binary &= values[i] == 0.0f || values[i] == 1.0f;
        }
#endif
    }
};

// The places and values of what is not 0 in consecutive rows; `begin[r]` is where row r starts.
struct Events {
    std::vector<uint32_t> begin;
    std::unique_ptr<uint32_t[]> index;
    std::unique_ptr<float[]> value;
    bool binary = true;  // every value is 1

    Events(int64_t rows, int64_t row_size)
        : begin(rows + 1), index(new uint32_t[rows * row_size + lanes]), value(new float[rows * row_size + lanes]) {}
};

// Lists `pixels` more rows, as those from `first_pixel` on; 0 starts anew. Places count along a line of pixels.
template <class S>
inline void list_events(const S *x, int64_t pixels, int64_t pixels_per_line, int64_t channels, Events &events,
                        int64_t first_pixel = 0) {
    EventList list{events.value.get(), events.index.get()};
    if (first_pixel != 0) list.count = events.begin[first_pixel], list.binary = events.binary;
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
        events.begin[first_pixel + pixel] = static_cast<uint32_t>(list.count);
        const auto first = static_cast<uint32_t>(pixel % pixels_per_line * channels);
        const S *row = x + pixel * channels;
        for_each_register(channels, [&](int64_t i, auto n) { list.append(load_vec(row + i, n), first + static_cast<uint32_t>(i)); });
    }
    events.begin[first_pixel + pixels] = static_cast<uint32_t>(list.count);
    events.binary = list.binary;
}

// Lists every value, those that are 0 too: times a gradient that is not finite they are not 0.
template <class S>
inline void list_all(const S *x, int64_t pixels, int64_t pixels_per_line, int64_t channels, Events &events) {
    uint32_t count = 0;
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
        events.begin[pixel] = count;
        const auto first = static_cast<uint32_t>(pixel % pixels_per_line * channels);
        for (int64_t c = 0; c < channels; ++c, ++count) {
            events.index[count] = first + static_cast<uint32_t>(c);
            events.value[count] = load(x[pixel * channels + c]);
        }
    }
    events.begin[pixels] = count;
    events.binary = false;
}

}  // namespace spimm::SPIMM_ISA
