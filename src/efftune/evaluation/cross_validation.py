"""Training with cross-validation: once without each fold, to judge by; then on all pictures."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice, pairwise

import numpy as np

from efftune.evaluation import out_of_fold, trained_features
from efftune.evaluation.out_of_fold import Candidate, CandidateScore, OutOfFold
from efftune.model import uncertainty as uncertainties
from efftune.model.backbone import Backbone
from efftune.system.progress import Timer
from efftune.training import ahead, fine_tuning, history
from efftune.training.fine_tuning import TrainingResult
from efftune.training.fold_heads import FoldHeads
from efftune.training.planning import Plan
from efftune.training.regression_head import Head, Labels, Matrix
from efftune.training.stage_result import LeftOut, NetworkState, StageResult, TrainingDiverged
from efftune.training.training_data import TrainingData


@dataclass(frozen=True)
class _Tried:
    """The fine-tuned networks of the folds that were tried.

    Attributes:
        candidates: after each stage, with outputs for the pictures of these folds.
        results: of the stages of the first fold.
        judged: whether each picture is in one of these folds, bool (pictures,).
        failure: why no more folds could be trained; empty if they could.
    """

    candidates: list[Candidate]
    results: list[StageResult]
    judged: out_of_fold.Mask
    failure: str = ""


def train(
    head: Head,
    judges: FoldHeads,
    data: TrainingData,
    backbone: Backbone,
    plan: Plan,
    timer: Timer,
) -> tuple[TrainingResult, OutOfFold]:
    """Train on all pictures, as far as pictures left out show that it helps.

    Args:
        head: fitted on the frozen features of all pictures.
        judges: the heads fitted without one fold each.
        data: with folds.
        backbone: its Keras weights are trained in place.
        plan: the plan of the run, with its views chosen.
        timer: measures the phases.

    Returns:
        The network trained on all pictures; and each picture as judged by networks that were
        trained without its fold.
    """
    recipe, labels = plan.recipe, data.labels["train"]
    assert data.folds is not None  # noqa: S101  (only called in cross-validation)
    candidates = [_heads_alone(judges, data, backbone, plan, timer)]
    tried = _Tried([], [], np.zeros(len(labels), bool))
    if recipe.trains_by_gradient_descent:
        try:
            data = fine_tuning.with_views(data, backbone, plan, timer)
            tried = _fine_tuned(judges.starting, data, backbone, candidates[0], plan, timer)
        except LeftOut as reason:
            tried = replace(tried, failure=str(reason))
    scored = [candidates[0], *tried.candidates]
    candidates = scored if tried.judged.all() else candidates
    folds, max_error = judges.folds, recipe.evaluation.max_error
    outcome = out_of_fold.judge(candidates, folds, labels, max_error)
    network, results, failure = _on_all(head, data, backbone, plan, timer, outcome.chosen)
    if failure:
        outcome = out_of_fold.judge(candidates[:1], folds, labels, max_error)
    known = out_of_fold.judgeable(labels, folds)
    results += [replace(each, best=0) for each in tried.results[len(results) :]]  # not taken
    # Before and after a stage, the same pictures count: those of the folds that were tried.
    seen = tried.judged if tried.judged.any() else ~tried.judged
    scores = [_score(each, seen, labels, known) for each in scored]
    results = [
        _with_metrics(each, *pair) for each, pair in zip(results, pairwise(scores), strict=True)
    ]
    outcome = replace(outcome, alone=None if seen.all() else scores[0])
    scores[0] = _score(scored[0], np.ones_like(seen), labels, known)
    taken = [each for each in results if each.best]
    epochs = history.history(head, data, timer.seconds["head"], taken, judges)
    training = TrainingResult(network, head, tuple(results), tuple(epochs))
    return training, replace(outcome, tried=tuple(scores), failure=failure or tried.failure)


def _on_all(
    head: Head, data: TrainingData, backbone: Backbone, plan: Plan, timer: Timer, stages: int
) -> tuple[NetworkState, list[StageResult], str]:
    """Train on all pictures.

    Args:
        head: fitted on all pictures; fine-tuning starts from one for the last stage's features.
        data: with views, if there are stages to train.
        backbone: its Keras weights are trained in place.
        plan: the plan of the run.
        timer: measures the phases.
        stages: number of stages of fine-tuning; perhaps none.

    Returns:
        The network; the results of the stages; and, if fine-tuning failed, the reason. The network
        is the pretrained one with the head then.
    """
    network, results = NetworkState(backbone, head.kernel, head.bias), list[StageResult]()
    if not stages:
        return network, results, ""
    alone, pretrained, failure = network, backbone.keras_model.get_weights(), ""
    with timer.phase("head"):
        start = fine_tuning.fit_head(data, backbone, plan.recipe, fine_tuned=True)
    whole = replace(_without_validation(data), folds=None)
    trained = islice(fine_tuning.run_stages(backbone, start, whole, plan, timer), stages)
    try:
        with timer.part("all pictures"):
            for after, result in trained:
                network = after
                results.append(result)
                if not result.best:
                    failure = "; ".join(result.failures)
                    break
        if len(results) < stages and not failure:
            failure = timer.left_out
    except TrainingDiverged as error:
        failure = str(error)
    if not failure:
        return network, results, failure
    backbone.restore(pretrained)
    return alone, [], failure


def _heads_alone(
    judges: FoldHeads, data: TrainingData, backbone: Backbone, plan: Plan, timer: Timer
) -> Candidate:
    """What the heads on the frozen network say of the pictures of their folds."""
    recipe, folds, labels = plan.recipe, judges.folds, data.labels["train"]
    distances = np.empty(len(folds), np.float32)
    with timer.phase("evaluate"):
        head, last = judges.heads[0], backbone.entry.features
        features = trained_features.compute(
            NetworkState(backbone, head.kernel, head.bias),
            data,
            plan.depth,
            recipe,
            timer,
            splits=("val",),
        )["val"]
    for fold in range(len(judges.heads)):
        others = np.flatnonzero(folds != fold)
        others = others[trained_features.references(len(others), recipe.seed)]
        detector = uncertainties.fit_detector(features[others, -last:], labels[others])
        distances[folds == fold] = detector.distances(features[folds == fold])
    return Candidate("head", judges.logits(features), distances)


def _fine_tuned(
    starts: FoldHeads,
    data: TrainingData,
    backbone: Backbone,
    alone: Candidate,
    plan: Plan,
    timer: Timer,
) -> _Tried:
    """What networks that were fine-tuned without a fold, from these heads, say of its pictures.

    Ends early if fine-tuning is clearly worse than the heads alone.
    """
    labels, folds = data.labels["train"], starts.folds
    known = out_of_fold.judgeable(labels, folds)
    tried = _Tried([], [], np.zeros(len(labels), bool))
    following = 0  # the first fold that no node has been asked to train
    for fold, head in enumerate(starts.heads):
        if fold == following:
            following += _train_ahead(starts, fold, data, backbone, plan, timer)
        part, inside = data.held_out(fold), folds == fold
        with timer.part(_name(fold, starts)), restored(backbone):
            try:
                trained = list(_fold_outputs(head, part, backbone, plan, timer))
            except TrainingDiverged as error:
                return replace(tried, failure=str(error))
        if len(trained) < len(plan.recipe.stages) - 1:
            return replace(tried, failure=timer.left_out)
        for number, (result, logits, distances) in enumerate(trained):
            if fold == 0:
                empty = [np.full_like(x, np.nan) for x in (alone.logits, alone.distances)]
                tried.candidates.append(Candidate(result.stage.name, *empty))
                tried.results.append(result)
            tried.candidates[number].logits[inside] = logits
            tried.candidates[number].distances[inside] = distances
        tried.judged[inside] = True
        seen = tried.judged & known
        if all(
            out_of_fold.is_hopeless(alone.logits[seen], each.logits[seen], labels[seen])
            for each in tried.candidates
        ):
            break
    return tried


def _name(fold: int, starts: FoldHeads) -> str:
    return f"fold {fold + 1} of {len(starts.heads)}"


def _train_ahead(
    starts: FoldHeads, fold: int, data: TrainingData, backbone: Backbone, plan: Plan, timer: Timer
) -> int:
    """Let the nodes of a cluster fine-tune without some of the folds; returns of how many."""
    count = len(starts.heads) - fold
    size = ahead.group_size(count * plan.recipe.members, backbone, timer)
    if size == 1:
        return 1
    folds = range(fold, fold + -(-size // plan.recipe.members))
    works = list[ahead.Work]()
    for each in folds:
        with timer.part(_name(each, starts)):
            unseen = _without_validation(data.held_out(each))
            works += ahead.networks(backbone, starts.heads[each], unseen, plan, timer)
    ahead.train(works, timer)
    return len(folds)


def _fold_outputs(
    head: Head, part: TrainingData, backbone: Backbone, plan: Plan, timer: Timer
) -> Iterator[tuple[StageResult, Matrix, Matrix]]:
    """Fine-tune without a fold.

    Args:
        head: fitted without the fold.
        part: the data without the fold, which is its validation split.
        backbone: its Keras weights are trained in place.
        plan: the plan of the run.
        timer: measures the phases.

    Yields:
        After each stage, its result, and logits and distances of the pictures of the fold.
    """
    recipe, labels = plan.recipe, part.labels["train"]
    known = trained_features.references(len(labels), recipe.seed)
    unseen = _without_validation(part)
    for network, result in fine_tuning.run_stages(backbone, head, unseen, plan, timer):
        timer.budget.share("evaluate")
        with timer.phase("evaluate"):
            features = trained_features.compute(
                network, part, plan.depth, recipe, timer, splits=("val",)
            )
            references = features["train"][:, -backbone.entry.features :]
            detector = uncertainties.fit_detector(references, labels[known])
            logits = network.head.logits(features["val"])
            distances = detector.distances(features["val"])
        yield result, logits, distances


def _without_validation(data: TrainingData) -> TrainingData:
    """The same data without the pictures that judge, so that these choose nothing."""
    return replace(data, paths=data.paths | {"val": []})


@contextmanager
def restored(backbone: Backbone) -> Iterator[None]:
    """Give the backbone its pretrained weights back at the end."""
    pretrained = backbone.keras_model.get_weights()
    try:
        yield
    finally:
        backbone.restore(pretrained)


def _score(
    candidate: Candidate, pictures: out_of_fold.Mask, labels: Labels, known: out_of_fold.Mask
) -> CandidateScore:
    """The score of a candidate on some pictures."""
    logits = candidate.logits[pictures]
    return out_of_fold.score(candidate.stage, logits, labels[pictures], known[pictures])


def _with_metrics(
    result: StageResult, before: CandidateScore, after: CandidateScore
) -> StageResult:
    """The result of a stage with the out-of-fold metrics before and after it."""
    start, *epochs = (
        replace(
            epoch,
            val_loss=each.loss,
            val_accuracy=each.accuracy,
            val_calibrated_loss=each.calibrated_loss,
        )
        for epoch, each in ((result.start, before), (result.epochs[-1], after))
    )
    return replace(result, start=start, epochs=(*result.epochs[:-1], *epochs))
