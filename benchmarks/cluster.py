"""Workers of a Ray cluster: speed of two nodes against one, overhead, and runs that lose workers.

`nodes`: a Ray cluster on this machine whose nodes have one processor each, to which they are bound;
`quick` from an empty cache, with one node and with two, in turn. The seconds are those of the
phases in which workers compute: `inspect` (decode, measure), `features` (decode, frozen network).
`folds`: fine-tuning with four folds, six epochs each, by two such nodes, and by this process with
both processors. `overhead`: whole commands from an empty cache, `efftune train SOURCE --recipe
RECIPE` with and without `--cluster local:2`, in turn. `losses`: in each of 20 runs a worker or a
node is killed at a moment drawn at random; the result must be that of this process alone.

    python benchmarks/cluster.py SOURCE [--only nodes] [--repeats 3] [--recipe balanced]
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import psutil

from efftune.system import cluster, machine

FILES = ("evaluation.json", "predictions.csv", "examples.csv")
PHASES = ("inspect", "features")
CHOICES = {"recipe": "quick", "precision": "f32", "seed": 1, "on_progress": None}


class Nodes:
    """A Ray cluster with a head without processors, and nodes with one processor each."""

    def __init__(self, count: int):
        from ray.cluster_utils import Cluster

        self.cluster = Cluster()
        self.cluster.add_node(num_cpus=0, include_dashboard=False, object_store_memory=2**28)
        self.nodes = [self.add() for _ in range(count)]

    def add(self):
        """Another node."""
        return self.cluster.add_node(num_cpus=1, object_store_memory=2**28)

    def raylets(self) -> list[psutil.Process]:
        """The process of each node that starts workers."""
        return [psutil.Process(x.all_processes["raylet"][0].process.pid) for x in self.nodes]

    def bind(self) -> None:
        """Bind each node, and the workers that it starts, to a processor of its own."""
        for processor, raylet in enumerate(self.raylets()):
            for process in (raylet, *raylet.children(recursive=True)):
                process.cpu_affinity([processor])

    def kill_worker(self) -> bool:
        """Kill a worker, if there is one."""
        children = [x for raylet in self.raylets() for x in raylet.children(recursive=True)]
        found = [child for child in children if "Worker" in "".join(child.cmdline()[:1])]
        if found:
            random.choice(found).kill()
        return bool(found)

    def kill_node(self) -> bool:
        """Kill a node."""
        self.cluster.remove_node(self.nodes.pop(), allow_graceful=False)
        return True


@contextmanager
def empty_cache() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as place:
        os.environ["EFFTUNE_CACHE"] = f"{place}/cache"
        yield Path(place)


def of_nodes(source: str, repeats: int) -> None:
    import keras  # noqa: F401  (as commands do, while pictures are inspected)

    import efftune

    found: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(repeats):
        for count, times in found.items():
            nodes = Nodes(count)
            nodes.bind()
            with empty_cache() as place, efftune.cluster(nodes.cluster.address):
                while cluster.is_starting() or cluster.current().count < count:
                    time.sleep(0.1)
                run = efftune.train(source, run=place / "run", **CHOICES)
                took = sum(run.record["seconds"][phase] for phase in PHASES)
            nodes.cluster.shutdown()
            times.append(took)
            print(count, "nodes", round(took, 2), run.record["cluster"], flush=True)
    ratios = [one / two for one, two in zip(found[1], found[2], strict=True)]
    show("2 nodes against 1", ratios)


def of_folds(source: str, repeats: int) -> None:
    import efftune
    from efftune.evaluation import out_of_fold

    out_of_fold.is_hopeless = lambda *_: False  # else it ends early where few epochs are too few
    ratios = []
    for _ in range(repeats):
        seconds = []
        for count in (0, 2):
            nodes = Nodes(2) if count else None
            where = efftune.cluster(nodes.cluster.address) if nodes else nullcontext()
            if nodes:
                nodes.bind()
            with empty_cache() as place, where:
                while nodes and (cluster.is_starting() or cluster.current().count < count):
                    time.sleep(0.1)
                choices = CHOICES | {"recipe": "balanced", "folds": 4, "epochs": 6}
                run = efftune.train(source, run=place / "run", **choices)
            if nodes:
                nodes.cluster.shutdown()
            seconds.append(run.record["seconds"]["upper"])
            print(count, "nodes", seconds[-1], run.record["stages"], flush=True)
        ratios.append(seconds[1] / seconds[0])
    show("training with 2 nodes against alone, on the same processors", ratios)


def overhead(source: str, repeats: int, recipe: str) -> None:
    found: dict[str, list[float]] = {"": [], "local:2": []}
    for _ in range(repeats):
        for where, times in found.items():
            with empty_cache() as place:
                command = [sys.executable, "-m", "efftune", "train", source, "--recipe", recipe]
                command += ["--run", f"{place}/run", "--quiet"]
                command += ["--cluster", where] if where else []
                start = time.perf_counter()
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                times.append(time.perf_counter() - start)
                seconds = json.loads(Path(place, "run/run.json").read_text())["seconds"]
            print(where or "alone", round(times[-1], 1), seconds, flush=True)
    ratios = [two / one for one, two in zip(found[""], found["local:2"], strict=True)]
    show(f"{recipe} with local:2 against alone", ratios)


def losses(source: str, runs: int, count: int) -> None:
    import efftune

    warnings.simplefilter("ignore")
    with empty_cache() as place:
        alone = efftune.train(source, run=place / "run", **CHOICES)
        expected = {name: (alone.folder / name).read_bytes() for name in FILES}
    nodes = Nodes(count)
    same = 0
    for number in range(runs):
        kind: Callable[[], bool] = (nodes.kill_worker, nodes.kill_node)[number % 2]
        phase, share = PHASES[number // 2 % 2], random.Random(number).uniform(0.1, 0.6)
        killed: list[str] = []

        def on_progress(name: str, done: int, total: int) -> None:
            if name == phase and total and done >= share * total and not killed:  # noqa: B023
                killed.append(f"{name} {done} of {total}")  # noqa: B023
                threading.Thread(target=kind).start()  # noqa: B023

        with empty_cache() as place, efftune.cluster(nodes.cluster.address):
            while cluster.is_starting() or cluster.current().count < count:
                time.sleep(0.1)
            choices = CHOICES | {"on_progress": on_progress}
            run = efftune.train(source, run=place / "run", **choices)
            is_same = expected == {name: (run.folder / name).read_bytes() for name in FILES}
        same += is_same
        while len(nodes.nodes) < count:
            nodes.nodes.append(nodes.add())
        lost, told = run.record["cluster"]["lost"], "same" if is_same else "OTHER"
        print(number, kind.__name__, killed, "lost", lost, told, flush=True)
    print(f"{same} of {runs} runs that lost a worker or a node end as one alone")
    nodes.cluster.shutdown()


def show(name: str, ratios: list[float]) -> None:
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    print(f"{name}: {statistics.median(ratios):.2f} times ({spread}, {len(ratios)} times)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source")
    parser.add_argument("--only", choices=("nodes", "folds", "overhead", "losses"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--recipe", default="balanced")
    parser.add_argument("--runs", type=int, default=20, help="that lose a worker or a node")
    parser.add_argument("--nodes", type=int, default=2, help="that these have")
    arguments = parser.parse_args()
    print(f"{machine.machine()}\n{machine.versions()}\n")
    if arguments.only in (None, "overhead"):
        overhead(arguments.source, arguments.repeats, arguments.recipe)
    os.environ.update(cluster.LOOPBACK)  # before Ray is imported
    if arguments.only in (None, "nodes"):
        of_nodes(arguments.source, arguments.repeats)
    if arguments.only in (None, "folds"):
        of_folds(arguments.source, arguments.repeats)
    if arguments.only in (None, "losses"):
        losses(arguments.source, arguments.runs, arguments.nodes)


if __name__ == "__main__":
    main()
