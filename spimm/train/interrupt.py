"""SIGINT (Ctrl-C) and SIGTERM as a request to stop after the current step, of any rank to all."""

import os
import signal
import threading
from collections.abc import Sequence
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Context manager under which `requested` turns true at the first SIGINT or SIGTERM.

    A second signal acts as it would have without it; not under torchrun, which sends one more behind the terminal's
    own and kills whatever is left after 30 s. Ranks stop together: each gives its `votes`, and where their sum says
    so all find in `agreed` the name of the signal, else "". Forked workers ignore SIGINT, which a terminal sends to
    them as well, and end on SIGTERM. Outside the main thread, where Python allows no handlers, it never turns true.
    """

    def __init__(self) -> None:
        self.requested: bool = False
        self.signal_name: str = ""
        self.agreed: str = ""
        self._patient = "TORCHELASTIC_RUN_ID" in os.environ
        self._before: dict[int, signal._HANDLER] = {}
        self._process = os.getpid()

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *error: object) -> None:
        if not (self._patient and error[0]):  # torchrun ends the others of a failed rank: they shall tell why first
            self._restore()

    def votes(self) -> list[float]:
        """1 for the signal that came, 0 for the others."""
        return [float(self.signal_name == signal.name) for signal in SIGNALS]

    def settle(self, votes: Sequence[float]) -> None:
        """Takes the sum of all ranks' votes."""
        self.agreed = next((signal.name for signal, vote in zip(SIGNALS, votes, strict=True) if vote), "")

    def _request(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        self.requested = True
        self.signal_name = signal.Signals(number).name
        if not self._patient:
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
