"""Coloured squares as the frozen part of a real backbone sees them at block 7."""

from dataclasses import dataclass

import keras
import pytest
from keras import ops

from conftest import fill
from efftune.data.sources import discovery
from efftune.model.backbone import Backbone
from efftune.recipe.recipe import Recipe, Stage
from efftune.system.progress import Timer
from efftune.training import fine_tuning, planning, training_data
from efftune.training.batches import LabelledInputs
from efftune.training.stage_result import NetworkState

BLOCK = "block7a"


@dataclass(frozen=True)
class Squares:
    """What a stage is given, from examples found in a folder."""

    backbone: Backbone
    recipe: Recipe
    tuned: NetworkState
    train: LabelledInputs
    val: LabelledInputs
    stage: Stage


def with_head(folder, backbone=None, **choices):
    """A backbone (a new one by default), a plan, a folder's data, and a head fitted on it."""
    recipe = Recipe(**({"image_size": 32, "unfreeze": BLOCK} | choices))
    backbone = backbone or Backbone(recipe.backbone.model, 32)
    examples = discovery.find(folder).split(0.3, 0.2, 0)
    plan = planning.plan(recipe, backbone, examples.counts)
    _, data = training_data.compute(examples, backbone, plan)
    return backbone, plan, data, fine_tuning.fit_head(data, backbone, recipe, fine_tuned=True)


def squares(folder, backbone=None) -> Squares:
    """The coloured squares of a folder, with a head fitted on them."""
    backbone, plan, data, head = with_head(folder, backbone, views=1, batch_size=8)
    recipe = plan.recipe
    stage = Stage("upper", BLOCK, 10, 1e-3)
    train, val = fine_tuning.cached_views(
        stage, backbone, fine_tuning.with_views(data, backbone, plan, Timer()), recipe
    )
    return Squares(
        backbone, recipe, NetworkState(backbone, head.kernel, head.bias), train, val, stage
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("squares") / "photos", count=20)


@pytest.fixture(scope="module")
def pretrained():
    """A backbone that a module's tests train one after the other, and its weights before."""
    backbone = Backbone("efficientnet-lite0", 32)
    return backbone, backbone.keras_model.get_weights()


@pytest.fixture
def backbone(pretrained):
    """A backbone as it was before any training: building a new one takes a second."""
    backbone, before = pretrained
    backbone.restore(before)
    return backbone


@pytest.fixture(scope="module")
def looked_at(folder, pretrained):
    return squares(folder, pretrained[0])


@pytest.fixture
def given(looked_at, backbone):
    """What a stage is given, with the backbone as it was before any training."""
    return looked_at


@pytest.fixture
def eager():
    """Run steps without tracing, which takes far longer than a step of a small network.

    That they are traced right is tested with the stages.
    """
    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def weights(backbone):
    """A copy of every weight by name."""
    return {each.path: ops.convert_to_numpy(each).copy() for each in backbone.keras_model.weights}
