from collections.abc import Callable

import pytest
import torch
from torch import nn

from spimm.analyze import analyze, energy, record

Build = Callable[..., nn.Module]


def test_analysis_is_a_recording_in_eval_mode_and_both_energies(firing: Build) -> None:
    model, x = firing(), torch.rand(4, 1, 8, 8)
    with record(model, model_name="digits") as recorder, torch.no_grad():
        model(x)
    model.train()
    model.head.eval()
    modes = [module.training for module in model.modules()]
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    analysis = analyze(model, iter([x[:1], x[1:]]), model_name="digits")
    assert analysis.trace.firing_rates() == recorder.trace().firing_rates()
    assert analysis.energy == energy(analysis.trace, count_integers=False)
    assert analysis.integer_energy == energy(analysis.trace, count_integers=True)
    assert analysis.integer_energy.acs > analysis.energy.acs
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


def test_modes_come_back_after_an_error(firing: Build) -> None:
    model = firing().train()
    with pytest.raises(ValueError, match="channels"):
        analyze(model, [torch.rand(4, 3, 8, 8)])
    assert all(module.training for module in model.modules())


def test_no_batch_is_an_error(firing: Build) -> None:
    with pytest.raises(ValueError, match="no batch of QKFormer was recorded"):
        analyze(firing(), [])


def test_event_models_are_analysed_on_sequences(firing: Build) -> None:
    model = firing("qkformer_2_256_dvs", embed_dim=64, num_heads=4)
    events = torch.randint(0, 3, (1, 5, 2, 16, 16)).float()
    trace, report, counted = analyze(model, [events])
    assert trace.num_steps == 5
    assert all(len(layer.step_rates) in (0, 5) for layer in trace.layers)
    assert [line.layer for line in report.lines if line.operation == "MAC"] == ["head"]
    assert counted.groups()["input"] > report.groups()["input"]
