"""What a run tells: JSON lines, TensorBoard, a progress bar."""

import contextlib
import errno
import importlib
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jmeta._core import extras
from jmeta.train import _files, _records
from jmeta.train._records import Record


class Log:
    """The records of a run and where they go.

    Args:
        directory: Of the run: `metrics.jsonl` and `tensorboard` in it; or None.
        step: The step that the run goes on from; what was recorded later is dropped.
        steps: Where the run ends.
        progress: Show a bar; None where tqdm and a terminal are.
        tensorboard: Write for TensorBoard.
        on_record: Called with each record, when it is written.

    Raises:
        ImportError: A package that was asked for is missing.
        OSError: The records cannot be read or written.
    """

    def __init__(
        self,
        directory: Path | None,
        step: int,
        steps: int,
        progress: bool | None,
        tensorboard: bool,
        on_record: Callable[[Record], Any] | None = None,
    ) -> None:
        self._on_record = on_record
        self.records: list[Record] = []
        self._file = self._writer = self._bar = None
        # before anything is opened, since either may be missing
        if tensorboard:
            tensorboardX = extras.load(
                "tensorboardX", "tensorboard", "`tensorboard=True`", "leave it out"
            )
        tqdm = _bars(progress)
        if directory is not None:
            self._path = directory / "metrics.jsonl"
            with _files.named(f"{self._path} cannot be read and written"):
                self.records = _records.keep_until(self._path, step)
                # what a write leaves in a buffer would be written again at the end
                self._file = self._path.open("ab", buffering=0)
        if tensorboard:
            self._writer = tensorboardX.SummaryWriter(
                f"{directory}/tensorboard", purge_step=step + 1
            )
        if tqdm is not None:
            self._bar = tqdm.tqdm(initial=step, total=steps, unit="step")

    def write(self, record: Record) -> None:
        """Keep a record; JSON has no number that is not finite, so it becomes null."""
        if self._bar is not None:
            self._bar.set_postfix(_shown(record), refresh=False)
        record = {name: _finite(value) for name, value in record.items()}
        self.records.append(record)
        if self._file:
            line = json.dumps(record).encode() + b"\n"
            with self._named(f"The record of step {record['step']} cannot be written"):
                if self._file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self._writer:
            for name, value in record.items():
                if name != "step" and isinstance(value, int | float):
                    self._writer.add_scalar(name, value, record["step"])
        if self._on_record:
            self._on_record(dict(record))

    def advance(self, steps: int) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(steps)

    def sync(self) -> None:
        """Have the lines on the disk before a checkpoint that comes after them."""
        if self._file:
            with self._named("The records cannot be written"):
                os.fsync(self._file.fileno())

    def _named(self, problem):
        return _files.named(
            f"{problem} to {self._path}",
            "Mend that and make the same call to go on from the last checkpoint.",
        )

    def close(self) -> None:
        """End the bar and the files."""
        for each in (self._bar, self._writer, self._file):
            if each is not None:
                each.close()


def _bars(progress):
    """The module that shows bars; None where there is to be none."""
    if progress:
        return extras.load("tqdm", "train", "`progress=True`", "pass `progress=False`")
    has_terminal = sys.stderr is not None and sys.stderr.isatty()
    if progress is None and has_terminal:
        with contextlib.suppress(ImportError):
            return importlib.import_module("tqdm")
    return None


def _shown(record):
    hidden = {"step", "rate", "first_skipped"}
    if not record.get("skipped"):
        hidden.add("skipped")
    return {n: f"{value:.4g}" for n, value in record.items() if n not in hidden}


def _finite(value):
    return None if isinstance(value, float) and not math.isfinite(value) else value
