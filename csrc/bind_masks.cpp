#include "bindings.h"

using MaskExtentValues = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t>;

static spimm::MaskExtent extent_of(const MaskExtentValues &values) {
    const auto &[num_steps, images, tokens, channels, heads] = values;
    return {num_steps, images, tokens, channels, heads};
}

template <auto kernel> static void def_forward(nb::module_ &m, const char *name) {
    m.def(name, [](int storage, NeuronValues neuron, MaskExtentValues extent, int num_threads, Address qk, Address out,
                   Address mask, Address sums) {
        nb::gil_scoped_release release;
        const spimm::MaskForward io{at(qk), at(out), at(mask), at<float>(sums)};
        (spimm::kernels().masks->*kernel)(static_cast<spimm::Storage>(storage), io, neuron_of(neuron), extent_of(extent),
            num_threads);
    });
}

template <auto kernel> static void def_backward(nb::module_ &m, const char *name) {
    m.def(name, [](int storage, NeuronValues neuron, MaskExtentValues extent, int num_threads, Address qk, Address sums,
                   Address grad_out, Address grad_qk, Address grad_coefficients) {
        nb::gil_scoped_release release;
        const spimm::MaskBackward io{at(qk), at<float>(sums), at(grad_out), at(grad_qk), at<double>(grad_coefficients)};
        (spimm::kernels().masks->*kernel)(static_cast<spimm::Storage>(storage), io, neuron_of(neuron), extent_of(extent),
            num_threads);
    });
}

void bind_masks(nb::module_ &m) {
    def_forward<&spimm::MaskKernels::token_forward>(m, "token_mask_forward");
    def_backward<&spimm::MaskKernels::token_backward>(m, "token_mask_backward");
    def_forward<&spimm::MaskKernels::channel_forward>(m, "channel_mask_forward");
    def_backward<&spimm::MaskKernels::channel_backward>(m, "channel_mask_backward");
}
