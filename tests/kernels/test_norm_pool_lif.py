from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from spimm.kernels import Dynamics, lif, list_backends, norm_pool_lif
from spimm.kernels.cpu import NeuronCode
from spimm.kernels.norm_pool_lif import reference

from .conftest import (
    DTYPES,
    FACTORS,
    SHAPES,
    SURROGATES,
    TOLERANCES,
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

POOLED_SHAPES = {
    **SHAPES,
    "one pixel": (3, 5, 1, 1),
    "even": (2, 33, 4, 6),
    "row": (2, 16, 1, 8),
    "column": (1, 20, 9, 2),
}


def affine(channels: int) -> tuple[Tensor, Tensor]:
    """Weight and bias in float64, of both signs and away from nothing."""
    weight, bias = torch.linspace(0.7, 1.6, channels).double(), torch.linspace(-0.7, 0.2, channels).double()
    weight[1::3] *= -1
    return weight, bias


def check_parity(case: dict[str, Any], shape: tuple[int, ...], backend: str) -> None:
    dtype, num_steps, channels = DTYPES[case["dtype"]], case["num_steps"], shape[1]
    tolerance = TOLERANCES[dtype]
    weight, bias = affine(channels)
    x = values(1 if case["shared"] else num_steps, *shape, scale=1.5) + 0.25
    truth_of = {"x": x.bfloat16().double(), "weight": weight.float().double(), "bias": bias.float().double()}
    given = {name: tensor.float() for name, tensor in truth_of.items()}
    given["x"] = laid_out(given["x"].to(dtype), case["layout"])
    statistics: tuple[Tensor, ...] = ()
    if case["frozen"]:
        statistics = (torch.linspace(-0.5, 0.5, channels), torch.linspace(0.4, 1.9, channels))

    scalars = ("decay", "gain", "threshold") if case["learnt"] else ()
    true_learnt, learnt = make_learnt(case), make_learnt(case)
    true_inputs = {name: tensor.requires_grad_() for name, tensor in truth_of.items()}
    inputs = {name: tensor.detach().requires_grad_() for name, tensor in given.items()}
    true_inputs |= dict(zip(scalars, true_learnt, strict=True))
    inputs |= dict(zip(scalars, learnt, strict=True))

    fire = Potentials(SURROGATES[case["surrogate"]])
    true_mean, true_variance = (s.double() for s in statistics) if statistics else (None, None)
    truth, true_mean, true_variance = reference.norm_pool_lif(
        true_inputs["x"], true_inputs["weight"], true_inputs["bias"], make_dynamics(case, true_learnt), true_mean,
        true_variance, num_steps=num_steps, eps=0.1, fire=fire,
    )  # fmt: skip
    mean, variance = statistics or (None, None)
    spikes, mean, variance = norm_pool_lif(
        inputs["x"], inputs["weight"], inputs["bias"], make_dynamics(case, learnt), mean=mean, variance=variance,
        num_steps=num_steps, eps=0.1, backend=backend,
    )  # fmt: skip
    assert spikes.dtype == dtype
    assert mean.dtype == variance.dtype == torch.float32
    assert not mean.requires_grad
    assert_near(mean, true_mean, tolerance.statistics, "mean")
    assert_near(variance, true_variance, tolerance.statistics, "variance")
    decided = fire.decided(tolerance.potential)
    assert_spike_parity(spikes, truth, decided)

    upstream = values(*truth.shape, seed=2) * decided[-1]
    expected = gradients((truth * upstream).sum(), true_inputs)
    for name, gradient in gradients((spikes * upstream.to(dtype)).sum(), inputs).items():
        assert gradient.dtype == inputs[name].dtype
        limit = tolerance.gradient if name == "x" else tolerance.summed
        assert_near(gradient, expected[name], limit, f"gradient of {name}")


@pytest.mark.parametrize("backend", list_backends("norm_pool_lif"))
@pytest.mark.parametrize("case", covering({**FACTORS, "shape": list(POOLED_SHAPES), "frozen": [False, True]}))
def test_every_backend_agrees_with_the_reference(case: dict[str, Any], backend: str) -> None:
    check_parity(case, POOLED_SHAPES[case["shape"]], backend)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("shape", [(3, 97, 37, 31), (2, 1100, 4, 5)])
def test_the_cpu_backend_agrees_with_the_reference_over_many_tiles(
    shape: tuple[int, ...], dtype: str, threads: int, with_threads
) -> None:
    with_threads(threads)  # several tiles a row, a ragged last one; pixels longer than a tile
    case = {"surrogate": "sigmoid", "num_steps": 2, "layout": "channels-last", "reset": "soft", "dtype": dtype}
    check_parity(case | {"detach": False, "shared": False, "learnt": True, "frozen": False}, shape, "cpu")


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_cpu_backend_agrees_with_the_reference_where_results_exceed_the_cache(dtype: str) -> None:
    case = {"surrogate": "atan", "num_steps": 2, "layout": "channels-last", "reset": "hard", "dtype": dtype}
    check_parity(case | {"detach": True, "shared": False, "learnt": False, "frozen": True}, (2, 64, 160, 160), "cpu")


def test_the_reference_is_differentiable_in_everything_when_its_step_is_smooth() -> None:
    weight, bias = (tensor.requires_grad_() for tensor in affine(2))
    x = values(2, 2, 2, 3, 4, scale=1.5)
    x = (x + torch.linspace(0, 0.3, x.numel()).double().view_as(x)).requires_grad_()  # no two values are near a tie
    scalars = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (0.6, 0.45, 0.9)]
    for surrogate in SURROGATES.values():
        for v_reset in (0.0, None):

            def smooth(x, weight, bias, *scalars, surrogate=surrogate, v_reset=v_reset) -> Tensor:
                dynamics = Dynamics(*scalars, v_reset, False, surrogate)
                return reference.norm_pool_lif(
                    x, weight, bias, dynamics, None, None, num_steps=2, eps=1e-5, fire=surrogate.primitive
                )[0]

            assert torch.autograd.gradcheck(smooth, (x, weight, bias, *scalars))


