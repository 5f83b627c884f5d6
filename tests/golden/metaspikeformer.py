"""Meta-SpikeFormer of 31.3 M parameters."""

import torch
from torch import nn

import spimm

from . import weights
from .runs import Network

GOLDEN = weights.load("metaspikeformer_8_384_T1")
BLOCKS = (
    ("downsample1_1", ["ConvBlock1_1.0"]),
    ("downsample1_2", ["ConvBlock1_2.0"]),
    ("downsample2", ["ConvBlock2_1.0", "ConvBlock2_2.0"]),
    ("downsample3", [f"block3.{i}" for i in range(6)]),
    ("downsample4", [f"block4.{i}" for i in range(2)]),
)
CONV_NEURONS = {
    "sep_conv.entry": ["Conv.lif1"],
    "sep_conv.branch.expand": ["Conv.lif2"],
    "channel_conv.entry": ["lif1"],
    "channel_conv.branch.expand": ["lif2"],
}
TRANSFORMER_NEURONS = {
    "attention.entry": ["attn.head_lif"],
    "attention.branch.qkv": ["attn.q_lif", "attn.k_lif", "attn.v_lif"],
    "attention.branch.core.neuron": ["attn.attn_lif"],
    "mlp.entry": ["mlp.fc1_lif"],
    "mlp.branch.expand": ["mlp.fc2_lif"],
}


def neurons(model: nn.Module) -> dict[str, list[str]]:
    names = {"head_neuron": ["lif"]}
    for i, (downsample, blocks) in enumerate(BLOCKS):
        if i > 0:
            names[f"stages.{i}.embed.entry"] = [f"{downsample}.encode_lif"]
        for j, block in enumerate(blocks):
            for ours, theirs in (CONV_NEURONS if i < 3 else TRANSFORMER_NEURONS).items():
                names[f"stages.{i}.blocks.{j}.{ours}"] = [f"{block}.{name}" for name in theirs]
    return names


def build(dtype: torch.dtype) -> nn.Module:
    tensors = weights.state_dict(GOLDEN, dtype)
    return spimm.load_official("metaspikeformer_31m", tensors, num_steps=GOLDEN["meta"]["T"])


# norm_lif in 4 conv blocks and 8 transformer blocks; neurons between stages, at the entries, in attention, in the head
OPS = {
    "norm_lif": 4 * 2 + 8 * 2, "norm_pool_lif": 0, "token_mask": 0, "lif": 4 + 4 * 2 + 8 * 3 + 1,
    "spike_conv2d": 5 + 4 * 3 + 8 * 4, "spike_attention": 8,
}  # fmt: skip
NETWORK = Network("metaspikeformer", GOLDEN, build, neurons, OPS)
