"""The Triton kernels against the references: in Triton's interpreter, and on a GPU where there is one.

What the interpreter cannot show: races, the rounding to bfloat16 (it truncates), the layout of tiles over threads.
"""

import logging
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when the kernels are imported, which is on first use

from spimm import kernels
from spimm.kernels import (
    Dynamics,
    channel_mask,
    dispatch,
    lif,
    list_backends,
    multi_lif,
    norm_lif,
    norm_lif_membrane,
    norm_pool_lif,
    rel_psp,
    token_mask,
)
from spimm.kernels.lif import reference as lif_reference
from spimm.kernels.multi_lif import reference as multi_reference
from spimm.kernels.norm_lif import reference as norm_reference
from spimm.kernels.norm_pool_lif import reference as pool_reference
from spimm.kernels.qk_mask import reference as mask_reference
from spimm.kernels.triton import interpreted

from .conftest import (
    RESETS,
    SURROGATES,
    TOLERANCES,
    UNDECIDED,
    Potentials,
    Tolerance,
    assert_near,
    covering,
    gradients,
    laid_out,
    make_dynamics,
    make_learnt,
    values,
)

pytest.importorskip("triton")
interpreting = os.environ.get("TRITON_INTERPRET") == "1"
gpu = torch.cuda.is_available() and not interpreting
NUM_HEADS = {1: 1, 3: 3, 6: 2, 34: 2}
THRESHOLDS = (0.37, 0.87, 1.31)
EPS = 1e-3

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LIMITS = {**TOLERANCES, torch.float16: Tolerance(1e-5, 2**-10, 1e-5, 2**-10, 5e-4)}
SHAPES = {"C1": (3, 1, 5, 3), "C3": (2, 3, 4, 5), "C6": (2, 6, 7, 4), "C34": (1, 34, 3, 3)}
FACTORS = {
    "surrogate": list(SURROGATES),
    "num_steps": [1, 2, 4],
    "shape": list(SHAPES),
    "layout": ["channels-last", "nchw", "sliced", "batch-first"],
    "reset": list(RESETS),
    "dtype": list(DTYPES),
    "detach": [True, False],
    "learnt": [True, False],
    "tiles": ["one", "many"],
}


@pytest.fixture(
    params=[
        pytest.param("cpu", id="interpreter", marks=pytest.mark.skipif(not interpreting, reason="a GPU is at hand")),
        pytest.param("cuda", id="gpu", marks=pytest.mark.skipif(not gpu, reason="no GPU is at hand")),
    ]
)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where the kernels run."""
    if request.param == "cuda":
        yield "cuda"
        return
    with interpreted():
        from triton.runtime.interpreter import InterpretedFunction

        # Most of the time goes into preparing triton.language anew for device functions, after the launch has done it.
        monkeypatch.setattr(InterpretedFunction, "__call__", lambda self, *args: self.rewrite()(*args))
        yield "cpu"


@pytest.fixture
def small_tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small inputs then take every path: several tiles for a program, several groups, several runs of time steps."""
    if request.getfixturevalue("case")["tiles"] == "many":
        from spimm.kernels import device

        for name, value in (("TILE", 64), ("MAX_GROUPS", 6), ("MAX_UNROLLED", 2)):
            monkeypatch.setattr(device, name, value)


class Op(NamedTuple):
    """An op and its reference as functions of (inputs, dynamics, case, **how), `how` being backend or fire.

    `spread` brings what is known of each neuron at a step, [steps, B, ...], to the shape of the op's outputs.
    """

    inputs: Callable[[dict[str, Any]], dict[str, Tensor]]
    run: Callable[..., tuple[Tensor, ...]]
    truth: Callable[..., tuple[Tensor, ...]]
    spread: Callable[[Tensor, dict[str, Any]], tuple[Tensor, ...]]
    factors: dict[str, list[Any]]
    sees_results: bool = False


def x_of(case: dict[str, Any], scale: float = 2.0) -> Tensor:
    return values(1 if case.get("shared") else case["num_steps"], *SHAPES[case["shape"]], scale=scale)


def lif_inputs(case: dict[str, Any]) -> dict[str, Tensor]:
    start = (values(*SHAPES[case["shape"]], seed=1).clamp(-1, 1) * 8).round().div(16)  # v - v_reset is exact
    return {"x": x_of(case), **({"v": start} if case["start"] else {})}


