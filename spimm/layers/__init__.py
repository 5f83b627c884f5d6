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
from spimm.layers.folded import ConvNeuron
from spimm.layers.memory import checkpointed, set_memory
from spimm.layers.mlp import SpikingMLP
from spimm.layers.patch import PATCH_FORMS, SPEDS, PatchForm
from spimm.layers.repconv import BorderConv2d, RepConv, SepConv
from spimm.layers.sdsa import SDSA, ColumnMask, Projection, SoftmaxProduct, sdsa
from spimm.layers.shortcut import Ending, Residual, Shortcut, check_shortcut, ending, entry
from spimm.layers.time import as_sequence, over_time

__all__ = [
    "ATTENTIONS",
    "PATCH_FORMS",
    "SDSA",
    "SPEDS",
    "BorderConv2d",
    "ChannelMask",
    "ColumnMask",
    "ConvNeuron",
    "ConvNormNeuron",
    "ConvUnit",
    "Ending",
    "PatchForm",
    "Projection",
    "RepConv",
    "Residual",
    "SepConv",
    "Shortcut",
    "SoftmaxProduct",
    "SpikeConv2d",
    "SpikeProduct",
    "SpikingAttention",
    "SpikingMLP",
    "TokenMask",
    "as_sequence",
    "check_heads",
    "check_shortcut",
    "checkpointed",
    "ending",
    "entry",
    "over_time",
    "qk_attention",
    "sdsa",
    "set_memory",
]
