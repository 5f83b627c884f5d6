import json
import random
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from spimm.train.seeding import RandomState, deterministic, rng_state, seed_everything, set_rng_state
from spimm.train.typed import from_json


def draw() -> list[float]:
    return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.randn(()).item()]


def test_a_seed_fixes_python_numpy_and_torch() -> None:
    seed_everything(3)
    first = draw()
    seed_everything(3)
    assert draw() == first
    seed_everything(4)
    assert all(one != other for one, other in zip(draw(), first, strict=True))


def test_a_saved_state_gives_the_same_numbers_again_after_a_trip_through_a_file(tmp_path: Path) -> None:
    seed_everything(0)
    draw()  # leaves half of a pair of normal numbers behind, which the state has to hold
    (tmp_path / "rng.json").write_text(json.dumps(asdict(rng_state())))
    first = [draw(), draw()]
    set_rng_state(from_json(RandomState, json.loads((tmp_path / "rng.json").read_text()), "state"))
    assert [draw(), draw()] == first


def test_deterministic_comes_and_goes() -> None:
    with deterministic():
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
