"""One picture a call: the time and memory of `Classifier.predict`.

    python benchmarks/predict_calls.py RUN PHOTO [--calls 10000]

Prints, for five rounds, the milliseconds of a call, of decoding the picture, and of the network
alone on the decoded picture, with the ratio; then what the calls added to the resident memory.
"""

import argparse
import gc
import time
from collections.abc import Callable
from pathlib import Path

import psutil

import efftune
from efftune.data import images, picture_bytes
from efftune.system import machine

ROUNDS, TIMED = 5, 200
SETTLED = 500  # calls before memory is measured: allocators keep what the first ones needed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--calls", type=int, default=10_000)
    options = parser.parse_args()
    classifier, photo = efftune.load(options.run), options.photo
    print(machine.machine(), machine.versions(), sep="\n")

    def decode() -> images.Pixels:
        return images.decode(picture_bytes.read(photo), classifier.image_size, classifier.fit)

    pixels = decode()[None]
    compiled = classifier._network.compiled
    for _ in range(ROUNDS):
        call = milliseconds(lambda: classifier.predict(photo))
        parts = milliseconds(decode), milliseconds(lambda: compiled(pixels))
        print(
            f"call {call:.2f} ms, decode {parts[0]:.2f} ms, network {parts[1]:.2f} ms, "
            f"ratio {call / sum(parts):.2f}"
        )
    before = after = 0
    for number in range(SETTLED + options.calls):
        if number == SETTLED:
            before = resident()
        classifier.predict(photo)
    after = resident()
    print(f"{options.calls:,} calls: {(after - before) / 2**20:+.2f} MiB")


def milliseconds(call: Callable[[], object]) -> float:
    call()
    start = time.perf_counter()
    for _ in range(TIMED):
        call()
    return 1000 * (time.perf_counter() - start) / TIMED


def resident() -> int:
    gc.collect()
    return psutil.Process().memory_info().rss


if __name__ == "__main__":
    main()
