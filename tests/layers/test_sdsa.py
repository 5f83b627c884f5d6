"""Spike-driven self-attention against its formulas in plain torch, token by token."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spimm.layers import SDSA, ColumnMask, Ending, RepConv, SoftmaxProduct, SpikeConv2d, SpikingAttention, sdsa
from spimm.layers.sdsa import SOFTMAX_THRESHOLD
from spimm.neurons import LIF

from .conftest import is_channels_last, lively, spike_steps, steps

every_kind = pytest.mark.parametrize("kind", SDSA)
DIM, HEADS, SIZE = 12, 3, (5, 3)


def attention(
    kind: str, *, dim: int = DIM, num_heads: int = HEADS, last: bool = True, **settings: Any
) -> SpikingAttention:
    torch.manual_seed(1)
    ending = Ending(LIF() if last else None)
    layer = sdsa(kind, dim, num_heads, neuron_fn=LIF, attention_neuron_fn=LIF, ending=ending, **settings)
    return lively(layer).eval()


def untied(kind: str, **settings: Any) -> SpikingAttention:
    """In float64 and without ties: softmax gives simple fractions but for rounding, such as twice the threshold."""
    layer = attention(kind, **settings).double()
    if kind == "vsa":
        layer.core.neuron.threshold = 0.45
    return layer


def spike_triple(*rates: float) -> list[Tensor]:
    """q, k, v: [T, B, C, N] each."""
    return [spike_steps(4, 2, DIM, *SIZE, rate=rate, seed=seed).flatten(3).double() for seed, rate in enumerate(rates)]


def fire(x: Tensor, threshold: float = 0.5) -> Tensor:
    return LIF(threshold=threshold)(x)


def per_head(x: Tensor) -> Tensor:
    """[T, B, C, N] -> [T, B, h, N, d]."""
    return x.unflatten(2, (HEADS, -1)).transpose(3, 4)


def product(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = map(per_head, (q, k, v))
    y = torch.einsum("tbhnd,tbhmd,tbhme->tbhne", q, k, v)
    return fire(0.125 * y.transpose(3, 4).flatten(2, 3))


def softmax_product(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = map(per_head, (q, k, v))
    scores = torch.einsum("tbhnd,tbhmd->tbhnm", q, k) / (DIM / HEADS) ** 0.5
    y = torch.einsum("tbhnm,tbhme->tbhne", scores.softmax(-1), v)
    return fire(y.transpose(3, 4).flatten(2, 3), SOFTMAX_THRESHOLD)


FORMULAS = {
    "sdsa1": lambda q, k, v: q * fire((k * v).sum(3, keepdim=True)),
    "sdsa2": lambda q, k, v: v * fire(q.sum(3, keepdim=True)),
    "sdsa3": product,
    "sdsa4": product,
    "vsa": softmax_product,
}
RATES = {"sdsa1": (0.4, 0.2, 0.2), "sdsa2": (0.02, 0.4, 0.4), "vsa": (0.3, 0.3, 0.5)}


@every_kind
def test_the_core_is_the_formula_of_the_paper(kind: str) -> None:
    q, k, v = spike_triple(*RATES.get(kind, (0.4, 0.4, 0.4)))
    expected = FORMULAS[kind](q, k, v)
    inputs = (q, v) if kind == "sdsa2" else (q, k, v)
    y = attention(kind).core.double()(torch.cat(inputs, dim=2).unflatten(3, SIZE))
    assert torch.equal(y.flatten(3), expected)
    assert 0.05 < expected.mean() < 0.95


def test_the_columns_that_fire_are_the_mask() -> None:
    q, k, v = (x.unflatten(3, SIZE) for x in spike_triple(*RATES["sdsa1"]))
    core, qkv = ColumnMask(LIF(threshold=0.5)), torch.cat((q, k, v), dim=2)
    assert torch.equal(core(qkv), q * core.mask(qkv)[..., None, None])


@every_kind
@pytest.mark.parametrize("conv", ["repconv", "linear"])
def test_attention_keeps_shape_and_memory_order_and_gives_spikes(kind: str, conv: str) -> None:
    layer = attention(kind, qkv_conv=conv, proj_conv=conv).to(memory_format=torch.channels_last)
    x = spike_steps(4, 2, DIM, 7, 5)
    y = layer.train()(x)
    assert y.shape == x.shape
    assert set(y.unique().tolist()) == {0, 1}
    assert is_channels_last(y)
    assert len(attention(kind, last=False)(x).unique()) > 10


@every_kind
def test_with_1x1_convolutions_tokens_have_no_order(kind: str) -> None:
    layer = untied(kind, qkv_conv="linear", proj_conv="linear")
    x, order = spike_steps(4, 2, DIM, 6, 4).double(), torch.randperm(24)
    y = layer(x).flatten(3)[..., order].unflatten(3, (6, 4))
    assert torch.equal(layer(x.flatten(3)[..., order].unflatten(3, (6, 4))), y)
    assert torch.equal(layer(x.transpose(3, 4)), layer(x).transpose(3, 4))  # height and width are not mixed up
    assert y.any()


@every_kind
def test_samples_do_not_see_each_other(kind: str) -> None:
    layer, x = untied(kind), spike_steps(4, 3, DIM, 6, 6).double()
    assert torch.equal(torch.cat([layer(x[:, :1]), layer(x[:, 1:])], dim=1), layer(x))


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_parameter_and_the_input_get_a_gradient(kind: str, dtype: torch.dtype) -> None:
    layer = attention(kind).train().to(dtype)
    x = spike_steps(2, 2, DIM, 4, 4).to(dtype).requires_grad_()
    (layer(x) * steps(2, 2, DIM, 4, 4).to(dtype)).sum().backward()
    assert x.grad.isfinite().all() and x.grad.any()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_the_threshold_of_sdsa4_is_learnt_and_starts_as_that_of_sdsa3() -> None:
    layer = attention("sdsa4").train()
    (learnt,) = (name for name, _ in layer.named_parameters() if "threshold" in name)
    assert learnt == "core.neuron.threshold" and layer.core.neuron.threshold.item() == 0.5
    layer(spike_steps(4, 2, DIM, 6, 6)).sum().backward()
    assert layer.core.neuron.threshold.grad.abs() > 0


@pytest.mark.parametrize("kind", ["sdsa3", "sdsa4"])
def test_a_scale_merged_into_the_threshold_gives_equal_spikes(kind: str) -> None:
    apart, merged = attention(kind), attention(kind, merge_scale=True)
    weights = {key: value for key, value in apart.state_dict().items() if "threshold" not in key}
    merged.load_state_dict(weights, strict=False)
    cores = [(layer.core.scale, torch.as_tensor(layer.core.neuron.threshold).item()) for layer in (apart, merged)]
    assert cores == [(0.125, 0.5), (1.0, 4.0)]
    x = spike_steps(4, 3, DIM, 6, 6, rate=0.5)
    assert torch.equal(apart(x), merged(x))


def count(layer: SpikingAttention) -> int:
    return sum(parameter.numel() for parameter in layer.parameters())


def test_parameters_are_those_of_the_paper() -> None:
    repconv, linear = 2 * 32**2 + 9 * 32 + 3 * 2 * 32, 32**2 + 2 * 32  # with norms
    for kind, branches, more in (("sdsa1", 3, 0), ("sdsa2", 2, 0), ("sdsa3", 3, 0), ("sdsa4", 3, 1), ("vsa", 3, 0)):
        assert count(attention(kind, dim=32, num_heads=4)) == (branches + 1) * repconv + more
        layer = attention(kind, dim=32, num_heads=4, qkv_conv="linear")
        assert count(layer) == branches * linear + repconv + more
        layer = attention(kind, dim=32, num_heads=4, proj_conv="linear")
        assert count(layer) == branches * repconv + linear + more
    assert all(part.bias is None for part in attention("sdsa3").modules() if isinstance(part, nn.Conv2d))


def test_convolutions_are_those_asked_for() -> None:
    layer = attention("sdsa3", proj_conv="linear")
    assert (type(layer.qkv.conv), type(layer.proj.conv)) == (RepConv, SpikeConv2d)
    layer = attention("sdsa3", qkv_conv="linear")
    assert (type(layer.qkv.conv), type(layer.proj.conv)) == (SpikeConv2d, RepConv)


def test_softmax_weights_of_bfloat16_spikes_keep_their_dtype() -> None:
    qkv = spike_steps(2, 2, 3 * DIM, *SIZE).bfloat16()
    y = SoftmaxProduct(HEADS, LIF(threshold=0.25))(qkv)
    assert y.dtype == torch.bfloat16 and 0 < y.mean() < 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "sdsa5"}, r"unknown attention 'sdsa5'; did you mean sdsa"),
        ({"kind": "zzzz"}, r"unknown attention 'zzzz'; did you mean sdsa1, sdsa2, sdsa3, sdsa4, vsa"),
        ({"kind": "sdsa1", "num_heads": 5}, r"12 channels do not divide into 5 heads"),
        ({"kind": "sdsa3", "qkv_conv": "lin"}, r"unknown convolution 'lin'; wanted one of repconv, linear"),
        ({"kind": "sdsa3", "proj_conv": "rep"}, r"unknown convolution 'rep'; wanted one of repconv, linear"),
    ],
)
def test_settings_without_meaning_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attention(**settings)
