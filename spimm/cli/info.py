"""`spimm info`: versions, kernel backends, processor."""

import importlib.metadata
import platform

import torch
from rich.table import Table

from spimm import __version__
from spimm.bench.environment import hardware
from spimm.cli.console import wide_console
from spimm.kernels import list_backends
from spimm.words import counted

_PACKAGES = ("torch", "torchvision", "timm", "numpy", "safetensors", "spikingjelly")


def info() -> None:
    """Show versions, kernel backends and what the processor offers; paste it into bug reports."""
    table = Table("", "", box=None, show_header=False)
    table.add_row("spimm", __version__)
    table.add_row("python", platform.python_version())
    for package in _PACKAGES:
        table.add_row(package, _version(package))
    machine = hardware()
    table.add_row(
        "processor",
        f"{machine['cpu']}, {counted(machine['cores'], 'core')}, {counted(torch.get_num_threads(), 'thread')} used",
    )
    table.add_row("features", " ".join(machine["features"]) or "not known")
    table.add_row("compiled kernels", machine["spimm_isa"])
    for op in ("lif", "norm_lif"):
        table.add_row(f"backends of {op}", ", ".join(list_backends(op)))
    table.add_row("CUDA", torch.cuda.get_device_name() if torch.cuda.is_available() else "none")
    wide_console().print(table)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
