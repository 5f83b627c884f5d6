// When neurons with linear potentials meet a threshold that falls to 0, and the exact gradients (Wei et al. 2023, Eqs. 7, 9,
// 10; spimm/kernels/rel_psp/reference.py). Compiled once per instruction set. What fired is computed again in the backward
// pass: nothing but the input is kept.
#include "rel_psp.h"
#include "neuron_steps.h"
#include "vectors.h"

#include <cmath>

namespace spimm::SPIMM_ISA {

struct Fired {
    Vec activation;  // what is left of the window; NaN if the drive is
    Mask fired, crosses;
    Vec rate;  // 1 / (1 + W) where the threshold is met behind the start
};

static inline Fired fire(Vec z, Vec weights, const FiringWindow &window) {
    const Vec end = fma(all(window.length), weights, z);
    const Mask at_start = z >= window.length, below = window.closed ? end < 0.0f : end <= 0.0f;
    const Mask crosses = ~at_start & ~below;
    const Vec rate = 1.0f / (crosses ? 1.0f + weights : all(1.0f));
    const Vec activation = crosses ? at_most(window.length, end * rate) : Vec{};
    return {at_start ? all(window.length) : activation, at_start | crosses, crosses, rate};
}

// da/dz and da/dW.
struct Slopes { Vec of_z, of_weights; };

template <bool clips> static inline Slopes slopes_of(const Fired &spike, const FiringWindow &window) {
    const Mask inside = spike.crosses & (spike.activation > 0.0f) & (spike.activation < window.length);
    const Vec rate = inside ? spike.rate : Vec{};
    if constexpr (!clips) return {rate, (window.length - spike.activation) * rate};
    const Vec of_z = at_most(window.clip, rate);
    return {of_z, at_most(window.clip, (2.0f * window.length - spike.activation) * rate) - window.length * of_z};
}

struct Squares {
    int64_t height, width, rows, pixel, line, map;  // rows of pooled pixels; sizes in values

