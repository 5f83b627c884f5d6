#include "bindings.h"

#include <nanobind/stl/tuple.h>

#include <tuple>

using NeuronValues = std::tuple<float, float, float, bool, bool, int, float, float>;
using ExtentValues = std::tuple<int64_t, int64_t, int64_t, bool>;

static spimm::Neuron neuron_of(const NeuronValues &values) {
    const auto &[decay, gain, threshold, soft, detach, shape, a, b] = values;
    return {decay, gain, threshold, soft, detach, static_cast<spimm::Shape>(shape), a, b};
}

static spimm::Extent extent_of(const ExtentValues &values) {
    const auto &[num_steps, rows, channels, x_shared] = values;
    return {num_steps, rows, channels, x_shared};
}

void bind_lif(nb::module_ &m) {
    m.def("channel_moments", [](int storage, Address x, int64_t rows, int64_t channels, Address mean, Address variance, int num_threads) {
        nb::gil_scoped_release release;
        spimm::kernels().lif->channel_moments(static_cast<spimm::Storage>(storage), at(x), rows, channels, at<double>(mean),
                                         at<double>(variance), num_threads);
    });

    m.def("lif_forward", [](int storage, NeuronValues neuron, ExtentValues extent, int num_threads, Address x, Address residual,
                            Address v0, Address scale, Address shift, Address spikes, Address v_end) {
        nb::gil_scoped_release release;
        const spimm::Forward io{at(x), at(residual), at(v0), at<float>(scale), at<float>(shift), at(spikes), at(v_end)};
        spimm::kernels().lif->forward(static_cast<spimm::Storage>(storage), io, neuron_of(neuron), extent_of(extent), num_threads);
    });

    m.def("lif_backward", [](int storage, NeuronValues neuron, ExtentValues extent, int num_threads, Address x, Address residual,
                             Address v0, Address scale, Address shift, Address mean, Address rstd, bool batch_statistics,
                             Address grad_spikes, Address grad_v_end, Address grad_x, Address grad_residual, Address grad_v0,
                             Address grad_weight, Address grad_bias, Address grad_coefficients) {
        nb::gil_scoped_release release;
        const spimm::Backward io{at(x), at(residual), at(v0), at<float>(scale), at<float>(shift), at<float>(mean), at<float>(rstd),
                                 batch_statistics, at(grad_spikes), at(grad_v_end), at(grad_x), at(grad_residual), at(grad_v0),
                                 at<double>(grad_weight), at<double>(grad_bias), at<double>(grad_coefficients)};
        spimm::kernels().lif->backward(static_cast<spimm::Storage>(storage), io, neuron_of(neuron), extent_of(extent), num_threads);
    });
}
