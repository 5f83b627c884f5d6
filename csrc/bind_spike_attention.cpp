#include "bindings.h"

using AttentionExtentValues = std::tuple<int64_t, int64_t, int64_t, int64_t>;

static spimm::AttentionExtent extent_of(const AttentionExtentValues &values) {
    const auto &[images, tokens, channels, heads] = values;
    return {images, tokens, channels, heads};
}

void bind_spike_attention(nb::module_ &m) {
    m.def("spike_attention_forward", [](int storage, AttentionExtentValues extent, float scale, int num_threads, Address qkv,
                                        Address y) {
        nb::gil_scoped_release release;
        spimm::kernels().spike_attention->forward(static_cast<spimm::Storage>(storage), at(qkv), at(y), extent_of(extent),
                                                  scale, num_threads);
    });

    m.def("spike_attention_backward", [](int storage, AttentionExtentValues extent, float scale, int num_threads, Address qkv,
                                         Address grad_y, Address grad_qkv) {
        nb::gil_scoped_release release;
        spimm::kernels().spike_attention->backward(static_cast<spimm::Storage>(storage), at(qkv), at(grad_y), at(grad_qkv),
                                                   extent_of(extent), scale, num_threads);
    });
}
