"""Blocks that two or more models share."""

from spimm.layers.attention import ATTENTIONS, ChannelMask, QKAttention, SpikeProduct, TokenMask, qk_attention
from spimm.layers.conv import ConvNormNeuron, SpikeConv2d
from spimm.layers.folded import ConvNeuron
from spimm.layers.memory import checkpointed, set_memory
from spimm.layers.mlp import SpikingMLP
from spimm.layers.patch import PATCH_FORMS, SPEDS, PatchForm
from spimm.layers.shortcut import Residual, Shortcut, check_shortcut, entry, exit_neuron
from spimm.layers.time import as_sequence, over_time

__all__ = [
    "ATTENTIONS",
    "PATCH_FORMS",
    "SPEDS",
    "ChannelMask",
    "ConvNeuron",
    "ConvNormNeuron",
    "PatchForm",
    "QKAttention",
    "Residual",
    "Shortcut",
    "SpikeConv2d",
    "SpikeProduct",
    "SpikingMLP",
    "TokenMask",
    "as_sequence",
    "check_shortcut",
    "checkpointed",
    "entry",
    "exit_neuron",
    "over_time",
    "qk_attention",
    "set_memory",
]
