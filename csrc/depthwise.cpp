#include "depthwise.h"
#include "aligned.h"
#include "vectors.h"

#include <omp.h>

namespace spimm::SPIMM_ISA {

// One image's `lanes` channels from `begin` on as floats, channels fastest, with `reach` zeros on all sides.
template <class S>
static void widen_block(const S *from, float *to, const DepthwiseExtent &e, int64_t begin, int64_t reach) {
    const int64_t count = std::min<int64_t>(lanes, e.channels - begin), padded = e.width + 2 * reach;
    for (int64_t r = 0; r < e.height; ++r) {
        const S *line = from + r * e.width * e.channels + begin;
        float *out = to + ((r + reach) * padded + reach) * lanes;
        if (count == lanes)
            for (int64_t c = 0; c < e.width; ++c) store_vec(out + c * lanes, load_vec(line + c * e.channels));
        else
            for (int64_t c = 0; c < e.width; ++c) store_vec(out + c * lanes, load_vec(line + c * e.channels, count));
    }
}

// sums[kr, kc] += grad(r, c) x(r + kr, c + kc) over the image. The sums of `rows` rows of the kernel stay in registers:
// enough of them to hide how long an addition takes.
template <int kernel, int rows>
static void correlate(const float *x, const float *grad, float *sums, const DepthwiseExtent &e) {
    static_assert(kernel % rows == 0);
    const int64_t padded = e.width + kernel - 1;
    for (int64_t kr = 0; kr < kernel; kr += rows) {
        Vec sum[rows * kernel];
        for (int j = 0; j < rows * kernel; ++j) sum[j] = load_vec(sums + (kr * kernel + j) * lanes);
        for (int64_t r = 0; r < e.height; ++r) {
            const float *lines = x + (r + kr) * padded * lanes, *weights = grad + r * e.width * lanes;
            for (int64_t c = 0; c < e.width; ++c) {
                const Vec g = load_vec(weights + c * lanes);
                for (int i = 0; i < rows; ++i)
                    for (int j = 0; j < kernel; ++j)
                        sum[i * kernel + j] = fma(g, load_vec(lines + (i * padded + c + j) * lanes), sum[i * kernel + j]);
            }
        }
        for (int j = 0; j < rows * kernel; ++j) store_vec(sums + (kr * kernel + j) * lanes, sum[j]);
    }
}

template <class S, int kernel>
static void grad_weight_of(const S *x, const S *grad, float *grad_weight, const DepthwiseExtent &e, int num_threads) {
    constexpr int64_t taps = kernel * kernel, reach = kernel / 2;
    const int64_t blocks = (e.channels + lanes - 1) / lanes, plane = e.height * e.width, part = blocks * taps * lanes;
    const int64_t padded = (e.height + 2 * reach) * (e.width + 2 * reach);
    const Aligned<float> parts = aligned<float>(num_threads * part);
#pragma omp parallel num_threads(num_threads)
    {
        float *mine = parts.get() + omp_get_thread_num() * part;
        std::fill(mine, mine + part, 0.0f);
        const Aligned<float> input = aligned<float>(padded * lanes), gradient = aligned<float>(plane * lanes);
        std::fill(input.get(), input.get() + padded * lanes, 0.0f);
#pragma omp for collapse(2) schedule(static)
        for (int64_t image = 0; image < e.images; ++image)
            for (int64_t block = 0; block < blocks; ++block) {
                const int64_t first = image * plane * e.channels;
                widen_block(x + first, input.get(), e, block * lanes, reach);
                widen_block(grad + first, gradient.get(), e, block * lanes, 0);
                correlate<kernel, kernel == 3 ? 3 : 1>(input.get(), gradient.get(), mine + block * taps * lanes, e);
            }
#pragma omp for schedule(static)
        for (int64_t channel = 0; channel < e.channels; ++channel)
            for (int64_t tap = 0; tap < taps; ++tap) {
                const float *from = parts.get() + (channel / lanes * taps + tap) * lanes + channel % lanes;
                float sum = 0.0f;
                for (int thread = 0; thread < num_threads; ++thread) sum += from[thread * part];
                grad_weight[channel * taps + tap] = sum;
            }
    }
}

static void grad_weight(Storage storage, const void *x, const void *grad_y, float *grad_weight, const DepthwiseExtent &e,
                        int num_threads) {
    with_storage(storage, [&](auto s) {
        using S = decltype(s);
        const S *from = static_cast<const S *>(x), *grad = static_cast<const S *>(grad_y);
        switch (e.kernel) {
        case 3: return grad_weight_of<S, 3>(from, grad, grad_weight, e, num_threads);
        case 5: return grad_weight_of<S, 5>(from, grad, grad_weight, e, num_threads);
        default: return grad_weight_of<S, 7>(from, grad, grad_weight, e, num_threads);
        }
    });
}

extern const DepthwiseKernels depthwise_kernels;
const DepthwiseKernels depthwise_kernels{grad_weight};

}  // namespace spimm::SPIMM_ISA
