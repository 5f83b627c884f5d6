import pytest
import torch
from torch import Tensor, nn

import spimm
from spimm.analyze import Trace, record
from spimm.layers import (
    SDSA,
    ChannelMask,
    ColumnMask,
    ConvUnit,
    RepConv,
    SoftmaxProduct,
    SpikeProduct,
    TokenMask,
    as_sequence,
)
from spimm.neurons import IF


@torch.no_grad()
def traced(model: nn.Module, x: Tensor) -> Trace:
    with record(model) as recorder:
        model(x)
    return recorder.trace()


class Core(nn.Module):
    """An attention core on a sequence that holds q, k (and v) as its channels."""

    def __init__(self, core: nn.Module) -> None:
        super().__init__()
        self.core = core

    def forward(self, x: Tensor) -> Tensor:
        return self.core(as_sequence(x, 1, x.shape[2])[0])


HEADS, HEAD_WIDTH, WIDTH, TOKENS = 2, 3, 6, 20


def _spikes(num_inputs: int) -> Tensor:
    torch.manual_seed(1)
    return (torch.rand(2, 3, num_inputs * WIDTH, 4, 5) < 0.3).float()


def test_convolutions_count_kernel_area_times_channels_over_groups() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=True)
            self.grouped = nn.Conv2d(6, 6, (1, 5), groups=3, padding=(0, 2))
            self.linear = nn.Linear(6, 7)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(self.grouped(self.conv(x)).movedim(1, -1))

    trace = traced(Net(), torch.rand(2, 4, 8, 10))
    assert trace.layer("conv").output_shape == (6, 4, 5)
    assert trace.layer("conv").dense == 9 * 4 * 5 * 4 * 6
    assert trace.layer("grouped").dense == 5 * 4 * 5 * 6 * 6 // 3
    assert trace.layer("linear").dense == 6 * 7 * 4 * 5


@pytest.mark.parametrize("core", [TokenMask(HEADS, IF()), ChannelMask(IF())])
def test_masks_add_each_value_of_q_once_and_nothing_of_k(core: nn.Module) -> None:
    x = _spikes(2)
    layer = traced(Core(core), x).layer("core")
    (product,) = layer.products
    assert (product.dense, product.gate, product.paired) == (TOKENS * WIDTH, "q", None)
    assert layer.input("q").nonzero == pytest.approx(x[:, :, :WIDTH].mean().item())
    assert layer.input("k").nonzero == pytest.approx(x[:, :, WIDTH:].mean().item())
    assert layer.input("q").nonzero != layer.input("k").nonzero


def test_spike_products_add_one_row_of_a_head_for_every_spike_of_k_and_of_q() -> None:
    x = _spikes(3)
    layer = traced(Core(SpikeProduct(HEADS, 1.0, IF())), x).layer("core")
    first, second = layer.products
    dense = TOKENS * WIDTH * HEAD_WIDTH
    assert (first.dense, first.gate, second.dense, second.gate, second.paired) == (dense, "k", dense, "q", None)
    k, v = (part.unflatten(2, (HEADS, HEAD_WIDTH)).flatten(4) for part in x.chunk(3, 2)[1:])  # [B, T, h, d, N]
    both = torch.einsum("bthin,bthjn->", k, v)
    assert first.paired == pytest.approx(both.item() / (dense * 2 * 3))

    assert (first.undivided, second.undivided) == (TOKENS * WIDTH**2,) * 2


def test_a_column_mask_adds_where_k_and_v_both_fire() -> None:
    x = _spikes(3)
    trace = traced(Core(ColumnMask(IF())), x)
    layer, mask = trace.layer("core"), trace.layer("core.neuron")
    (product,) = layer.products
    q, k, v = x.chunk(3, dim=2)
    assert (product.dense, product.gate, product.paired) == (TOKENS * WIDTH, "k v", None)
    assert layer.input("k v").nonzero == pytest.approx((k * v).mean().item())
    assert layer.input("q").nonzero == pytest.approx(q.mean().item())
    assert mask.output_shape == (WIDTH,)
    assert mask.rate == pytest.approx(((k * v).sum((3, 4)) > 0).float().mean().item())  # IF() resets to 0 at 1 or more


