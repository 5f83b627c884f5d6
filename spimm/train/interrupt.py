"""SIGINT (Ctrl-C) and SIGTERM as a request to stop after the current step."""

import os
import signal
import threading
from types import FrameType


class StopRequest:
    """Context manager under which `requested` turns true at the first SIGINT or SIGTERM.

    A second signal acts as it would have without it. Forked workers ignore SIGINT, which a terminal sends to them as
    well, and end on SIGTERM. Outside the main thread, where Python allows no handlers, it never turns true.
    """

    def __init__(self) -> None:
        self.requested: bool = False
        self.signal_name: str = ""
        self._before: dict[int, signal._HANDLER] = {}
        self._process = os.getpid()

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()

    def _request(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        self.requested = True
        self.signal_name = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
