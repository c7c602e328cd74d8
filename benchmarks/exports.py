"""Exported files of every model beside the classifier each was made from, on a run's own pictures.

Trains a head on frozen features (`quick`) of each model, or one epoch from random weights where no
others are here, exports it, has efftune load the file, and prints a line for each format: size,
share of the same first answers, largest gap of a probability, accuracy before and after,
milliseconds and how long the export took.

    python benchmarks/exports.py PHOTOS [--models efficientnet-b0 …] [--formats onnx,openvino …]
        [--image-size 64] [--options "--recipe thorough"] [--out exports.csv]
"""

import argparse
import csv
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import efftune
from efftune.system import machine

FROM_SCRATCH = "--recipe scratch --set scratch_epochs=1"
FORMATS = "onnx,openvino,litert,savedmodel"
COLUMNS = (
    *("model", "format", "way", "megabytes", "pictures", "agreement", "gap", "before", "after"),
    *("in application", "ms", "seconds"),
)


def main() -> None:
    """Train, export and print a line for each model and format."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--models", nargs="*", default=[each.name for each in efftune.models()])
    parser.add_argument("--formats", default=FORMATS)
    parser.add_argument("--image-size", type=int, default=0)
    parser.add_argument("--options", default="--recipe quick")
    parser.add_argument("--run", type=Path, help="export this run instead")
    parser.add_argument("--out", type=Path, default=Path("exports.csv"))
    arguments = parser.parse_args()
    print(f"{machine.machine()}\n{machine.versions()}\n")
    with arguments.out.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        for model in [str(arguments.run)] if arguments.run else arguments.models:
            with tempfile.TemporaryDirectory() as place:
                run = arguments.run or trained(arguments, model, Path(place, "run"))
                for row in exported(run, arguments.formats.split(","), Path(place, "out")):
                    values = {"model": model, **row}
                    writer.writerow(values)
                    stream.flush()
                    print("  ".join(str(values[each]) for each in COLUMNS), flush=True)


def trained(arguments: argparse.Namespace, model: str, run: Path) -> Path:
    """A run with a model."""
    known = {each.name: each for each in efftune.models()}
    size = ["--image-size", str(arguments.image_size)] if arguments.image_size else []
    words = ["train", arguments.photos, "--model", model, "--run", run, "-q"]
    options = arguments.options if known[model].weights.path else FROM_SCRATCH
    command = [sys.executable, "-m", "efftune", *words, *size, *options.split()]
    subprocess.run([str(each) for each in command], check=True, stdout=subprocess.DEVNULL)
    return run


def exported(folder: Path, formats: list[str], into: Path) -> "list[dict[str, object]]":
    """A row for each format."""
    run, rows = efftune.Run.load(folder), list[dict[str, object]]()
    for name in formats:
        began = time.perf_counter()
        try:
            (made,) = run.export(name, into, on_progress=None)
            if name != "savedmodel":
                efftune.load(made.path)  # which checks it as a file from others
        except efftune.DataError as error:
            rows.append(dict.fromkeys(COLUMNS[1:], "") | {"format": name, "way": str(error)})
            continue
        receipt, last = made.receipt, made.receipt.same_pixels[-1]
        rows.append(
            {
                "format": name,
                "way": " → ".join(each.way for each in receipt.attempts),
                "megabytes": round(receipt.bytes / 1e6, 1),
                "pictures": sum(each.pictures for each in receipt.same_pixels),
                "agreement": [round(each.agreement, 4) for each in receipt.same_pixels],
                "gap": f"{max(each.largest_gap for each in receipt.same_pixels):.1e}",
                "before": last.accuracy_before and round(last.accuracy_before, 4),
                "after": last.accuracy and round(last.accuracy, 4),
                "in application": receipt.application_pixels
                and round(receipt.application_pixels[-1].accuracy or 0, 4),
                "ms": receipt.ms,
                "seconds": round(time.perf_counter() - began),
            }
        )
    return rows


if __name__ == "__main__":
    main()
