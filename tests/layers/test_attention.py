import pytest
import torch
from torch import Tensor

from spimm.layers import ATTENTIONS, ChannelMask, Ending, SpikeProduct, SpikingAttention, TokenMask, qk_attention
from spimm.neurons import LIF, Neuron

from .conftest import is_channels_last, lively, spike_steps, steps

every_kind = pytest.mark.parametrize("kind", ATTENTIONS)


def attention(kind: str, *, dim: int = 16, num_heads: int = 4, last: bool = True, **settings: bool) -> SpikingAttention:
    torch.manual_seed(1)
    last_neuron = LIF() if last else None
    layer = qk_attention(
        kind, dim, num_heads, neuron_fn=LIF, attention_neuron_fn=LIF, ending=Ending(last_neuron), **settings
    )
    return lively(layer).eval()


def spike_triple() -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (spike_steps(4, 2, 12, 5, 3, rate=rate, seed=seed) for seed, rate in enumerate((0.05, 0.4, 0.4)))
    return q, k, v


def neuron() -> Neuron:
    return LIF(threshold=0.5)


def test_the_token_mask_keeps_the_tokens_whose_query_fires() -> None:
    q, k, _ = spike_triple()
    expected = torch.empty_like(k)
    for head in range(3):
        part = slice(4 * head, 4 * head + 4)
        expected[:, :, part] = neuron()(q[:, :, part].sum(2, keepdim=True)) * k[:, :, part]
    y = TokenMask(3, neuron())(torch.cat((q, k), 2))
    assert torch.equal(y, expected)
    assert 0 < y.sum() < k.sum()


def test_the_channel_mask_keeps_the_channels_whose_query_fires() -> None:
    q, k, _ = spike_triple()
    q = q * (torch.arange(12) % 2).view(12, 1, 1)
    expected = neuron()(q.sum((3, 4), keepdim=True)) * k
    y = ChannelMask(neuron())(torch.cat((q, k), 2))
    assert torch.equal(y, expected)
    assert 0 < y.sum() < k.sum()


def test_channel_counts_beyond_the_integers_of_bfloat16_are_exact() -> None:
    qk = torch.ones(1, 1, 4, 17, 31, dtype=torch.bfloat16)
    for threshold, fires in ((526.5 / 2, 1), (527.5 / 2, 0)):  # bfloat16 holds 526 and 528, not 527
        y = ChannelMask(LIF(threshold=threshold))(qk)
        assert y.dtype == torch.bfloat16
        assert (y == fires).all()


@pytest.mark.parametrize("scale", [0.125, 1.0])
def test_the_spike_product_is_query_times_key_times_value(scale: float) -> None:
    q, k, v = spike_triple()
    potentials = torch.empty_like(q)
    for h in range(3):
        part = slice(4 * h, 4 * h + 4)
        q_, k_, v_ = (x[:, :, part].flatten(3) for x in (q, k, v))  # [T, B, d, N]
        scores = torch.einsum("tbdn,tbdm->tbnm", q_, k_)
        potentials[:, :, part] = scale * torch.einsum("tbnm,tbdm->tbdn", scores, v_).unflatten(3, (5, 3))
    y = SpikeProduct(3, scale, neuron())(torch.cat((q, k, v), 2))
    assert torch.equal(y, neuron()(potentials))
    assert 0 < y.mean() < 1


@every_kind
def test_attention_keeps_shape_and_memory_order_and_gives_spikes(kind: str) -> None:
    x = steps(4, 2, 16, 7, 5).abs().round()
    y = attention(kind).train()(x)
    assert y.shape == x.shape
    assert set(y.unique().tolist()) == {0, 1}
    assert is_channels_last(y)
    assert len(attention(kind, last=False)(x).unique()) > 10


@every_kind
def test_tokens_have_no_order(kind: str) -> None:
    x = spike_steps(4, 2, 16, 6, 4)
    layer, order = attention(kind), torch.randperm(24)
    y = layer(x).flatten(3)[..., order].unflatten(3, (6, 4))
    assert torch.equal(layer(x.flatten(3)[..., order].unflatten(3, (6, 4))), y)
    assert torch.equal(layer(x.transpose(3, 4)), layer(x).transpose(3, 4))  # height and width are not mixed up
    assert y.any()


def test_a_scale_merged_into_the_threshold_gives_equal_spikes() -> None:
    apart, merged = attention("ssa"), attention("ssa", merge_scale=True)
    merged.load_state_dict(apart.state_dict())
    assert (apart.core.scale, apart.core.neuron.threshold) == (0.125, 0.5)
    assert (merged.core.scale, merged.core.neuron.threshold) == (1.0, 4.0)
    x = spike_steps(4, 3, 16, 6, 6, rate=0.5)
    assert torch.equal(apart(x), merged(x))


@every_kind
def test_only_self_attention_has_a_legacy_form(kind: str) -> None:
    correct, legacy = attention(kind), attention(kind, legacy=True)
    legacy.load_state_dict(correct.state_dict())
    x = spike_steps(4, 3, 16, 6, 6, rate=0.5)
    assert torch.equal(correct(x), legacy(x)) == (kind != "ssa")
    assert torch.equal(correct(x[:, :1]), legacy(x[:, :1]))  # one sample alone has no batch-mates to leak into
    assert legacy(x).shape == x.shape


def test_the_legacy_neuron_integrates_over_steps_and_batch_in_step_major_order() -> None:
    legacy = attention("ssa", legacy=True)
    x, masked = spike_steps(3, 4, 16, 5, 5, rate=0.5), []
    legacy.core.register_forward_hook(lambda module, inputs, output: masked.append(output))
    y = legacy(x)
    potentials = legacy.proj.norm(legacy.proj.conv(masked[0].flatten(0, 1)))
    assert torch.equal(y.flatten(0, 1), LIF()(potentials))


@every_kind
def test_samples_do_not_see_each_other(kind: str) -> None:
    layer, x = attention(kind), spike_steps(4, 3, 16, 6, 6)
    assert torch.equal(torch.cat([layer(x[:, :1]), layer(x[:, 1:])], dim=1), layer(x))


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_parameter_and_the_input_get_a_gradient(kind: str, dtype: torch.dtype) -> None:
    layer = attention(kind).train().to(dtype)
    x = spike_steps(2, 2, 16, 4, 4).to(dtype).requires_grad_()
    (layer(x) * steps(2, 2, 16, 4, 4).to(dtype)).sum().backward()
    assert x.grad.isfinite().all() and x.grad.any()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_parameters_are_those_of_the_published_convolutions() -> None:
    def count(kind: str) -> int:
        return sum(parameter.numel() for parameter in attention(kind, dim=32).parameters())

    unit = 32 * 32 + 2 * 32  # 1x1 convolution without bias and its norm
    assert count("qkta") == count("qkca") == 3 * unit + 32  # query, key, projection with bias
    assert count("ssa") == 4 * unit + 32


def test_an_unknown_kind_and_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown attention 'qkt'; did you mean qkta"):
        attention("qkt")
    with pytest.raises(ValueError, match=r"unknown attention 'zzzz'; did you mean qkta, qkca, ssa"):
        attention("zzzz")
    with pytest.raises(ValueError, match=r"16 channels do not divide into 5 heads"):
        attention("ssa", num_heads=5)
