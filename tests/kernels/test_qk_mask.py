from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from spimm.kernels import Dynamics, channel_mask, lif, list_backends, token_mask
from spimm.kernels.cpu import NeuronCode
from spimm.kernels.qk_mask import reference

from .conftest import (
    DTYPES,
    FACTORS,
    SURROGATES,
    TOLERANCES,
    Potentials,
    assert_near,
    covering,
    gradients,
    laid_out,
    make_dynamics,
    make_learnt,
    values,
)

KINDS = ("token", "channel")
SHAPES = {  # batch, channels of q, height, width, heads
    "C1": (3, 1, 5, 3, 1),
    "C3": (2, 3, 7, 5, 3),
    "C34": (1, 34, 3, 3, 2),
    "C36": (2, 36, 4, 5, 3),
    "C96": (2, 96, 5, 7, 8),
    "one pixel": (2, 16, 1, 1, 4),
}
FACTORS = {name: factor for name, factor in FACTORS.items() if name not in ("shape", "shared")}


def run(kind: str, qk: Tensor, dynamics: Dynamics, num_heads: int, backend: str = "auto") -> tuple[Tensor, Tensor]:
    if kind == "token":
        return token_mask(qk, dynamics, num_heads, backend=backend)
    return channel_mask(qk, dynamics, backend=backend)


def run_reference(kind: str, qk: Tensor, dynamics: Dynamics, num_heads: int, fire: Callable) -> tuple[Tensor, Tensor]:
    if kind == "token":
        return reference.token_mask(qk, dynamics, num_heads, fire=fire)
    return reference.channel_mask(qk, dynamics, fire=fire)


def over_channels(kind: str, per_neuron: Tensor, like: Tensor) -> Tensor:
    """What each neuron of a step says, for each element of a step's out."""
    if kind == "channel":
        return per_neuron[..., None, None].expand_as(like)
    return per_neuron.repeat_interleave(like.shape[1] // per_neuron.shape[-1], -1).movedim(-1, 1)


def make_qk(num_steps: int, batch: int, channels: int, height: int, width: int) -> Tensor:
    """q: sparse spikes, so that some sums stay small; k: any numbers."""
    q = (values(num_steps, batch, channels, height, width, seed=3) > 1.3).double()
    return torch.cat([q, values(num_steps, batch, channels, height, width, seed=4)], dim=2)


def check_parity(case: dict[str, Any], shape: tuple[int, ...], kind: str, backend: str) -> None:
    dtype, *sizes, num_heads = DTYPES[case["dtype"]], *shape
    tolerance = TOLERANCES[dtype]
    truth_of = make_qk(case["num_steps"], *sizes)
    scalars = ("decay", "gain", "threshold") if case["learnt"] else ()
    true_learnt, learnt = make_learnt(case), make_learnt(case)
    true_inputs = {"qk": truth_of.requires_grad_(), **dict(zip(scalars, true_learnt, strict=True))}
    qk = laid_out(truth_of.detach().to(dtype), case["layout"]).requires_grad_()
    inputs = {"qk": qk, **dict(zip(scalars, learnt, strict=True))}

    fire = Potentials(SURROGATES[case["surrogate"]])
    truth, true_mask = run_reference(kind, true_inputs["qk"], make_dynamics(case, true_learnt), num_heads, fire)
    out, mask = run(kind, qk, make_dynamics(case, learnt), num_heads, backend)
    assert out.dtype == mask.dtype == dtype
    assert not mask.requires_grad
    decided = fire.decided(tolerance.potential)
    assert decided.double().mean() > 0.99
    assert torch.equal(mask.double()[decided], true_mask[decided])
    wide = torch.stack([over_channels(kind, step, truth[0]) for step in decided])
    assert torch.equal(out.double()[wide], truth[wide])

    upstream = values(*truth.shape, seed=2) * wide[-1]
    expected = gradients((truth * upstream).sum(), true_inputs)
    for name, gradient in gradients((out * upstream.to(dtype)).sum(), inputs).items():
        assert gradient.dtype == inputs[name].dtype
        limit = tolerance.gradient if name == "qk" else tolerance.summed
        assert_near(gradient, expected[name], limit, f"gradient of {name}")


@pytest.mark.parametrize("backend", list_backends("token_mask"))
@pytest.mark.parametrize("case", covering({**FACTORS, "shape": list(SHAPES), "kind": KINDS}))
def test_every_backend_agrees_with_the_reference(case: dict[str, Any], backend: str) -> None:
    check_parity(case, SHAPES[case["shape"]], case["kind"], backend)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(2, 96, 33, 41, 8), (1, 2200, 7, 3, 2)])
def test_the_cpu_backend_agrees_with_the_reference_over_many_tiles(
    shape: tuple[int, ...], kind: str, dtype: str, threads: int, with_threads
) -> None:
    with_threads(threads)
    case = {"surrogate": "sigmoid", "num_steps": 3, "layout": "channels-last", "reset": "soft", "dtype": dtype}
    check_parity(case | {"detach": False, "learnt": True}, shape, kind, "cpu")


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_is_differentiable_in_everything_when_its_step_is_smooth(kind: str) -> None:
    qk = (0.3 * values(2, 2, 4, 2, 2)).requires_grad_()
    scalars = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (0.6, 0.45, 0.9)]
    for surrogate in SURROGATES.values():
        for v_reset in (0.0, None):

            def smooth(qk, *scalars, surrogate=surrogate, v_reset=v_reset) -> Tensor:
                dynamics = Dynamics(*scalars, v_reset, False, surrogate)
                return run_reference(kind, qk, dynamics, 2, surrogate.primitive)[0]

            assert torch.autograd.gradcheck(smooth, (qk, *scalars))


