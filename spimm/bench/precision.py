"""The two precisions that cases are timed in."""

import torch

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def compute_in(precision: str) -> torch.autocast:
    """Autocast to bfloat16 for `bf16`, nothing for `fp32`."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16")
