"""`spimm info`: versions, kernel backends, processor."""

import importlib.metadata
import os
import platform
from pathlib import Path

import torch
from rich.table import Table

from spimm import __version__
from spimm.cli.console import wide_console
from spimm.kernels import cpu_isa, list_backends

_PACKAGES = ("torch", "torchvision", "timm", "numpy", "safetensors", "spikingjelly")
_FEATURES = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16")


def info() -> None:
    """Show versions, kernel backends and what the processor offers; paste it into bug reports."""
    table = Table("", "", box=None, show_header=False)
    table.add_row("spimm", __version__)
    table.add_row("python", platform.python_version())
    for package in _PACKAGES:
        table.add_row(package, _version(package))
    table.add_row("processor", f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads used")
    table.add_row("features", " ".join(feature for feature in _FEATURES if feature in _flags()) or "not known")
    table.add_row("compiled kernels", cpu_isa())
    for op in ("lif", "norm_lif"):
        table.add_row(f"backends of {op}", ", ".join(list_backends(op)))
    table.add_row("CUDA", torch.cuda.get_device_name() if torch.cuda.is_available() else "none")
    wide_console().print(table)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _cpuinfo() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _processor() -> str:
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def _flags() -> set[str]:
    return set(_cpuinfo().get("flags", "").split())
