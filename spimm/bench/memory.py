"""Case of peak memory: each sample is a process of its own that takes a few training steps.

Read from Linux's /proc: VmHWM is the peak resident size of one address space. getrusage's ru_maxrss is not used, since
Linux hands a parent's peak on to the child it starts, which here would be the peak of the cases run before.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from spimm.bench.network import check_networks, ratios_of, training_step, workload
from spimm.bench.precision import PRECISIONS
from spimm.bench.registry import Options, Plan, register_case

STEPS = 3
_CHILD = "import sys; from spimm.bench.memory import report; report(*sys.argv[1:])"


def resident() -> tuple[float, float]:
    """Resident memory of this process in MiB: now, and its peak since the start or the last `forget_peak`."""
    status = dict(line.split(":", 1) for line in _proc("status").read_text().splitlines())
    now, peak = (int(status[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    return now, peak


def forget_peak() -> None:
    """Sets the peak of this process to what is resident now."""
    _proc("clear_refs").write_text("5")


def _proc(name: str) -> Path:
    path = Path("/proc/self") / name
    if not path.exists():
        raise RuntimeError(f"peak memory is read from {path}, which only Linux has; this is {sys.platform}")
    return path


def training_peak(library: str, precision: str, quick: bool) -> float:
    """MiB that `STEPS` training steps add at their peak to what model, optimiser and batch occupy.

    Gradients and the optimiser's moments, which the first step makes, are in it. To be called in a fresh process.
    """
    work = workload(quick)
    step = training_step(work.network(library), *work.batch(), precision)
    forget_peak()
    before, _ = resident()
    for _ in range(STEPS):
        step()
    return resident()[1] - before


def report(library: str, precision: str, quick: str, threads: str) -> None:
    """What the child process does: writes `training_peak` to standard output as JSON."""
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    sys.stdout.write(json.dumps({"mib": training_peak(library, precision, quick == "quick")}))


def in_fresh_process(library: str, precision: str, quick: bool) -> Callable[[], float]:
    """A function that starts a process and gives its `training_peak`; RuntimeError with its messages if it fails."""

    def sample() -> float:
        arguments = [library, precision, "quick" if quick else "full", str(torch.get_num_threads())]
        done = subprocess.run([sys.executable, "-c", _CHILD, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the process that measures {library} {precision} failed:\n{done.stderr.strip()}")
        return float(json.loads(done.stdout)["mib"])

    return sample


@register_case("memory", "peak resident memory of a training step of QKFormer 4-384")
def memory(options: Options) -> Plan:
    """MiB on top of model, optimiser and batch, each sample in a fresh process. A quick run takes bf16 alone."""
    _proc("clear_refs")
    work = workload(options.quick)
    images, labels = work.batch()
    sides = {
        f"{library} {precision}": in_fresh_process(library, precision, options.quick)
        for library in options.libraries
        for precision in (("bf16",) if options.quick else PRECISIONS)
    }
    return Plan(
        setting=work.setting() | {"optimizer": "AdamW, fused", "steps": STEPS},
        check=lambda: check_networks(work.exact_networks(options.libraries, images), images, labels),
        sides=sides,
        ratios=[ratio for ratio in ratios_of(options) if ratio.slower in sides and ratio.faster in sides],
        unit="MiB",
        warmup=0,
        repeats=1 if options.quick else 3,
    )
