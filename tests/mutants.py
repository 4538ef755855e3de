"""Change the library in small ways and see whether the tests notice: a developer tool.

    python -m tests.mutants                      # 100 mutants, two at a time
    python -m tests.mutants --count 6 --seed 1   # others
    python -m tests.mutants --baseline           # first see that all pass unchanged
    python -m tests.mutants --report             # what is known so far

A seeded draw over the loop, its adjoints, tasks and training. Each mutant is one edit
of the source (`tests/mutations.py` says of which kinds), run in a copy of the tree
against the test files of its module, up to the first failure or the time limit, either
of which kills it. Results are appended to a file as they come, so that a run can be
stopped and goes on where it was. Survivors are printed with their diff: each wants a
test, or a reason why nobody could tell.
"""

import argparse
import concurrent.futures
import difflib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from tests.mutations import Mutation, mutations

ROOT = Path(__file__).parent.parent

LOOP = "inner_loop inner_loop_transforms no_steps bad_input wrong_calls programs"
TRAIN = (
    "train_lock train_torn train_lost train train_nonfinite keys x64_switch "
    "wrong_calls train_resume"
)
COVERING = {
    "jmeta/adjoint/_active.py": "active no_steps implicit_counts shard_map programs",
    "jmeta/adjoint/_base.py": "unroll_cut adjoints active programs",
    "jmeta/adjoint/_checks.py": f"wrong_calls foreign unroll_cut adjoints {LOOP}",
    "jmeta/adjoint/_gradient.py": f"unroll_cut adjoints unroll rules {LOOP}",
    "jmeta/adjoint/_symbolic.py": "active forward implicit unroll_cut adjoints",
    "jmeta/adjoint/unroll.py": f"unroll_cut unroll_nested adjoints unroll {LOOP}",
    "jmeta/adjoint/forward.py": "forward adjoints active shard_map programs",
    "jmeta/adjoint/implicit.py": (
        "implicit implicit_counts adjoints wrong_calls linear_solve shard_map programs"
    ),
    "jmeta/adjoint/_proximal.py": "implicit wrong_calls algorithms",
    "jmeta/_loop/inner_loop.py": (
        f"{LOOP} active step_precision keys shard_map adjoints"
    ),
    "jmeta/_loop/step.py": f"{LOOP} step_precision keys hyperparams implicit adjoints",
    "jmeta/_loop/objective.py": f"bad_input unused keys wrong_calls {LOOP} adjoints",
    "jmeta/tasks.py": "tasks keys wrong_calls shard_map",
    **{
        f"jmeta/train/{path.name}": TRAIN
        for path in sorted((ROOT / "jmeta/train").glob("*.py"))
        if path.name != "__init__.py"
    },
}
"""Test files of each module, the quickest to tell first."""


def draw(count: int, seed: int) -> list[tuple[str, Mutation]]:
    """Mutants without replacement, every place in the modules as likely."""
    all_of_them = [
        (name, mutation)
        for name in COVERING
        for mutation in mutations((ROOT / name).read_text())
    ]
    return random.Random(seed).sample(all_of_them, min(count, len(all_of_them)))


def diff(name: str, mutation: Mutation) -> str:
    """What a mutant changes, as a patch without context."""
    before = (ROOT / name).read_text()
    lines = before.splitlines(), mutation.apply(before).splitlines()
    return "\n".join(difflib.unified_diff(*lines, name, name, lineterm="", n=0))


NOTHING = Mutation(0, 0, "", 0)


def run(folder: Path, name: str, mutation: Mutation, limit: float) -> str:
    """Run the covering tests in a copy: "killed", "timeout" or "survived"."""
    before = (folder / name).read_text()
    (folder / name).write_text(mutation.apply(before))
    files = [folder / f"tests/test_{test}.py" for test in COVERING[name].split()]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    command += [str(file) for file in dict.fromkeys(files) if file.exists()]
    # its own session, so that what the tests have started ends with them
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return "survived" if process.wait(limit) == 0 else "killed"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.wait()
        return "timeout"
    finally:
        (folder / name).write_text(before)


def copy(folder: Path) -> Path:
    """The tree as it is now, of what git knows or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def run_all(mutants, known: dict, results: Path, jobs: int, limit: float) -> None:
    """Run what is not known yet, `jobs` at a time, each in a copy of its own."""
    writing = threading.Lock()
    with tempfile.TemporaryDirectory() as parent:
        folders = [copy(Path(parent) / str(job)) for job in range(jobs)]

        def one(mutant: tuple[str, Mutation]) -> None:
            patch = diff(*mutant)
            with writing:
                folder = folders.pop()
            outcome = run(folder, *mutant, limit)
            with writing:
                folders.append(folder)
                known[patch] = outcome
                with results.open("a") as file:
                    file.write(json.dumps([patch, outcome]) + "\n")
                print(f"{len(known)} {outcome}: {mutant[0]}: {mutant[1]}", flush=True)

        left = [mutant for mutant in mutants if diff(*mutant) not in known]
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            list(pool.map(one, left))


def baseline(limit: float) -> None:
    """Refuse to go on unless every module's tests pass as it is."""
    with tempfile.TemporaryDirectory() as folder:
        copy(Path(folder))
        for name in {tests: name for name, tests in COVERING.items()}.values():
            if run(Path(folder), name, NOTHING, limit) != "survived":
                raise SystemExit(f"The tests of {name} fail as it is.")


def report(mutants, known: dict) -> str:
    """How many of the mutants were killed, and the diffs of those that were not."""
    done = [diff(*mutant) for mutant in mutants if diff(*mutant) in known]
    alive = [patch for patch in done if known[patch] == "survived"]
    total = f"{len(done) - len(alive)} of {len(done)} were killed."
    return "\n\n".join([*alive, total])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Draw mutants and run them.")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--limit", type=float, default=900, help="seconds for each")
    parser.add_argument("--results", type=Path, default=Path("out/mutants.jsonl"))
    parser.add_argument("--baseline", action="store_true", help="first without any")
    parser.add_argument("--report", action="store_true", help="run nothing")
    args = parser.parse_args(argv)
    args.results.parent.mkdir(parents=True, exist_ok=True)
    args.results.touch()
    known = dict(map(json.loads, args.results.read_text().splitlines()))
    if args.baseline:
        baseline(args.limit)
    mutants = draw(args.count, args.seed)
    if not args.report:
        run_all(mutants, known, args.results, args.jobs, args.limit)
    print(report(mutants, known))


if __name__ == "__main__":
    main()
