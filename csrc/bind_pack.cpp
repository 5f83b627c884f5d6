#include "bindings.h"

void bind_pack(nb::module_ &m) {
    m.def("bits_needed", [](int storage, Address x, int64_t size, int num_threads) {
        nb::gil_scoped_release release;
        return spimm::kernels().pack->bits_needed(static_cast<spimm::Storage>(storage), at(x), size, num_threads);
    });

    m.def("pack", [](int storage, Address x, int64_t size, int bits, Address packed, int num_threads) {
        nb::gil_scoped_release release;
        spimm::kernels().pack->pack(static_cast<spimm::Storage>(storage), at(x), size, bits, at<uint8_t>(packed), num_threads);
    });

    m.def("unpack", [](int storage, Address packed, int64_t size, int bits, Address x, int num_threads) {
        nb::gil_scoped_release release;
        spimm::kernels().pack->unpack(static_cast<spimm::Storage>(storage), at<uint8_t>(packed), size, bits, at(x), num_threads);
    });
}
