// Batch norm as one multiplication and one addition a value.
#pragma once

#include "lif.h"
#include "moments.h"

#include <cmath>

namespace spimm::SPIMM_ISA {

struct Affine {
    std::vector<float> scale, shift, mean, rstd;

    // 1 and 0 without normalisation, which changes nothing.
    Affine(const Norm &norm, int64_t channels) : scale(channels, 1.0f), shift(channels), mean(channels), rstd(channels) {
        for (int64_t c = 0; c < channels && norm.weight != nullptr; ++c) {
            mean[c] = norm.mean[c];
            rstd[c] = 1.0f / std::sqrt(norm.variance[c] + norm.eps);
            scale[c] = norm.weight[c] * rstd[c];
            shift[c] = norm.bias[c] - mean[c] * scale[c];
        }
    }
};

// Where they are those of the batch, mean and variance go from x to `norm`.
template <class S>
inline void take_moments(const Norm &norm, const void *x, int64_t rows, int64_t channels, int num_threads) {
    if (norm.weight == nullptr || !norm.of_batch) return;
    std::vector<double> moments(2 * channels);
    channel_moments(static_cast<const S *>(x), rows, channels, moments.data(), moments.data() + channels, num_threads);
    std::copy_n(moments.begin(), channels, norm.mean);
    std::copy_n(moments.begin() + channels, channels, norm.variance);
}

}  // namespace spimm::SPIMM_ISA
