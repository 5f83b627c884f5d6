"""Where commands print."""

from rich.console import Console

_WIDTH = 132


def wide_console() -> Console:
    """Standard output, wide enough for the tables; a narrower terminal wraps their lines."""
    found = Console()
    return found if found.width >= _WIDTH else Console(width=_WIDTH)
