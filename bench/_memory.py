"""How far a run lifts the peak of the memory in use."""

import contextlib
import ctypes
import gc
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def peak_growth(run: Callable[[], Any]) -> int | None:
    """Bytes by which `run` lifts the peak; None where the system does not say.

    On CUDA it is torch's count of the device's memory; JAX's own is the compiler's,
    and for it there is the process's resident memory only on Linux.
    """
    cuda = _cuda()
    if cuda is not None:
        cuda.reset_peak_memory_stats()
        before = cuda.memory_allocated()
        run()
        # a JAX run leaves torch's count alone
        return cuda.max_memory_allocated() - before or None
    gc.collect()
    try:
        # give what is free back, or the run reuses it unseen
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return None
    before = _status("VmRSS")
    run()
    return max(0, _status("VmHWM") - before)


def _cuda():
    torch = sys.modules.get("torch")
    with contextlib.suppress(AttributeError):
        return torch.cuda if torch and torch.cuda.is_available() else None


def _status(field):
    text = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{field}:\s+(\d+) kB", text)[1])
