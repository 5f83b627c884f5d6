// Windows of a 3x3 pool of stride 2 and padding 1: where they lie, and the largest of each in a tile. Included by files that
// are compiled once per instruction set.
#pragma once

#include "pool.h"
#include "neuron_steps.h"

namespace spimm::SPIMM_ISA {

// Tiles hold whole pixels, each `stride` floats long.
struct Pooling {
    int64_t height, width, stride, columns, tiles_per_row, num_tiles, size;

    explicit Pooling(const PoolExtent &extent)
        : height((extent.height + 1) / 2), width((extent.width + 1) / 2), stride(padded(extent.channels)),
          columns(std::clamp<int64_t>(tile_target / stride, 1, width)), tiles_per_row((width + columns - 1) / columns),
          num_tiles(extent.images * height * tiles_per_row), size(columns * stride) {}
};

struct PooledTile {
    int64_t image, row, first, columns, pixel;  // pixel: of the first, within a step

    PooledTile(const Pooling &pooling, int64_t tile)
        : image(tile / (pooling.height * pooling.tiles_per_row)), row(tile / pooling.tiles_per_row % pooling.height),
          first(tile % pooling.tiles_per_row * pooling.columns), columns(std::min(pooling.columns, pooling.width - first)),
          pixel((image * pooling.height + row) * pooling.width + first) {}
};

// Where the nine elements of a window are, row by row. One outside of the image is replaced by the nearest inside, which
// leaves the first maximum as it is; `number` tells which it is really.
struct Window {
    int64_t offset[9];
    uint32_t number[9];

    Window(const PoolExtent &extent, int64_t row, int64_t column) {
        for (int64_t k = 0; k < 9; ++k) {
            const int64_t top = 2 * row - 1, left = 2 * column - 1;
            const int64_t y = std::clamp<int64_t>(top + k / 3, 0, extent.height - 1);
            const int64_t x = std::clamp<int64_t>(left + k % 3, 0, extent.width - 1);
            offset[k] = (y * extent.width + x) * extent.channels;
            number[k] = static_cast<uint32_t>((y - top) * 3 + x - left);
        }
    }
};

// The one or two windows along an axis that a pixel lies in, and where in them.
struct Covering {
    int64_t count, window[2], place[2];

    Covering(int64_t i, int64_t num_windows)
        : count(i % 2 == 1 && (i + 1) / 2 < num_windows ? 2 : 1), window{i / 2, (i + 1) / 2}, place{1 + i % 2, 0} {}
};

typedef uint8_t Bytes __attribute__((vector_size(lanes)));

// By way of 16 bits where there is no instruction: compilers take a conversion by a factor of four element by element.
inline Words widen(Bytes bytes) {
#if defined(__AVX512F__)
    return std::bit_cast<Words>(_mm512_cvtepu8_epi32(std::bit_cast<__m128i>(bytes)));
#elif defined(__AVX2__)
    return std::bit_cast<Words>(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(std::bit_cast<int64_t>(bytes))));
#else
    return __builtin_convertvector(__builtin_convertvector(bytes, Halves), Words);
#endif
}

inline Bytes narrow(Words words) {
#if defined(__AVX512F__)
    return std::bit_cast<Bytes>(_mm512_cvtepi32_epi8(std::bit_cast<__m512i>(words)));
#else
    return __builtin_convertvector(__builtin_convertvector(words, Halves), Bytes);
#endif
}

inline Vec larger(Vec a, Vec b) {
#if defined(__AVX512F__)
    return _mm512_max_ps(a, b);
#elif defined(__AVX2__)
    return _mm256_max_ps(a, b);
#else
    return a > b ? a : b;
#endif
}

inline bool is_finite(Vec zero_times_values) { return sum(zero_times_values) == 0.0f; }

// Asks for the pixels that the same window has in the tile to be visited next: the T steps lie too far apart for the
// processor to guess. Those of its first row and column came with its neighbours.
template <class S> inline void ask(const S *image, const Window &window, int64_t next, int64_t c) {
    if (sizeof(S) * lanes < 64 && c * sizeof(S) % 64 != 0) return;
    for (int k : {4, 5, 7, 8}) __builtin_prefetch(image + window.offset[k] + next + c, 0, 2);
}

// z: the largest scale x + shift of each window of a tile. Comparisons alone would pass over what is not a number; where
// it is, torch's maximum is not a number either: then false, and z is to be found with care.
template <class S>
inline bool pool_tile(const S *image, const PoolExtent &extent, const Pooling &pooling, const PooledTile &tile,
                      const float *scale, const float *shift, float *z_tile) {
    const int64_t next = 2 * pooling.columns * extent.channels;
    Vec check{};
    for (int64_t column = 0; column < tile.columns; ++column, z_tile += pooling.stride) {
        const Window window(extent, tile.row, tile.first + column);
        for_each_register(extent.channels, [&](int64_t c, auto count) {
            ask(image, window, next, c);
            const Vec a = load_vec(scale + c), b = load_vec(shift + c);
            Vec best[3], total[3];
            for (int r = 0; r < 3; ++r) {
                const int64_t *offset = window.offset + 3 * r;
                const Vec z0 = fma(load_vec(image + offset[0] + c, count), a, b);
                const Vec z1 = fma(load_vec(image + offset[1] + c, count), a, b);
                const Vec z2 = fma(load_vec(image + offset[2] + c, count), a, b);
                best[r] = larger(larger(z0, z1), z2);
                total[r] = z0 + z1 + z2;
            }
            check = fma(total[0] + total[1] + total[2], Vec{}, check);
            store_vec(z_tile + c, larger(larger(best[0], best[1]), best[2]));
        });
    }
    return is_finite(check);
}

// As pool_tile, and the x of the largest and its number. With care, what is not a number wins.
template <class S, bool with_care>
inline bool pool_tile_with_winners(const S *image, const PoolExtent &extent, const Pooling &pooling, const PooledTile &tile,
                                   const float *scale, const float *shift, float *z_tile, float *x_tile, uint8_t *winners) {
    const int64_t next = 2 * pooling.columns * extent.channels;
    Vec check{};
    for (int64_t column = 0; column < tile.columns; ++column) {
        const Window window(extent, tile.row, tile.first + column);
        for_each_register(extent.channels, [&](int64_t c, auto count) {
            ask(image, window, next, c);
            const Vec a = load_vec(scale + c), b = load_vec(shift + c);
            Vec best_x = load_vec(image + window.offset[0] + c, count), best = fma(best_x, a, b), total = best;
            Words number = Words{} + window.number[0];
            for (int k = 1; k < 9; ++k) {
                const Vec x = load_vec(image + window.offset[k] + c, count), z = fma(x, a, b);
                Mask wins = z > best;
                if constexpr (with_care) wins |= z != z;
                best = wins ? z : best;
                best_x = wins ? x : best_x;
                number = wins ? Words{} + window.number[k] : number;
                total += z;
            }
            check = fma(total, Vec{}, check);
            store_vec(z_tile + column * pooling.stride + c, best);
            store_vec(x_tile + column * pooling.stride + c, best_x);
            const Bytes bytes = narrow(number);
            std::memcpy(winners + column * extent.channels + c, &bytes, count);
        });
    }
    return is_finite(check);
}

}  // namespace spimm::SPIMM_ISA
