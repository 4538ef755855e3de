"""The records of a run: JSON lines, TensorBoard and a progress bar."""

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
    """Writes the records of a run to files, to a progress bar and to the user.

    Args:
        directory: The run's directory, which gets `metrics.jsonl` and `tensorboard`;
            None writes no files.
        step: The step that the run goes on from. Records of later steps are dropped.
        steps: The step at which the run ends.
        progress: Whether to show a bar; None shows one where tqdm and a terminal are.
        tensorboard: Whether to write the records for TensorBoard too.
        on_record: Called with each new record.

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
        # Either package may be missing: find out before a file is opened.
        if tensorboard:
            tensorboardX = extras.load(
                "tensorboardX", "tensorboard", "`tensorboard=True`", "leave it out"
            )
        tqdm = _load_tqdm(progress)
        if directory is not None:
            self._path = directory / "metrics.jsonl"
            with _files.explain_os_errors(f"{self._path} cannot be read and written"):
                self.records = _records.read_and_trim(self._path, step)
                # Without a buffer, a failed write is not tried again on closing.
                self._file = self._path.open("ab", buffering=0)
        if tensorboard:
            self._writer = tensorboardX.SummaryWriter(
                f"{directory}/tensorboard", purge_step=step + 1
            )
        if tqdm is not None:
            self._bar = tqdm.tqdm(initial=step, total=steps, unit="step")

    def write(self, record: Record) -> None:
        """Write a record; numbers that are not finite become null, as JSON needs."""
        if self._bar is not None:
            self._bar.set_postfix(_bar_text(record), refresh=False)
        record = {name: _null_unless_finite(value) for name, value in record.items()}
        self.records.append(record)
        if self._file:
            line = json.dumps(record).encode() + b"\n"
            with self._explain_errors(
                f"The record of step {record['step']} cannot be written"
            ):
                if self._file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self._writer:
            for name, value in record.items():
                if name != "step" and isinstance(value, int | float):
                    self._writer.add_scalar(name, value, record["step"])
        if self._on_record:
            self._on_record(dict(record))

    def advance(self, steps: int) -> None:
        """Move the bar forward by a number of steps."""
        if self._bar is not None:
            self._bar.update(steps)

    def sync(self) -> None:
        """Flush the records to the disk, as a checkpoint of a later step requires."""
        if self._file:
            with self._explain_errors("The records cannot be written"):
                os.fsync(self._file.fileno())

    def _explain_errors(self, problem):
        return _files.explain_os_errors(
            f"{problem} to {self._path}",
            "Mend that and make the same call to go on from the last checkpoint.",
        )

    def close(self) -> None:
        """Close the bar and the files."""
        for each in (self._bar, self._writer, self._file):
            if each is not None:
                each.close()


def _load_tqdm(progress):
    """The module tqdm; None where no bar is to be shown."""
    if progress:
        return extras.load("tqdm", "train", "`progress=True`", "pass `progress=False`")
    has_terminal = sys.stderr is not None and sys.stderr.isatty()
    if progress is None and has_terminal:
        with contextlib.suppress(ImportError):
            return importlib.import_module("tqdm")
    return None


def _bar_text(record):
    hidden = {"step", "rate", "first_skipped"}
    if not record.get("skipped"):
        hidden.add("skipped")
    return {n: f"{value:.4g}" for n, value in record.items() if n not in hidden}


def _null_unless_finite(value):
    return None if isinstance(value, float) and not math.isfinite(value) else value
