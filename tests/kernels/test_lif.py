from typing import Any

import pytest
import torch
from torch import Tensor

from spimm.kernels import Dynamics, lif, list_backends
from spimm.kernels.lif import reference

from .conftest import (
    DTYPES,
    FACTORS,
    RESETS,
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

IF = Dynamics(decay=1.0, gain=1.0, v_reset=None)


def check_parity(case: dict[str, Any], shape: tuple[int, ...], backend: str) -> None:
    dtype, num_steps = DTYPES[case["dtype"]], case["num_steps"]
    tolerance = TOLERANCES[dtype]
    true_x = values(1 if case["shared"] else num_steps, *shape, scale=2).requires_grad_()
    true_v = (values(*shape, seed=1).clamp(-1, 1) * 8).round().div(16).requires_grad_()  # v - v_reset is exact
    x = laid_out(true_x.detach(), case["layout"]).to(dtype).requires_grad_()
    v = true_v.detach().to(dtype).requires_grad_()
    true_learnt, learnt = make_learnt(case), make_learnt(case)
    names = ("decay", "gain", "threshold")[: len(learnt)]
    inputs, true_inputs = {"x": x}, {"x": true_x}
    if case["start"]:
        inputs["v"], true_inputs["v"] = v, true_v
    inputs |= dict(zip(names, learnt, strict=True))
    true_inputs |= dict(zip(names, true_learnt, strict=True))

    fire = Potentials(SURROGATES[case["surrogate"]])
    truth, true_end = reference.lif(
        true_x, make_dynamics(case, true_learnt), true_inputs.get("v"), num_steps=num_steps, fire=fire
    )
    spikes, end = lif(x, make_dynamics(case, learnt), inputs.get("v"), num_steps=num_steps, backend=backend)
    assert spikes.dtype == end.dtype == dtype
    decided = fire.decided(tolerance.potential)
    assert_spike_parity(spikes, truth, decided)
    settled = decided[-1]
    assert_near(end[settled], true_end[settled], tolerance.stored, "potential")

    weights = [values(*truth.shape, seed=2) * settled, values(*true_end.shape, seed=3) * settled]
    expected = gradients((truth * weights[0]).sum() + (true_end * weights[1]).sum(), true_inputs)
    loss = (spikes * weights[0].to(dtype)).sum() + (end * weights[1].to(dtype)).sum()
    for name, gradient in gradients(loss, inputs).items():
        assert gradient.dtype == inputs[name].dtype
        limit = tolerance.summed if name in names else tolerance.gradient
        assert_near(gradient, expected[name], limit, f"gradient of {name}")


@pytest.mark.parametrize("backend", list_backends("lif"))
@pytest.mark.parametrize("case", covering({**FACTORS, "start": [True, False]}))
def test_every_backend_agrees_with_the_reference(case: dict[str, Any], backend: str) -> None:
    check_parity(case, SHAPES[case["shape"]], backend)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_cpu_backend_agrees_with_the_reference_over_many_tiles(dtype: str, threads: int, with_threads) -> None:
    with_threads(threads)  # more than 32 tiles of 4096 elements a thread, the last one ragged
    case = {"surrogate": "sigmoid", "num_steps": 2, "layout": "nchw", "reset": "soft", "dtype": dtype, "detach": False}
    check_parity({**case, "shared": False, "learnt": True, "start": True}, (2, 97, 37, 31), "cpu")


def test_the_reference_is_differentiable_in_everything_when_its_step_is_smooth() -> None:
    x, v = values(3, 2, 3, scale=2).requires_grad_(), values(2, 3, seed=1).requires_grad_()
    scalars = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (0.6, 0.45, 0.9)]
    for surrogate in SURROGATES.values():
        for v_reset in (0.0, -0.25, None):

            def smooth(x: Tensor, v: Tensor, *scalars: Tensor, surrogate=surrogate, v_reset=v_reset):
                dynamics = Dynamics(*scalars, v_reset, False, surrogate)
                return reference.lif(x, dynamics, v, num_steps=3, fire=surrogate.primitive)

            assert torch.autograd.gradcheck(smooth, (x, v, *scalars))


