from typing import Any

import pytest
import torch
from torch import Tensor

from spimm.kernels import Dynamics, lif, list_backends, multi_lif
from spimm.kernels.multi_lif import reference

from .conftest import (
    DTYPES,
    FACTORS,
    SHAPES,
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

THRESHOLDS = (0.87, 0.31, 1.43, 2.21, 0.59, 1.07, 1.81, 0.13)


def check_parity(case: dict[str, Any], shape: tuple[int, ...], backend: str) -> None:
    dtype, num_steps, count = DTYPES[case["dtype"]], case["num_steps"], case["count"]
    tolerance = TOLERANCES[dtype]
    true_x = values(1 if case["shared"] else num_steps, *shape, scale=2).requires_grad_()
    x = laid_out(true_x.detach(), case["layout"]).to(dtype).requires_grad_()
    inputs, true_inputs = {"x": x}, {"x": true_x}
    true_learnt, learnt = make_learnt(case), make_learnt(case)
    thresholds = true_thresholds = THRESHOLDS[:count]
    if case["learnt"]:
        thresholds, true_thresholds = (
            torch.tensor(THRESHOLDS[:count], dtype=torch.float64, requires_grad=True) for _ in range(2)
        )
        inputs |= {"decay": learnt[0], "gain": learnt[1], "thresholds": thresholds}
        true_inputs |= {"decay": true_learnt[0], "gain": true_learnt[1], "thresholds": true_thresholds}

    settings: dict[str, Any] = {"num_steps": num_steps, "combine": case["combine"]}
    fire = Potentials(SURROGATES[case["surrogate"]])
    truth = reference.multi_lif(true_x, make_dynamics(case, true_learnt), true_thresholds, **settings, fire=fire)
    spikes = multi_lif(x, make_dynamics(case, learnt), thresholds, **settings, backend=backend)
    assert spikes.dtype == dtype
    branches = torch.stack(fire.kept).unflatten(0, (count, num_steps))
    fire.kept = list(branches.unbind(1))
    decided = fire.decided(tolerance.potential)  # [T, n, B, C, H, W]
    decided = decided.all(1) if case["combine"] == "sum" else torch.cat(decided.unbind(1), 2)
    assert torch.equal(spikes.double()[decided], truth[decided])
    undecided = int((~decided[-1]).sum())
    assert undecided <= 2 * count + 2e-3 * count * decided[-1].numel()

    upstream = values(*truth.shape, seed=2) * decided[-1]
    expected = gradients((truth * upstream).sum(), true_inputs)
    for name, gradient in gradients((spikes * upstream.to(dtype)).sum(), inputs).items():
        assert gradient.dtype == inputs[name].dtype
        assert_near(
            gradient, expected[name], tolerance.gradient if name == "x" else tolerance.summed, f"gradient of {name}"
        )


@pytest.mark.parametrize("backend", list_backends("multi_lif"))
@pytest.mark.parametrize("case", covering({**FACTORS, "count": [1, 2, 4, 8], "combine": ["sum", "concat"]}))
def test_every_backend_agrees_with_the_reference(case: dict[str, Any], backend: str) -> None:
    check_parity(case, SHAPES[case["shape"]], backend)


@pytest.mark.parametrize("combine", ["sum", "concat"])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_cpu_backend_agrees_with_the_reference_over_many_tiles(threads: int, combine: str, with_threads) -> None:
    with_threads(threads)
    case = {"surrogate": "sigmoid", "num_steps": 2, "layout": "channels-last", "reset": "soft", "dtype": "fp32"}
    case |= {"detach": False, "shared": False, "learnt": True, "count": 3, "combine": combine}
    check_parity(case, (2, 97, 37, 31), "cpu")


def test_the_reference_is_differentiable_in_everything_when_its_step_is_smooth() -> None:
    x = values(3, 2, 2, scale=2).requires_grad_()
    scalars = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (0.6, 0.45)]
    thresholds = torch.tensor([0.9, 0.4], dtype=torch.float64, requires_grad=True)
    for combine in ("sum", "concat"):

        def smooth(x: Tensor, decay: Tensor, gain: Tensor, thresholds: Tensor, combine=combine) -> Tensor:
            dynamics = Dynamics(decay, gain, v_reset=-0.25, detach_reset=False)
            fire = dynamics.surrogate.primitive
            return reference.multi_lif(x, dynamics, thresholds, num_steps=3, combine=combine, fire=fire)

        assert torch.autograd.gradcheck(smooth, (x, *scalars, thresholds))


@pytest.mark.parametrize("backend", list_backends("multi_lif"))
@pytest.mark.parametrize("v_reset", [0.0, -0.25, None])
def test_its_branches_are_separate_neurons(v_reset: float | None, backend: str) -> None:
    x = values(4, 2, 17, 3, scale=2).float()
    alone = [lif(x, Dynamics(threshold=value, v_reset=v_reset), backend=backend)[0] for value in THRESHOLDS[:4]]
    ignored = Dynamics(threshold=99.0, v_reset=v_reset)
    assert torch.equal(multi_lif(x, ignored, THRESHOLDS[:4], backend=backend), torch.stack(alone).sum(0))
    concatenated = multi_lif(x, ignored, THRESHOLDS[:4], combine="concat", backend=backend)
    assert torch.equal(concatenated, torch.cat(alone, 2))
    assert 0 < concatenated.mean() < 1


@pytest.mark.parametrize("backend", list_backends("multi_lif"))
@pytest.mark.parametrize("combine", ["sum", "concat"])
def test_one_threshold_makes_an_ordinary_neuron_and_its_gradient(combine: Any, backend: str) -> None:
    x = values(4, 2, 5, 3, scale=2).float().requires_grad_()
    one = multi_lif(x, Dynamics(), [0.7], combine=combine, backend=backend)
    plain, _ = lif(x, Dynamics(threshold=0.7), backend=backend)
    assert torch.equal(one, plain)
    weights = values(4, 2, 5, 3, seed=1).float()
    torch.testing.assert_close(*(torch.autograd.grad((s * weights).sum(), x)[0] for s in (one, plain)))


def test_spikes_and_gradients_do_not_depend_on_the_number_of_threads(with_threads) -> None:
    x = values(4, 3, 33, 29, 31, scale=2).float().requires_grad_()
    results = []
    for threads in (1, 2, 5):
        with_threads(threads)
        spikes = multi_lif(x, Dynamics(), (0.5, 1.0, 1.5), backend="cpu")
        results.append((spikes, torch.autograd.grad(spikes.sum(), x)[0]))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("backend", list_backends("multi_lif"))
def test_an_empty_batch_is_served(backend: str) -> None:
    x = torch.zeros(2, 0, 3, 4, 4)
    assert multi_lif(x, Dynamics(), (0.5, 1.0), backend=backend).shape == x.shape
    assert multi_lif(x, Dynamics(), (0.5, 1.0), combine="concat", backend=backend).shape == (2, 0, 6, 4, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": torch.zeros(2, 3)}, r"x has shape \(2, 3\); wanted \[T, B, C"),
        ({"thresholds": ()}, "there are 0 thresholds; wanted 1 to 8"),
        ({"thresholds": torch.ones(9)}, "there are 9 thresholds"),
        ({"thresholds": torch.tensor(1.0)}, r"thresholds have shape \(\)"),
        ({"combine": "stack"}, "combine is 'stack'"),
        ({"num_steps": 5}, "num_steps is 5"),
    ],
)
def test_input_that_does_not_fit_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        multi_lif(**{"x": torch.zeros(2, 2, 3, 4), "dynamics": Dynamics(), "thresholds": (1.0,), **arguments})
