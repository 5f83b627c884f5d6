"""Blocks that two or more models share."""

from spimm.layers.attention import (
    ATTENTIONS,
    ChannelMask,
    SpikeProduct,
    SpikingAttention,
    TokenMask,
    check_heads,
    qk_attention,
)
from spimm.layers.conv import ConvNormNeuron, ConvUnit, SpikeConv2d
from spimm.layers.convnext import ConvNeXt
from spimm.layers.folded import ConvNeuron
from spimm.layers.grid_attention import (
    ATTENTION_GAIN,
    GROUP_ATTENTIONS,
    GroupAttention,
    Partition,
    grid_attention,
)
from spimm.layers.memory import checkpointed, set_memory
from spimm.layers.mlp import SpikingMLP
from spimm.layers.norm import SyncBatchNorm2d, sync_norms
from spimm.layers.patch import PATCH_FORMS, SPEDS, PatchForm
from spimm.layers.plain import Conv2d
from spimm.layers.quantised import (
    BITS,
    Per,
    QuantisedWeight,
    quantise_weight,
    quantised,
    quantised_weights,
    set_quantised,
    to_levels,
)
from spimm.layers.repconv import BorderConv2d, BranchConv2d, RepConv, SepConv
from spimm.layers.sdsa import SDSA, ColumnMask, Projection, SoftmaxProduct, sdsa
from spimm.layers.shortcut import Ending, Residual, Shortcut, check_shortcut, ending, entry
from spimm.layers.spk import (
    ACTIVATIONS,
    DCL,
    FORMS,
    HSL,
    SPK,
    THRESHOLDS,
    Activation,
    MixedMBPL,
    PerPart,
    SerialRL,
    check_spk,
    create_spk,
)
from spimm.layers.time import as_sequence, fold_time, over_time, unfold_time
from spimm.layers.ttfs import DirectCode, PixelCode, PSPConv2d, PSPLinear, ReadOut, Readout, TTFSUnit, as_spikes

__all__ = [
    "ACTIVATIONS",
    "ATTENTIONS",
    "ATTENTION_GAIN",
    "BITS",
    "DCL",
    "FORMS",
    "GROUP_ATTENTIONS",
    "HSL",
    "PATCH_FORMS",
    "SDSA",
    "SPEDS",
    "SPK",
    "THRESHOLDS",
    "Activation",
    "BorderConv2d",
    "BranchConv2d",
    "ChannelMask",
    "ColumnMask",
    "Conv2d",
    "ConvNeXt",
    "ConvNeuron",
    "ConvNormNeuron",
    "ConvUnit",
    "DirectCode",
    "Ending",
    "GroupAttention",
    "MixedMBPL",
    "PSPConv2d",
    "PSPLinear",
    "Partition",
    "PatchForm",
    "Per",
    "PerPart",
    "PixelCode",
    "Projection",
    "QuantisedWeight",
    "ReadOut",
    "Readout",
    "RepConv",
    "Residual",
    "SepConv",
    "SerialRL",
    "Shortcut",
    "SoftmaxProduct",
    "SpikeConv2d",
    "SpikeProduct",
    "SpikingAttention",
    "SpikingMLP",
    "SyncBatchNorm2d",
    "TTFSUnit",
    "TokenMask",
    "as_sequence",
    "as_spikes",
    "check_heads",
    "check_shortcut",
    "check_spk",
    "checkpointed",
    "create_spk",
    "ending",
    "entry",
    "fold_time",
    "grid_attention",
    "over_time",
    "qk_attention",
    "quantise_weight",
    "quantised",
    "quantised_weights",
    "sdsa",
    "set_memory",
    "set_quantised",
    "sync_norms",
    "to_levels",
    "unfold_time",
]
