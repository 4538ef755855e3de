"""Ctrl-C as a flag, so that what is running can be finished."""

import signal
import threading
from types import FrameType
from typing import Any


class Interrupt:
    """Records a Ctrl-C in `pressed`; a second Ctrl-C interrupts at once.

    Python runs signal handlers in the main thread only. In another thread this changes
    nothing.

    Example:
        >>> with Interrupt() as interrupt:
        ...     signal.raise_signal(signal.SIGINT)
        >>> interrupt.pressed
        True
    """

    def __init__(self) -> None:
        self.pressed = False
        self._previous: Any = None

    def __enter__(self) -> "Interrupt":
        # A handler that was not set from Python shows as None: it cannot be put back.
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.getsignal(signal.SIGINT)
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _press(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.pressed = True
        signal.signal(signal.SIGINT, self._previous)
