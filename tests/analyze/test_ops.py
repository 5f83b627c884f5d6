import pytest
import torch
from torch import Tensor, nn

import spimm
from spimm.analyze import Trace, record
from spimm.layers import ChannelMask, SpikeProduct, TokenMask, as_sequence
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
