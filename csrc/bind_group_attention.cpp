#include "bindings.h"

using GroupExtentValues = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, float>;

static spimm::GroupExtent extent_of(const GroupExtentValues &values) {
    const auto &[images, tokens, inputs, heads, width, groups, positions, scale] = values;
    return {images, tokens, inputs, heads, width, groups, positions, scale};
}

void bind_group_attention(nb::module_ &m) {
    m.def("group_attention_forward", [](int storage, const GroupExtentValues &extent, int num_threads, Address qkv, Address bias,
                                        Address members, Address y) {
        nb::gil_scoped_release release;
        spimm::kernels().group_attention->forward(static_cast<spimm::Storage>(storage), at(qkv), at<float>(bias), at<int32_t>(members),
                                                  at(y), extent_of(extent), num_threads);
    });

    m.def("group_attention_backward", [](int storage, const GroupExtentValues &extent, int num_threads, Address qkv, Address bias,
                                         Address members, Address grad_y, Address grad_qkv, Address grad_bias) {
        nb::gil_scoped_release release;
        spimm::kernels().group_attention->backward(static_cast<spimm::Storage>(storage), at(qkv), at<float>(bias), at<int32_t>(members),
                                                   at(grad_y), at(grad_qkv), at<float>(grad_bias), extent_of(extent), num_threads);
    });
}
