import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from spimm.analyze import Trace, record


@pytest.fixture
def trace(firing: Callable[..., nn.Module]) -> Trace:
    model = firing()
    with record(model, model_name="digits") as recorder, torch.no_grad():
        model(torch.rand(2, 1, 8, 8))
    return recorder.trace()


def test_a_trace_survives_json(trace: Trace) -> None:
    again = Trace.from_json(trace.to_json())
    assert again == trace
    assert hash(again) == hash(trace)


def test_a_file_holds_the_trace_and_nothing_lies_beside_it(trace: Trace, tmp_path: Path) -> None:
    path = trace.save(tmp_path / "new" / "trace.json")
    assert Trace.from_json(path.read_text()) == trace
    assert list(path.parent.iterdir()) == [path]


def test_other_json_is_refused(trace: Trace) -> None:
    with pytest.raises(ValueError, match="format is None, wanted 'spimm-trace-3'"):
        Trace.from_json("[]")
    damaged = json.loads(trace.to_json())
    del damaged["layers"][0]["steps"]
    with pytest.raises(ValueError, match=r"this trace is damaged: .*steps"):
        Trace.from_json(json.dumps(damaged))
    del damaged["layers"]
    with pytest.raises(ValueError, match="this trace is damaged: 'layers'"):
        Trace.from_json(json.dumps(damaged))


def test_what_is_not_there_is_named(trace: Trace) -> None:
    conv = trace.layer("stages.0.embed.units.1.conv")
    with pytest.raises(ValueError, match="digits has no layer 'stem'"):
        trace.layer("stem")
    with pytest.raises(ValueError, match=r"no input 'q'; it has \['x'\]"):
        conv.input("q")
    with pytest.raises(ValueError, match="of kind conv; only neurons have a firing rate"):
        _ = conv.rate


def test_the_table_has_a_row_for_every_layer(trace: Trace) -> None:
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(trace.table())
    text = console.export_text()
    assert all(layer.name in text for layer in trace.layers)
    assert "digits: 2 samples, 4 steps" in text
