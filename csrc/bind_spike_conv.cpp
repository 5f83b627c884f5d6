#include "bindings.h"

#include <nanobind/stl/tuple.h>

#include <tuple>

using ConvExtentValues = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t>;

static spimm::ConvExtent extent_of(const ConvExtentValues &values) {
    const auto &[images, height, width, in_channels, out_channels, kernel] = values;
    return {images, height, width, in_channels, out_channels, kernel};
}

void bind_spike_conv(nb::module_ &m) {
    m.def("density", [](int storage, Address x, int64_t size, int64_t sample) {
        nb::gil_scoped_release release;
        return spimm::kernels().spike_conv->density(static_cast<spimm::Storage>(storage), at(x), size, sample);
    });

    m.def("spike_conv_forward", [](int storage, ConvExtentValues extent, double limit, int num_threads, Address x, Address weight,
                                   Address bias, Address y) {
        nb::gil_scoped_release release;
        spimm::kernels().spike_conv->forward(static_cast<spimm::Storage>(storage), at(x), at(weight), at<float>(bias), nullptr, at(y),
                                             {}, extent_of(extent), 0, false, limit, num_threads);
    });

    m.def("spike_conv_lif_forward", [](int storage, NeuronValues neuron, ConvExtentValues extent, int64_t num_steps, bool x_shared,
                                       double limit, int num_threads, Address x, Address weight, Address bias, Address added,
                                       Address spikes) {
        nb::gil_scoped_release release;
        spimm::kernels().spike_conv->forward(static_cast<spimm::Storage>(storage), at(x), at(weight), at<float>(bias), at(added),
                                             at(spikes), neuron_of(neuron), extent_of(extent), num_steps, x_shared, limit, num_threads);
    });

    m.def("spike_conv_grad_weight", [](int storage, ConvExtentValues extent, int num_threads, Address x, Address grad_y,
                                       Address grad_weight) {
        nb::gil_scoped_release release;
        spimm::kernels().spike_conv->grad_weight(static_cast<spimm::Storage>(storage), at(x), at(grad_y), at(grad_weight),
                                                 extent_of(extent), num_threads);
    });
}
