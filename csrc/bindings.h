// What the bindings of all ops share.
#pragma once

#include "kernels.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/tuple.h>

#include <tuple>

namespace nb = nanobind;
using Address = uintptr_t;

template <class T = void> T *at(Address address) { return reinterpret_cast<T *>(address); }

using NeuronValues = std::tuple<float, float, float, bool, bool, int, float, float>;
using ExtentValues = std::tuple<int64_t, int64_t, int64_t, bool>;
using NormValues = std::tuple<Address, Address, Address, Address, float, bool>;

inline spimm::Neuron neuron_of(const NeuronValues &values) {
    const auto &[decay, gain, threshold, soft, detach, shape, a, b] = values;
    return {decay, gain, threshold, soft, detach, static_cast<spimm::Shape>(shape), a, b};
}

inline spimm::Extent extent_of(const ExtentValues &values) {
    const auto &[num_steps, rows, channels, x_shared] = values;
    return {num_steps, rows, channels, x_shared};
}

inline spimm::Norm norm_of(const NormValues &values) {
    const auto &[weight, bias, mean, variance, eps, of_batch] = values;
    return {at<float>(weight), at<float>(bias), at<float>(mean), at<float>(variance), eps, of_batch};
}