def test_a_detached_reset_passes_no_gradient() -> None:
    x = torch.full((2, 1), 2.0, dtype=torch.float64, requires_grad=True)  # fires at once: v is 0 whatever x[0] is
    (attached,) = torch.autograd.grad(lif(x, Dynamics(detach_reset=False))[0][1].sum(), x)
    (detached,) = torch.autograd.grad(lif(x, Dynamics(detach_reset=True))[0][1].sum(), x)
    assert detached[0] == 0 != attached[0]


@pytest.mark.parametrize("backend", list_backends("lif"))
def test_known_potentials_of_the_leaky_neuron(backend: str) -> None:
    spikes, potentials, v = [], [], None
    for _ in range(3):
        s, v = lif(torch.full((1, 1), 1.5), Dynamics(), v, backend=backend)
        spikes.append(s.item())
        potentials.append(v.item())
    assert spikes == [0, 1, 0]
    assert potentials == [0.75, 0, 0.75]  # h is 0.75, 1.125, 0.75
    s, v = lif(torch.full((1, 1), 1.125 * 2), Dynamics(threshold=1.2), backend=backend)
    assert (s.item(), v.item()) == (0, 1.125)
    assert lif(torch.full((1, 1), 2.0), Dynamics(), backend=backend)[0].item() == 1  # h is the threshold exactly


@pytest.mark.parametrize("backend", list_backends("lif"))
def test_soft_reset_conserves_charge(backend: str) -> None:
    x, start = (values(8, 5, 7) * 16).round() / 16, (values(5, 7, seed=1) * 16).round() / 16  # sums are exact
    spikes, end = lif(x.float(), IF, start.float(), backend=backend)
    assert torch.equal(x.sum(0).float(), end - start.float() + spikes.sum(0))
    assert 0 < spikes.mean() < 1


@pytest.mark.parametrize("backend", list_backends("lif"))
@pytest.mark.parametrize("v_reset", [0.0, -0.25, None])
def test_a_run_equals_its_parts_with_the_state_carried_over(v_reset: float | None, backend: str) -> None:
    x, dynamics = values(7, 4, 9, scale=2).float(), Dynamics(v_reset=v_reset)
    spikes, end = lif(x, dynamics, backend=backend)
    first, v = lif(x[:3], dynamics, backend=backend)
    second, v = lif(x[3:], dynamics, v, backend=backend)
    assert torch.equal(spikes, torch.cat([first, second]))
    torch.testing.assert_close(v, end, atol=1e-6, rtol=0)


