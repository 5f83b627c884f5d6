"""What a recipe says of events reaches the data and the model."""

from pathlib import Path

import numpy as np
import pytest

from spimm.data import Framing
from spimm.train import Recipe, build_data

MODEL = "metaspikeformer_cifar_small"


@pytest.fixture
def own_recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """train/ and val/ with two recordings of each of two classes, which do not state their sensor of 32 x 32."""
    monkeypatch.setenv("SPIMM_CACHE", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    for part in ("train", "val"):
        for name in ("left", "right"):
            (tmp_path / part / name).mkdir(parents=True)
            for index in range(2):
                x, y = random.integers(0, 32, (2, 500))
                t, p = np.sort(random.integers(0, 10**5, 500)), random.integers(0, 2, 500)
                np.savez(tmp_path / part / name / f"{index}.npz", x=x, y=y, t=t, p=p)
    return tmp_path


def test_own_recordings_are_framed_as_the_recipe_says(own_recordings):
    recipe = Recipe(
        model=MODEL,
        data=f"recordings:{own_recordings}",
        frames=3,
        bins="duration",
        bin_size=20_000,
        representation="surface",
        merge_polarity=True,
        sensor_size=16,
        sensor=(32, 32),
    )
    data = build_data(recipe)
    assert (data.frames, data.in_chans, data.image_size) == (3, 1, (16, 16))
    assert str(Framing(3, "duration", 20_000, "surface", True, 16)) in data.note
    assert len(data.train) == len(data.test) == 4


def test_a_corrupt_recording_is_skipped_if_the_recipe_says_so(own_recordings):
    (own_recordings / "train" / "left" / "0.npz").write_bytes(b"torn")
    recipe = Recipe(model=MODEL, data=f"recordings:{own_recordings}", frames=2, sensor=(32, 32), corrupt="skip")
    data = build_data(recipe)
    assert data.train.labels.tolist() == [0, 1, 1]
    assert "0.npz" in data.note
