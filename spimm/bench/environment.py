"""What a measurement depends on besides the code: processor, instruction sets, versions, other load."""

import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any

import torch

import spimm
from spimm.kernels import cpu_isa

# Flags of /proc/cpuinfo (x86 and Arm) that decide which convolutions and kernels can run.
FEATURES = (
    "avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "amx_tile", "amx_bf16", "amx_int8", "asimd", "bf16", "i8mm", "sve", "sve2",
)  # fmt: skip

PEERS = ("spikingjelly", "snntorch", "norse")


def hardware() -> dict[str, Any]:
    """Processor, its cores and those that this process may use, and the instruction sets of torch and our extension."""
    about = _cpuinfo()
    flags = (about.get("flags") or about.get("Features") or "").split()
    return {
        "cpu": about.get("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "spimm_isa": cpu_isa(),
        "torch_isa": torch.backends.cpu.get_cpu_capability(),
        "features": [name for name in FEATURES if name in flags],
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def slug(about: dict[str, Any]) -> str:
    """Hardware as a part of a file name, e.g. `amd-epyc-2c-avx512`: one name has processors of several kinds."""
    plain = re.sub(r"\((r|tm)\)|\b(cpu|processor)\b|@.*", " ", about["cpu"].lower())
    return "-".join([*re.findall(r"[a-z0-9]+", plain), f"{about['cores']}c", about["spimm_isa"]])


def versions(*, peers: bool) -> dict[str, str | None]:
    """Versions of Python and the libraries; None for a peer that takes no part or is not installed."""
    return {
        "spimm": spimm.__version__,
        "torch": torch.__version__,
        **{peer: _installed(peer) if peers else None for peer in PEERS},
        "python": platform.python_version(),
    }


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def load_average() -> float | None:
    """Runnable processes, averaged over the last minute: how busy the machine was; None where the system has none."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _cpuinfo() -> dict[str, str]:
    """The first processor's entry; empty off Linux."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    first = path.read_text().split("\n\n")[0]
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}


def _memory_gib() -> float | None:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
