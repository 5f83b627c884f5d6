// Rows of weights, or of gradients, that events add up: cut into blocks that stay in the second-level cache while the sums
// of a block stay in registers. Included by files that are compiled once per instruction set.
#pragma once

#include "aligned.h"
#include "spike_conv.h"
#include "vectors.h"

#include <algorithm>
#include <memory>

namespace spimm::SPIMM_ISA {

constexpr int64_t cache_bytes = 640 * 1024;  // of the second-level cache, for what is read again and again
constexpr int64_t group_pixels = 1024;       // images are taken together until they have this many pixels

// What is read for every event is kept as it was stored: bfloat16 costs half the bytes. Two vectors of bfloat16 share one
// of 32-bit lanes, the first in the lower halves, so that each is one instruction away from floats.
template <class S> inline int64_t slot(int64_t i) {
    if constexpr (sizeof(S) == sizeof(float)) return i;
    return i / (2 * lanes) * (2 * lanes) + i % lanes * 2 + i / lanes % 2;
}

template <class S> inline void store_slots(const S *__restrict from, S *__restrict to, int64_t n) {
    int64_t begin = 0;
    if constexpr (sizeof(S) != sizeof(float))
        for (; begin + 2 * lanes <= n; begin += 2 * lanes) {
            uint32_t both[lanes];
            for (int64_t i = 0; i < lanes; ++i)
                both[i] = from[begin + i].bits | static_cast<uint32_t>(from[begin + lanes + i].bits) << 16;
            std::memcpy(to + begin, both, sizeof both);
        }
    for (int64_t i = begin; i < n; ++i) to[slot<S>(i)] = from[i];
}

// sum[j] += value row[j] for `count` vectors, an even number for bfloat16.
template <class S, int count, bool binary> inline void add_row(Vec (&sum)[count], const S *row, float value) {
    if constexpr (sizeof(S) == sizeof(float)) {
        for (int j = 0; j < count; ++j) {
            const Vec values = load_vec(row + j * lanes);
            sum[j] = binary ? sum[j] + values : fma(all(value), values, sum[j]);
        }
    } else {
        for (int j = 0; j < count; j += 2) {
            Words both;
            std::memcpy(&both, row + j * lanes, sizeof both);
            const Vec first = std::bit_cast<Vec>(both << 16), second = std::bit_cast<Vec>(both & 0xffff0000u);
            sum[j] = binary ? sum[j] + first : fma(all(value), first, sum[j]);
            sum[j + 1] = binary ? sum[j + 1] + second : fma(all(value), second, sum[j + 1]);
        }
    }
}

inline int64_t images_per_group(const ConvExtent &e, int num_threads) {
    const int64_t wanted = std::max<int64_t>(1, group_pixels / (e.height * e.width));
    return std::min(wanted, std::max<int64_t>(1, e.images / num_threads));
}

// Vecs in a block of output channels: the widest of few choices that fits, unless a narrower one pads less.
template <class S> int64_t block_width(int64_t out_channels, int64_t row_count, int64_t widest) {
    constexpr int64_t unit = sizeof(float) / sizeof(S);
    const int64_t vectors = (out_channels + unit * lanes - 1) / (unit * lanes) * unit;
    int64_t best = 0, best_padded = 0;
    for (const int64_t width : {1, 2, 3, 4, 6, 8}) {
        if (width % unit != 0 || width > std::max(widest, unit) || width > vectors) continue;
        const int64_t padded = (vectors + width - 1) / width * width;
        const bool fits = width <= 2 || row_count * width * lanes * static_cast<int64_t>(sizeof(S)) <= cache_bytes;
        if (best == 0 || (fits && padded <= best_padded + best_padded / 8)) best = width, best_padded = padded;
    }
    return best;
}

// Calls f.template operator()<width>() with a width that S allows.
template <class S, class F> void with_width(int64_t width, const F &f) {
    if constexpr (sizeof(S) == sizeof(float)) {
        if (width == 1) return f.template operator()<1>();
        if (width == 3) return f.template operator()<3>();
    }
    switch (width) {
    case 2: return f.template operator()<2>();
    case 4: return f.template operator()<4>();
    case 6: return f.template operator()<6>();
    default: return f.template operator()<8>();
    }
}

}  // namespace spimm::SPIMM_ISA
