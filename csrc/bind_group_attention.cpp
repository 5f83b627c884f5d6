#include "bindings.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

using GroupExtentValues = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, float>;

static spimm::GroupExtent extent_of(const GroupExtentValues &values) {
    const auto &[images, tokens, inputs, heads, width, groups, positions, scale] = values;
    return {images, tokens, inputs, heads, width, groups, positions, scale};
}

// The members as kernels take them: they index by these, and write each token of the output once.
static std::vector<int32_t> checked_members(const int64_t *members, const spimm::GroupExtent &e) {
    const std::string expected = "; expected each of the tokens 0 to " + std::to_string(e.tokens - 1) + " once, or -1 for none";
    std::vector<int32_t> checked(e.groups * e.positions);
    std::vector<bool> seen(e.tokens);
    int64_t found = 0;
    for (size_t i = 0; i < checked.size(); ++i) {
        const int64_t token = members[i];
        checked[i] = static_cast<int32_t>(std::max<int64_t>(token, -1));
        if (token < 0) continue;
        if (token >= e.tokens) throw std::invalid_argument("members holds " + std::to_string(token) + expected);
        if (seen[token]) throw std::invalid_argument("members holds " + std::to_string(token) + " twice" + expected);
        seen[token] = true;
        ++found;
    }
    if (found < e.tokens) throw std::invalid_argument("members holds " + std::to_string(found) + " tokens" + expected);
    return checked;
}

void bind_group_attention(nb::module_ &m) {
    m.def("group_attention_forward", [](int storage, const GroupExtentValues &extent, int num_threads, Address qkv, Address bias,
                                        Address members, Address y) {
        nb::gil_scoped_release release;
        const spimm::GroupExtent e = extent_of(extent);
        const std::vector<int32_t> tokens = checked_members(at<const int64_t>(members), e);
        spimm::kernels().group_attention->forward(static_cast<spimm::Storage>(storage), at(qkv), at<float>(bias), tokens.data(), at(y),
                                                  e, num_threads);
    });

    m.def("group_attention_backward", [](int storage, const GroupExtentValues &extent, int num_threads, Address qkv, Address bias,
                                         Address members, Address grad_y, Address grad_qkv, Address grad_bias) {
        nb::gil_scoped_release release;
        const spimm::GroupExtent e = extent_of(extent);
        const std::vector<int32_t> tokens = checked_members(at<const int64_t>(members), e);
        spimm::kernels().group_attention->backward(static_cast<spimm::Storage>(storage), at(qkv), at<float>(bias), tokens.data(),
                                                   at(grad_y), at(grad_qkv), at<float>(grad_bias), e, num_threads);
    });
}
