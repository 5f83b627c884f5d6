// LIFs with one input that differ in their thresholds: how many fire. Included by files that are compiled once per
// instruction set.
//
// The inputs of a few registers of neurons at all time steps are read once and kept in the nearest cache; each threshold
// then has its own run through them. With one step they never leave the registers.
#pragma once

#include "lif_parts.h"

namespace spimm::SPIMM_ISA {

template <class S, bool soft, bool one_step, int U, bool part>
static void forward_several_span(const Onward<S> &on, float *scratch, int64_t begin, int64_t i, int64_t end) {
    const Steps<S> x = on.x, residual = on.residual, added = on.added, spikes = on.spikes;
    const Vec decay = all(on.neuron.decay), gain = all(on.neuron.gain);
    const int64_t T = one_step ? 1 : on.walk.T, next = on.walk.next(), row = U * lanes;
    const float *thresholds = on.thresholds.data(), *last = thresholds + on.thresholds.size();
    float *inputs = scratch, *sums = scratch + T * row;
    for (; i < end; i += row) {
        const int64_t e = begin + i, count = std::min<int64_t>(lanes, end - i);
        Vec z[U], sum[U];
        for (int64_t t = 0; t < T; ++t) {
            ask<U>(x.at(t, e), next);
            if (!spikes.stream) ask<U, true>(spikes.at(t, e), next);
            for (int u = 0; u < U; ++u) {
                const int64_t k = e + u * lanes, j = i + u * lanes;
                z[u] = fma(read<part>(x.at(t, k), count), on.scale.at(j), on.shift.at(j));
                if (residual) z[u] += read<part>(residual.at(t, k), count);
                z[u] *= gain;
                sum[u] = added ? read<part>(added.at(t, k), count) : Vec{};
                if (one_step) continue;
                store_vec(inputs + t * row + u * lanes, z[u]);
                store_vec(sums + t * row + u * lanes, sum[u]);
            }
        }
        for (const float *which = thresholds; which != last; ++which) {
            const Vec threshold = all(*which);
            Vec v[U] = {};
            if (one_step)
                for (int u = 0; u < U; ++u) sum[u] += spikes_of(z[u], threshold);
            for (int64_t t = 0; t < T && !one_step; ++t)
                for (int u = 0; u < U; ++u) {
                    float *total = sums + t * row + u * lanes;
                    const Vec h = fma(decay, v[u], load_vec(inputs + t * row + u * lanes));
                    store_vec(total, load_vec(total) + spikes_of(h, threshold));
                    v[u] = after_reset<soft>(h, threshold);
                }
        }
        for (int64_t t = 0; t < T; ++t)
            for (int u = 0; u < U; ++u) {
                const Vec total = one_step ? sum[u] : load_vec(sums + t * row + u * lanes);
                write<part>(spikes.at(t, e + u * lanes), total, spikes.stream, count);
            }
    }
}

// One tile: elements up to `whole` a few registers at a time, the others up to n one by one.
template <class S, bool soft> static void forward_several(const Onward<S> &on, float *scratch, int64_t begin, int64_t whole, int64_t n) {
    const auto spans = [&]<bool one_step>() {  // whose reset does not matter
        forward_several_span<S, soft && !one_step, one_step, together, false>(on, scratch, begin, 0, whole);
        forward_several_span<S, soft && !one_step, one_step, 1, true>(on, scratch, begin, whole, n);
    };
    on.walk.T == 1 ? spans.template operator()<true>() : spans.template operator()<false>();
}

// `one_step`: and no gradients of coefficients.
template <class S, Shape shape, bool soft, bool one_step, int U, bool part>
static void backward_several_span(const Reverse<S> &re, const PerChannel &k0, ThreadSums &mine, int64_t begin, int64_t i, int64_t end) {
    const Steps<S> x = re.x, residual = re.residual, grad_spikes = re.grad_spikes, grad_x = re.grad_x;
    const Vec decay = all(re.neuron.decay), gain = all(re.neuron.gain), none{};
    const float slope_a = re.neuron.surrogate_a, slope_b = re.neuron.surrogate_b;
    const bool learns = !one_step && re.io.grad_coefficients != nullptr, attached = !re.neuron.detach_reset;
    const int64_t T = one_step ? 1 : re.walk.T, next = re.walk.next(), row = U * lanes;
    const int64_t num_thresholds = static_cast<int64_t>(re.thresholds.size());
    const float *thresholds = re.thresholds.data();
    float *inputs = mine.potentials.get(), *potentials = inputs + T * row, *grads = potentials + T * row;
    Delivery<S, false, U, part> delivery(re);
    for (; i < end; i += row) {
        const int64_t e = begin + i, count = std::min<int64_t>(lanes, end - i);
        Vec z[U], grad_z[U];
        for (int64_t t = 0; t < T; ++t) {
            ask<U>(x.at(t, e), next);
            ask<U>(grad_spikes.at(t, e), next);
            if (!grad_x.stream) ask<U, true>(grad_x.at(re.extent.x_shared ? 0 : t, e), next);
            for (int u = 0; u < U; ++u) {
                const int64_t k = e + u * lanes, j = i + u * lanes;
                z[u] = fma(read<part>(x.at(t, k), count), re.scale.at(j), re.shift.at(j));
                if (residual) z[u] += read<part>(residual.at(t, k), count);
                z[u] *= gain;
                if (one_step) continue;
                store_vec(inputs + t * row + u * lanes, z[u]);
                store_vec(grads + t * row + u * lanes, none);
            }
        }
        if (one_step) {
            Vec slopes[U] = {};
            for (int64_t which = 0; which < num_thresholds; ++which)
                for (int u = 0; u < U; ++u) slopes[u] += surrogate_slope<shape, S>(z[u] - thresholds[which], slope_a, slope_b);
            for (int u = 0; u < U; ++u) grad_z[u] = gain * slopes[u] * read<part>(grad_spikes.at(0, e + u * lanes), count);
            delivery.step(re, k0, grad_z, 0, e, i, count);
        }
        for (int64_t which = 0; which < num_thresholds && !one_step; ++which) {
            const Vec threshold = all(thresholds[which]);
            Vec v[U] = {}, grad_v[U] = {}, coefficient_sums[3] = {};
            for (int64_t t = 0; t < T; ++t)
                for (int u = 0; u < U; ++u) {
                    const Vec h = fma(decay, v[u], load_vec(inputs + t * row + u * lanes));
                    store_vec(potentials + t * row + u * lanes, h);
                    v[u] = after_reset<soft>(h, threshold);
                }
            for (int64_t t = T - 1; t >= 0; --t) {
                Vec h[U], slope[U], grad_s[U], grad_h[U];
                for (int u = 0; u < U; ++u)
                    h[u] = load_vec(potentials + t * row + u * lanes), grad_s[u] = read<part>(grad_spikes.at(t, e + u * lanes), count);
                reverse_fire<S, shape, soft>(h, grad_s, grad_v, threshold, attached, slope_a, slope_b, slope, grad_h);
                if (learns)
                    for (int u = 0; u < U; ++u) {
                        const float *before = potentials + (t - 1) * row + u * lanes;
                        add_coefficient_gradients<soft>(coefficient_sums, attached, threshold, h[u],
                                                        t == 0 ? none : after_reset<soft>(load_vec(before), threshold),
                                                        load_vec(inputs + t * row + u * lanes) / gain, slope[u], grad_s[u], grad_v[u], grad_h[u]);
                    }
                for (int u = 0; u < U; ++u) {
                    float *total = grads + t * row + u * lanes;
                    grad_v[u] = decay * grad_h[u];
                    store_vec(total, fma(gain, grad_h[u], load_vec(total)));
                }
            }
            if (learns) {
                mine.coefficients[0] += sum(coefficient_sums[0]);
                mine.coefficients[1] += sum(coefficient_sums[1]);
                mine.coefficients[2 + which] += sum(coefficient_sums[2]);
            }
        }
        for (int64_t t = T - 1; t >= 0 && !one_step; --t) {
            for (int u = 0; u < U; ++u) grad_z[u] = load_vec(grads + t * row + u * lanes);
            delivery.step(re, k0, grad_z, t, e, i, count);
        }
        delivery.end(k0, mine, e, i, count);
    }
}

template <class S, Shape shape, bool soft>
static void backward_several(const Reverse<S> &re, const PerChannel &k0, ThreadSums &mine, int64_t begin, int64_t whole, int64_t n) {
    const auto spans = [&]<bool one_step>() {
        backward_several_span<S, shape, soft && !one_step, one_step, together, false>(re, k0, mine, begin, 0, whole);
        if (whole < n) backward_several_span<S, shape, soft && !one_step, one_step, 1, true>(re, k0, mine, begin, whole, n);
    };
    re.walk.T == 1 && re.io.grad_coefficients == nullptr ? spans.template operator()<true>() : spans.template operator()<false>();
}

}  // namespace spimm::SPIMM_ISA
