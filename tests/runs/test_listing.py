import json
import shutil

from efftune.runs import listing


def test_accuracy_is_the_one_that_the_report_shows(finished_run, tmp_path):
    shutil.copytree(finished_run.folder, tmp_path / "leaky")
    path = tmp_path / "leaky" / "evaluation.json"
    evaluation = json.loads(path.read_text(encoding="utf-8"))
    evaluation["test_without_leaks"] = evaluation["test"] | {"accuracy": 0.25}
    path.write_text(json.dumps(evaluation), encoding="utf-8")
    assert [each.accuracy for each in listing.listed(tmp_path)] == [0.25]
