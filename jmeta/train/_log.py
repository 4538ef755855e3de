"""What a run tells: JSON lines, TensorBoard, a progress bar."""

import json
import math
import os
from pathlib import Path
from typing import Any

from jmeta.train import _extras

Record = dict[str, Any]


class Log:
    """The records of a run and where they go.

    Args:
        directory: Of the run: `metrics.jsonl` and `tensorboard` in it; or None.
        step: The step that the run goes on from; what was recorded later is dropped.
        steps: Where the run ends.
        progress: Show a bar.
        tensorboard: Write for TensorBoard.
    """

    def __init__(
        self,
        directory: Path | None,
        step: int,
        steps: int,
        progress: bool,
        tensorboard: bool,
    ) -> None:
        self.records: list[Record] = []
        self._file = self._writer = self._bar = None
        # before anything is opened, since either may be missing
        if tensorboard:
            tensorboardX = _extras.load(
                "tensorboardX", "tensorboard", "`tensorboard=True`", "leave it out"
            )
        if progress:
            tqdm = _extras.load(
                "tqdm", "examples", "`progress=True`", "pass `progress=False`"
            )
        if directory is not None:
            path = directory / "metrics.jsonl"
            self.records = _keep_until(path, step)
            self._file = path.open("a")
        if tensorboard:
            folder = str(directory / "tensorboard") if directory else None
            self._writer = tensorboardX.SummaryWriter(folder, purge_step=step + 1)
        if progress:
            self._bar = tqdm.tqdm(initial=step, total=steps, unit="step")

    def write(self, record: Record) -> None:
        """Keep a record; JSON has no number that is not finite, so it becomes null."""
        if self._bar is not None:
            self._bar.set_postfix(_shown(record), refresh=False)
        record = {name: _finite(value) for name, value in record.items()}
        self.records.append(record)
        if self._file:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        if self._writer:
            for name, value in record.items():
                if name != "step" and isinstance(value, int | float):
                    self._writer.add_scalar(name, value, record["step"])

    def advance(self, steps: int) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(steps)

    def sync(self) -> None:
        """Have the lines on the disk before a checkpoint that comes after them."""
        if self._file:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """End the bar and the files."""
        for each in (self._bar, self._writer, self._file):
            if each is not None:
                each.close()


def _keep_until(path: Path, step: int) -> list[Record]:
    """Cut the file after the last whole record up to `step`, and give the records."""
    if not path.exists():
        return []
    records, end = [], 0
    with path.open("rb+") as file:
        for line in file:
            if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                break
            records.append(json.loads(line))
            end += len(line)
        file.truncate(end)
    return records


def _shown(record):
    hidden = {"step", "rate", "first_skipped"}
    if not record.get("skipped"):
        hidden.add("skipped")
    return {n: f"{value:.4g}" for n, value in record.items() if n not in hidden}


def _finite(value):
    return None if isinstance(value, float) and not math.isfinite(value) else value