@pytest.mark.parametrize("backend", list_backends("lif"))
@pytest.mark.parametrize(("v_reset", "rest"), [(0.0, 0.0), (-0.5, -0.5), (None, 0.0)])
def test_without_input_the_potential_decays_exponentially_to_rest(
    v_reset: float | None, rest: float, backend: str
) -> None:
    start = torch.linspace(-2, 0.9, 30)
    spikes, end = lif(torch.zeros(5, 30), Dynamics(decay=0.75, v_reset=v_reset), start, backend=backend)
    assert not spikes.any()
    torch.testing.assert_close(end, rest + 0.75**5 * (start - rest), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("backend", list_backends("lif"))
@pytest.mark.parametrize("v_reset", RESETS.values(), ids=RESETS)
def test_settings_that_are_learnt_mean_what_numbers_mean(v_reset: float | None, backend: str) -> None:
    x, start = values(6, 40, scale=2).float(), values(40, seed=1).float()
    learnt = Dynamics(*(torch.tensor(value) for value in (0.75, 0.5, 0.875)), v_reset)
    for a, b in zip(
        lif(x, Dynamics(0.75, 0.5, 0.875, v_reset), start, backend=backend),
        lif(x, learnt, start, backend=backend),
        strict=True,
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("backend", list_backends("lif"))
def test_a_scale_in_front_equals_a_threshold_divided_by_it(backend: str) -> None:
    x = torch.randint(0, 90, (4, 6, 50), generator=torch.Generator().manual_seed(0)).float()
    scaled, _ = lif(0.125 * x, Dynamics(threshold=0.5), backend=backend)
    merged, _ = lif(x, Dynamics(threshold=4.0), backend=backend)
    assert torch.equal(scaled, merged)
    assert 0 < merged.mean() < 1


@pytest.mark.parametrize("backend", list_backends("lif"))
def test_a_shared_input_equals_the_repeated_one(backend: str) -> None:
    x = values(1, 3, 5, 4, scale=2).float()
    once, end = lif(x, Dynamics(), num_steps=6, backend=backend)
    repeated, end_repeated = lif(x.expand(6, -1, -1, -1), Dynamics(), backend=backend)
    assert torch.equal(once, repeated)
    assert torch.equal(end, end_repeated)


@pytest.mark.parametrize("backend", list_backends("lif"))
def test_without_the_last_potential_spikes_and_gradients_are_the_same(backend: str) -> None:
    x, results = values(3, 2, 4, 5, scale=2).float().requires_grad_(), []
    for keep_v in (True, False):
        spikes, end = lif(x, Dynamics(), keep_v=keep_v, backend=backend)
        assert end.numel() == (40 if keep_v else 0)
        results.append([spikes, *torch.autograd.grad((spikes * values(3, 2, 4, 5, seed=2)).sum(), [x])])
    for found, expected in zip(*results, strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("backend", list_backends("lif"))
def test_an_expanded_input_equals_the_repeated_one_and_keeps_its_memory_order(backend: str) -> None:
    results = []
    for repeat in (lambda x: x.expand(4, -1, -1, -1, -1), lambda x: x.repeat(4, 1, 1, 1, 1)):
        x = laid_out(values(1, 2, 3, 4, 5, scale=2).float(), "channels_last").requires_grad_()
        spikes, end = lif(repeat(x), Dynamics(), backend=backend)
        (gradient,) = torch.autograd.grad((spikes * values(4, 2, 3, 4, 5, seed=2)).sum() + end.sum(), [x])
        results.append([spikes, end, gradient])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)
    assert results[0][0].movedim(2, -1).is_contiguous() or backend == "reference"


def test_spikes_and_gradients_do_not_depend_on_the_number_of_threads(with_threads) -> None:
    x = values(4, 3, 33, 29, 31, scale=2).float().requires_grad_()
    results = []
    for threads in (1, 2, 5):
        with_threads(threads)
        spikes, end = lif(x, Dynamics(), backend="cpu")
        (gradient,) = torch.autograd.grad(spikes.sum() + end.sum(), x)
        results.append((spikes, end, gradient))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("backend", list_backends("lif"))
@pytest.mark.parametrize("shape", [(2, 0, 3), (3,), (1, 4099)])
def test_empty_batches_scalars_per_step_and_long_rows_are_served(shape: tuple[int, ...], backend: str) -> None:
    x = torch.full(shape, 2.5, requires_grad=True)
    spikes, end = lif(x, Dynamics(), backend=backend)
    assert (spikes.shape, end.shape) == (shape, shape[1:])
    assert (spikes == 1).all()
    assert torch.autograd.grad(spikes.sum() + end.sum(), x)[0].isfinite().all()


@pytest.mark.parametrize("backend", list_backends("lif"))
def test_each_output_alone_has_a_gradient(backend: str) -> None:
    x = values(3, 20, scale=2).float().requires_grad_()
    for index in range(2):
        grads = [torch.autograd.grad(lif(x, Dynamics(), backend=b)[index].sum(), x)[0] for b in (backend, "reference")]
        torch.testing.assert_close(*grads, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("backend", list_backends("lif"))
def test_a_potential_that_is_not_a_number_does_not_fire(backend: str) -> None:
    spikes, end = lif(torch.tensor([[torch.nan], [5.0]]), Dynamics(), backend=backend)
    assert not spikes.any()
    assert end.isnan().all()


@pytest.mark.parametrize(
    ("x", "v", "num_steps", "message"),
    [
        (torch.zeros(0, 2), None, None, r"x has shape \(0, 2\)"),
        (torch.zeros(3, 2), None, 4, r"x has shape \(3, 2\) and num_steps is 4"),
        (torch.zeros(1, 2), None, 0, "num_steps is 0"),
        (torch.zeros(3, 2), torch.zeros(3), None, r"v has shape \(3,\).* needs \(2,\)"),
        (torch.tensor(1.0), None, None, r"x has shape \(\)"),
    ],
)
def test_input_that_does_not_fit_is_refused(x: Tensor, v: Tensor | None, num_steps: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lif(x, Dynamics(), v, num_steps=num_steps)
