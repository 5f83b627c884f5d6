// Rows of channels cut into tiles that stay in the nearest cache, and sums over tiles.
//
// Per-channel values are repeated along the tile, which turns every inner loop into one flat vector loop whatever the
// number of channels. Included by files that are compiled once per instruction set.
#pragma once

#include "vector_math.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

namespace spimm::SPIMM_ISA {

constexpr int64_t tile_target = 1024;  // elements: a float tile is 4 KB

struct Tiling {
    int64_t channels, rows, rows_per_tile, num_tiles, size;

    // The size is a multiple of `multiple` where that takes no more than a few tiles' worth of rows.
    Tiling(int64_t rows, int64_t channels, int64_t multiple = 1)
        : channels(channels), rows(rows),
          rows_per_tile(std::min(rows_for(channels, multiple), std::max<int64_t>(1, rows))),
          num_tiles((rows + rows_per_tile - 1) / rows_per_tile), size(rows_per_tile * channels) {}

    static int64_t rows_for(int64_t channels, int64_t multiple) {
        const int64_t wanted = std::max<int64_t>(1, tile_target / channels), period = multiple / std::gcd(channels, multiple);
        return period * channels > 4 * tile_target ? wanted : std::max(period, wanted / period * period);
    }

    int64_t begin(int64_t tile) const { return tile * size; }
    int64_t length(int64_t tile) const { return std::min(size, rows * channels - begin(tile)); }

    std::vector<float> repeat(const float *per_channel) const {
        if (per_channel != nullptr && channels == 1) return std::vector<float>(size, *per_channel);
        std::vector<float> repeated(per_channel == nullptr ? 0 : size);
        for (size_t row = 0; row < repeated.size(); row += channels) std::copy_n(per_channel, channels, repeated.data() + row);
        return repeated;
    }
};

// Asks for what follows a tile in memory: tiles of the T steps lie too far apart for the processor to guess, and a store
// that misses waits for its line.
template <class S, bool to_write = false> inline void prefetch_next(const void *from, int64_t begin, int64_t n) {
    const char *next = reinterpret_cast<const char *>(static_cast<const S *>(from) + begin + n);
    for (int64_t offset = 0; offset < n * static_cast<int64_t>(sizeof(S)); offset += 64)
        __builtin_prefetch(next + offset, to_write ? 1 : 0, 2);
}

template <class S> inline void load_tile(const void *from, int64_t begin, float *__restrict values, int64_t n) {
    const S *__restrict in = static_cast<const S *>(from) + begin;
    for (int64_t i = 0; i < n; ++i) values[i] = load(in[i]);
}

template <class S> inline void load_state(const void *from, int64_t begin, float *v, int64_t n) {
    if (from == nullptr)
        std::memset(v, 0, n * sizeof(float));
    else
        load_tile<S>(from, begin, v, n);
}

template <class S> inline void store_tile(const float *__restrict values, void *to, int64_t begin, int64_t n) {
    S *__restrict out = static_cast<S *>(to) + begin;
    for (int64_t i = 0; i < n; ++i) out[i] = store<S>(values[i]);
}

// Sums over tiles in float, moved every few tiles to `buckets` sums in double (element i belongs to bucket i % buckets).
struct TileSum {
    std::vector<float> tile;
    std::vector<double> total;
    int64_t pending = 0;

    TileSum(int64_t size, int64_t buckets) : tile(buckets == 0 ? 0 : size, 0.0f), total(buckets, 0.0) {}
    void flush() {
        const size_t buckets = total.size();
        for (size_t row = 0; row < tile.size(); row += buckets)
            for (size_t b = 0; b < buckets; ++b) total[b] += tile[row + b];
        std::fill(tile.begin(), tile.end(), 0.0f);
        pending = 0;
    }
    void end_of_tile() {
        if (++pending == 64) flush();
    }
};

// The tiles of one thread: a range of its own, walked upwards or downwards.
struct Share {
    int64_t first, last;

    Share(int64_t num_tiles, int thread, int num_threads)
        : first(num_tiles * thread / num_threads), last(num_tiles * (thread + 1) / num_threads) {}
    template <class F> void walk(bool downwards, const F &visit) const {
        for (int64_t i = first; i < last; ++i) visit(downwards ? first + last - 1 - i : i);
    }
};

inline void append(std::vector<double> &to, TileSum &sum) {
    sum.flush();
    to.insert(to.end(), sum.total.begin(), sum.total.end());
}

inline std::vector<double> add_up(const std::vector<std::vector<double>> &parts) {
    std::vector<double> total;
    for (const std::vector<double> &part : parts) {
        if (total.size() < part.size()) total.resize(part.size(), 0.0);
        for (size_t i = 0; i < part.size(); ++i) total[i] += part[i];
    }
    return total;
}

}  // namespace spimm::SPIMM_ISA
