// What every instruction-set build of the kernels offers. One pair of files per op: <op>.h declares, <op>.cpp is compiled
// once per instruction set; table.cpp joins them and dispatch.cpp chooses.
#pragma once

#include "depthwise.h"
#include "group_attention.h"
#include "lif.h"
#include "masks.h"
#include "multi_lif.h"
#include "pack.h"
#include "pool.h"
#include "rel_psp.h"
#include "spike_attention.h"
#include "spike_conv.h"

namespace spimm {

struct Kernels {
    const char *name;
    const LifKernels *lif;
    const SpikeConvKernels *spike_conv;
    const PackKernels *pack;
    const PoolKernels *pool;
    const MaskKernels *masks;
    const MultiLifKernels *multi_lif;
    const AttentionKernels *spike_attention;
    const DepthwiseKernels *depthwise;
    const GroupKernels *group_attention;
    const RelPSPKernels *rel_psp;
};

// The fastest build that this processor runs, or the one named by the environment variable SPIMM_CPU_ISA.
const Kernels &kernels();

}  // namespace spimm
