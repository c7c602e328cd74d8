import tracemalloc

import keras
import numpy as np
import pytest

from efftune.training.batches import ArrayViews, LabelledInputs, StageData
from efftune.training.trainer import KerasTrainer

pytestmark = pytest.mark.usefixtures("eager")


def test_many_classes_take_no_square_of_memory():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(10_000, kernel_initializer="zeros")(inputs))
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, metrics=["accuracy"])
    labels = np.array([0, 9_999, 17, 9_998])
    views = ArrayViews(lambda _epoch: np.ones((4, 4), np.float32), (4, 4))
    data = StageData(LabelledInputs(views, labels), np.ones(4, np.float32), None, 1, 2, 2)
    tracemalloc.start()
    steps = list(KerasTrainer(model, model, data).train(1, np.array([[0, 1], [2, 3]])))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert steps[0][0] == pytest.approx(np.log(10_000), rel=1e-3)
    assert most < 50 * 2**20  # one row of targets for each class would be 400 MB
