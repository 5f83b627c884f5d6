#include "bindings.h"

void bind_lif(nb::module_ &m) {
    m.def("channel_moments", [](int storage, Address x, int64_t rows, int64_t channels, Address mean, Address variance, int num_threads) {
        nb::gil_scoped_release release;
        spimm::kernels().lif->channel_moments(static_cast<spimm::Storage>(storage), at(x), rows, channels, at<double>(mean),
                                              at<double>(variance), num_threads);
    });

    m.def("lif_forward", [](int storage, NeuronValues neuron, ExtentValues extent, NormValues norm, int num_threads, Address x,
                            Address residual, Address added, Address v0, Address spikes, Address v_end, Address membrane, Address thresholds,
                            int num_thresholds) {
        nb::gil_scoped_release release;
        const spimm::Forward io{at(x), at(residual), at(added), at(v0), norm_of(norm), at(spikes), at(v_end), at(membrane),
                                at<float>(thresholds), num_thresholds};
        spimm::kernels().lif->forward(static_cast<spimm::Storage>(storage), io, neuron_of(neuron), extent_of(extent), num_threads);
    });

    m.def("lif_backward", [](int storage, NeuronValues neuron, ExtentValues extent, NormValues norm, int num_threads, Address x,
                             Address residual, Address membrane, Address v0, Address grad_spikes, Address grad_v_end,
                             Address grad_membrane, Address grad_x, Address grad_residual, Address grad_v0,
                             Address grad_weight, Address grad_bias, Address grad_coefficients, Address thresholds, int num_thresholds) {
        nb::gil_scoped_release release;
        const spimm::Backward io{at(x), at(residual), at(membrane), at(v0), norm_of(norm), at(grad_spikes), at(grad_v_end),
                                 at(grad_membrane), at(grad_x), at(grad_residual), at(grad_v0), at<float>(grad_weight),
                                 at<float>(grad_bias), at<double>(grad_coefficients), at<float>(thresholds), num_thresholds};
        spimm::kernels().lif->backward(static_cast<spimm::Storage>(storage), io, neuron_of(neuron), extent_of(extent), num_threads);
    });
}
