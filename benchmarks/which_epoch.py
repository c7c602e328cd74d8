"""Which epoch to keep: compares selection rules on held-out pictures.

Trains `balanced` on the clothing photos, with training and validation photos split again for each
seed, and records the validation logits of every epoch. Then, 200 times, each rule selects an epoch
on a random half of the validation photos and is evaluated on the other half. The test split is not
used.

    make bench NAME=which_epoch ARGS="--seeds 2 3 4 5"
"""

import argparse
from collections.abc import Callable
from unittest import mock

import numpy as np

from ablations import CLOTHING, measure
from efftune.training import stages, validation
from efftune.training.validation import Epoch

Logits = list[np.ndarray]  # by epoch; the first is the state before training
HALVES = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[2, 3, 4, 5])
    seeds = parser.parse_args().seeds
    runs = [epochs_of(seed) for seed in seeds]
    report(runs)


def epochs_of(seed: int) -> tuple[Logits, np.ndarray]:
    """Train once; returns the validation logits of each epoch, and the labels."""
    recorded: Logits = []
    labels: list[np.ndarray] = []

    def spy(logits: np.ndarray, truth: np.ndarray) -> tuple[float, float, float]:
        recorded.append(logits)
        labels.append(truth)
        return validation_metrics(logits, truth)

    validation_metrics = validation.validation_metrics
    with mock.patch.object(stages, "validation_metrics", spy):
        print(*measure("balanced", {}, CLOTHING, seed), flush=True)
    return recorded, labels[0]


def report(runs: list[tuple[Logits, np.ndarray]]) -> None:
    """Print the mean accuracy and loss of each rule on the held-out half, over runs and halves."""
    random = np.random.default_rng(0)
    means: dict[str, list[np.ndarray]] = {rule: [] for rule in RULES}
    for logits, labels in runs:
        held_out: dict[str, list[tuple[float, float]]] = {rule: [] for rule in RULES}
        for _ in range(HALVES):
            order = random.permutation(len(labels))
            selecting, evaluating = np.array_split(order, 2)
            states = [
                epoch_metrics(i, each[selecting], labels[selecting])
                for i, each in enumerate(logits)
            ]
            for rule, select in RULES.items():
                chosen = logits[select(states, len(selecting))][evaluating]
                state = epoch_metrics(0, chosen, labels[evaluating])
                held_out[rule].append((state.val_accuracy, state.val_loss))
        for rule in RULES:
            means[rule].append(np.mean(held_out[rule], axis=0))
    print("| selected epoch | accuracy | log-loss |\n|---|--:|--:|")
    for rule in RULES:
        values = np.array(means[rule])
        mean, spread = values.mean(axis=0), values.std(axis=0, ddof=1)
        print(f"| {rule} | {mean[0]:.4f} ± {spread[0]:.4f} | {mean[1]:.4f} ± {spread[1]:.4f} |")


def epoch_metrics(number: int, logits: np.ndarray, labels: np.ndarray) -> Epoch:
    """The record of an epoch, with the fields that the rules need."""
    loss, accuracy, calibrated_loss = validation.validation_metrics(logits, labels)
    return Epoch("upper", number, 0.0, 0.0, 0.0, loss, accuracy, 0.0, calibrated_loss)


def as_in_training(states: list[Epoch], pictures: int) -> int:
    """The rule that training uses."""
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
    "lowest calibrated loss within a standard error of the top (used)": as_in_training,
    "last epoch": lambda states, _n: states[-1].number,
}


if __name__ == "__main__":
    main()