    explicit Squares(const SpikeExtent &e)
        : height(e.height / e.pool), width(e.width / e.pool), rows(e.images * height), pixel(e.channels),
          line(e.width * e.channels), map(e.images * e.height * line) {}
    // The first value of a pooled row's squares.
    int64_t begin(int64_t row, const SpikeExtent &e) const {
        return (row / height * e.height + row % height * e.pool) * line;
    }
};

template <class S>
static void forward_pooled(const S *drive, S *spikes, const FiringWindow &window, const SpikeExtent &e, int num_threads) {
    const Squares squares(e);
    const int64_t out_line = squares.width * e.channels, out_map = squares.rows * out_line;
#pragma omp parallel for num_threads(num_threads) schedule(static)
    for (int64_t row = 0; row < squares.rows; ++row)
        for (int64_t column = 0; column < squares.width; ++column) {
            const S *from = drive + squares.begin(row, e) + column * e.pool * squares.pixel;
            S *to = spikes + row * out_line + column * squares.pixel;
            for_each_register(e.channels, [&](int64_t c, auto count) {
                Vec activation{};
                Mask fired{};
                for (int64_t y = 0; y < e.pool; ++y)
                    for (int64_t x = 0; x < e.pool; ++x) {
                        const S *at = from + y * squares.line + x * squares.pixel + c;
                        const Fired spike = fire(load_vec(at, count), load_vec(at + squares.map, count), window);
                        activation = spike.activation > activation || spike.activation != spike.activation ? spike.activation
                                                                                                          : activation;
                        fired |= spike.fired;
                    }
                store_vec(to + c, activation, count);
                store_vec(to + out_map + c, fired ? all(1.0f) : Vec{}, count);
            });
        }
}

template <class S>
static void forward_single(const S *drive, S *spikes, const FiringWindow &window, int64_t size, int num_threads) {
    const int64_t blocks = (size + lanes - 1) / lanes;
#pragma omp parallel for num_threads(num_threads) schedule(static)
    for (int64_t block = 0; block < blocks; ++block) {
        const int64_t i = block * lanes;
        const auto at = [&](auto count) {
            const Fired spike = fire(load_vec(drive + i, count), load_vec(drive + size + i, count), window);
            store_vec(spikes + i, spike.activation, count);
            store_vec(spikes + size + i, spike.fired ? all(1.0f) : Vec{}, count);
        };
        i + lanes <= size ? at(Whole{}) : at(size - i);
    }
}

// `side` pixels of a square, whose neurons then stay in registers; 0 for any.
template <class S, bool clips, int side>
static void backward_pooled(const S *drive, const S *grad, S *grad_drive, const FiringWindow &window, const SpikeExtent &e,
                            int num_threads) {
    const Squares squares(e);
    const int64_t out_line = squares.width * e.channels;
    if (e.height % e.pool != 0 || e.width % e.pool != 0) std::fill(grad_drive, grad_drive + 2 * squares.map, S{});
#pragma omp parallel for num_threads(num_threads) schedule(static)
    for (int64_t row = 0; row < squares.rows; ++row)
        for (int64_t column = 0; column < squares.width; ++column) {
            const int64_t begin = squares.begin(row, e) + column * e.pool * squares.pixel;
            const S *from = grad + row * out_line + column * squares.pixel;
            for_each_register(e.channels, [&](int64_t c, auto count) {
                const int64_t pool = side > 0 ? side : e.pool, cells = pool * pool;
                Fired kept[side > 0 ? side * side : 1];
                const auto place = [&](int64_t i) { return begin + i / pool * squares.line + i % pool * squares.pixel + c; };
                const auto spike_at = [&](int64_t i) {
                    const S *at = drive + place(i);
                    return fire(load_vec(at, count), load_vec(at + squares.map, count), window);
                };
                Vec highest = all(-1.0f);
                for (int64_t i = 0; i < cells; ++i) {
                    const Fired spike = spike_at(i);
                    const Mask higher = spike.activation > highest || spike.activation != spike.activation;  // NaN is
                    highest = higher ? spike.activation : highest;
                    if constexpr (side > 0) kept[i] = spike;
                }
                Mask open = ~Mask{};  // the first of the highest takes the gradient
                const Vec g = load_vec(from + c, count);
                for (int64_t i = 0; i < cells; ++i) {
                    const Fired spike = side > 0 ? kept[i] : spike_at(i);
                    const Mask nan = spike.activation != spike.activation;
                    const Mask wins = open & ((spike.activation == highest) | nan);
                    open &= ~wins;
                    const Slopes slopes = slopes_of<clips>(spike, window);
                    store_vec(grad_drive + place(i), wins ? g * slopes.of_z : Vec{}, count);
                    store_vec(grad_drive + squares.map + place(i), wins ? g * slopes.of_weights : Vec{}, count);
                }
            });
        }
}

template <class S, bool clips>
static void backward_single(const S *drive, const S *grad, S *grad_drive, const FiringWindow &window, int64_t size,
                            int num_threads) {
    const int64_t blocks = (size + lanes - 1) / lanes;
#pragma omp parallel for num_threads(num_threads) schedule(static)
    for (int64_t block = 0; block < blocks; ++block) {
        const int64_t i = block * lanes;
        const auto at = [&](auto count) {
            const Vec g = load_vec(grad + i, count);
            const Fired spike = fire(load_vec(drive + i, count), load_vec(drive + size + i, count), window);
            const Slopes slopes = slopes_of<clips>(spike, window);
            store_vec(grad_drive + i, g * slopes.of_z, count);
            store_vec(grad_drive + size + i, g * slopes.of_weights, count);
        };
        i + lanes <= size ? at(Whole{}) : at(size - i);
    }
}

static void forward(Storage storage, const void *drive, void *spikes, const FiringWindow &window, const SpikeExtent &e,
                    int num_threads) {
    with_storage(storage, [&](auto s) {
        using S = decltype(s);
        const S *from = static_cast<const S *>(drive);
        S *to = static_cast<S *>(spikes);
        e.pool == 1 ? forward_single(from, to, window, e.images * e.height * e.width * e.channels, num_threads)
                    : forward_pooled(from, to, window, e, num_threads);
    });
}

static void backward(Storage storage, const void *drive, const void *grad, void *grad_drive, const FiringWindow &window,
                     const SpikeExtent &e, int num_threads) {
    with_storage(storage, [&](auto s) {
        using S = decltype(s);
        const auto run = [&]<bool clips>() {
            const S *x = static_cast<const S *>(drive), *g = static_cast<const S *>(grad);
            S *to = static_cast<S *>(grad_drive);
            switch (e.pool) {
            case 1: return backward_single<S, clips>(x, g, to, window, e.images * e.height * e.width * e.channels, num_threads);
            case 2: return backward_pooled<S, clips, 2>(x, g, to, window, e, num_threads);
            default: return backward_pooled<S, clips, 0>(x, g, to, window, e, num_threads);
            }
        };
        std::isinf(window.clip) ? run.template operator()<false>() : run.template operator()<true>();
    });
}

extern const RelPSPKernels rel_psp_kernels;
const RelPSPKernels rel_psp_kernels{forward, backward};

}  // namespace spimm::SPIMM_ISA