def test_softmax_attention_is_quadratic_in_tokens_and_adds_for_spikes_of_q_and_of_v() -> None:
    x = _spikes(3)
    trace = traced(Core(SoftmaxProduct(HEADS, IF(threshold=0.2))), x)
    layer = trace.layer("core")
    scores, values = layer.products
    assert [(work.dense, work.gate) for work in layer.products] == [(TOKENS**2 * WIDTH, "q"), (TOKENS**2 * WIDTH, "v")]
    q, k, _ = (part.unflatten(2, (HEADS, HEAD_WIDTH)).flatten(4) for part in x.chunk(3, 2))  # [B, T, h, d, N]
    both = torch.einsum("bthdi,bthdj->", q, k)
    assert scores.paired == pytest.approx(both.item() / (scores.dense * 2 * 3))
    assert values.paired is None
    assert list(trace.firing_rates()) == ["core.neuron"]


@pytest.mark.parametrize("kind", SDSA)
def test_every_attention_of_meta_spikeformer_counts_its_neuron_once(kind: str) -> None:
    options = {"widths": (4, 8, 16, 32, 40), "depths": (1, 1, 1, 1, 1), "attention": kind}
    model = spimm.create_model("metaspikeformer_cifar", num_steps=4, **options).eval()
    trace = traced(model, torch.rand(2, 3, 16, 16))
    core = "stages.3.blocks.0.attention.branch.core"
    assert sum(name.startswith(core) for name in trace.firing_rates()) == 1
    assert trace.layer(core).steps == trace.layer(f"{core}.neuron").steps == 4
    assert len(trace.layer(core).products) == (1 if kind in ("sdsa1", "sdsa2") else 2)


def test_the_convolutions_of_a_repconv_count_each_for_itself() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unit = ConvUnit(RepConv(4, 12, branches=3), 12, neuron=IF())

        def forward(self, x: Tensor) -> Tensor:
            return self.unit(as_sequence(x, 1, 4)[0])

    trace = traced(Net().eval(), torch.rand(2, 3, 4, 5, 5))
    dense = {layer.name: layer.dense for layer in trace.layers if layer.products}
    assert dense == {
        "unit.conv.expand": 25 * 4 * 12,
        "unit.conv.depthwise": 25 * 9 * 12,
        "unit.conv.project": 25 * 12 * 12 // 3,
    }
    assert trace.layer("unit.conv.depthwise").input("x").shape == (12, 5, 5)
    assert trace.layer("unit.neuron").steps == 3


@pytest.mark.parametrize("adds_first", [False, True])
def test_the_spikes_of_a_unit_are_its_output_less_what_joins_behind_the_neuron(adds_first: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unit = ConvUnit(nn.Conv2d(2, 2, 1), 2, neuron=IF(), adds_first=adds_first)

        def forward(self, x: Tensor) -> Tensor:
            steps, _ = as_sequence(x, 1, 2)
            return self.unit(steps, added=steps)

    torch.manual_seed(0)
    model, x = Net().eval(), torch.randint(0, 4, (2, 3, 2, 4, 4)).float()
    spikes = model(x).detach() - (0 if adds_first else x.transpose(0, 1))
    assert 0 < spikes.mean() < 1
    assert traced(model, x).layer("unit.neuron").rate == pytest.approx(spikes.mean().item())


@pytest.mark.parametrize(("width", "first", "rest"), [(384, 0.065, 6.17), (512, 0.087, 10.97), (768, 0.130, 24.68)])
def test_dense_operations_of_the_published_models(width: int, first: float, rest: float) -> None:
    """GFLOP per step at 224 pixels: the first convolution, and all other convolutions, attention and the classifier.

    The published "rest" has the two products of the last stage at the full width, 2 N D^2, where the heads do 2 N D d.
    """
    model = spimm.create_model(f"qkformer_10_{width}", num_steps=1).eval()
    trace = traced(model, torch.rand(1, 3, 224, 224))
    assert trace.layers[0].dense / 1e9 == pytest.approx(first, abs=5e-4)
    products = [layer for layer in trace.layers if len(layer.products) == 2]
    assert len(products) == 7
    heads = model.config.num_heads
    assert products[0].dense == 2 * 14 * 14 * width * (width // heads)
    undivided = sum(layer.dense for layer in products) * (heads - 1)
    assert (sum(layer.dense for layer in trace.layers[1:]) + undivided) / 1e9 == pytest.approx(rest, abs=5e-3)
