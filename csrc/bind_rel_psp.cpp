#include "bindings.h"

using SpikeExtentValues = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t>;
using WindowValues = std::tuple<float, float, bool>;

static spimm::SpikeExtent extent_of(const SpikeExtentValues &values) {
    const auto &[images, height, width, channels, pool] = values;
    return {images, height, width, channels, pool};
}

static spimm::FiringWindow window_of(const WindowValues &values) {
    const auto &[length, clip, closed] = values;
    return {length, clip, closed};
}

void bind_rel_psp(nb::module_ &m) {
    m.def("rel_psp_forward", [](int storage, WindowValues window, SpikeExtentValues extent, int num_threads, Address drive,
                                Address spikes) {
        nb::gil_scoped_release release;
        spimm::kernels().rel_psp->forward(static_cast<spimm::Storage>(storage), at(drive), at(spikes), window_of(window),
            extent_of(extent), num_threads);
    });

    m.def("rel_psp_backward", [](int storage, WindowValues window, SpikeExtentValues extent, int num_threads, Address drive,
                                 Address grad, Address grad_drive) {
        nb::gil_scoped_release release;
        spimm::kernels().rel_psp->backward(static_cast<spimm::Storage>(storage), at(drive), at(grad), at(grad_drive),
            window_of(window), extent_of(extent), num_threads);
    });
}
