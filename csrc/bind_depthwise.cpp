#include "bindings.h"

void bind_depthwise(nb::module_ &m) {
    m.def("depthwise_grad_weight", [](int storage, std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t> extent, int num_threads,
                                      Address x, Address grad_y, Address grad_weight) {
        const auto &[images, height, width, channels, kernel] = extent;
        nb::gil_scoped_release release;
        spimm::kernels().depthwise->grad_weight(static_cast<spimm::Storage>(storage), at(x), at(grad_y), at<float>(grad_weight),
                                                {images, height, width, channels, kernel}, num_threads);
    });
}
