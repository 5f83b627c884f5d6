#include "bindings.h"

void bind_multi_lif(nb::module_ &m) {
    m.def("multi_lif_forward", [](int storage, NeuronValues neuron, ExtentValues extent, int num_threads, Address thresholds,
                                  int num_thresholds, Address x, Address out) {
        nb::gil_scoped_release release;
        const spimm::MultiForward io{at(x), at<float>(thresholds), num_thresholds, at(out)};
        spimm::kernels().multi_lif->forward(static_cast<spimm::Storage>(storage), io, neuron_of(neuron), extent_of(extent),
                                            num_threads);
    });

    m.def("multi_lif_backward", [](int storage, NeuronValues neuron, ExtentValues extent, int num_threads, Address thresholds,
                                   int num_thresholds, Address x, Address grad_out, Address grad_x,
                                   Address grad_coefficients) {
        nb::gil_scoped_release release;
        const spimm::MultiBackward io{at(x), at<float>(thresholds), num_thresholds, at(grad_out), at(grad_x),
                                      at<double>(grad_coefficients)};
        spimm::kernels().multi_lif->backward(static_cast<spimm::Storage>(storage), io, neuron_of(neuron), extent_of(extent),
                                             num_threads);
    });
}
