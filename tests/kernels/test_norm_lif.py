import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spimm.kernels import Dynamics, lif, list_backends, norm_lif, norm_lif_membrane
from spimm.kernels.lif import reference as lif_reference
from spimm.kernels.norm_lif import reference

from .conftest import (
    DTYPES,
    FACTORS,
    SHAPES,
    SURROGATES,
    TOLERANCES,
    UNDECIDED,
    Potentials,
    assert_near,
    assert_spike_parity,
    covering,
    gradients,
    laid_out,
    make_dynamics,
    make_learnt,
    values,
)

THRESHOLDS = (0.3, 0.9, 1.7)


def affine(channels: int) -> tuple[Tensor, Tensor]:
    """Weight and bias in float64, of both signs and away from nothing."""
    weight, bias = torch.linspace(0.7, 1.6, channels).double(), torch.linspace(-0.3, 0.6, channels).double()
    weight[1::3] *= -1
    return weight, bias


def check_parity(case: dict[str, Any], shape: tuple[int, ...], backend: str) -> None:
    dtype, num_steps, channels = DTYPES[case["dtype"]], case["num_steps"], shape[1]
    tolerance = TOLERANCES[dtype]
    weight, bias = affine(channels)
    truth_of = {
        "x": values(1 if case["shared"] else num_steps, *shape, scale=1.5) + 0.25,
        "weight": weight,
        "bias": bias,
        **({"residual": values(num_steps, *shape, seed=1)} if case["residual"] else {}),
        **({"added": values(num_steps, *shape, seed=5).sign()} if case["added"] else {}),
    }
    truth_of["x"] = truth_of["x"].bfloat16().double()
    given = {name: tensor.float() for name, tensor in truth_of.items()}
    for name in given.keys() & {"x", "residual", "added"}:
        given[name] = laid_out(given[name].to(dtype), case["layout"])
    for name in ("weight", "bias"):
        truth_of[name] = given[name].double()
    statistics: tuple[Tensor, ...] = ()
    if case["frozen"]:
        statistics = (torch.linspace(-0.5, 0.5, channels), torch.linspace(0.4, 1.9, channels))

    count = case.get("count", 1)
    thresholds = THRESHOLDS if count > 1 else None
    scalars = (("decay", "gain") if thresholds else ("decay", "gain", "threshold")) if case["learnt"] else ()
    true_learnt, learnt = make_learnt(case), make_learnt(case)
    true_inputs = {name: tensor.requires_grad_() for name, tensor in truth_of.items()}
    inputs = {name: tensor.detach().requires_grad_() for name, tensor in given.items()}
    true_inputs |= dict(zip(scalars, true_learnt, strict=False))
    inputs |= dict(zip(scalars, learnt, strict=False))

    fire = Potentials(SURROGATES[case["surrogate"]])
    true_mean, true_variance = (s.double() for s in statistics) if statistics else (None, None)
    truth, true_mean, true_variance = reference.norm_lif(
        true_inputs["x"], true_inputs["weight"], true_inputs["bias"], make_dynamics(case, true_learnt), true_mean,
        true_variance, true_inputs.get("residual"), true_inputs.get("added"), thresholds, num_steps=num_steps, eps=1e-3,
        fire=fire,
    )  # fmt: skip
    mean, variance = statistics or (None, None)
    out, mean, variance = norm_lif(
        inputs["x"], inputs["weight"], inputs["bias"], make_dynamics(case, learnt), mean=mean, variance=variance,
        residual=inputs.get("residual"), added=inputs.get("added"), thresholds=thresholds, num_steps=num_steps,
        eps=1e-3, backend=backend,
    )  # fmt: skip
    assert out.dtype == dtype
    assert mean.dtype == variance.dtype == torch.float32
    assert not mean.requires_grad
    assert_near(mean, true_mean, tolerance.statistics, "mean")
    assert_near(variance, true_variance, tolerance.statistics, "variance")
    fire.kept = list(torch.stack(fire.kept).unflatten(0, (count, num_steps)).unbind(1))
    decided = fire.decided(tolerance.potential)  # [T, count, ...]
    added = true_inputs.get("added", torch.zeros(())).detach()
    if thresholds is None:
        assert_spike_parity(out.double() - added, truth - added, decided.squeeze(1))
    decided = decided.all(1)
    assert torch.equal(out.double()[decided], truth[decided])
    assert (~decided[-1]).sum() <= 2 * count + count * UNDECIDED * decided[-1].numel()

    upstream = values(*truth.shape, seed=2) * decided[-1]
    expected = gradients((truth * upstream).sum(), true_inputs)
    for name, gradient in gradients((out * upstream.to(dtype)).sum(), inputs).items():
        assert gradient.dtype == inputs[name].dtype
        limit = tolerance.gradient if name in ("x", "residual", "added") else tolerance.summed
        assert_near(gradient, expected[name], limit, f"gradient of {name}")


