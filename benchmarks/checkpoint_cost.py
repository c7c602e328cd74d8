"""How much of a run's time its checkpoints take: seconds, number and size, by recipe.

python benchmarks/checkpoint_cost.py PHOTOS [--recipes balanced thorough]
"""

import argparse
import tempfile
import time
from pathlib import Path

import efftune
from efftune.system import machine
from efftune.system.journal import Pace


def main() -> None:
    """Train and print a line for each recipe."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--recipes", nargs="*", default=["balanced", "thorough"])
    arguments = parser.parse_args()
    print(machine.machine(), machine.versions())
    took, written = Pace.took, list[tuple[float, int]]()

    def noted(pace: Pace, seconds: float, size: int) -> None:
        written.append((seconds, size))
        took(pace, seconds, size)

    Pace.took = noted  # type: ignore[method-assign]
    for recipe in arguments.recipes:
        written.clear()
        with tempfile.TemporaryDirectory() as place:
            began = time.perf_counter()
            efftune.train(arguments.photos, recipe=recipe, run=Path(place, "run"), on_progress=None)
            whole = time.perf_counter() - began
        spent, largest = sum(each for each, _ in written), max(size for _, size in written)
        print(
            f"{recipe:10} {whole:6.0f} s, {len(written)} checkpoints of up to {largest / 1e6:.0f} "
            f"MB in {spent:.2f} s: {spent / whole:.2%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
