"""Which epoch to keep: what several rules pick on some pictures is worth on others.

Trains `balanced` on the clothing photos, training and validation photos cut anew for each seed,
and keeps the validation logits of every epoch. Then, 200 times, one random half of the validation
photos picks an epoch and the other half judges it. Test pictures are not looked at.

    make bench NAME=which_epoch ARGS="--seeds 2 3 4 5"
"""

import argparse
from collections.abc import Callable
from unittest import mock

import numpy as np

from ablations import CLOTHING, measured
from efftune.training import stages, validation
from efftune.training.validation import Epoch

Logits = list[np.ndarray]  # by epoch, the state before training first
HALVES = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[2, 3, 4, 5])
    seeds = parser.parse_args().seeds
    runs = [epochs_of(seed) for seed in seeds]
    report(runs)


def epochs_of(seed: int) -> tuple[Logits, np.ndarray]:
    """Train once; the validation logits of each epoch, and the labels."""
    kept: Logits = []
    labels: list[np.ndarray] = []

    def spy(logits: np.ndarray, truth: np.ndarray) -> tuple[float, float, float]:
        kept.append(logits)
        labels.append(truth)
        return validation_metrics(logits, truth)

    validation_metrics = validation.validation_metrics
    with mock.patch.object(stages, "verdict", spy):
        print(*measured("balanced", {}, CLOTHING, seed), flush=True)
    return kept, labels[0]


def report(runs: list[tuple[Logits, np.ndarray]]) -> None:
    """Mean over runs and halves of what each rule's choice is worth on the other half."""
    random = np.random.default_rng(0)
    worth: dict[str, list[np.ndarray]] = {rule: [] for rule in RULES}
    for logits, labels in runs:
        found: dict[str, list[tuple[float, float]]] = {rule: [] for rule in RULES}
        for _ in range(HALVES):
            order = random.permutation(len(labels))
            mine, others = np.array_split(order, 2)
            states = [judged(i, each[mine], labels[mine]) for i, each in enumerate(logits)]
            for rule, pick in RULES.items():
                chosen = logits[pick(states, len(mine))][others]
                state = judged(0, chosen, labels[others])
                found[rule].append((state.val_accuracy, state.val_loss))
        for rule in RULES:
            worth[rule].append(np.mean(found[rule], axis=0))
    print("| kept epoch | accuracy | log-loss |\n|---|--:|--:|")
    for rule in RULES:
        values = np.array(worth[rule])
        mean, spread = values.mean(axis=0), values.std(axis=0, ddof=1)
        print(f"| {rule} | {mean[0]:.4f} ± {spread[0]:.4f} | {mean[1]:.4f} ± {spread[1]:.4f} |")


def judged(number: int, logits: np.ndarray, labels: np.ndarray) -> Epoch:
    """An epoch's record, as far as the rules need it."""
    loss, accuracy, sharp = validation.validation_metrics(logits, labels)
    return Epoch("upper", number, 0.0, 0.0, 0.0, loss, accuracy, 0.0, sharp)


def ours(states: list[Epoch], pictures: int) -> int:
    """As a stage does."""
    best, top = states[0], states[0].val_accuracy
    for state in states[1:]:
        top = max(top, state.val_accuracy)
        if validation.is_better(state, best, top, pictures):
            best = state
    return best.number


RULES: dict[str, Callable[[list[Epoch], int], int]] = {
    "highest accuracy": lambda states, _n: (
        max(states, key=lambda state: (state.val_accuracy, -state.val_loss)).number
    ),
    "lowest log-loss": lambda states, _n: min(states, key=lambda state: state.val_loss).number,
    "sharpest of the equally accurate (kept)": ours,
    "the last": lambda states, _n: states[-1].number,
}


if __name__ == "__main__":
    main()