@pytest.mark.parametrize("backend", list_backends("norm_pool_lif"))
def test_the_op_equals_torch_batch_norm_and_max_pool_and_then_the_neuron(backend: str) -> None:
    norm, pool = nn.BatchNorm2d(6), nn.MaxPool2d(3, stride=2, padding=1)
    weight, bias = affine(6)
    with torch.no_grad():
        norm.weight.copy_(weight)
        norm.bias.copy_(bias)
    x = values(4, 3, 6, 8, 5, scale=2).float()
    potentials = pool(norm(x.flatten(0, 1))).unflatten(0, (4, 3))
    spikes, mean, variance = norm_pool_lif(x, norm.weight, norm.bias, Dynamics(), eps=norm.eps, backend=backend)
    assert (spikes != lif(potentials, Dynamics())[0]).sum() <= 1
    count = x.numel() / 6
    torch.testing.assert_close(norm.running_mean, 0.1 * mean)
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * variance * count / (count - 1))


@pytest.mark.parametrize("backend", list_backends("norm_pool_lif"))
@pytest.mark.parametrize("weight", [1.0, -1.0, 0.0])
def test_the_first_of_equal_maxima_takes_the_gradient_as_in_torch(weight: float, backend: str) -> None:
    x = torch.randint(-1, 2, (1, 2, 5, 7, 6), generator=torch.Generator().manual_seed(0)).float()
    weights, bias, steady = torch.full((5,), weight), torch.full((5,), 0.2), (torch.zeros(5), torch.ones(5))
    upstream = values(1, 2, 5, 4, 3, seed=1).float()
    found = []
    for fused in (True, False):
        leaf = x.detach().requires_grad_()
        if fused:
            spikes, _, _ = norm_pool_lif(
                leaf, weights, bias, Dynamics(), mean=steady[0], variance=steady[1], eps=0.0, backend=backend
            )
        else:
            pooled = max_pool2d((leaf * weight + 0.2).flatten(0, 1), 3, stride=2, padding=1).unsqueeze(0)
            spikes, _ = lif(pooled, Dynamics())
        found.append((spikes, torch.autograd.grad((spikes * upstream).sum(), leaf)[0]))
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("backend", list_backends("norm_pool_lif"))
def test_a_value_that_is_not_a_number_silences_its_windows(backend: str) -> None:
    x = torch.full((1, 1, 17, 4, 4), 5.0)
    x[0, 0, :, 1, 1] = torch.nan  # in all four windows, in a place of its own in each
    one, zero = torch.ones(17), torch.zeros(17)
    spikes, _, _ = norm_pool_lif(x, one, zero, Dynamics(), mean=zero, variance=one, backend=backend)
    assert not spikes.any()


