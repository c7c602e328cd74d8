"""How wide the interval of a cross-validation must be: heads on draws of few pictures.

Draws some pictures of each class from a folder, fits a head on them, judges it by 5-fold
cross-validation, and by all the other pictures (mean recall). Prints, for each folder and number of
pictures a class: the mean of both accuracies; the root mean square of their difference, in standard
errors of as many independent trials; and how often Wilson's interval, with its standard error
multiplied by 1 to 1.3, holds the accuracy on the others; and how often that by 1.2 does whose upper
end has the gain that the learning curve expects from a fold's pictures, as reports give it.

    python benchmarks/interval_coverage.py FOLDER… [--draws 40]
"""

import argparse
import warnings
from pathlib import Path

import numpy as np

from efftune.data import stratified_split
from efftune.data.examples import Example
from efftune.data.formats import SUFFIXES
from efftune.evaluation import learning_curve
from efftune.evaluation.cross_fitting import CrossFitting
from efftune.evaluation.metrics import CROSS_VALIDATION_SPREAD, wilson
from efftune.features import extraction
from efftune.features.extraction import ExtractionSettings
from efftune.model.backbone import Backbone
from efftune.recipe.recipe import Recipe
from efftune.training import regression_head

COUNTS = (2, 5, 10, 20, 50)
FACTORS = (1.0, 1.1, 1.2, 1.3)
FOLDS = 5
MOST = 1000  # pictures that are cross-validated


def features(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Features of all pictures in the class folders, and their class numbers."""
    paths, labels = [], []
    for number, name in enumerate(sorted(each.name for each in folder.iterdir() if each.is_dir())):
        found = sorted(p for p in (folder / name).iterdir() if p.suffix.lower() in SUFFIXES)
        paths += found
        labels += [number] * len(found)
    backbone = Backbone(Recipe().backbone.model)
    found = extraction.extract(paths, backbone, ExtractionSettings(fit="crop", precision="f32"))
    readable = [i for i, path in enumerate(paths) if path not in found.failures]
    return np.array(found.pooled()), np.array(labels)[readable]


def predict(rows: np.ndarray, labels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Class numbers predicted for `others` by a head fitted on `rows`."""
    known, numbers = np.unique(labels, return_inverse=True)
    head = regression_head.fit(rows, numbers, np.arange(len(rows)), Recipe())
    return known[head.logits(others).argmax(axis=1)]


def gain(rows: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> float:
    """The gain in accuracy that the learning curve expects from the pictures of a fold."""
    groups = np.arange(len(rows))
    head = regression_head.fit(rows, labels, groups, Recipe())
    fitting = CrossFitting(rows, labels, groups, head, Recipe())
    correct = fitting.correct_by_size(rows, labels, folds)
    names = [str(number) for number in range(int(labels.max()) + 1)]
    return learning_curve.gain_to_all(
        learning_curve.learning_curve(correct, labels, names, len(rows))
    )


def draw(x: np.ndarray, y: np.ndarray, count: int, seed: int) -> tuple[float, float, int, float]:
    """Accuracy on the others, and in cross-validation; pictures drawn; gain by the curve."""
    random = np.random.default_rng([seed, count])
    classes = range(int(y.max()) + 1)
    chosen = np.concatenate([random.permutation(np.flatnonzero(y == c))[:count] for c in classes])
    others = np.setdiff1d(np.arange(len(y)), chosen)
    predicted = predict(x[chosen], y[chosen], x[others])
    accuracy = np.mean([(predicted[y[others] == c] == c).mean() for c in classes])
    rows = [Example(Path(str(i)), str(i), str(y[i])) for i in chosen]
    fold_of = stratified_split.folds(rows, {}, FOLDS, seed)
    folds = np.array([fold_of[row.path] for row in rows])
    right = np.zeros(len(chosen))
    for fold in np.unique(folds):
        inside, held = chosen[folds != fold], chosen[folds == fold]
        right[folds == fold] = predict(x[inside], y[inside], x[held]) == y[held]
    return float(accuracy), float(right.mean()), len(chosen), gain(x[chosen], y[chosen], folds)


def main() -> None:
    """Print a line for each folder and number of pictures, and the means over all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--draws", type=int, default=40)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    all_shares = []
    for folder in arguments.folders:
        x, y = features(folder)
        for count in COUNTS:
            if count * (int(y.max()) + 1) > MOST:
                continue
            drawn = np.array([draw(x, y, count, seed) for seed in range(arguments.draws)])
            accuracy, estimate, pictures, gains = drawn.T
            error = np.sqrt(np.mean((estimate - accuracy) ** 2))
            trials = np.sqrt(np.mean(estimate * (1 - estimate) / pictures))
            shares = []
            for factor in FACTORS:
                low, high = np.transpose(
                    [wilson(e * n / factor**2, n / factor**2) for e, n in drawn[:, 1:3]]
                )
                shares.append(float(np.mean((low <= accuracy) & (accuracy <= high))))
                if factor == CROSS_VALIDATION_SPREAD:
                    inside = (low <= accuracy) & (accuracy <= high + gains)
            shares.append(float(np.mean(inside)))
            all_shares.append(shares)
            print(
                f"{folder.name:20} {count:3}  {accuracy.mean():.3f}  {estimate.mean():.3f}  "
                f"{gains.mean():.3f}  "
                f"{error / trials:.2f}  {'  '.join(f'{share:.2f}' for share in shares)}",
                flush=True,
            )
    means, least = np.mean(all_shares, axis=0), np.min(all_shares, axis=0)
    print(f"mean {means.round(3)}, least {least.round(3)} at factors {FACTORS} and with the gain")


if __name__ == "__main__":
    main()
