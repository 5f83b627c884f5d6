import pytest
import torch
from torch import Tensor, nn

from spimm.layers import SpikeConv2d, checkpointed, set_memory

from .conftest import lively, steps
from .test_attention import attention


def kept(module: nn.Module, x: Tensor) -> list[Tensor]:
    """What autograd keeps of a call, parameters aside."""
    tensors: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: tensors.append(tensor) or tensor, lambda tensor: tensor
    ):
        module(x)
    parameters = {parameter.data_ptr() for parameter in module.parameters()}
    return [tensor for tensor in tensors if tensor.data_ptr() not in parameters]


def test_packed_convolutions_keep_a_bit_a_spike() -> None:
    layer, x = attention("qkta").train(), steps(4, 2, 16, 6, 6).gt(1).float()
    assert {module.memory for module in layer.modules() if isinstance(module, SpikeConv2d)} == {"full"}
    whole = sum(tensor.nbytes for tensor in kept(layer, x))
    set_memory(layer, "packed")
    packed = kept(layer, x)
    assert [tensor.numel() for tensor in packed if tensor.dtype == torch.uint8] == [64 + x.numel() // 8] * 2
    assert whole - sum(tensor.nbytes for tensor in packed) == 2 * (x.nbytes - x.numel() // 8 - 64)


def test_an_unknown_way_to_keep_is_refused() -> None:
    with pytest.raises(ValueError, match="memory is 'none'; wanted 'full' or 'packed'"):
        set_memory(nn.Identity(), "none")  # type: ignore[arg-type]


def test_a_checkpointed_layer_gives_the_same_and_moves_statistics_once() -> None:
    results = []
    for call in (lambda module, x: module(x), checkpointed):
        layer = lively(attention("ssa")).train()
        x = steps(4, 2, 16, 6, 6).gt(1).float().requires_grad_()
        y = call(layer, x)
        gradients = torch.autograd.grad((y * steps(4, 2, 16, 6, 6, seed=1)).sum(), [x, *layer.parameters()])
        results.append([y, *gradients, *layer.state_dict().values()])
    for ordinary, again in zip(*results, strict=True):
        assert torch.equal(ordinary, again)


@pytest.mark.parametrize("memory", ["full", "packed"])
@pytest.mark.parametrize("call", [lambda module, x: module(x), checkpointed], ids=["kept", "checkpointed"])
def test_a_retained_graph_gives_its_gradients_again(call, memory: str) -> None:
    layer = lively(attention("ssa")).train()
    set_memory(layer, memory)  # type: ignore[arg-type]
    x = steps(4, 2, 16, 6, 6).gt(1).float().requires_grad_()
    loss = (call(layer, x) * steps(4, 2, 16, 6, 6, seed=1)).sum()
    before = [value.clone() for value in layer.state_dict().values()]
    first, second, third = (
        torch.autograd.grad(loss, [x, *layer.parameters()], retain_graph=retained) for retained in (True, True, False)
    )
    for gradients in zip(first, second, third, strict=True):
        assert gradients[0].any() and torch.equal(gradients[0], gradients[1]) and torch.equal(*gradients[1:])
    assert all(torch.equal(*pair) for pair in zip(before, layer.state_dict().values(), strict=True))


def test_second_derivatives_pass_through_a_checkpointed_layer() -> None:
    results = []
    for call in (lambda module, x: module(x), checkpointed):
        layer = lively(attention("ssa")).train()
        x = steps(4, 2, 16, 6, 6).gt(1).float().requires_grad_()
        loss = (call(layer, x) * steps(4, 2, 16, 6, 6, seed=1)).sum()
        (slope,) = torch.autograd.grad(loss, x, create_graph=True)
        results.append(torch.autograd.grad(slope.square().sum(), list(layer.parameters()), allow_unused=True))
    for ordinary, again in zip(*results, strict=True):
        torch.testing.assert_close(ordinary, again)


def test_a_checkpointed_layer_keeps_nothing_but_its_input() -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = attention("ssa").train()

        def forward(self, x: Tensor) -> Tensor:
            return checkpointed(self.layer, x)

    x = steps(4, 2, 16, 6, 6).requires_grad_()
    assert {tensor.shape for tensor in kept(Checkpointed(), x)} <= {x.shape, torch.Size([0])}


def test_without_gradients_nothing_is_checkpointed() -> None:
    layer, x = attention("qkta").eval(), steps(4, 2, 16, 6, 6)
    with torch.no_grad():
        assert torch.equal(checkpointed(layer, x), layer(x))
