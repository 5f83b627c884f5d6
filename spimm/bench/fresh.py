"""Measurements that need a process of their own: peak memory, and the first step that it takes."""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from spimm.bench import peers
from spimm.bench.timing import stopwatch
from spimm.bench.workload import Workload, cifar, imagenet, training_step
from spimm.kernels.resident import forget_peak, give_back_freed_memory, resident

PLAIN, PACKED, CHECKPOINTED, MEMOPT = "", "packed", "packed checkpoint", "memopt"
OPTIONS: dict[str, dict[str, Any]] = {
    PACKED: {"memory": "packed"},
    CHECKPOINTED: {"memory": "packed", "checkpoint": True},
}
"""Of our networks, by how activations are kept."""
PAGE = 4096 / 2**20
_CHILD = "import sys; from spimm.bench.fresh import report; report(*sys.argv[1:])"


@dataclass(frozen=True)
class Trained:
    """What a process trains."""

    library: str
    precision: str
    quick: bool
    num_steps: int = 4
    batch_size: int | None = None
    """None: the network's own."""
    at_224: bool = False
    kept: str = PLAIN
    """How activations are kept for the backward: PLAIN, a name of OPTIONS (ours) or MEMOPT (SpikingJelly's)."""

    @property
    def name(self) -> str:
        """As a side: library, how activations are kept, precision."""
        return " ".join(part for part in (self.library, self.kept, self.precision) if part)

    def workload(self) -> Workload:
        work = imagenet(self.quick, self.num_steps) if self.at_224 else cifar(self.quick)
        return replace(
            work,
            options={**work.options, "num_steps": self.num_steps},
            batch_size=self.batch_size or work.batch_size,
            extra=OPTIONS.get(self.kept, {}),
        )

    def step(self) -> Callable[[], None]:
        """A training step of a new network."""
        work = self.workload()
        images, labels = work.batch()
        network = work.network(self.library)
        if self.kept == MEMOPT:
            peers.with_memopt(network, images)
        return training_step(network, images, labels, self.precision)


def training_peak(trained: Trained, steps: int) -> float:
    """MiB that some training steps add at their peak to what model, optimiser and batch occupy; a page at the least.

    Gradients and the optimiser's moments, which the first step makes, are in it.
    """
    step = trained.step()
    give_back_freed_memory()
    forget_peak()
    before, _ = resident()
    for _ in range(steps):
        step()
    return max(resident()[1] - before, PAGE)


def first_and_steady(trained: Trained, steps: int) -> tuple[float, float]:
    """Milliseconds of the first training step of this process, and the median of `steps` after it."""
    sample = stopwatch(trained.step())
    return sample(), statistics.median(sample() for _ in range(steps))


MEASURES: dict[str, Callable[[Trained, int], object]] = {"peak": training_peak, "first": first_and_steady}


def report(measure: str, trained: str, steps: str, threads: str) -> None:
    """What the child process does: writes what it measured to standard output as JSON."""
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    sys.stdout.write(json.dumps(MEASURES[measure](Trained(**json.loads(trained)), int(steps))))


def sampler(measure: str, trained: Trained, steps: int) -> Callable[[], Any]:
    """A function that measures in a fresh process, or, in a quick run, whose numbers mean nothing, in this one."""
    if trained.quick:
        return lambda: MEASURES[measure](trained, steps)
    return in_fresh_process(measure, trained, steps)


def in_fresh_process(measure: str, trained: Trained, steps: int) -> Callable[[], Any]:
    """A function that starts a process and gives what it measures; RuntimeError with its messages if it fails."""

    def sample() -> Any:
        arguments = [measure, json.dumps(asdict(trained)), str(steps), str(torch.get_num_threads())]
        done = subprocess.run([sys.executable, "-c", _CHILD, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the process that measures {trained.name} failed:\n{done.stderr.strip()}")
        return json.loads(done.stdout.splitlines()[-1])

    return sample
