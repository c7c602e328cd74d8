"""From examples to a trained network: what each stage trains on, and the stages in order."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from efftune.data import images
from efftune.data.examples import SPLITS, Examples, Split, labels
from efftune.errors import BadImage, DataError
from efftune.features import extraction
from efftune.features.extraction import MIRRORED, Features
from efftune.model.backbone import FEATURES, Backbone
from efftune.recipe.recipe import Augment, Recipe, Stage, Strength
from efftune.system.progress import Watch
from efftune.training import gradient_head, planning, stages
from efftune.training import regression_head as heads
from efftune.training.batches import KeptViews, Material, Pictures
from efftune.training.planning import Plan
from efftune.training.regression_head import Head
from efftune.training.stages import Epoch, Outcome, Tuned

_JUDGED_PICTURES = 1000  # enough to see which views are known
_MIRROR_LOSS = 0.05  # of accuracy: above that a mirrored picture is another thing
_VIEW_LOSS = 0.1  # the same for the other views
_UNLIKE = 0.05  # of accuracy that fine-tuning gains: then the pictures are unlike ImageNet's


@dataclass(frozen=True)
class Seen:
    """The pictures of a run and what the pretrained network says of them.

    Attributes:
        paths: of the readable pictures, by split.
        labels: their class numbers.
        groups: numbers of the training pictures, the same for those that belong together.
        features: the pictures themselves as the frozen part sees them.
    """

    paths: dict[Split, list[Path]]
    labels: dict[Split, NDArray[np.int64]]
    groups: NDArray[np.int64]
    features: dict[Split, Features]


def see(
    examples: Examples,
    backbone: Backbone,
    plan: Plan,
    on_progress: Callable[[int, int], None],
) -> dict[Split, Features]:
    """Run the frozen part over the pictures themselves, split by split.

    Training pictures are computed in the CPU's fastest precision; the pictures to judge by in
    float32, so that the scores are those of the saved model on any machine. Only what something
    will be trained from or judged by is computed.
    """
    recipe = plan.recipe
    kept = [backbone.block(stage.block) for stage in recipe.stages if stage.name == "upper"]
    pooled = [FEATURES] if "head" in recipe.phases else []
    # Whether training may see the pictures themselves; views may yet turn out to be of no use.
    plain = recipe.plain_view or recipe.augment == "auto" or not recipe.views
    wanted = {
        "train": [*(kept if plain else []), *([] if recipe.head_epochs else pooled)],
        "val": [*kept, *pooled],
        "test": pooled,
    }
    total = sum(len(examples.of(split)) for split in SPLITS)
    done = itertools.count(1)
    found = {}
    for split in SPLITS:
        found[split] = extraction.extract(
            [row.path for row in examples.of(split)],
            backbone,
            planning.settings(plan, exact=split != "train"),
            lambda: on_progress(next(done), total),
            outputs=wanted[split],
        )
    return found


def seen(examples: Examples, parts: dict[Split, Features]) -> Seen:
    """What is known of the examples that could be read."""
    rows = {split: examples.of(split) for split in SPLITS}
    names = examples.class_names
    return Seen(
        {split: [row.path for row in rows[split]] for split in SPLITS},
        {split: labels(rows[split], names) for split in SPLITS},
        examples.groups("train"),
        parts,
    )


def tune(
    backbone: Backbone, head: Head, pictures: Seen, plan: Plan, watch: Watch
) -> tuple[Tuned, list[Outcome]]:
    """Run the stages after the head.

    Args:
        backbone: its Keras weights are trained in place.
        head: fitted on the features of the training pictures.
        pictures: what to train on and to judge by.
        plan: how; its views have been decided.
        watch: times the phases.

    Returns:
        The trained network, and what came of each stage.
    """
    recipe, new_head = plan.recipe, None
    if recipe.head_start == "random":
        new_head = heads.random(len(head.kernel), len(head.bias), recipe.seed)
    tuned, outcomes = Tuned(backbone, head.kernel, head.bias, new_head), []
    for stage in recipe.stages:
        if stage.name == "head":
            if recipe.head_epochs:
                tuned, outcome = _descended(stage, backbone, pictures, plan, watch)
                outcomes.append(outcome)
            continue
        if stage.name == "upper":
            train, val = _kept_views(stage, backbone, pictures, plan, watch)
        else:
            train, val = _decoded(backbone, pictures, recipe, watch)
        if stage.name == "scratch":
            unknown = heads.random(len(head.kernel), len(head.bias), recipe.seed)
            start = Tuned(backbone.untrained(recipe.seed), unknown.kernel, unknown.bias)
        else:
            start = tuned
        with watch.phase(stage.name):
            result, outcome = stages.fit(start, stage, train, val, recipe, watch.count)
        outcomes.append(outcome)
        if stage.name != "scratch" or len(recipe.stages) == 1:
            tuned = result
    return tuned, outcomes


def fit_head(pictures: Seen, backbone: Backbone, recipe: Recipe) -> Head:
    """A head for the frozen backbone by regression, or one that a later stage has to train."""
    truth = pictures.labels["train"]
    if "head" in recipe.phases and not recipe.head_epochs:
        return heads.fit(pictures.features["train"].pooled(), truth, pictures.groups, recipe)
    return heads.random(backbone.entry.features, int(truth.max()) + 1, recipe.seed)


def decide_views(
    plan: Plan, backbone: Backbone, head: Head, pictures: Seen
) -> tuple[Plan, dict[str, float]]:
    """Find out which views still show what the picture shows, where the recipe leaves it open.

    The head is the judge. If it takes the `standard` views of validation pictures for something
    else, views are `light`, and if it does so with those, there are none. If it takes mirrored
    pictures for something else, the classes are not symmetric, as with letters, and nothing is
    mirrored.

    Returns:
        The plan with nothing left open, and the head's accuracy on validation pictures as they are
        (`plain`) and in each way that had to be tried (`standard`, `light`, `mirrored`).
    """
    recipe = plan.recipe
    if not recipe.tunes:
        return plan, {}
    accuracy = {}
    strength, flip = recipe.views_shown
    augment: Augment = "none" if recipe.augment == "none" else strength
    if head.strength is not None:
        judge = _Judge(plan, backbone, head, pictures)
        if recipe.augment == "auto" and not judge.knows("standard", 1, _VIEW_LOSS):
            augment = "light" if judge.knows("light", 1, _VIEW_LOSS) else "none"
        if recipe.flip == "auto":
            of_use = augment != "none" or recipe.test_flip
            known = of_use and judge.knows("mirrored", MIRRORED, _MIRROR_LOSS)
            flip = "yes" if known else "no"
        accuracy = judge.accuracy
    return planning.with_views(plan, backbone, augment, flip), accuracy


class _Judge:
    """The head, asked whether it knows validation pictures again."""

    def __init__(self, plan: Plan, backbone: Backbone, head: Head, pictures: Seen):
        self.plan, self.backbone, self.head = plan, backbone, head
        truth = pictures.labels["val"]
        random = np.random.default_rng(plan.recipe.seed)
        chosen = random.permutation(len(truth))[:_JUDGED_PICTURES]
        self.paths = [pictures.paths["val"][i] for i in chosen]
        self.truth = truth[chosen]
        self.plain = pictures.features["val"].pooled()[chosen]
        self.accuracy: dict[str, float] = {}

    def knows(self, name: str, view: int, loss: float) -> bool:
        """Whether its accuracy on a view is hardly lower, by `loss` at most, than without."""
        self.accuracy.setdefault("plain", self._accuracy(self.plain))
        settings = planning.settings(self.plan)
        if view != MIRRORED:
            settings = replace(settings, augment=cast(Strength, name), flip="no")
        found = extraction.extract(self.paths, self.backbone, settings, views=[view])
        _require_unchanged(found)
        self.accuracy[name] = self._accuracy(found.pooled(view))
        return self.accuracy[name] >= self.accuracy["plain"] - loss

    def _accuracy(self, rows: NDArray[np.float32]) -> float:
        return float((self.head.probabilities(rows).argmax(axis=1) == self.truth).mean())


def history(
    head: Head, pictures: Seen, head_seconds: float, outcomes: Sequence[Outcome]
) -> list[Epoch]:
    """The epochs of all stages; the head is fitted once, to convergence."""
    later = list(itertools.chain.from_iterable(outcome.epochs for outcome in outcomes))
    if head.strength is None:
        return later
    judged = []
    for split in ("train", "val"):
        rows, truth = pictures.features[split].pooled(), pictures.labels[split]
        probabilities = head.probabilities(rows)
        likelihoods = probabilities[np.arange(len(truth)), truth].astype(np.float64)
        judged.append(float(-np.log(likelihoods.clip(1e-30)).mean()))
        judged.append(float((probabilities.argmax(axis=1) == truth).mean()))
    loss, accuracy, val_loss, val_accuracy = judged
    first = Epoch("head", 1, head_seconds, loss, accuracy, val_loss, val_accuracy, math.nan)
    return [first, *later]


def advice(recipe: Recipe, epochs: Sequence[Epoch]) -> list[str]:
    """What the owner of the pictures should know of how training went.

    Args:
        recipe: with nothing left open.
        epochs: of all stages, from `history`.
    """
    told = []
    last = epochs[-1]
    if last.stage != "head" and last.val_accuracy > last.accuracy:
        told.append(
            "validation accuracy is above training accuracy because training is made harder: its "
            "pictures are varied and a part of the network is left out in each step"
        )
    frozen = max((each.val_accuracy for each in epochs if each.stage == "head"), default=math.nan)
    tuned = max((each.val_accuracy for each in epochs if each.stage == "upper"), default=math.nan)
    if last.stage == "upper" and tuned - frozen > _UNLIKE:
        told.append(
            f"fine-tuning gained {100 * (tuned - frozen):.0f} points over the frozen network, so "
            "these pictures are unlike ImageNet's: more may be won with --recipe thorough, or with "
            "a lower --unfreeze"
        )
    if last.stage == "head" and not recipe.tunes and frozen < 1 - _UNLIKE:
        told.append("the network was left as it was; --recipe balanced trains it, too")
    return told


def _kept_views(
    stage: Stage, backbone: Backbone, pictures: Seen, plan: Plan, watch: Watch
) -> tuple[Material, Material]:
    """The activations at the stage's block: of all views to train on, of none to judge by."""
    block = backbone.block(stage.block)
    recipe, paths = plan.recipe, pictures.paths["train"]
    first = recipe.head_epochs + 1  # the numbers before are those of the head's views
    numbers = range(first, first + int(recipe.views))
    plain = recipe.plain_view or not numbers
    rows = [pictures.features["train"].rows[block, 0]] if plain else []
    if numbers:
        found = _views(block, numbers, paths, backbone, plan, watch)
        rows += [found.rows[block, number] for number in numbers]
    val = KeptViews([pictures.features["val"].rows[block, 0]], recipe.seed)
    train = KeptViews(rows, recipe.seed)
    return Material(train, pictures.labels["train"]), Material(val, pictures.labels["val"])


