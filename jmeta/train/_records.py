"""The records in `metrics.jsonl` that stay valid when a run goes on."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

from jmeta.train import _files

Record = dict[str, Any]


def read_and_trim(path: Path, step: int) -> list[Record]:
    """Read the records up to `step`, and cut everything else out of the file.

    Records after `step` come from a process that was killed after its last checkpoint.
    Lines that are no records (zeros after a power cut, bytes of something else) or that
    repeat a step are cut out with a warning. The file as it was is then copied to the
    folder `damaged`.

    Args:
        path: The file.
        step: The step that the run goes on from.

    Returns:
        The records that are kept, in order of their steps.

    Raises:
        OSError: The file cannot be read or written.
    """
    if not path.exists():
        return []
    raw = path.read_bytes()
    # A process killed while it wrote leaves half a line at the end.
    end = raw.rfind(b"\n") + 1
    kept, records = b"", list[Record]()
    is_whole = True
    for line in raw[:end].splitlines(keepends=True):
        bare = line.lstrip(b"\0")
        record = _parsed(bare)
        last = records[-1]["step"] if records else -1
        if record is None or record["step"] <= last:
            is_whole = False
        elif record["step"] <= step:
            is_whole &= bare == line
            kept += bare
            records.append(record)
    if is_whole:
        with path.open("rb+") as file:
            file.truncate(len(kept))
        return records
    aside = _files.path_in_damaged(path, path.parent)
    shutil.copyfile(path, aside)
    _files.write_through(path, kept)
    warnings.warn(
        f"{path} had lines that are no records of one run (zeros, halves, repetitions):"
        f" they were left out, and the file as it was is {aside}.",
        stacklevel=5,
    )
    return records


def _parsed(line: bytes) -> Record | None:
    try:
        record = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    is_record = isinstance(record, dict) and type(record.get("step")) is int
    return record if is_record else None
