"""Our Meta-SpikeFormer of 31.3 M parameters against figures of the authors' network."""

import functools

import pytest
import torch
from torch import nn

import spimm

from . import runs, weights

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


def neurons() -> dict[str, list[str]]:
    """Our modules that fire -> the authors' names of their neurons."""
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


@functools.cache
def run(mode: str) -> runs.Run:
    return runs.run(build(torch.float64).train(mode == "train"), GOLDEN, "metaspikeformer", neurons())


@pytest.fixture(autouse=True)
def every_test_runs_on(one_thread: None) -> None:
    """One thread."""


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_logits_are_those_of_the_authors_network(mode: str) -> None:
    runs.assert_logits(run(mode).logits, GOLDEN[f"{mode}_logits"])


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_every_neuron_fires_as_often_as_the_authors(mode: str) -> None:
    runs.assert_rates(run(mode).rates, GOLDEN[f"{mode}_firing_rates"])


def test_every_gradient_is_as_long_as_the_authors() -> None:
    runs.assert_gradients(run("train").gradients, GOLDEN["grad_l2"])


@pytest.mark.parametrize("training", [False, True])
@torch.no_grad()
def test_the_cpu_kernels_decide_every_spike_of_this_network_as_the_reference(
    training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ops = build(torch.float32).train(training), runs.check_kernels(monkeypatch)
    assert sum(parameter.numel() for parameter in model.parameters()) == GOLDEN["params"]
    logits = model(weights.model_input(GOLDEN).float())
    assert {op: ops.count(op) for op in ("norm_lif", "lif", "spike_attention")} == {
        "norm_lif": 4 * 2 + 8 * 2, "lif": 4 + 4 * 2 + 8 * 3 + 1, "spike_attention": 8,
    }  # fmt: skip
    assert logits.isfinite().all()