def _descended(
    stage: Stage, backbone: Backbone, pictures: Seen, plan: Plan, watch: Watch
) -> tuple[Tuned, Outcome]:
    """The head by gradient descent, on features of a new view of each picture in each epoch."""
    paths, numbers = pictures.paths["train"], range(1, plan.recipe.head_epochs + 1)
    found = _views(FEATURES, numbers, paths, backbone, plan, watch)
    val = (pictures.features["val"].pooled(), pictures.labels["val"])
    with watch.phase("head"):
        head, outcome = gradient_head.fit(
            stage, found.pooled, pictures.labels["train"], val, plan.recipe, watch.count
        )
    return Tuned(backbone, head.kernel, head.bias), outcome


def _views(
    output: str,
    numbers: range,
    paths: Sequence[Path],
    backbone: Backbone,
    plan: Plan,
    watch: Watch,
) -> Features:
    """What the frozen part says of views of the training pictures."""
    with watch.phase("views"):
        done, total = itertools.count(1), len(paths) * len(numbers)
        found = extraction.extract(
            paths,
            backbone,
            planning.settings(plan),
            lambda: watch.count(next(done), total),
            outputs=[output],
            views=numbers,
        )
    _require_unchanged(found)
    return found


def _require_unchanged(found: Features) -> None:
    for path, reason in found.failures.items():
        raise DataError(f"{path} was changed while the run went on: {reason}. Start again.")


def _decoded(
    backbone: Backbone, pictures: Seen, recipe: Recipe, watch: Watch
) -> tuple[Material, Material]:
    """The decoded pictures: in fresh views to train on, as they are to judge by."""
    materials = []
    total = len(pictures.paths["train"]) + len(pictures.paths["val"])
    done = itertools.count(1)
    for split in ("train", "val"):
        paths = pictures.paths[split]
        with watch.phase("decode"):
            try:
                pixels = images.decode_all(
                    paths, backbone.image_size, recipe.fit, lambda: watch.count(next(done), total)
                )
            except BadImage as error:
                raise DataError(f"A picture was changed while the run went on: {error}.") from None
        sha256s = pictures.features[split].sha256s
        digests = [bytes.fromhex(sha256s[path]) for path in paths]
        inputs = Pictures(pixels, digests, recipe)
        materials.append(Material(inputs, pictures.labels[split]))
    return materials[0], materials[1]