@pytest.mark.parametrize("backend", list_backends("norm_pool_lif"))
def test_a_shared_input_equals_the_repeated_one(backend: str) -> None:
    weight, bias = (tensor.float() for tensor in affine(5))
    x = values(1, 3, 5, 4, 5, scale=2).float()
    results = []
    for steps in (x, x.expand(6, -1, -1, -1, -1)):
        leaf = steps.detach().requires_grad_()
        spikes, mean, variance = norm_pool_lif(leaf, weight, bias, Dynamics(), num_steps=6, backend=backend)
        (gradient,) = torch.autograd.grad((spikes * values(*spikes.shape, seed=4).float()).sum(), leaf)
        results.append((spikes, mean, variance, gradient.sum(0)))
    for once, repeated in zip(*results, strict=True):
        torch.testing.assert_close(once, repeated, atol=1e-5, rtol=1e-5)


def test_spikes_do_not_depend_on_the_number_of_threads(with_threads) -> None:
    weight, bias = (tensor.float() for tensor in affine(33))
    x = values(4, 3, 33, 29, 31, scale=2).float().requires_grad_()
    given = {"mean": torch.zeros(33), "variance": torch.full((33,), 4.0)}
    results = []
    for threads in (1, 2, 5):
        with_threads(threads)
        spikes, _, _ = norm_pool_lif(x, weight, bias, Dynamics(), **given, backend="cpu")
        results.append((spikes, torch.autograd.grad(spikes.sum(), x)[0]))
    for spikes, gradient in results[1:]:
        assert torch.equal(spikes, results[0][0])
        assert torch.equal(gradient, results[0][1])


@pytest.mark.parametrize("backend", list_backends("norm_pool_lif"))
def test_a_frozen_norm_serves_an_empty_batch(backend: str) -> None:
    x, one = torch.zeros(2, 0, 3, 4, 5), torch.ones(3)
    spikes, _, _ = norm_pool_lif(x, one, one, Dynamics(), mean=one, variance=one, backend=backend)
    assert spikes.shape == (2, 0, 3, 2, 3)


@pytest.mark.parametrize("backend", list_backends("norm_pool_lif"))
def test_gradients_are_those_asked_for(backend: str) -> None:
    x, weight, bias = values(2, 3, 4, 5, 5).float(), torch.ones(4, requires_grad=True), torch.zeros(4)
    spikes, _, _ = norm_pool_lif(x, weight, bias, Dynamics(), backend=backend)
    spikes.sum().backward()
    assert weight.grad is not None
    assert x.grad is bias.grad is None


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_the_compiled_op_is_sound(dtype: torch.dtype, frozen: bool) -> None:
    code = NeuronCode.of(Dynamics(v_reset=None, detach_reset=False))
    coefficients = torch.tensor([0.6, 0.47, 0.87], dtype=torch.float64)
    x = values(3, 2, 4, 5, 6, scale=2).to(dtype).movedim(-1, 2)
    weight, bias, statistics = (
        torch.linspace(0.5, 1.5, 6),
        torch.linspace(-0.5, 0.5, 6),
        (torch.zeros(6), torch.ones(6)),
    )
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    grad = values(3, 2, 2, 3, 6, seed=1).to(dtype).movedim(-1, 2)
    arguments = (grad, x, weight, bias, *statistics, coefficients, not frozen, True, 1e-5, *code)
    torch.library.opcheck(torch.ops.spimm.norm_pool_lif_backward.default, arguments, test_utils=checks)
    leaves = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
    arguments = (*leaves, *(statistics if frozen else (None, None)), coefficients.requires_grad_(), 3, 1e-5, *code)
    torch.library.opcheck(torch.ops.spimm.norm_pool_lif.default, arguments, test_utils=checks)


C = torch.ones(3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": torch.zeros(2, 2, 3, 4)}, r"x has shape \(2, 2, 3, 4\); wanted \[T, B, C, H, W"),
        ({"x": torch.zeros(2, 2, 3, 0, 4)}, r"x has shape \(2, 2, 3, 0, 4\)"),
        ({"x": torch.zeros(2, 0, 3, 4, 4)}, "is empty"),
        ({"weight": torch.ones(4)}, r"weight has shape \(4,\).* needs \(3,\)"),
        ({"mean": C}, "both mean and variance"),
        ({"num_steps": 5}, "num_steps is 5"),
    ],
)
def test_input_that_does_not_fit_is_refused(arguments: dict[str, Any], message: str) -> None:
    fitting = {"x": torch.zeros(2, 2, 3, 4, 4), "weight": C, "bias": C, "dynamics": Dynamics()}
    with pytest.raises(ValueError, match=message):
        norm_pool_lif(**{**fitting, **arguments})
