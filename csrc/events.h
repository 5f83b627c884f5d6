// Spikes as lists: the places and values of what is not 0. Included by files that are compiled once per instruction set.
#pragma once

#include "vectors.h"

#include <memory>
#include <vector>

namespace spimm::SPIMM_ISA {

constexpr int64_t run = 16;  // values looked at together

// The places and values of what is not 0 in consecutive rows; `begin[r]` is where row r starts.
struct Events {
    std::vector<uint32_t> begin;
    std::unique_ptr<uint32_t[]> index;
    std::unique_ptr<float[]> value;
    bool binary = true;  // every value is 1

    Events(int64_t rows, int64_t row_size)
        : begin(rows + 1), index(new uint32_t[rows * row_size + run]), value(new float[rows * row_size + run]) {}
};

// Appends the non-zero values among n, whose places count from `first`; returns the new number of events.
template <class S> inline uint32_t append_events(const S *x, int64_t n, uint32_t first, uint32_t count, Events &events) {
    uint32_t *index = events.index.get();
    float *value = events.value.get();
    bool binary = true;
    int64_t i = 0;
#if defined(__AVX512F__)
    const __m512i places = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __mmask16 odd = 0;
    for (; i + run <= n; i += run) {
        const __m512 values = load_vec(x + i);
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

// Lists `pixels` more rows, as those from `first_pixel` on; 0 starts anew.
template <class S>
inline void list_events(const S *x, int64_t pixels, int64_t pixels_per_line, int64_t channels, Events &events,
                        int64_t first_pixel = 0) {
    uint32_t count = first_pixel == 0 ? 0 : events.begin[first_pixel];
    if (first_pixel == 0) events.binary = true;
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
        events.begin[first_pixel + pixel] = count;
        const auto first = static_cast<uint32_t>(pixel % pixels_per_line * channels);
        count = append_events(x + pixel * channels, channels, first, count, events);
    }
    events.begin[first_pixel + pixels] = count;
}

}  // namespace spimm::SPIMM_ISA