@pytest.mark.parametrize("backend", list_backends("token_mask"))
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_sums_of_spikes_are_exact(kind: str, dtype: torch.dtype, backend: str) -> None:
    shape = (1, 1, 2, 20, 26) if kind == "channel" else (1, 1, 1034, 1, 1)  # 520 or 517 spikes: bfloat16 ends at 256
    qk = torch.ones(shape, dtype=dtype)
    count = 520 if kind == "channel" else 517
    for threshold, fires in ((count - 0.5, True), (count + 0.5, False)):
        _, mask = run(kind, qk, Dynamics(gain=1.0, threshold=threshold), 1, backend)
        assert mask.bool().all() == fires


@pytest.mark.parametrize("backend", list_backends("token_mask"))
def test_heads_and_channels_do_not_mix(backend: str) -> None:
    qk = torch.zeros(2, 1, 12, 2, 3)
    qk[:, :, 6:] = values(2, 1, 6, 2, 3).float()
    qk[0, 0, 2, 1, 2] = 4.0  # of the second of three heads
    dynamics = Dynamics(decay=0.0)
    out, mask = token_mask(qk, dynamics, 3, backend=backend)
    assert mask.nonzero().tolist() == [[0, 0, 1, 2, 1]]
    assert torch.equal(out[0, 0, 2:4, 1, 2], qk[0, 0, 8:10, 1, 2]) and out.count_nonzero() == 2
    out, mask = channel_mask(qk, dynamics, backend=backend)
    assert mask.nonzero().tolist() == [[0, 0, 2]]
    assert torch.equal(out[0, 0, 2], qk[0, 0, 8]) and out.count_nonzero() == 6


@pytest.mark.parametrize("backend", list_backends("token_mask"))
@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_is_the_neuron_on_the_sums(kind: str, backend: str) -> None:
    qk = make_qk(4, 2, 12, 4, 4).float()
    q, k = qk.chunk(2, dim=2)
    out, mask = run(kind, qk, Dynamics(), 3, backend)
    if kind == "token":
        expected, _ = lif(q.movedim(2, -1).unflatten(-1, (3, 4)).sum(-1), Dynamics())
    else:
        expected, _ = lif(q.sum((-2, -1)), Dynamics())
    assert torch.equal(mask, expected)
    assert 0 < mask.mean() < 1
    assert torch.equal(out, torch.stack([over_channels(kind, m, k[0]) for m in mask]) * k)


@pytest.mark.parametrize("kind", KINDS)
def test_results_do_not_depend_on_the_number_of_threads(kind: str, with_threads) -> None:
    qk = make_qk(3, 2, 40, 17, 19).float().requires_grad_()
    results = []
    for threads in (1, 2, 5):
        with_threads(threads)
        out, mask = run(kind, qk, Dynamics(), 4, "cpu")
        results.append((out, mask, torch.autograd.grad((out * out).sum(), qk)[0]))
    for result in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(result, results[0], strict=True))


@pytest.mark.parametrize("backend", list_backends("token_mask"))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(2, 0, 6, 3, 3), (2, 2, 6, 0, 3)])
def test_an_empty_input_gives_an_empty_output(shape: tuple[int, ...], kind: str, backend: str) -> None:
    qk = torch.zeros(shape, requires_grad=True)
    out, _ = run(kind, qk, Dynamics(), 1, backend)
    assert out.shape == (*shape[:2], 3, *shape[3:])
    out.sum().backward()
    assert qk.grad is not None and qk.grad.shape == shape


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("num_heads", [0, 3])
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_the_compiled_op_is_sound(dtype: torch.dtype, num_heads: int) -> None:
    code = NeuronCode.of(Dynamics(v_reset=None, detach_reset=False))
    coefficients = torch.tensor([0.6, 0.47, 0.87], dtype=torch.float64)
    qk = values(3, 2, 4, 5, 12).to(dtype).movedim(-1, 2)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    out, _, sums = torch.ops.spimm.qk_mask(qk, coefficients, num_heads, *code)
    arguments = (out, qk, sums, coefficients, num_heads, True, *code)
    torch.library.opcheck(torch.ops.spimm.qk_mask_backward.default, arguments, test_utils=checks)
    arguments = (qk.clone().requires_grad_(), coefficients.requires_grad_(), num_heads, *code)
    torch.library.opcheck(torch.ops.spimm.qk_mask.default, arguments, test_utils=checks)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(2, 2, 4, 3), Dynamics(), 1), r"qk has shape \(2, 2, 4, 3\); wanted \[T, B, 2C, H, W\]"),
        ((torch.zeros(2, 2, 5, 3, 3), Dynamics(), 1), r"qk has shape \(2, 2, 5, 3, 3\)"),
        ((torch.zeros(0, 2, 4, 3, 3), Dynamics(), 1), r"\(0, 2, 4, 3, 3\)"),
        ((torch.zeros(2, 2, 12, 3, 3), Dynamics(), 4), "6 channels do not divide into 4 heads"),
        ((torch.zeros(2, 2, 12, 3, 3), Dynamics(), 0), "6 channels do not divide into 0 heads"),
    ],
)
def test_input_that_does_not_fit_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        token_mask(*arguments)