@pytest.mark.parametrize("backend", list_backends("norm_lif"))
@pytest.mark.parametrize(
    "case", covering({**FACTORS, **{name: [False, True] for name in ("residual", "added", "frozen")}})
)
def test_every_backend_agrees_with_the_reference(case: dict[str, Any], backend: str) -> None:
    check_parity(case, SHAPES[case["shape"]], backend)


@pytest.mark.parametrize("backend", [*list_backends("norm_lif"), "parts"])
@pytest.mark.parametrize(
    "case",
    covering(
        {**FACTORS, **{name: [False, True] for name in ("residual", "added", "frozen")}, "count": [len(THRESHOLDS)]}
    ),
)
def test_several_thresholds_agree_with_the_reference(case: dict[str, Any], backend: str) -> None:
    if backend == "parts" and case["dtype"] == "bf16":
        pytest.skip("the membrane is stored in bf16 there: other spikes")
    check_parity(case, SHAPES[case["shape"]], backend)


def test_parts_are_for_several_thresholds_alone() -> None:
    x, weight, bias = values(2, 2, 3, 4, 4).float(), *(part.float() for part in affine(3))
    with pytest.raises(RuntimeError, match="several thresholds"):
        norm_lif(x, weight, bias, Dynamics(), backend="parts")
    with pytest.raises(ValueError, match="0 thresholds; wanted 1 to 8"):
        norm_lif(x, weight, bias, Dynamics(), thresholds=())
    one, _, _ = norm_lif(x, weight, bias, Dynamics(), thresholds=(0.7,))
    assert torch.equal(one, norm_lif(x, weight, bias, Dynamics(threshold=0.7))[0])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("shape", [(2, 97, 37, 31), (3, 4099, 1, 1)])
def test_the_cpu_backend_agrees_with_the_reference_over_many_tiles(
    shape: tuple[int, ...], dtype: str, threads: int, with_threads
) -> None:
    with_threads(threads)  # more than 32 tiles of 4096 elements a thread and a ragged last one; rows longer than a tile
    case = {"surrogate": "sigmoid", "num_steps": 2, "layout": "channels-last", "reset": "soft", "dtype": dtype}
    case |= {"detach": False, "shared": False, "learnt": True, "residual": True, "added": True, "frozen": False}
    check_parity(case, shape, "cpu")


def test_the_reference_is_differentiable_in_everything_when_its_step_is_smooth() -> None:
    weight, bias = (tensor.requires_grad_() for tensor in affine(2))
    x, residual = values(2, 2, 2, 3, scale=1.5).requires_grad_(), values(2, 2, 2, 3, seed=1).requires_grad_()
    scalars = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (0.6, 0.45, 0.9)]
    for surrogate in SURROGATES.values():
        for v_reset in (0.0, None):

            def smooth(x, weight, bias, residual, *scalars, surrogate=surrogate, v_reset=v_reset) -> Tensor:
                dynamics = Dynamics(*scalars, v_reset, False, surrogate)
                return reference.norm_lif(
                    x, weight, bias, dynamics, None, None, residual, num_steps=2, eps=1e-5, fire=surrogate.primitive
                )[0]

            assert torch.autograd.gradcheck(smooth, (x, weight, bias, residual, *scalars))


