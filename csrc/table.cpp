// The kernels of one instruction set.
#include "kernels.h"

#define SPIMM_STRING_(x) #x
#define SPIMM_STRING(x) SPIMM_STRING_(x)

namespace spimm::SPIMM_ISA {

extern const LifKernels lif_kernels;
extern const SpikeConvKernels spike_conv_kernels;
extern const PackKernels pack_kernels;
extern const PoolKernels pool_kernels;
extern const MaskKernels mask_kernels;
extern const MultiLifKernels multi_lif_kernels;
extern const AttentionKernels spike_attention_kernels;
extern const DepthwiseKernels depthwise_kernels;
extern const GroupKernels group_attention_kernels;
extern const RelPSPKernels rel_psp_kernels;

extern const Kernels table;
const Kernels table{SPIMM_STRING(SPIMM_ISA), &lif_kernels, &spike_conv_kernels, &pack_kernels, &pool_kernels, &mask_kernels,
                    &multi_lif_kernels, &spike_attention_kernels, &depthwise_kernels, &group_attention_kernels,
                    &rel_psp_kernels};

}  // namespace spimm::SPIMM_ISA
