// Python bindings over raw addresses: no tensor library at build or link time. Callers (cpu.py) own shapes and layouts.
#include "bindings.h"

void bind_lif(nb::module_ &);
void bind_spike_conv(nb::module_ &);
void bind_pack(nb::module_ &);
void bind_pool(nb::module_ &);
void bind_masks(nb::module_ &);
void bind_multi_lif(nb::module_ &);
void bind_spike_attention(nb::module_ &);
void bind_depthwise(nb::module_ &);
void bind_group_attention(nb::module_ &);
void bind_rel_psp(nb::module_ &);

NB_MODULE(_cpu, m) {
    m.def("isa", [] { return spimm::kernels().name; });
    bind_lif(m);
    bind_spike_conv(m);
    bind_pack(m);
    bind_pool(m);
    bind_masks(m);
    bind_multi_lif(m);
    bind_spike_attention(m);
    bind_depthwise(m);
    bind_group_attention(m);
    bind_rel_psp(m);
}
