"""The figures of the four papers, a file for each, and the names of what they quote from others."""

from functools import cache
from typing import NamedTuple

from spimm.reproduce.published import metaspikeformer, qkformer, spikeatconv, ttfs
from spimm.reproduce.rows import Row


class System(NamedTuple):
    """A system by its name and its paper."""

    title: str
    paper: str


SYSTEMS = {
    "metaspikeformer": System("Meta-SpikeFormer", "Yao et al., ICLR 2024"),
    "qkformer": System("QKFormer", "Zhou et al., NeurIPS 2024"),
    "spikeatconv": System("SpikeAtConv", "Liao et al., Front. Neurosci. 2025"),
    "ttfs": System("DTA-TTFS", "Wei et al., ICCV 2023"),
}


@cache
def list_rows() -> tuple[Row, ...]:
    """Every row of the four papers, by paper."""
    return (*metaspikeformer.ROWS, *qkformer.ROWS, *spikeatconv.ROWS, *ttfs.ROWS)
