// Python bindings over raw addresses: no tensor library at build or link time. Callers (cpu.py) own shapes and layouts.
#include "bindings.h"

void bind_lif(nb::module_ &);
void bind_spike_conv(nb::module_ &);

NB_MODULE(_cpu, m) {
    m.def("isa", [] { return spimm::kernels().name; });
    bind_lif(m);
    bind_spike_conv(m);
}
