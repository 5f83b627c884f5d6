"""Where a run stands, beside its tensors: `state.json` of a checkpoint, as plain values."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from spimm.manifest import CheckpointError
from spimm.train.guard import GuardState
from spimm.train.seeding import RandomState
from spimm.train.typed import from_json


@dataclass(frozen=True)
class RunState:
    """A moment of a run."""

    step: int
    """steps taken"""
    epoch: int
    """of the next batch, as `batch`"""
    batch: int
    steps_per_epoch: int
    loss_sum: float
    """over the batches of this epoch"""
    metrics: dict[str, float | None]
    """last evaluation; None for what was not finite, as in `best`"""
    best: dict[str, float | None]
    rng: RandomState
    recipe: dict[str, Any]
    environment: dict[str, str | int] = field(default_factory=dict)
    """what the numbers depend on beside recipe and data"""
    group_steps: list[float] = field(default_factory=list)
    """as `moments.group_steps`"""
    guard: GuardState | None = None

    def __post_init__(self) -> None:
        for name in ("step", "epoch", "batch", "steps_per_epoch"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if self.batch > self.steps_per_epoch:
            raise ValueError(f"batch must be at most steps_per_epoch={self.steps_per_epoch}, got {self.batch}")

    def to_json(self) -> dict[str, Any]:
        """Values that JSON takes; `read_state` reads them back from a file."""
        return asdict(self)


def read_state(values: Any, folder: Path) -> RunState:
    """The state that `to_json` wrote into `folder`. CheckpointError for values that are none."""
    try:
        return from_json(RunState, values, "state of the run")
    except ValueError as error:
        raise CheckpointError(f"{folder} is damaged or foreign: {error}") from error


def storable(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Figures without those that are not finite, which JSON has no number for."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def figures(stored: Mapping[str, float | None]) -> dict[str, float]:
    """What `storable` kept; NaN for what it did not."""
    return {name: math.nan if value is None else value for name, value in stored.items()}
