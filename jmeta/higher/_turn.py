"""One thread at a time."""

import contextlib
import threading
from collections.abc import Iterator


class Turn:
    """Raises when a second thread comes while a first one is at work.

    What both would read before either has written loses one of two updates. The thread
    that is at work may enter again. It can be copied, which a lock cannot.
    """

    def __init__(self):
        self._holder: dict[str, tuple[int, object]] = {}

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Be at work for a while.

        Raises:
            RuntimeError: Another thread is.

        Example:
            >>> turn = Turn()
            >>> with turn.taken(), turn.taken():
            ...     print("the same thread")
            the same thread
        """
        mine = threading.get_ident(), object()
        # of two threads one sets, in one operation that cannot be interrupted
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
