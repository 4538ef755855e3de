"""Print a program, or run those of a range of seeds: `python -m tests.programs 0 50`.

Two numbers run programs and say how many agree, one number prints its program.
"""

import os
import sys

os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0 "
    + os.environ.get("XLA_FLAGS", "")
)

import jax

from tests.programs.run import check
from tests.programs.write import whole


def main(first: int, last: int) -> None:
    failed = []
    for seed in range(first, last):
        try:
            with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
                check(seed)
        except AssertionError as failure:
            failed.append(seed)
            print(failure, flush=True)
        # each compiles what no other one uses
        jax.clear_caches()
    print(f"{last - first - len(failed)} agree, {len(failed)} do not: {failed}")


if __name__ == "__main__":
    seeds = [int(argument) for argument in sys.argv[1:]]
    if len(seeds) == 1:
        print(whole(*seeds))
    else:
        main(*seeds)
