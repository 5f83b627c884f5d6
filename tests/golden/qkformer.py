"""QKFormer in the `legacy` form, which keeps the faults of the authors' code."""

import warnings

import torch
from torch import nn

import spimm
from spimm.models import qkformer_keys

from . import weights
from .runs import Network

GOLDEN = weights.load("qkformer_cifar_4_384_T4_legacy")


def build(dtype: torch.dtype) -> nn.Module:
    tensors = weights.state_dict(GOLDEN, dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="legacy=True", category=UserWarning)
        return spimm.load_official("qkformer_4_384_cifar", tensors, num_steps=GOLDEN["meta"]["T"], legacy=True)


def neurons(model: nn.Module) -> dict[str, list[str]]:
    return {ours: [f"{name}_lif" for name in theirs] for ours, theirs in qkformer_keys.unit_names(model).items()}


OPS = {"norm_lif": 23, "norm_pool_lif": 2, "token_mask": 2, "lif": 2, "spike_conv2d": 25, "spike_attention": 2}
NETWORK = Network("qkformer", GOLDEN, build, neurons, OPS)
