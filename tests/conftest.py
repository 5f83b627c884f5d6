"""What tests of several rooms share."""

import os
from collections.abc import Iterator

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is imported, which torch.compile does too


# The first backward pass of a process starts a thread for each kind of device that torch knows by then, and a fork of a
# process with such threads can run no backward pass. Under torch.compile it knows more than the CPU.
torch.ones(1, requires_grad=True).sum().backward()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch on one thread: networks as small as those of the tests run no faster on more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