@pytest.mark.parametrize("backend", list_backends("norm_lif"))
def test_the_op_equals_torch_batch_norm_and_then_the_neuron(backend: str) -> None:
    norm = nn.BatchNorm2d(6)
    weight, bias = affine(6)
    with torch.no_grad():
        norm.weight.copy_(weight)
        norm.bias.copy_(bias)
    x = values(4, 3, 6, 5, 5, scale=2).float()
    potentials = norm(x.flatten(0, 1)).unflatten(0, (4, 3))
    spikes, mean, variance = norm_lif(x, norm.weight, norm.bias, Dynamics(), eps=norm.eps, backend=backend)
    assert (spikes != lif(potentials, Dynamics())[0]).sum() <= 1
    count = x.numel() / 6
    torch.testing.assert_close(norm.running_mean, 0.1 * mean)
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * variance * count / (count - 1))


@pytest.mark.parametrize("backend", list_backends("norm_lif"))
def test_a_shared_input_equals_the_repeated_one(backend: str) -> None:
    weight, bias = (tensor.float() for tensor in affine(5))
    x = values(1, 3, 5, 4, 4, scale=2).float()
    results = []
    for steps in (x, x.expand(6, -1, -1, -1, -1)):
        leaf = steps.detach().requires_grad_()
        spikes, mean, variance = norm_lif(leaf, weight, bias, Dynamics(), num_steps=6, backend=backend)
        (gradient,) = torch.autograd.grad((spikes * values(*spikes.shape, seed=4).float()).sum(), leaf)
        results.append((spikes, mean, variance, gradient.sum(0)))
    for once, repeated in zip(*results, strict=True):
        torch.testing.assert_close(once, repeated, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", list_backends("norm_lif"))
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_the_variance_of_values_far_from_zero_is_not_lost(dtype: torch.dtype, backend: str) -> None:
    spread = torch.linspace(-2, 2, 4096).double().reshape(2, 4, 1, 16, 32)
    x = (1000 + spread).to(dtype)
    _, mean, variance = norm_lif(x, torch.ones(1), torch.zeros(1), Dynamics(), backend=backend)
    true_variance, true_mean = torch.var_mean(x.double(), correction=0)
    torch.testing.assert_close(mean.double(), true_mean.view(1), atol=0, rtol=1e-6)
    torch.testing.assert_close(variance.double(), true_variance.view(1), atol=0, rtol=1e-3)


def test_spikes_do_not_depend_on_the_number_of_threads(with_threads) -> None:
    weight, bias = (tensor.float() for tensor in affine(33))
    x = values(4, 3, 33, 29, 31, scale=2).float().requires_grad_()
    frozen = (torch.zeros(33), torch.full((33,), 4.0))
    results = []
    for threads in (1, 2, 5):
        with_threads(threads)
        given, _, _ = norm_lif(x, weight, bias, Dynamics(), mean=frozen[0], variance=frozen[1], backend="cpu")
        batch, mean, _ = norm_lif(x, weight, bias, Dynamics(), backend="cpu")
        results.append((given, torch.autograd.grad(given.sum(), x)[0], batch, mean))
    for given, gradient, batch, mean in results[1:]:
        assert torch.equal(given, results[0][0])
        assert torch.equal(gradient, results[0][1])
        # sums in another order move the mean a little
        assert (batch != results[0][2]).sum() <= 2 + 1e-5 * batch.numel()
        torch.testing.assert_close(mean, results[0][3], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("backend", list_backends("norm_lif_membrane"))
@pytest.mark.parametrize("case", covering({**FACTORS, "residual": [False, True], "frozen": [False, True]}))
def test_the_membrane_form_is_the_norm_and_the_neuron_of_what_it_stores(case: dict[str, Any], backend: str) -> None:
    dtype, num_steps, shape = DTYPES[case["dtype"]], case["num_steps"], SHAPES[case["shape"]]
    tolerance, channels = TOLERANCES[dtype], shape[1]
    given = {name: tensor.float() for name, tensor in zip(("weight", "bias"), affine(channels), strict=True)}
    given["x"] = laid_out(values(1 if case["shared"] else num_steps, *shape, scale=1.5).to(dtype), case["layout"])
    if case["residual"]:
        given["residual"] = laid_out(values(num_steps, *shape, seed=1).to(dtype), case["layout"])
    statistics = (torch.linspace(-0.5, 0.5, channels), torch.linspace(0.4, 1.9, channels)) if case["frozen"] else ()
    inputs = {name: tensor.detach().requires_grad_() for name, tensor in given.items()}
    true_inputs = {name: tensor.detach().double().requires_grad_() for name, tensor in given.items()}
    true_learnt, learnt = make_learnt(case), make_learnt(case)
    scalars = ("decay", "gain", "threshold")[: len(learnt)]

    numbers = [true_inputs[name] for name in ("x", "weight", "bias")]
    true_mean, true_variance = (s.double() for s in statistics) if statistics else (None, None)
    true_membrane, *_ = reference.membrane(*numbers, true_mean, true_variance, true_inputs.get("residual"), eps=1e-3)
    true_membrane = true_membrane.expand(num_steps, *shape)
    mean, variance = statistics or (None, None)
    membrane, spikes, _, _ = norm_lif_membrane(
        inputs["x"], inputs["weight"], inputs["bias"], make_dynamics(case, learnt), mean=mean, variance=variance,
        residual=inputs.get("residual"), num_steps=num_steps, eps=1e-3, backend=backend,
    )  # fmt: skip
    assert membrane.dtype == spikes.dtype == dtype
    assert_near(membrane, true_membrane, 2 * tolerance.statistics if dtype == torch.float32 else 2**-7, "membrane")

    stored = true_membrane + (membrane.detach().double() - true_membrane.detach())  # its gradient is the true one's
    fire = Potentials(SURROGATES[case["surrogate"]])
    truth, _ = lif_reference.lif(stored, make_dynamics(case, true_learnt), num_steps=num_steps, fire=fire)
    decided = fire.decided(tolerance.potential)
    assert_spike_parity(spikes, truth, decided)

    upstream = [values(*truth.shape, seed=seed) * decided[-1] for seed in (2, 3)]
    inputs |= dict(zip(scalars, learnt, strict=True))
    true_inputs |= dict(zip(scalars, true_learnt, strict=True))
    expected = gradients((stored * upstream[0]).sum() + (truth * upstream[1]).sum(), true_inputs)
    loss = (membrane * upstream[0].to(dtype)).sum() + (spikes * upstream[1].to(dtype)).sum()
    for name, gradient in gradients(loss, inputs).items():
        assert gradient.dtype == inputs[name].dtype
        limit = tolerance.gradient if name in ("x", "residual") else tolerance.summed
        assert_near(gradient, expected[name], limit, f"gradient of {name}")


@pytest.mark.parametrize("backend", list_backends("norm_lif_membrane"))
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_the_membrane_form_equals_the_op_without_it(dtype: torch.dtype, backend: str) -> None:
    weight, bias = (tensor.float() for tensor in affine(33))
    x, residual = (values(4, 3, 33, 9, 7, scale=2, seed=seed).to(dtype).requires_grad_() for seed in (0, 1))
    membrane, spikes, mean, variance = norm_lif_membrane(
        x, weight, bias, Dynamics(), residual=residual, backend=backend
    )
    assert torch.equal(spikes, lif(membrane, Dynamics(), backend=backend)[0])
    whole, *statistics = norm_lif(x, weight, bias, Dynamics(), residual=residual, backend=backend)
    assert (spikes != whole).float().mean() < 0.01
    assert torch.equal(torch.stack(statistics), torch.stack([mean, variance]))
    membrane_only = torch.autograd.grad(membrane.float().sum(), (x, residual), retain_graph=True)
    torch.testing.assert_close(membrane_only[1], torch.ones_like(residual))
    for output in (membrane, spikes):
        assert all(
            grad.isfinite().all() for grad in torch.autograd.grad(output.sum(), (x, residual), retain_graph=True)
        )


@pytest.mark.parametrize("backend", list_backends("norm_lif"))
def test_what_is_added_is_added_to_the_spikes_and_gets_their_gradient(backend: str) -> None:
    weight, bias = (tensor.float() for tensor in affine(5))
    x, added = values(4, 2, 5, 3, 3, scale=2).float(), values(4, 2, 5, 3, 3, seed=1).float().requires_grad_()
    plain, _, _ = norm_lif(x, weight, bias, Dynamics(), backend=backend)
    out, _, _ = norm_lif(x, weight, bias, Dynamics(), added=added, backend=backend)
    assert torch.equal(out, plain + added)
    upstream = values(4, 2, 5, 3, 3, seed=2).float()
    assert torch.equal(torch.autograd.grad((out * upstream).sum(), added)[0], upstream)


@pytest.mark.parametrize("backend", list_backends("norm_lif"))
def test_tensors_without_space_are_served(backend: str) -> None:
    weight, bias = (tensor.float() for tensor in affine(7))
    x = values(3, 40, 7, scale=2).float()
    spikes, mean, _ = norm_lif(x, weight, bias, Dynamics(), backend=backend)
    assert spikes.shape == x.shape
    torch.testing.assert_close(mean, x.mean((0, 1)))


@pytest.mark.parametrize("backend", list_backends("norm_lif"))
def test_a_frozen_norm_serves_an_empty_batch(backend: str) -> None:
    x = torch.zeros(2, 0, 3, 4, 4)
    spikes, _, _ = norm_lif(
        x, torch.ones(3), torch.zeros(3), Dynamics(), mean=torch.zeros(3), variance=torch.ones(3), backend=backend
    )
    assert spikes.shape == x.shape


@pytest.mark.parametrize("backend", list_backends("norm_lif"))
def test_statistics_of_an_empty_batch_are_refused(backend: str) -> None:
    code = (  # in a process of its own: a kernel that reads the first value of nothing brings its process down
        "import torch; from spimm.kernels import Dynamics, norm_lif; "
        f"norm_lif(torch.zeros(2, 0, 3, 4, 4), torch.ones(3), torch.ones(3), Dynamics(), backend={backend!r})"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    child = subprocess.run([sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True)
    assert child.stderr.splitlines()[-1:] and "ValueError" in child.stderr.splitlines()[-1]


@pytest.mark.parametrize("backend", list_backends("norm_lif"))
def test_gradients_are_those_asked_for(backend: str) -> None:
    x, weight, bias = values(2, 3, 4, 5, 5).float(), torch.ones(4, requires_grad=True), torch.zeros(4)
    spikes, _, _ = norm_lif(x, weight, bias, Dynamics(), backend=backend)
    spikes.sum().backward()
    assert weight.grad is not None
    assert x.grad is bias.grad is None


C = torch.ones(3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": torch.zeros(2, 3)}, r"x has shape \(2, 3\); wanted \[T, B, C"),
        ({"weight": torch.ones(4)}, r"weight has shape \(4,\).* needs \(3,\)"),
        ({"bias": torch.ones(3, 1)}, r"bias has shape \(3, 1\)"),
        ({"mean": C}, "both mean and variance"),
        ({"variance": C}, "both mean and variance"),
        ({"mean": torch.ones(2), "variance": C}, r"mean has shape \(2,\)"),
        ({"residual": torch.zeros(2, 2, 3, 5, 4)}, r"residual has shape \(2, 2, 3, 5, 4\); wanted \(2, 2, 3, 4, 4\)"),
        ({"added": torch.zeros(2, 3, 4, 4)}, r"added has shape \(2, 3, 4, 4\); wanted \(2, 2, 3, 4, 4\)"),
        ({"num_steps": 5}, "num_steps is 5"),
    ],
)
def test_input_that_does_not_fit_is_refused(arguments: dict[str, Any], message: str) -> None:
    fitting = {"x": torch.zeros(2, 2, 3, 4, 4), "weight": C, "bias": C, "dynamics": Dynamics()}
    with pytest.raises(ValueError, match=message):
        norm_lif(**{**fitting, **arguments})
