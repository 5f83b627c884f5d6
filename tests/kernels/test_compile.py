"""The compiled ops are ordinary torch ops: schemas, fake tensors, autograd and torch.compile agree with eager mode."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from spimm.kernels import Dynamics, lif, multi_lif, norm_lif, rel_psp
from spimm.kernels.cpu import NeuronCode
from spimm.layers import ConvNormNeuron, PSPConv2d, PSPLinear, TTFSUnit
from spimm.neurons import LIF, PLIF, RelPSP
from spimm.surrogate import ATan

from .conftest import values

CODE = NeuronCode.of(Dynamics(v_reset=None, detach_reset=False, surrogate=ATan()))
opcheck_warnings = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
CHECKS = (
    "test_schema",
    "test_autograd_registration",
    "test_faketensor",
    "test_aot_dispatch_static",
    "test_aot_dispatch_dynamic",
)


def coefficients() -> Tensor:
    return torch.tensor([0.6, 0.47, 0.87], dtype=torch.float64, requires_grad=True)


@opcheck_warnings
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shared", [False, True])
def test_lif_is_a_sound_op(shared: bool, dtype: torch.dtype) -> None:
    x, v = values(1 if shared else 3, 2, 5, scale=2).to(dtype), values(2, 5, seed=1).to(dtype)
    for start in (None, v.requires_grad_()):
        for keep_v in (True, False):
            arguments = (x.requires_grad_(), start, coefficients(), 3, keep_v, *CODE)
            torch.library.opcheck(torch.ops.spimm.lif.default, arguments, test_utils=CHECKS)
    step = values(3, 2, 5, seed=2).to(dtype)
    arguments = (step, step[0], x.detach(), v.detach(), coefficients().detach(), True, *CODE)
    torch.library.opcheck(torch.ops.spimm.lif_backward.default, arguments, test_utils=CHECKS)


@opcheck_warnings
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("frozen", [False, True])
def test_norm_lif_is_a_sound_op(frozen: bool, dtype: torch.dtype) -> None:
    def channels_last(*shape: int, seed: int) -> Tensor:
        return values(*shape, scale=2, seed=seed).to(dtype).movedim(-1, 2)

    x, residual = channels_last(3, 2, 4, 4, 5, seed=0), channels_last(3, 2, 4, 4, 5, seed=1)
    weight, bias = torch.linspace(0.5, 1.5, 5).requires_grad_(), torch.linspace(-0.5, 0.5, 5).requires_grad_()
    statistics = (torch.zeros(5), torch.ones(5))
    for addend in (None, residual.requires_grad_()):
        given = statistics if frozen else (None, None)
        inputs, settings = (x.requires_grad_(), weight, bias, *given, addend), (coefficients(), 3, 1e-5, *CODE)
        torch.library.opcheck(torch.ops.spimm.norm_lif.default, (*inputs, addend, *settings), test_utils=CHECKS)
        torch.library.opcheck(torch.ops.spimm.norm_lif_membrane.default, (*inputs, *settings), test_utils=CHECKS)
    grad = channels_last(3, 2, 4, 4, 5, seed=2)
    inputs = (x.detach(), weight.detach(), bias.detach(), *statistics)
    for added, before, membrane in ((None, residual.detach(), None), (grad, None, residual.detach())):
        for to_residual in (False, True):
            settings = (to_residual, coefficients().detach(), not frozen, True, 1e-5, *CODE)
            arguments = (grad, added, *inputs, before, membrane, *settings)
            torch.library.opcheck(torch.ops.spimm.norm_lif_backward.default, arguments, test_utils=CHECKS)


@opcheck_warnings
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("concat", [False, True])
def test_multi_lif_is_a_sound_op(concat: bool, dtype: torch.dtype) -> None:
    x = values(3, 2, 4, 4, 5, scale=2).to(dtype).movedim(-1, 2)
    numbers = torch.tensor([0.6, 0.47, 0.87, 0.4], dtype=torch.float64)  # decay, gain and two thresholds
    arguments = (x.requires_grad_(), numbers.clone().requires_grad_(), 3, concat, *CODE)
    torch.library.opcheck(torch.ops.spimm.multi_lif.default, arguments, test_utils=CHECKS)
    grad = torch.ops.spimm.multi_lif(x.detach(), numbers, 3, concat, *CODE)
    arguments = (grad, x.detach(), numbers, 3, concat, True, *CODE)
    torch.library.opcheck(torch.ops.spimm.multi_lif_backward.default, arguments, test_utils=CHECKS)


@opcheck_warnings
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("pool", [1, 2])
@pytest.mark.parametrize("clip", [math.inf, 11.0])
def test_rel_psp_is_a_sound_op(clip: float, pool: int, dtype: torch.dtype) -> None:
    drive, settings = values(2, 3, 4, 5, 7).to(dtype).movedim(-1, 2), (2.5, pool, True, clip)
    spikes = torch.ops.spimm.rel_psp(drive, *settings)
    torch.library.opcheck(torch.ops.spimm.rel_psp.default, (drive.requires_grad_(), *settings), test_utils=CHECKS)
    arguments = (spikes[0], drive.detach(), *settings)
    torch.library.opcheck(torch.ops.spimm.rel_psp_backward.default, arguments, test_utils=CHECKS)
    if pool == 1:
        arguments = (values(2, 3, 5).to(dtype).requires_grad_(), *settings)
        torch.library.opcheck(torch.ops.spimm.rel_psp.default, arguments, test_utils=CHECKS)


@opcheck_warnings
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("planes", [1, 2])
def test_psp_conv2d_is_a_sound_op(planes: int, dtype: torch.dtype) -> None:
    spikes, weight = values(planes, 3, 4, 5, 7).to(dtype).movedim(-1, 2), values(6, 7, 3, 3, seed=1).to(dtype)
    arguments = (spikes.requires_grad_(), weight.requires_grad_(), 1)
    torch.library.opcheck(torch.ops.spimm.psp_conv2d.default, arguments, test_utils=CHECKS)
    grad = torch.ops.spimm.psp_conv2d(*arguments).detach()
    for needs in ((True, True), (True, False), (False, True)):
        arguments = (grad, spikes.detach(), weight.detach(), 1, *needs)
        torch.library.opcheck(torch.ops.spimm.psp_conv2d_backward.default, arguments, test_utils=CHECKS)


@pytest.mark.parametrize("pool", [1, 2])
def test_a_compiled_unit_of_spike_times_equals_the_eager_one(pool: int) -> None:
    torch.manual_seed(0)
    units = [
        (TTFSUnit(PSPConv2d(3, 6, 3, padding=1), RelPSP(clip=11.0), pool=pool), (2, 4, 3, 7, 5)),
        (TTFSUnit(PSPLinear(30, 12), RelPSP(window=2.5)), (2, 4, 30)),
    ]
    torch.compiler.reset()
    for unit, shape in units:
        activation = values(*shape)[0].float().clamp(0, 1)
        x = torch.stack([activation, (activation > 0).float()]).requires_grad_()
        results = []
        for function in (unit, torch.compile(unit, fullgraph=True, backend="aot_eager")):
            spikes = function(x)
            loss = (spikes[0] * values(*spikes[0].shape, seed=3).float()).sum()
            results.append([spikes, *torch.autograd.grad(loss, [x, *unit.parameters()])])
        for eager, compiled in zip(*results, strict=True):
            torch.testing.assert_close(eager, compiled, atol=1e-5, rtol=1e-5)


def test_compiled_spike_times_accept_another_batch_size() -> None:
    compiled = torch.compile(rel_psp, fullgraph=True, backend="aot_eager", dynamic=True)
    torch.compiler.reset()
    for batch in (2, 3, 7):
        drive = values(2, batch, 5, 4, 4).float()
        assert torch.equal(compiled(drive, pool=2), rel_psp(drive, pool=2))


def test_a_compiled_multi_lif_equals_the_eager_one() -> None:
    x = values(4, 2, 5, 3, 3, scale=2).float()
    thresholds = torch.tensor([0.5, 1.0])
    torch.compiler.reset()
    for combine in ("sum", "concat"):
        compiled = torch.compile(multi_lif, fullgraph=True, backend="aot_eager")
        eager = multi_lif(x, Dynamics(), thresholds, combine=combine)
        assert torch.equal(compiled(x, Dynamics(), thresholds, combine=combine), eager)


def outcome(function: Any, unit: ConvNormNeuron, x: Tensor, **options: Any) -> list[Tensor]:
    unit.zero_grad()
    for name, buffer in ConvNormNeuron(3, 6, 3, neuron=None).named_buffers():
        unit.get_buffer(name).copy_(buffer)
    leaf = x.detach().requires_grad_()
    spikes = function(leaf, **options)
    (spikes * values(*spikes.shape, seed=3).to(spikes.dtype)).sum().backward()
    gradients = [parameter.grad.clone() for parameter in unit.parameters()]
    return [spikes.detach(), leaf.grad, *gradients, *(buffer.clone() for buffer in unit.buffers())]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("neuron", [LIF(), PLIF(v_reset=None, learn_threshold=True, threshold=0.7)])
@pytest.mark.parametrize(("pool", "num_steps"), [(False, None), (False, 4), (True, 4)])
def test_a_compiled_unit_without_graph_breaks_equals_the_eager_one(
    pool: bool, num_steps: int | None, neuron: LIF | PLIF, training: bool
) -> None:
    torch.manual_seed(0)
    unit = ConvNormNeuron(3, 6, 3, pool=pool, neuron=neuron).train(training)
    x = values(1 if num_steps else 4, 2, 3, 9, 7, scale=3).float()
    eager = outcome(unit, unit, x, num_steps=num_steps)
    torch.compiler.reset()
    compiled = outcome(torch.compile(unit, fullgraph=True, backend="aot_eager"), unit, x, num_steps=num_steps)
    for a, b in zip(eager, compiled, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_compiled_kernels_accept_another_batch_size() -> None:
    dynamics = Dynamics()

    @torch.compile(fullgraph=True, backend="aot_eager", dynamic=True)
    def both(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        spikes, _, _ = norm_lif(x, weight, weight, dynamics)
        return spikes, lif(x, dynamics)[0]

    torch.compiler.reset()
    for batch in (2, 3, 7):
        x, weight = values(2, batch, 4, 3, 3, scale=2).float(), torch.ones(4)
        spikes, plain = both(x, weight)
        assert torch.equal(spikes, norm_lif(x, weight, weight, dynamics)[0])
        assert torch.equal(plain, lif(x, dynamics)[0])
