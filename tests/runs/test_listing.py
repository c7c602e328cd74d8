import json
import shutil

from efftune.runs import listing
from efftune.runs.run import Run


def test_accuracy_is_the_one_that_the_report_shows(finished_run, tmp_path):
    shutil.copytree(finished_run.folder, tmp_path / "leaky")
    path = tmp_path / "leaky" / "evaluation.json"
    evaluation = json.loads(path.read_text(encoding="utf-8"))
    evaluation["test_without_leaks"] = evaluation["test"] | {"accuracy": 0.25}
    path.write_text(json.dumps(evaluation), encoding="utf-8")
    loaded = Run.load(path.parent)
    shares = {key: evaluation["test_without_leaks"][key] for key in ("accuracy", "low", "high")}
    assert loaded.summary["test_without_leaks"] == shares
    assert "test_without_leaks=SplitEvaluation(accuracy=0.250" in repr(loaded)
    assert "test_without_leaks=SplitEvaluation(accuracy=0.250" in repr(loaded.evaluation)
    assert "without_leaks" not in f"{finished_run!r}{finished_run.evaluation!r}"
    assert set(finished_run.summary) == set(loaded.summary) - {"test_without_leaks"}
    assert [each.accuracy for each in listing.listed(tmp_path)] == [0.25]
