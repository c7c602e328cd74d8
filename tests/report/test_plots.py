import numpy as np
import pytest
from PIL import Image

from efftune.evaluation import calibration, learning_curve, metrics
from efftune.evaluation.metrics import Evaluation
from efftune.report import plots


def evaluation(names):
    random = np.random.default_rng(0)
    labels = np.arange(5 * len(names)) % len(names)
    probabilities = (
        random.dirichlet(np.ones(len(names)), len(labels)) + 2 * np.eye(len(names))[labels]
    )
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    score = metrics.evaluate(probabilities, labels, names)
    by_split, truth = {"val": probabilities, "test": probabilities}, {"val": labels, "test": labels}
    correct = {count: np.array([labels % 3 > 0] * 2) for count in (100, 400, 1000)}
    return Evaluation(
        score,
        score,
        calibration=calibration.calibration(0.7, by_split, by_split, truth),
        learning_curve=learning_curve.learning_curve(correct, labels, names),
    )


@pytest.mark.filterwarnings("error:Glyph")  # the font lacks some, which is no news
@pytest.mark.parametrize(
    "names",
    [
        ["cat", "dog"],
        [f"class {i}" for i in range(60)],
        ["$x^2$", "très_{long}", "<b>"],
        ["\udce9t\udce9", "a\rb\nc", "w" * 240, "\u732b", "\0"],
    ],
)
def test_all_plots_are_drawn_for_any_class_names(tmp_path, names):
    (tmp_path / "history.csv").write_text(
        "stage,epoch,seconds,loss,accuracy,val_loss,val_accuracy,learning_rate,network\n"
        "head,1,1.0,0.5,0.9,0.6,0.8,,\n"
        "upper,1,1.0,0.5,0.9,0.6,0.8,,1\n"
        "upper,2,1.0,0.5,0.9,0.6,0.8,,2\n"
        "upper,3,1.0,,,0.6,0.8,,all\n"
    )
    plots.draw_evaluation(tmp_path, evaluation(names))
    drawn = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert drawn == ["accuracy.png", "calibration.png", "confusion.png", "learning_curve.png"]
    for path in (tmp_path / "plots").iterdir():
        with Image.open(path) as picture:
            assert min(picture.size) > 300
            assert np.asarray(picture.convert("L")).std() > 5