def norm_inputs(case: dict[str, Any]) -> dict[str, Tensor]:
    x = (x_of(case, 1.5) + 0.25).bfloat16().double()
    channels = x.shape[2]
    weight, bias = torch.linspace(0.7, 1.6, channels).double(), torch.linspace(-0.3, 0.6, channels).double()
    weight[1::3] *= -1
    weight[2::5] = 0
    steps = {name: values(case["num_steps"], *x.shape[1:], seed=1) for name in case.get("with", "").split()}
    return {"x": x, "weight": weight, "bias": bias, **steps}


def statistics(case: dict[str, Any], like: Tensor) -> dict[str, Tensor | None]:
    if not case["frozen"]:
        return {"mean": None, "variance": None}
    mean, variance = torch.linspace(-0.5, 0.5, len(like)), torch.linspace(0.4, 1.9, len(like))
    return {"mean": mean.to(like), "variance": variance.to(like)}


def with_norm(op: Callable[..., Any], *optional: str) -> Callable[..., tuple[Tensor, ...]]:
    """The op as a function of (inputs, dynamics, case)."""

    def run(inputs: dict[str, Tensor], dynamics: Dynamics, case: dict[str, Any], **how: Any) -> tuple[Tensor, ...]:
        named = {**statistics(case, inputs["weight"]), **{name: inputs.get(name) for name in optional}}
        inner = (inputs["x"], inputs["weight"], inputs["bias"], dynamics)
        return op(*inner, **named, num_steps=case["num_steps"], eps=EPS, **how)

    return run


def membrane_as_stored(
    x: Tensor, weight: Tensor, bias: Tensor, dynamics: Dynamics, *, mean: Tensor | None, variance: Tensor | None,
    residual: Tensor | None, num_steps: int, eps: float, fire: Potentials, results: tuple[Tensor, ...],
) -> tuple[Tensor, ...]:  # fmt: skip
    """reference.norm_lif_membrane with the spikes of the membrane found, however it has been rounded."""
    true, mean, variance = norm_reference.membrane(x, weight, bias, mean, variance, residual, eps=eps)
    true = true.expand(num_steps, *true.shape[1:])
    stored = true + (results[0].double().cpu() - true).detach()
    spikes, _ = lif_reference.lif(stored, dynamics, num_steps=num_steps, fire=fire)
    return true, spikes, mean, variance


def lif_settled(known: Tensor, case: dict[str, Any]) -> tuple[Tensor, ...]:
    return known, known[-1]


def mask_inputs(case: dict[str, Any]) -> dict[str, Tensor]:
    shape = SHAPES[case["shape"]]
    return {"qk": values(case["num_steps"], shape[0], 2 * shape[1], *shape[2:], scale=0.5)}


def heads(case: dict[str, Any]) -> int:
    return NUM_HEADS[SHAPES[case["shape"]][1]]


