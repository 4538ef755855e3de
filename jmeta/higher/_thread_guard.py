"""Let only one thread at a time take a step."""

import contextlib
import threading
from collections.abc import Iterator


class ThreadGuard:
    """Raises an error when a second thread enters while a first one is inside.

    If both read the parameters before either has written, one of two updates is lost.
    The thread that is inside may enter again. Unlike a lock, a guard can be copied, so
    a model that has one can be too.
    """

    def __init__(self):
        self._holder: dict[str, tuple[int, object]] = {}

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the guard for this thread until the context ends.

        Raises:
            RuntimeError: Another thread holds it.

        Example:
            >>> guard = ThreadGuard()
            >>> with guard.held(), guard.held():
            ...     print("the same thread")
            the same thread
        """
        mine = threading.get_ident(), object()
        # `setdefault` cannot be interrupted, so of two threads only one becomes holder.
        holder = self._holder.setdefault("thread", mine)
        if holder[0] != mine[0]:
            raise RuntimeError(
                "`step` must be called by one thread at a time; got a call while"
                " another thread takes a step with the same optimizer or model, which"
                " would lose one of the two updates. Give each thread its own, or hold"
                " a `threading.Lock` around `step`."
            )
        try:
            yield
        finally:
            if holder is mine:
                del self._holder["thread"]
