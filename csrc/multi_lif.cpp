// Several LIFs with one input, which differ in their thresholds, side by side. Compiled once per instruction set.
//
// The inputs of a few registers of neurons at all time steps are read once and kept in the nearest cache; each threshold
// then has its own run through them.
#include "multi_lif.h"
#include "aligned.h"
#include "steps.h"

#include <omp.h>

namespace spimm::SPIMM_ISA {

constexpr int side_by_side = 2;  // registers of neurons

template <class S> struct Branches {
    const Neuron neuron;
    const Extent extent;
    const std::vector<float> thresholds;
    const int64_t row, num_pieces;  // a row of x, whose branches lie behind each other
    const int64_t plane, x_steps;
    const Steps<S> x, out, grad_x;
    double *const grad_coefficients;

    Branches(const Neuron &neuron, const Extent &extent, const float *thresholds, int count, const void *x, const void *out,
             void *grad_x, double *grad_coefficients)
        : neuron(neuron), extent(extent), thresholds(thresholds, thresholds + count), row(extent.channels),
          num_pieces(extent.rows), plane(extent.rows * extent.channels), x_steps(extent.x_shared ? 1 : extent.num_steps),
          x(x, extent.x_shared ? 0 : plane), out(out, plane * count), grad_x(grad_x, plane),
          grad_coefficients(grad_coefficients) {}

    int64_t count() const { return static_cast<int64_t>(thresholds.size()); }
    int64_t out_begin(int64_t piece) const { return piece * row * count(); }
    int64_t scratch() const { return extent.num_steps * side_by_side * lanes; }
};

template <class S, bool soft, int U, bool part>
static void forward_span(const Branches<S> &br, float *inputs, int64_t piece, int64_t i, int64_t end) {
    const int64_t T = br.extent.num_steps, begin = piece * br.row, out_begin = br.out_begin(piece);
    const Vec decay = all(br.neuron.decay), gain = all(br.neuron.gain);
    for (; i < end; i += U * lanes) {
        const int64_t count = std::min<int64_t>(lanes, end - i);
        for (int64_t t = 0; t < T; ++t)
            for (int u = 0; u < U; ++u)
                store_vec(inputs + (t * U + u) * lanes, gain * read<part>(br.x.at(t, begin + i + u * lanes), count));
        for (int64_t branch = 0; branch < br.count(); ++branch) {
            const Vec threshold = all(br.thresholds[branch]);
            const int64_t to = out_begin + branch * br.row + i;
            Vec v[U] = {};
            for (int64_t t = 0; t < T; ++t)
                for (int u = 0; u < U; ++u) {
                    const Vec h = fma(decay, v[u], load_vec(inputs + (t * U + u) * lanes));
                    write_ones<part>(br.out.at(t, to + u * lanes), h >= threshold, false, count);
                    v[u] = after_reset<soft>(h, threshold);
                }
        }
    }
}

template <class S, Shape shape, bool soft, int U, bool part>
static void backward_span(const Branches<S> &br, float *scratch, std::vector<double> &totals, int64_t piece, int64_t i,
                          int64_t end) {
    const int64_t T = br.extent.num_steps, begin = piece * br.row, out_begin = br.out_begin(piece);
    const bool learns = br.grad_coefficients != nullptr, attached = !br.neuron.detach_reset;
    const Vec decay = all(br.neuron.decay), gain = all(br.neuron.gain), none{};
    const float slope_a = br.neuron.surrogate_a, slope_b = br.neuron.surrogate_b;
    float *inputs = scratch, *potentials = scratch + br.scratch(), *grads = potentials + br.scratch();
    for (; i < end; i += U * lanes) {
        const int64_t count = std::min<int64_t>(lanes, end - i);
        for (int64_t t = 0; t < T; ++t)
            for (int u = 0; u < U; ++u) {
                store_vec(inputs + (t * U + u) * lanes, read<part>(br.x.at(t, begin + i + u * lanes), count));
                store_vec(grads + (t * U + u) * lanes, none);
            }
        for (int64_t branch = 0; branch < br.count(); ++branch) {
            const Vec threshold = all(br.thresholds[branch]);
            const int64_t from = out_begin + branch * br.row + i;
            Vec v[U] = {}, grad_v[U] = {}, coefficient_sums[3] = {};
            for (int64_t t = 0; t < T; ++t)
                for (int u = 0; u < U; ++u) {
                    const Vec h = fma(decay, v[u], gain * load_vec(inputs + (t * U + u) * lanes));
                    store_vec(potentials + (t * U + u) * lanes, h);
                    v[u] = after_reset<soft>(h, threshold);
                }
            for (int64_t t = T - 1; t >= 0; --t) {
                const int64_t place = t * U * lanes;
                Vec h[U], slope[U], grad_s[U], grad_h[U];
                for (int u = 0; u < U; ++u)
                    h[u] = load_vec(potentials + place + u * lanes), grad_s[u] = read<part>(br.out.at(t, from + u * lanes), count);
                reverse_fire<S, shape, soft>(h, grad_s, grad_v, threshold, attached, slope_a, slope_b, slope, grad_h);
                if (learns)
                    for (int u = 0; u < U; ++u) {
                        const float *before = potentials + place + (u - U) * lanes;
                        add_coefficient_gradients<soft>(coefficient_sums, attached, threshold, h[u],
                                                        t == 0 ? none : after_reset<soft>(load_vec(before), threshold),
                                                        load_vec(inputs + place + u * lanes), slope[u], grad_s[u], grad_v[u], grad_h[u]);
                    }
                for (int u = 0; u < U; ++u) {
                    float *total = grads + place + u * lanes;
                    grad_v[u] = decay * grad_h[u];
                    store_vec(total, fma(gain, grad_h[u], load_vec(total)));
                }
            }
            if (learns) {
                totals[0] += sum(coefficient_sums[0]);
                totals[1] += sum(coefficient_sums[1]);
                totals[2 + branch] += sum(coefficient_sums[2]);
            }
        }
        for (int u = 0; u < U; ++u) {
            Vec over_steps{};
            for (int64_t t = 0; t < T; ++t) {
                const Vec grad = load_vec(grads + (t * U + u) * lanes);
                if (br.extent.x_shared) over_steps += grad;
                else write<part>(br.grad_x.at(t, begin + i + u * lanes), grad, false, count);
            }
            if (br.extent.x_shared) write<part>(br.grad_x.at(0, begin + i + u * lanes), over_steps, false, count);
        }
    }
}

template <class S, bool soft> static void forward(const Branches<S> &br, int num_threads) {
#pragma omp parallel num_threads(num_threads)
    {
        const Aligned<float> scratch = aligned<float>(br.scratch());
        Share(br.num_pieces, omp_get_thread_num(), omp_get_num_threads()).walk(false, [&](int64_t piece) {
            const int64_t n = br.row, whole = n / (side_by_side * lanes) * (side_by_side * lanes), full = n / lanes * lanes;
            forward_span<S, soft, side_by_side, false>(br, scratch.get(), piece, 0, whole);
            forward_span<S, soft, 1, false>(br, scratch.get(), piece, whole, full);
            if (full < n) forward_span<S, soft, 1, true>(br, scratch.get(), piece, full, n);
        });
    }
}

template <class S, Shape shape, bool soft> static void backward(const Branches<S> &br, int num_threads) {
    std::vector<std::vector<double>> parts(num_threads);
#pragma omp parallel num_threads(num_threads)
    {
        const Aligned<float> scratch = aligned<float>(3 * br.scratch());
        std::vector<double> &totals = parts[omp_get_thread_num()];
        totals.assign(2 + br.count(), 0.0);
        Share(br.num_pieces, omp_get_thread_num(), omp_get_num_threads()).walk(false, [&](int64_t piece) {
            const int64_t n = br.row, whole = n / (side_by_side * lanes) * (side_by_side * lanes), full = n / lanes * lanes;
            backward_span<S, shape, soft, side_by_side, false>(br, scratch.get(), totals, piece, 0, whole);
            backward_span<S, shape, soft, 1, false>(br, scratch.get(), totals, piece, whole, full);
            if (full < n) backward_span<S, shape, soft, 1, true>(br, scratch.get(), totals, piece, full, n);
        });
    }
    const std::vector<double> total = add_up(parts);
    if (br.grad_coefficients != nullptr) std::copy(total.begin(), total.end(), br.grad_coefficients);
}

template <class S>
static void forward_for(const MultiForward &io, const Neuron &neuron, const Extent &extent, int num_threads) {
    const Branches<S> br(neuron, extent, io.thresholds, io.num_thresholds, io.x, io.out, nullptr, nullptr);
    neuron.soft_reset ? forward<S, true>(br, num_threads) : forward<S, false>(br, num_threads);
}

template <class S>
static void backward_for(const MultiBackward &io, const Neuron &neuron, const Extent &extent, int num_threads) {
    const Branches<S> br(neuron, extent, io.thresholds, io.num_thresholds, io.x, io.grad_out, io.grad_x,
                         io.grad_coefficients);
    with_shape(neuron.shape, [&]<Shape shape>() {
        neuron.soft_reset ? backward<S, shape, true>(br, num_threads) : backward<S, shape, false>(br, num_threads);
    });
}

static void any_forward(Storage storage, const MultiForward &io, const Neuron &neuron, const Extent &extent, int num_threads) {
    storage == Storage::float32 ? forward_for<float>(io, neuron, extent, num_threads)
                                : forward_for<bfloat16>(io, neuron, extent, num_threads);
}

static void any_backward(Storage storage, const MultiBackward &io, const Neuron &neuron, const Extent &extent, int num_threads) {
    storage == Storage::float32 ? backward_for<float>(io, neuron, extent, num_threads)
                                : backward_for<bfloat16>(io, neuron, extent, num_threads);
}

extern const MultiLifKernels multi_lif_kernels;
const MultiLifKernels multi_lif_kernels{any_forward, any_backward};

}  // namespace spimm::SPIMM_ISA