def token_spread(known: Tensor, case: dict[str, Any]) -> tuple[Tensor, ...]:
    return known.repeat_interleave(SHAPES[case["shape"]][1] // heads(case), -1).movedim(-1, 2), known


def channel_spread(known: Tensor, case: dict[str, Any]) -> tuple[Tensor, ...]:
    return known[..., None, None].expand(*known.shape, *SHAPES[case["shape"]][2:]), known


def multi_spread(known: Tensor, case: dict[str, Any]) -> tuple[Tensor, ...]:
    """known: [branches * steps, ...]."""
    branches = known.chunk(len(THRESHOLDS))
    return (torch.cat(branches, 2) if case["combine"] == "concat" else torch.stack(branches).all(0),)


def multi_inputs(case: dict[str, Any]) -> dict[str, Tensor]:
    learnt = {"thresholds": torch.tensor(THRESHOLDS, dtype=torch.float64)} if case["learnt"] else {}
    return {"x": x_of(case), **learnt}


def run_multi(
    op: Callable[..., Tensor], inputs: dict[str, Tensor], dynamics: Dynamics, case: dict[str, Any], **how: Any
):
    """The threshold in `dynamics` is replaced: nothing flows to it but a zero."""
    thresholds = inputs.get("thresholds", THRESHOLDS)
    out = op(inputs["x"], dynamics, thresholds, num_steps=case["num_steps"], combine=case["combine"], **how)
    unused = dynamics.threshold
    return (out + 0 * unused.to(out.dtype) if isinstance(unused, Tensor) else out,)


SHARED, FROZEN = {"shared": [False, True]}, {"frozen": [False, True]}
OPS = {
    "lif": Op(
        lif_inputs,
        lambda i, d, case, **how: lif(i["x"], d, i.get("v"), num_steps=case["num_steps"], **how),
        lambda i, d, case, **how: lif_reference.lif(i["x"], d, i.get("v"), num_steps=case["num_steps"], **how),
        lif_settled,
        {"start": [True, False], **SHARED},
    ),
    "multi_lif": Op(
        multi_inputs,
        lambda i, d, case, **how: run_multi(multi_lif, i, d, case, **how),
        lambda i, d, case, **how: run_multi(multi_reference.multi_lif, i, d, case, **how),
        multi_spread,
        {"combine": ["sum", "concat"], **SHARED},
    ),
    "norm_lif": Op(
        norm_inputs,
        with_norm(norm_lif, "residual", "added"),
        with_norm(norm_reference.norm_lif, "residual", "added"),
        lambda known, case: (known,),
        {"with": ["", "residual", "added", "residual added"], **SHARED, **FROZEN},
    ),
    "norm_lif_membrane": Op(
        norm_inputs,
        with_norm(norm_lif_membrane, "residual"),
        with_norm(membrane_as_stored, "residual"),
        lambda known, case: (known, known),
        {"with": ["", "residual"], **SHARED, **FROZEN},
        sees_results=True,
    ),
    "norm_pool_lif": Op(
        norm_inputs,
        with_norm(norm_pool_lif),
        with_norm(pool_reference.norm_pool_lif),
        lambda known, case: (known,),
        {**SHARED, **FROZEN},
    ),
    "token_mask": Op(
        mask_inputs,
        lambda i, d, case, **how: token_mask(i["qk"], d, heads(case), **how),
        lambda i, d, case, **how: mask_reference.token_mask(i["qk"], d, heads(case), **how),
        token_spread,
        {},
    ),
    "channel_mask": Op(
        mask_inputs,
        lambda i, d, case, **how: channel_mask(i["qk"], d, **how),
        lambda i, d, case, **how: mask_reference.channel_mask(i["qk"], d, **how),
        channel_spread,
        {},
    ),
}


def decided_steps(fire: Potentials, num_steps: int, tolerance: float) -> Tensor:
    """Potentials.decided for each run of `num_steps` calls: an op may hold several neurons that do not meet."""
    runs = []
    for begin in range(0, len(fire.kept), num_steps):
        run = Potentials(fire.surrogate)
        run.kept = fire.kept[begin : begin + num_steps]
        runs.append(run.decided(tolerance))
    return torch.cat(runs)


def check_parity(op: Op, case: dict[str, Any], device: str) -> None:
    dtype, num_steps = DTYPES[case["dtype"]], case["num_steps"]
    limits, learnt, true_learnt = LIMITS[dtype], make_learnt(case), make_learnt(case)
    given = {}
    for name, tensor in op.inputs(case).items():
        stored = tensor.float() if tensor.dim() < 4 else tensor.to(dtype)
        given[name] = (laid_out(stored, case["layout"]) if tensor.dim() == 5 else stored).to(device)
    learnt = [scalar.detach().to(device).requires_grad_() for scalar in learnt]
    names = ("decay", "gain", "threshold")[: len(learnt)]
    truth_of = {name: tensor.double().cpu().requires_grad_() for name, tensor in given.items()}
    inputs = {name: tensor.detach().requires_grad_() for name, tensor in given.items()}

    fire = Potentials(SURROGATES[case["surrogate"]])
    results = op.run(inputs, make_dynamics(case, learnt), case, backend="triton")
    how = {"fire": fire, **({"results": results} if op.sees_results else {})}
    truth = op.truth(truth_of, make_dynamics(case, true_learnt), case, **how)
    decided = decided_steps(fire, num_steps, limits.potential)
    undecided = int((~decided).sum())
    assert undecided <= 2 + UNDECIDED * decided.numel(), f"{undecided} of {decided.numel()} are undecided"
    settled = decided.unflatten(0, (-1, num_steps))[:, -1:].expand(-1, num_steps, *decided.shape[1:]).flatten(0, 1)

    loss, true_loss = torch.zeros((), device=device), torch.zeros((), dtype=torch.float64)
    for index, known in enumerate(op.spread(decided, case)):
        assert results[index].dtype == dtype
        assert_near(results[index].cpu() * known, truth[index] * known, limits.stored, f"output {index}")
        if truth[index].requires_grad:
            upstream = values(*truth[index].shape, seed=2 + index) * op.spread(settled, case)[index]
            loss = loss + (results[index] * upstream.to(device, dtype)).sum()
            true_loss = true_loss + (truth[index] * upstream).sum()
    for index in range(len(op.spread(decided, case)), len(results)):
        assert_near(results[index].cpu(), truth[index], limits.statistics, f"statistic {index}")

    inputs |= dict(zip(names, learnt, strict=True))
    truth_of |= dict(zip(names, true_learnt, strict=True))
    expected = gradients(true_loss, truth_of)
    for name, gradient in gradients(loss, inputs).items():
        assert gradient.dtype == inputs[name].dtype
        limit = limits.gradient if inputs[name].dim() > 1 else limits.summed
        assert_near(gradient.cpu(), expected[name], limit, f"gradient of {name}")


def all_cases() -> list[Any]:
    return [
        pytest.param(name, case.values[0], id=f"{name} {case.id}")
        for name, op in OPS.items()
        for case in covering({**FACTORS, **op.factors})
    ]


@pytest.mark.parametrize(("op", "case"), all_cases())
@pytest.mark.usefixtures("small_tiles")
def test_every_kernel_agrees_with_the_reference(op: str, case: dict[str, Any], device: str) -> None:
    check_parity(OPS[op], case, device)


@pytest.mark.parametrize("num_steps", [16, 17, 32])
def test_many_steps_are_served(num_steps: int, device: str) -> None:
    case = {"surrogate": "atan", "num_steps": num_steps, "shape": "C3", "layout": "channels-last", "reset": "soft"}
    case |= {"dtype": "fp32", "detach": False, "learnt": True, "shared": False, "start": True}
    check_parity(OPS["lif"], case, device)


def test_values_far_from_zero_keep_their_variance(device: str) -> None:
    spread = torch.linspace(-2, 2, 4096).double().reshape(2, 4, 1, 16, 32)
    x = (1000 + spread).float().to(device)
    one = torch.ones(1, device=device)
    _, mean, variance = norm_lif(x, one, one, Dynamics(), backend="triton")
    true_variance, true_mean = torch.var_mean(x.double(), correction=0)
    torch.testing.assert_close(mean.double(), true_mean.view(1), atol=0, rtol=1e-6)
    torch.testing.assert_close(variance.double(), true_variance.view(1), atol=0, rtol=1e-3)


def test_a_maximum_that_is_shared_goes_to_the_first_and_what_is_no_number_does_not_fire(device: str) -> None:
    x = torch.ones(1, 1, 1, 4, 4, device=device, requires_grad=True)
    one, none = torch.ones(1, device=device), torch.zeros(1, device=device)
    spikes, _, _ = norm_pool_lif(x, one, none, Dynamics(), mean=none, variance=one, backend="triton")
    (gradient,) = torch.autograd.grad(spikes.sum(), x)
    assert gradient[0, 0, 0].nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    poisoned = (10 * x.detach()).index_fill(-1, torch.tensor([0], device=device), torch.nan)
    spikes, _, _ = norm_pool_lif(poisoned, one, none, Dynamics(), mean=none, variance=one, backend="triton")
    assert spikes.flatten().tolist() == [0, 1, 0, 1]


def test_empty_batches_are_served(device: str) -> None:
    x, learnt = torch.zeros(2, 0, 3, 4, 4, device=device, requires_grad=True), torch.ones(3, device=device)
    threshold = torch.tensor(1.0, requires_grad=True)
    frozen = {"mean": learnt - 1, "variance": learnt}
    for spikes in (
        lif(x, Dynamics(threshold=threshold), backend="triton")[0],
        norm_lif(x, learnt, learnt, Dynamics(threshold=threshold), **frozen, backend="triton")[0],
        norm_pool_lif(x, learnt, learnt, Dynamics(threshold=threshold), **frozen, backend="triton")[0],
        token_mask(x.repeat(1, 1, 2, 1, 1), Dynamics(threshold=threshold), 3, backend="triton")[0],
        channel_mask(x.repeat(1, 1, 2, 1, 1), Dynamics(threshold=threshold), backend="triton")[0],
    ):
        gradients = torch.autograd.grad(spikes.sum(), (x, threshold))
        assert gradients[0].shape == x.shape
        assert gradients[1] == 0


def test_results_do_not_change_from_run_to_run(device: str) -> None:
    x = values(2, 2, 33, 9, 7, scale=2).float().to(device).requires_grad_()
    weight = torch.ones(33, device=device, requires_grad=True)
    runs = []
    for _ in range(3 if device == "cuda" else 2):
        spikes, mean, variance = norm_lif(x, weight, weight, Dynamics(), backend="triton")
        runs.append((spikes, mean, variance, *torch.autograd.grad(spikes.sum(), (x, weight))))
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


@pytest.mark.skipif(not gpu, reason="no GPU is at hand")
def test_cuda_tensors_run_on_triton_by_themselves_and_under_the_compiler(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "_logged", set())
    x, weight = torch.ones(2, 2, 16, 4, 4, device="cuda", requires_grad=True), torch.ones(16, device="cuda")

    def both(x: Tensor) -> Tensor:
        return norm_lif(x, weight, weight, Dynamics())[0] + lif(x, Dynamics())[0]

    outcomes = []
    with caplog.at_level(logging.INFO, "spimm.kernels"):
        for function in (both, torch.compile(both, fullgraph=True, backend="aot_eager")):
            out = function(x)
            outcomes.append((out, *torch.autograd.grad(out.sum(), x)))
    assert all(torch.equal(a, b) for a, b in zip(*outcomes, strict=True))
    messages = [record.getMessage() for record in caplog.records if record.name == "spimm.kernels"]
    assert messages == ["norm_lif runs on backend triton", "lif runs on backend triton"]


@pytest.mark.parametrize("op", OPS)
def test_triton_is_a_backend_for_cuda_tensors_only(op: str) -> None:
    assert "triton" in list_backends(op, "cuda")
    assert "triton" not in list_backends(op)


@pytest.mark.skipif(not interpreting, reason="a GPU is at hand")
def test_cpu_tensors_never_run_on_triton_unless_it_is_named(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = torch.ones(2, 3, dtype=torch.float16)  # which the compiled extension does not serve
    monkeypatch.setattr(dispatch, "_logged", set())
    with interpreted(), caplog.at_level(logging.INFO, "spimm.kernels"):
        assert lif(half, Dynamics(), backend="triton")[0].dtype == torch.float16
        lif(half, Dynamics())
    assert [record.getMessage() for record in caplog.records] == ["lif runs on backend reference"]


def test_a_call_that_triton_cannot_serve_is_refused_with_the_reason() -> None:
    with pytest.raises(
        RuntimeError, match="'triton' of 'lif' cannot serve this call: it needs CUDA tensors, x is on cpu"
    ):
        lif(torch.ones(2, 3), Dynamics(), backend="triton")
    if interpreting:
        with interpreted(), pytest.raises(RuntimeError, match="it stores float32, bfloat16 or float16, x is float64"):
            lif(torch.ones(2, 3, dtype=torch.float64), Dynamics(), backend="triton")


def run_child(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Another Python with the same package and without the interpreter."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    environment.pop("TRITON_INTERPRET", None)
    return subprocess.run([sys.executable, "-P", *arguments], env=environment, capture_output=True, text=True)


def test_triton_is_not_imported_before_its_first_use_and_its_interpreter_is_not_switched_on_too_late() -> None:
    child = run_child(
        "-c",
        "import sys, torch; from spimm.kernels import Dynamics, lif; lif(torch.ones(2, 3), Dynamics()); "
        "assert 'triton' not in sys.modules; "
        "from spimm.kernels.triton import interpreted; interpreted().__enter__()",
    )
    assert child.stderr.splitlines()[-1].startswith("RuntimeError: Triton's interpreter is off; set TRITON_INTERPRET=1")


def test_every_kernel_compiles_for_a_gpu_that_is_not_here() -> None:
    child = run_child(str(Path(__file__).with_name("compile_kernels.py")))
    assert child.returncode == 0, child.stderr[-3000:]
    defined = set()
    for path in Path(kernels.__file__).parent.rglob("*.py"):
        defined |= set(re.findall(r"\n@triton.jit.*\ndef (\w+_kernel|column_sums|finish_moments)\(", path.read_text()))
    assert set(child.stdout.split()) == defined


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("clip", [math.inf, 1.25])
@pytest.mark.parametrize(("shape", "pool"), [((7, 33), 1), ((2, 3, 6, 5), 1), ((2, 19, 9, 7), 2), ((1, 5, 7, 7), 3)])
def test_spike_times_and_their_gradients_are_those_of_the_reference(
    device: str, shape: tuple[int, ...], pool: int, clip: float, closed: bool
) -> None:
    drive = values(2, *shape).float()
    drive[:, ..., 0] = 0  # no input at all
    settings = {"window": 2.0, "pool": pool, "closed": closed, "clip": clip}
    found, truth = (drive.to(device).requires_grad_(), drive.double().requires_grad_())
    spikes, expected = rel_psp(found, **settings, backend="triton"), rel_psp(truth, **settings, backend="reference")
    grad = values(*expected.shape, seed=1)
    torch.testing.assert_close(spikes.double().cpu(), expected, atol=1e-6, rtol=1e-5)
    (grad_found,) = torch.autograd.grad(spikes, found, grad.to(spikes))
    (grad_truth,) = torch.autograd.grad(expected, truth, grad)
    assert grad_truth.any()
    torch.testing.assert_close(grad_found.double().cpu(), grad_truth, atol=1e-5, rtol=1e-4)
