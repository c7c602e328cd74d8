"""How long a run takes on a cluster, and what it needs, by a simulation with measured costs.

The machine of the command hands out batches of pictures, one after the other; each worker computes
a batch at a time, and now and then is lost, so that its batch is computed again and a new worker
starts. What no worker does is added: finding files, comparing thumbnails, the head, and training.
The costs are those of *clothing*'s photos (400 × 533 pixels, 28 kB) and EfficientNet-Lite0 at 224
pixels on one core of a server (AMD EPYC with AVX-512 and bfloat16); `COSTS` says where each was
measured. The table shows hours, and the largest part of them.

    python benchmarks/scale.py [--recipe quick] [--head-cores 16] [--losses-a-day 0.5]
"""

import argparse
import heapq
import random
from dataclasses import dataclass

BATCH = 32  # pictures sent at a time
MOST_BATCHES = 20_000  # simulated; the time of more is in proportion
RESTART_SECONDS = 10.0  # until a new worker computes


@dataclass(frozen=True)
class Costs:
    """Milliseconds per picture, of one core unless noted; bytes per picture."""

    find: float = 0.116  # results.md, "Finding copies": 116 s for a million
    look: float = 1.5  # decode and measure; `cluster.py --only nodes`
    features: float = 8.0  # decode and frozen network, bfloat16: 15.1 s of 2 cores for 3,781 photos
    view: float = 3.9  # an augmented view as activations: 17.9 s of 2 cores for 9,204 views
    hand_out_look: float = 0.14  # this process's own time for a picture that a worker looks at
    hand_out_features: float = 0.19  # the same, for one that it computes
    compare: float = 0.61  # of a million: 305 s of 2 cores; grows with the power below
    compare_power: float = 0.53  # 9 s of 2 cores for 100,000
    head: float = 0.046  # 300,000 pictures of 10 classes: 14 s on 2 cores
    step: float = 12.2  # of training from block 5: 75 s of 2 cores for 4 epochs of 3,068 photos
    memory: int = 1_570  # of the machine of the command: `check` of a million
    memory_head: int = 2_900  # 512 components, float32, and the solver's own
    disk_features: int = 7_000  # 1,744 values, float32
    disk_view: int = 31_400  # activations at block 5, float16
    picture: int = 28_000


COSTS = Costs()
RECIPES = {"quick": (0, 0), "balanced": (2, 3)}  # views and epochs, with many pictures


def passed(pictures: int, workers: int, milliseconds: float, own: float, losses: float) -> float:
    """Seconds in which workers compute a pass over pictures.

    Args:
        pictures: their number.
        workers: one core each.
        milliseconds: of a worker, for a picture.
        own: of the machine of the command, for a picture.
        losses: workers lost a day, each.
    """
    batches = -(-pictures // BATCH)
    simulated = min(batches, max(MOST_BATCHES, 20 * workers))
    drawn, free = random.Random(0), [0.0] * min(workers, simulated)
    handed_out = finished = 0.0
    rate = losses / 86_400
    left = simulated
    while left:
        ready = heapq.heappop(free)
        handed_out = max(handed_out, ready) + BATCH * own / 1e3
        takes = BATCH * milliseconds / 1e3 * drawn.lognormvariate(0, 0.15)
        if rate and drawn.random() < takes * rate:
            lost = handed_out + takes * drawn.random()
            heapq.heappush(free, lost + RESTART_SECONDS)
            continue
        finished = max(finished, handed_out + takes)
        heapq.heappush(free, handed_out + takes)
        left -= 1
    return finished * batches / simulated


def phases(
    pictures: int, workers: int, recipe: str, head_cores: int, losses: float
) -> dict[str, float]:
    """Seconds of each phase of a run."""
    views, epochs = RECIPES[recipe]
    c, thousandth = COSTS, pictures / 1e3
    compare = c.compare * (pictures / 1e6) ** c.compare_power if pictures > 30_000 else 0.05
    found = {
        "find": thousandth * c.find,
        "look": passed(pictures, workers, c.look, c.hand_out_look, losses),
        "compare": thousandth * compare / head_cores,
        "features": passed(pictures, workers, c.features, c.hand_out_features, losses),
        "head": 2 + thousandth * c.head,
    }
    if views:
        own = c.hand_out_features * (1 + views)
        found["views"] = passed(pictures, workers, views * c.view, own, losses)
        found["training"] = thousandth * epochs * c.step / head_cores
    return found


def needs(pictures: int, recipe: str) -> tuple[float, float, float]:
    """GB of pictures, of memory, and of the cache's disk, on the machine of the command."""
    views, _ = RECIPES[recipe]
    memory = 1e9 + pictures * max(COSTS.memory, COSTS.memory_head)
    disk = pictures * (2 * COSTS.disk_features + views * COSTS.disk_view)
    return pictures * COSTS.picture / 1e9, memory / 1e9, disk / 1e9


def shown(seconds: float) -> str:
    """A duration as people read it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", choices=RECIPES, action="append")
    parser.add_argument("--workers", default="1,10,100,320,1000")
    parser.add_argument("--head-cores", type=int, default=16)
    parser.add_argument("--losses-a-day", type=float, default=0.5, help="of each worker")
    arguments = parser.parse_args()
    counts = [int(word) for word in arguments.workers.split(",")]
    given = arguments.head_cores, arguments.losses_a_day
    for recipe in arguments.recipe or RECIPES:
        print(f"\n`{recipe}`, {given[0]} cores where the command runs\n")
        heads = [f"{count:,} worker{'s' * (count > 1)}" for count in counts]
        print("| photos | " + " | ".join([*heads, "GB of photos", "memory", "cache"]) + " |")
        print("|--:" * (len(counts) + 4) + "|")
        for power in range(4, 9):
            cells = []
            for count in counts:
                found = phases(10**power, count, recipe, *given)
                largest = max(found, key=found.__getitem__)
                cells.append(f"{shown(sum(found.values()))} ({largest})")
            values = needs(10**power, recipe)
            size = [f"{v:,.0f} GB" if v >= 100 else f"{v:.3g} GB" for v in values]
            print(f"| {10**power:,} | " + " | ".join([*cells, *size]) + " |")


if __name__ == "__main__":
    main()
