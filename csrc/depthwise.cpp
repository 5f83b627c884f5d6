// Depth-wise convolutions and their gradients. Compiled once per instruction set.
//
// A register of channels is taken through a band of rows at a time: the band is widened to floats with zeros around it,
// small enough for the second-level cache, and every output of it is summed in registers.
#include "depthwise.h"
#include "aligned.h"
#include "vectors.h"

#include <algorithm>
#include <omp.h>

namespace spimm::SPIMM_ISA {

constexpr int64_t band_bytes = 192 * 1024;

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// `lanes` channels of an array [rows, columns, width of a row of channels]: channel l lies `step` apart from l - 1.
template <class S> struct Channels {
    S *first;
    int64_t pixel, step, count;

    Vec read(int64_t place) const {
        const S *from = first + place * pixel;
        if (step == 1) return count == lanes ? load_vec(from) : load_vec(from, count);
        float values[lanes] = {};
        for (int64_t l = 0; l < count; ++l) values[l] = load(from[l * step]);
        return load_vec(values);
    }
    void write(int64_t place, Vec value) const {
        S *to = first + place * pixel;
        if (step == 1) return count == lanes ? store_vec(to, value) : store_vec(to, value, count);
        float values[lanes];
        store_vec(values, value);
        for (int64_t l = 0; l < count; ++l) to[l * step] = store<S>(values[l]);
    }
};

// Rows [begin, begin + rows) of an image as floats, `padded` columns each of which `reach` are in front of the first; zeros
// where it has none. With `spread` 2 the image is that of every second row and column, the others are zeros.
template <class S>
static void widen(const Channels<const S> &from, float *to, int64_t height, int64_t width, int64_t begin, int64_t rows,
                  int64_t padded, int64_t reach, int64_t spread) {
    const int64_t last = reach + (width - 1) * spread + 1;
    for (int64_t r = 0; r < rows; ++r) {
        float *line = to + r * padded * lanes;
        const int64_t row = begin + r;
        const bool exists = row >= 0 && row % spread == 0 && row / spread < height;
        std::fill(line, line + (exists && spread == 1 ? reach : padded) * lanes, 0.0f);
        if (!exists) continue;
        if (spread == 1) std::fill(line + last * lanes, line + padded * lanes, 0.0f);
        for (int64_t c = 0; c < width; ++c) store_vec(line + (reach + c * spread) * lanes, from.read(row / spread * width + c));
    }
}

// sums[c] += weights * x[stride c ...] for U columns of a row of outputs; x has `padded` columns.
template <int kernel, int stride, int U>
static inline void convolve_columns(const float *x, int64_t padded, const float *weights, float *sums) {
    constexpr int reach = (U - 1) * stride + kernel;
    Vec sum[U];
    for (int u = 0; u < U; ++u) sum[u] = load_vec(sums + u * lanes);
    for (int64_t kr = 0; kr < kernel; ++kr) {
        Vec inputs[reach];
        for (int j = 0; j < reach; ++j) inputs[j] = load_vec(x + (kr * padded + j) * lanes);
        for (int kc = 0; kc < kernel; ++kc) {
            const Vec weight = load_vec(weights + (kr * kernel + kc) * lanes);
            for (int u = 0; u < U; ++u) sum[u] = fma(weight, inputs[u * stride + kc], sum[u]);
        }
    }
    for (int u = 0; u < U; ++u) store_vec(sums + u * lanes, sum[u]);
}

// sums[r, c] += the convolution, for `rows` rows of `columns` outputs.
template <int kernel, int stride>
static void convolve(const float *x, int64_t padded, const float *weights, float *sums, int64_t rows, int64_t columns) {
    constexpr int U = stride == 1 ? 8 : 6;
    for (int64_t r = 0; r < rows; ++r) {
        const float *line = x + r * stride * padded * lanes;
        float *out = sums + r * columns * lanes;
        int64_t c = 0;
        for (; c + U <= columns; c += U)
            convolve_columns<kernel, stride, U>(line + c * stride * lanes, padded, weights, out + c * lanes);
        for (; c < columns; ++c)
            convolve_columns<kernel, stride, 1>(line + c * stride * lanes, padded, weights, out + c * lanes);
    }
}

// sums[kr, kc] += grad(r, c) x(stride r + kr, stride c + kc). The sums of `together` rows of the kernel stay in registers:
// enough of them to hide how long an addition takes.
template <int kernel, int stride, int together>
static void correlate(const float *x, int64_t padded, const float *grad, float *sums, int64_t rows, int64_t columns) {
    static_assert(kernel % together == 0);
    for (int64_t kr = 0; kr < kernel; kr += together) {
        Vec sum[together * kernel];
        for (int j = 0; j < together * kernel; ++j) sum[j] = load_vec(sums + (kr * kernel + j) * lanes);
        for (int64_t r = 0; r < rows; ++r) {
            const float *lines = x + (r * stride + kr) * padded * lanes, *weights = grad + r * columns * lanes;
            for (int64_t c = 0; c < columns; ++c) {
                const Vec g = load_vec(weights + c * lanes);
                for (int i = 0; i < together; ++i)
                    for (int j = 0; j < kernel; ++j)
                        sum[i * kernel + j] = fma(g, load_vec(lines + (i * padded + c * stride + j) * lanes), sum[i * kernel + j]);
            }
        }
        for (int j = 0; j < together * kernel; ++j) store_vec(sums + (kr * kernel + j) * lanes, sum[j]);
    }
}

template <class S> struct Depthwise {
    const DepthwiseExtent e;
    const int64_t reach = e.kernel / 2, taps = e.kernel * e.kernel, blocks = ceil_div(e.channels, lanes);
    const int64_t out_rows = e.out_height(), out_columns = e.out_width(), padded = e.width + 2 * reach;

    explicit Depthwise(const DepthwiseExtent &extent) : e(extent) {}

    int64_t count(int64_t block) const { return std::min<int64_t>(lanes, e.channels - block * lanes); }
    template <class X> Channels<X> of_x(X *x, int64_t image, int64_t branch, int64_t block) const {
        const int64_t pixel = e.branches * e.channels;
        return {x + image * e.height * e.width * pixel + branch * e.channels + block * lanes, pixel, 1, count(block)};
    }
    template <class Y> Channels<Y> of_y(Y *y, int64_t image, int64_t which, int64_t block) const {
        const int64_t pixel = e.channels * e.multiplier;
        return {y + image * out_rows * out_columns * pixel + block * lanes * e.multiplier + which, pixel, e.multiplier, count(block)};
    }
    // Rows of the output (`stride` rows of x each) that a band may have.
    int64_t band(int64_t rows, int64_t columns, int64_t stride) const {
        const int64_t wanted = band_bytes / (static_cast<int64_t>(sizeof(float)) * lanes * columns * stride) - e.kernel;
        return std::clamp<int64_t>(wanted, std::min<int64_t>(4, rows), rows);
    }
    int64_t slot(int64_t branch, int64_t which, int64_t block) const { return ((branch * e.multiplier + which) * blocks + block) * taps * lanes; }
    int64_t packed() const { return slot(e.branches, 0, 0); }

    // A register of channels for each tap, `turned` around or not; and back.
    void pack(const float *weight, float *to, bool turned) const {
        std::fill(to, to + packed(), 0.0f);
        visit([&](int64_t channel, int64_t place, int64_t tap) {
            to[place + (turned ? taps - 1 - tap : tap) * lanes] = weight[channel * taps + tap];
        });
    }
    template <class F> void visit(const F &f) const {
        for (int64_t branch = 0; branch < e.branches; ++branch)
            for (int64_t c = 0; c < e.channels; ++c)
                for (int64_t which = 0; which < e.multiplier; ++which)
                    for (int64_t tap = 0; tap < taps; ++tap)
                        f((branch * e.channels + c) * e.multiplier + which, slot(branch, which, c / lanes) + c % lanes, tap);
    }

    template <int kernel, int stride> void forward(const S *x, const float *weight, S *y, int num_threads) const {
        const Aligned<float> weights = aligned<float>(packed());
        pack(weight, weights.get(), false);
        const int64_t most = band(out_rows, padded, stride);
#pragma omp parallel num_threads(num_threads)
        {
            const Aligned<float> input = aligned<float>(((most - 1) * stride + kernel) * padded * lanes);
            const Aligned<float> sums = aligned<float>(most * out_columns * e.multiplier * lanes);
#pragma omp for collapse(2) schedule(static)
            for (int64_t image = 0; image < e.images; ++image)
                for (int64_t block = 0; block < blocks; ++block)
                    for (int64_t begin = 0; begin < out_rows; begin += most) {
                        const int64_t rows = std::min(most, out_rows - begin), area = rows * out_columns;
                        std::fill(sums.get(), sums.get() + area * e.multiplier * lanes, 0.0f);
                        for (int64_t branch = 0; branch < e.branches; ++branch) {
                            widen(of_x(x, image, branch, block), input.get(), e.height, e.width, begin * stride - reach,
                                  (rows - 1) * stride + kernel, padded, reach, 1);
                            for (int64_t which = 0; which < e.multiplier; ++which)
                                convolve<kernel, stride>(input.get(), padded, weights.get() + slot(branch, which, block),
                                                         sums.get() + which * area * lanes, rows, out_columns);
                        }
                        for (int64_t which = 0; which < e.multiplier; ++which) {
                            const Channels<S> out = of_y(y, image, which, block);
                            for (int64_t i = 0; i < area; ++i)
                                out.write(begin * out_columns + i, load_vec(sums.get() + (which * area + i) * lanes));
                        }
                    }
        }
    }

    // The convolution of the gradient, with zeros between its places for a stride of 2, by the kernels turned around.
    template <int kernel, int stride> void grad_x(const S *grad_y, const float *weight, S *grad_x, int num_threads) const {
        const Aligned<float> weights = aligned<float>(packed());
        pack(weight, weights.get(), true);
        const int64_t most = band(e.height, padded * e.multiplier, 1), plane = (most + kernel - 1) * padded * lanes;
#pragma omp parallel num_threads(num_threads)
        {
            const Aligned<float> gradient = aligned<float>(plane * e.multiplier), sums = aligned<float>(most * e.width * lanes);
#pragma omp for collapse(2) schedule(static)
            for (int64_t image = 0; image < e.images; ++image)
                for (int64_t block = 0; block < blocks; ++block)
                    for (int64_t begin = 0; begin < e.height; begin += most) {
                        const int64_t rows = std::min(most, e.height - begin), area = rows * e.width;
                        for (int64_t which = 0; which < e.multiplier; ++which)
                            widen(of_y(grad_y, image, which, block), gradient.get() + which * plane, out_rows, out_columns,
                                  begin - reach, rows + kernel - 1, padded, reach, stride);
                        for (int64_t branch = 0; branch < e.branches; ++branch) {
                            std::fill(sums.get(), sums.get() + area * lanes, 0.0f);
                            for (int64_t which = 0; which < e.multiplier; ++which)
                                convolve<kernel, 1>(gradient.get() + which * plane, padded, weights.get() + slot(branch, which, block),
                                                    sums.get(), rows, e.width);
                            const Channels<S> out = of_x(grad_x, image, branch, block);
                            for (int64_t i = 0; i < area; ++i) out.write(begin * e.width + i, load_vec(sums.get() + i * lanes));
                        }
                    }
        }
    }

    template <int kernel, int stride> void grad_weight(const S *x, const S *grad_y, float *grad_weight, int num_threads) const {
        const int64_t most = band(out_rows, padded, stride), part = packed();
        const Aligned<float> parts = aligned<float>(num_threads * part);
#pragma omp parallel num_threads(num_threads)
        {
            float *mine = parts.get() + omp_get_thread_num() * part;
            std::fill(mine, mine + part, 0.0f);
            const Aligned<float> input = aligned<float>(((most - 1) * stride + kernel) * padded * lanes);
            const Aligned<float> gradient = aligned<float>(most * out_columns * e.multiplier * lanes);
#pragma omp for collapse(2) schedule(static)
            for (int64_t image = 0; image < e.images; ++image)
                for (int64_t block = 0; block < blocks; ++block)
                    for (int64_t begin = 0; begin < out_rows; begin += most) {
                        const int64_t rows = std::min(most, out_rows - begin), area = rows * out_columns;
                        for (int64_t which = 0; which < e.multiplier; ++which)
                            widen(of_y(grad_y, image, which, block), gradient.get() + which * area * lanes, out_rows, out_columns, begin,
                                  rows, out_columns, 0, 1);
                        for (int64_t branch = 0; branch < e.branches; ++branch) {
                            widen(of_x(x, image, branch, block), input.get(), e.height, e.width, begin * stride - reach,
                                  (rows - 1) * stride + kernel, padded, reach, 1);
                            for (int64_t which = 0; which < e.multiplier; ++which)
                                correlate<kernel, stride, kernel == 3 ? 3 : 1>(input.get(), padded, gradient.get() + which * area * lanes,
                                                                               mine + slot(branch, which, block), rows, out_columns);
                        }
                    }
        }
        visit([&](int64_t channel, int64_t place, int64_t tap) {
            float sum = 0.0f;
            for (int thread = 0; thread < num_threads; ++thread) sum += parts[thread * part + place + tap * lanes];
            grad_weight[channel * taps + tap] = sum;
        });
    }
};

// Calls f.operator()<kernel, stride>().
template <class F> static void with_form(const DepthwiseExtent &e, const F &f) {
    const auto of_stride = [&]<int stride>() {
        switch (e.kernel) {
        case 3: return f.template operator()<3, stride>();
        case 5: return f.template operator()<5, stride>();
        default: return f.template operator()<7, stride>();
        }
    };
    e.stride == 1 ? of_stride.template operator()<1>() : of_stride.template operator()<2>();
}

static void forward(Storage storage, const void *x, const float *weight, void *y, const DepthwiseExtent &e, int num_threads) {
    with_storage(storage, [&](auto s) {
        using S = decltype(s);
        with_form(e, [&]<int kernel, int stride>() {
            Depthwise<S>(e).template forward<kernel, stride>(static_cast<const S *>(x), weight, static_cast<S *>(y), num_threads);
        });
    });
}

static void grad_x(Storage storage, const void *grad_y, const float *weight, void *grad_x, const DepthwiseExtent &e, int num_threads) {
    with_storage(storage, [&](auto s) {
        using S = decltype(s);
        with_form(e, [&]<int kernel, int stride>() {
            Depthwise<S>(e).template grad_x<kernel, stride>(static_cast<const S *>(grad_y), weight, static_cast<S *>(grad_x), num_threads);
        });
    });
}

static void grad_weight(Storage storage, const void *x, const void *grad_y, float *grad_weight, const DepthwiseExtent &e,
                        int num_threads) {
    with_storage(storage, [&](auto s) {
        using S = decltype(s);
        with_form(e, [&]<int kernel, int stride>() {
            Depthwise<S>(e).template grad_weight<kernel, stride>(static_cast<const S *>(x), static_cast<const S *>(grad_y), grad_weight,
                                                                 num_threads);
        });
    });
}

extern const DepthwiseKernels depthwise_kernels;
const DepthwiseKernels depthwise_kernels{forward, grad_x, grad_weight};

}  // namespace spimm::SPIMM_ISA
