#include "bindings.h"

using PoolExtentValues = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, bool>;

static spimm::PoolExtent extent_of(const PoolExtentValues &values) {
    const auto &[num_steps, images, height, width, channels, x_shared] = values;
    return {num_steps, images, height, width, channels, x_shared};
}

void bind_pool(nb::module_ &m) {
    m.def("pool_forward", [](int storage, NeuronValues neuron, PoolExtentValues extent, NormValues norm, int num_threads,
                             Address x, Address spikes) {
        nb::gil_scoped_release release;
        const spimm::PoolForward io{at(x), norm_of(norm), at(spikes)};
        spimm::kernels().pool->forward(static_cast<spimm::Storage>(storage), io, neuron_of(neuron), extent_of(extent),
            num_threads);
    });

    m.def("pool_backward", [](int storage, NeuronValues neuron, PoolExtentValues extent, NormValues norm, int num_threads,
                              Address x, Address grad_spikes, Address grad_pooled, Address winners, Address grad_x,
                              Address grad_weight, Address grad_bias, Address grad_coefficients) {
        nb::gil_scoped_release release;
        const spimm::PoolBackward io{at(x), norm_of(norm), at(grad_spikes), at(grad_pooled), at<uint8_t>(winners), at(grad_x),
                                     at<float>(grad_weight), at<float>(grad_bias), at<double>(grad_coefficients)};
        spimm::kernels().pool->backward(static_cast<spimm::Storage>(storage), io, neuron_of(neuron), extent_of(extent),
            num_threads);
    });
}
