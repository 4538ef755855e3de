"""Measure candidates side by side, compare what they give, report and record."""

import argparse
import gc
import importlib.metadata
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from _memory import peak_growth

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("jmeta", "jax", "jaxlib", "numpy", "torch", "higher", "torchopt")


class Candidate(NamedTuple):
    """One way to do the job, ready to run.

    Attributes:
        run: Does it once and waits for the result.
        read: What `run` gave as a tree of numpy arrays, to compare; None: do not.
        temp_bytes: Temporary memory that the compiler says it needs; None: unknown.
    """

    run: Callable[[], Any]
    read: Callable[[Any], Any] | None = None
    temp_bytes: int | None = None


class Row(NamedTuple):
    """What was measured of a candidate; times in seconds, None what was not.

    Attributes:
        case: What distinguishes this problem from the script's others.
        name: Which candidate.
        cpu: CPU time of a run, all threads, median.
        wall: Wall time of a run, median.
        first: CPU time of making it: tracing, compiling and the first run.
        temp_bytes: As in `Candidate`.
        peak_bytes: Growth of the process's (on CUDA: the device's) peak memory in a
            run; memory that an earlier run left to the allocator does not count.
        error: Largest distance of a gradient from the first candidate's, as a share
            of its norm.
        note: Why there are no numbers.
    """

    case: str
    name: str
    cpu: float | None = None
    wall: float | None = None
    first: float | None = None
    temp_bytes: int | None = None
    peak_bytes: int | None = None
    error: float | None = None
    note: str = ""

    def seconds(self) -> float | None:
        """CPU time, or wall time where the work is an accelerator's."""
        return self.cpu if jax.default_backend() == "cpu" else self.wall


def options(
    doc: str | None, argv: Sequence[str] | None, **extra: Any
) -> argparse.Namespace:
    """Read the command line and pin the process to `--cores` cores.

    To be called before the first JAX operation, which makes the thread pool.

    Args:
        doc: The script's docstring.
        argv: The command line, None for the process's.
        **extra: The script's own options, name to `add_argument`'s keywords.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--cores", type=int, default=1, help="pin to so many; 0: do not"
    )
    parser.add_argument("--repeats", type=int, default=7, help="the median of so many")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, no claims")
    parser.add_argument("--no-peers", action="store_true", help="jmeta and JAX only")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for results")
    for name, keywords in extra.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **keywords)
    args = parser.parse_args(argv)
    if args.quick:
        args.repeats = 1
    if args.cores:
        pin(args.cores)
    return args


def pin(cores: int) -> None:
    """Keep this process, its JAX and its torch, to the last so many cores."""
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, allowed[-cores:])
    if cores == 1:
        flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(cores)


def compiled(f: Callable[..., Any], *args: Any, gradients: bool = True) -> Candidate:
    """Compile a JAX function ahead of time for these arguments."""
    args = jax.device_put(args)
    # what torch does; JAX would use TensorFloat-32 on a GPU
    with jax.default_matmul_precision("highest"):
        program = jax.jit(f).lower(*args).compile()
    return Candidate(
        run=lambda: jax.block_until_ready(program(*args)),
        read=(lambda result: jax.tree.map(np.asarray, result)) if gradients else None,
        temp_bytes=program.memory_analysis().temp_size_in_bytes,
    )


def measure(
    case: str,
    makers: dict[str, Callable[[], Candidate]],
    *,
    repeats: int,
    tolerance: float,
    patience: float = 15.0,
) -> list[Row]:
    """Make, check and time candidates; their runs alternate.

    Args:
        case: See `Row`.
        makers: Candidates by name, the reference of the comparison first. One that
            raises ImportError becomes a row that says so.
        repeats: Runs of each; a run of less than 20 ms is several.
        tolerance: Most that a gradient may be off, as a share of its norm.
        patience: Seconds of CPU time after which three runs must do.

    Raises:
        AssertionError: Gradients that disagree.
    """
    rows: dict[str, Row] = {}
    ready: dict[str, Candidate] = {}
    expected = None
    for name, make in makers.items():
        print(f"... {case} {name}", file=sys.stderr, flush=True)
        start = time.process_time()
        try:
            candidate = make()
        except ImportError as error:
            rows[name] = Row(case, name, note=f"not installed: {error.name}")
            continue
        result = candidate.run()
        first = time.process_time() - start
        error = None
        if candidate.read:
            gradients = candidate.read(result)
            expected = gradients if expected is None else expected
            error = disagreement(gradients, expected)
            assert error <= tolerance, (
                f"{case}: the gradients of {name} are off by {error:.2g} of their norm,"
                f" allowed {tolerance:g}"
            )
        del result
        ready[name] = candidate
        rows[name] = Row(
            case, name, first=first, temp_bytes=candidate.temp_bytes, error=error
        )
    times = {name: _Times(candidate.run) for name, candidate in ready.items()}
    for _ in range(repeats):
        for sample in times.values():
            enough = len(sample.cpu) >= 3 and sum(sample.cpu) > patience
            if len(sample.cpu) < repeats and not enough:
                sample.take()
    for name, sample in times.items():
        cpu, wall = sample.medians()
        peak = peak_growth(ready[name].run)
        rows[name] = rows[name]._replace(cpu=cpu, wall=wall, peak_bytes=peak)
    return list(rows.values())


class _Times:
    def __init__(self, run):
        self.run, self.cpu, self.wall, self.number = run, [], [], 1
        self.take()
        self.number = max(1, int(0.02 / self.wall[0]))
        if self.number > 1:
            self.cpu, self.wall = [], []

    def take(self):
        gc.collect()
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(self.number):
            self.run()
        self.cpu.append((time.process_time() - cpu) / self.number)
        self.wall.append((time.perf_counter() - wall) / self.number)

    def medians(self):
        return statistics.median(self.cpu), statistics.median(self.wall)


def disagreement(gradients: Any, expected: Any) -> float:
    """Largest distance of a leaf, as a share of its norm, over the names in both."""
    names = [name for name in expected if name in gradients]
    assert names, f"nothing to compare: {list(gradients)} and {list(expected)}"
    worst = 0.0
    for name in names:
        pairs = zip(
            jax.tree.leaves(gradients[name]),
            jax.tree.leaves(expected[name]),
            strict=True,
        )
        for got, want in pairs:
            assert got.shape == want.shape, (name, got.shape, want.shape)
            got, want = got.astype(np.float64), want.astype(np.float64)
            distance = np.linalg.norm(got - want) / np.linalg.norm(want)
            # NaN is larger than any tolerance
            worst = max(worst, float(distance) if distance == distance else np.inf)
    return worst


def machine(cores: int) -> dict[str, Any]:
    """Where and with what the numbers were measured."""
    device = jax.devices()[0]
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    name = device.device_kind if device.platform != "cpu" else _processor()
    return {
        "device": name,
        "platform": device.platform,
        "cores": cores or len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 1),
        "versions": versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "cpu"
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return names[0] if names else "cpu"


def record(
    script: str, out: Path, where: dict[str, Any], lines: list[dict[str, Any]]
) -> None:
    """Append to `<out>/<script>.jsonl`."""
    out.mkdir(parents=True, exist_ok=True)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with (out / f"{script}.jsonl").open("a") as file:
        for line in lines:
            entry = {"time": stamp, **line, **where}
            file.write(json.dumps({k: v for k, v in entry.items() if v is not None}))
            file.write("\n")
