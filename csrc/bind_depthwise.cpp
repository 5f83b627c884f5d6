#include "bindings.h"

using DepthwiseValues = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t>;

static spimm::DepthwiseExtent depthwise_extent_of(const DepthwiseValues &values) {
    const auto &[images, height, width, channels, multiplier, branches, kernel, stride] = values;
    return {images, height, width, channels, multiplier, branches, kernel, stride};
}

void bind_depthwise(nb::module_ &m) {
    m.def("depthwise_forward", [](int storage, const DepthwiseValues &extent, int num_threads, Address x, Address weight, Address y) {
        nb::gil_scoped_release release;
        spimm::kernels().depthwise->forward(static_cast<spimm::Storage>(storage), at(x), at<float>(weight), at(y),
                                            depthwise_extent_of(extent), num_threads);
    });
    m.def("depthwise_grad_x", [](int storage, const DepthwiseValues &extent, int num_threads, Address grad_y, Address weight,
                                 Address grad_x) {
        nb::gil_scoped_release release;
        spimm::kernels().depthwise->grad_x(static_cast<spimm::Storage>(storage), at(grad_y), at<float>(weight), at(grad_x),
                                           depthwise_extent_of(extent), num_threads);
    });
    m.def("depthwise_grad_weight", [](int storage, const DepthwiseValues &extent, int num_threads, Address x, Address grad_y,
                                      Address grad_weight) {
        nb::gil_scoped_release release;
        spimm::kernels().depthwise->grad_weight(static_cast<spimm::Storage>(storage), at(x), at(grad_y), at<float>(grad_weight),
                                                depthwise_extent_of(extent), num_threads);
    });
}
