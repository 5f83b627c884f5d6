// Mean and biased variance of each channel. Values are shifted by the first row, which keeps the difference
// E[x^2] - E[x]^2 free of cancellation when the mean is large against the spread.
#pragma once

#include "tiles.h"
#include "vectors.h"

#include <omp.h>

namespace spimm::SPIMM_ISA {

// Adds the values of K tiles that follow each other, and their squares, to sums over one tile.
template <int K, class S>
inline void add_moments(const S *x, const float *origin, TileSum &value_sum, TileSum &square_sum, int64_t size, int64_t n) {
    float *value = value_sum.tile.data(), *square = square_sum.tile.data();
    int64_t i = 0;
    for (; i + lanes <= n; i += lanes) {
        const Vec o = load_vec(origin + i);
        Vec v = load_vec(value + i), s = load_vec(square + i);
        for (int k = 0; k < K; ++k) {
            const Vec d = load_vec(x + k * size + i) - o;
            v += d;
            s = fma(d, d, s);
        }
        store_vec(value + i, v);
        store_vec(square + i, s);
    }
    for (; i < n; ++i)
        for (int k = 0; k < K; ++k) {
            const float d = load(x[k * size + i]) - origin[i];
            value[i] += d;
            square[i] += d * d;
        }
}

template <class S>
inline void channel_moments(const S *x, int64_t rows, int64_t channels, double *mean, double *variance, int num_threads) {
    constexpr int64_t together = 4;  // tiles at once: the sums are loaded and stored once for them all
    const Tiling tiling(rows, channels, lanes);
    std::vector<float> first(channels);
    for (int64_t c = 0; c < channels; ++c) first[c] = load(x[c]);
    const std::vector<float> origin = tiling.repeat(first.data());
    std::vector<std::vector<double>> parts(num_threads);
    const int64_t num_groups = (tiling.num_tiles + together - 1) / together;
#pragma omp parallel num_threads(num_threads)
    {
        TileSum value_sum(tiling.size, channels), square_sum(tiling.size, channels);
        Share(num_groups, omp_get_thread_num(), omp_get_num_threads()).walk(false, [&](int64_t group) {
            const int64_t tile = group * together, end = std::min(tile + together, tiling.num_tiles);
            if (tiling.begin(tile) + together * tiling.size <= rows * channels)
                add_moments<together>(x + tiling.begin(tile), origin.data(), value_sum, square_sum, tiling.size, tiling.size);
            else
                for (int64_t i = tile; i < end; ++i)
                    add_moments<1>(x + tiling.begin(i), origin.data(), value_sum, square_sum, tiling.size, tiling.length(i));
            value_sum.end_of_tile();
            square_sum.end_of_tile();
        });
        for (TileSum *sum : {&value_sum, &square_sum}) append(parts[omp_get_thread_num()], *sum);
    }
    const std::vector<double> total = add_up(parts);
    for (int64_t c = 0; c < channels; ++c) {
        const double offset = total[c] / rows;
        mean[c] = first[c] + offset;
        const double spread = total[channels + c] / rows - offset * offset;
        variance[c] = spread < 0.0 ? 0.0 : spread;  // NaN stays
    }
}

}  // namespace spimm::SPIMM_ISA
