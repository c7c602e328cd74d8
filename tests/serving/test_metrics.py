"""What is counted equals what clients have seen."""

import re
import threading
from collections import Counter
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from efftune.model.classifier import Classifier
from efftune.model.prediction import Prediction
from efftune.serving.metrics import Expected, Metrics

from .client import eventually, head
from .conftest import serving


def values(page: str, name: str) -> dict[tuple, float]:
    """Samples of a metric, by the values of their labels, which are in alphabetical order."""
    return {
        tuple(sample.labels.values()): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == name
    }


def counts(client, name: str) -> dict[tuple, float]:
    return values(client.ask("/metrics").body.decode(), name)


@pytest.mark.ci
def test_pictures_are_counted(finished_run, squares):
    with serving(finished_run.folder) as client:
        labels = Counter()
        for content in squares.values():
            labels[client.send("/predict", content).json["label"]] += 1
        client.send_several("/predict", {"a.png": squares["red.png"], "b": b"?", "c": b""})
        labels["red"] += 1
        for path in ("/nothing", "/nothing/at/all", "/v2/models/x", "/v2/models/y", "/page/z"):
            assert client.ask(path).status == 404
        page = client.ask("/metrics").body.decode()
        answers = values(page, "efftune_answers_total")
        assert answers == {(label,): count for label, count in labels.items()}
        rejects = values(page, "efftune_rejected_pictures_total")
        assert rejects == {("not an image",): 1, ("empty file",): 1}
        for name in ("wait", "decode", "network"):
            count = values(page, f"efftune_{name}_seconds_count")[()]
            assert count == (9 if name == "wait" else 7)
        requests = values(page, "efftune_requests_total")
        assert requests["200", "/predict"] == 7
        assert requests["404", "/v2/models/{name}"] == 2  # paths of clients are no labels
        assert requests["404", "(other)"] == 2
        shares = values(page, "efftune_class_share")
        assert shares["share", "red", "recent"] == pytest.approx(3 / 7)
        low, high = shares["low", "red", "recent"], shares["high", "red", "recent"]
        assert 0 < low < 3 / 7 < high < 1
        judged = [
            value for key, value in shares.items() if key[2] == "judged" and key[0] == "share"
        ]
        assert sum(judged) == pytest.approx(1)
        assert set(values(page, "efftune_unlike_share")) == {
            (bound, of) for of in ("recent", "judged") for bound in ("low", "share", "high")
        }


@pytest.mark.ci
def test_a_full_queue_refuses_soon_and_counts(finished_run, picture):
    """40 clients at once, of which 12 pictures may wait or be at work."""
    statuses, lock = Counter(), threading.Lock()
    with serving(finished_run.folder, at_work=2, most_waiting=10) as client:
        together = threading.Barrier(40)

        def ask() -> None:
            together.wait()
            for _ in range(10):
                answer = client.send("/predict", picture)
                with lock:
                    statuses[answer.status] += 1
                if answer.status == 503:
                    assert int(answer.headers["retry-after"]) >= 1
                    assert answer.json["error"]
                else:
                    assert answer.json["label"] == "red"

        free = threading.Event()
        blockers = [client.state.answering._pool.submit(free.wait, 20) for _ in range(2)]
        threads = [threading.Thread(target=ask) for _ in range(40)]
        for each in threads:
            each.start()
        assert eventually(lambda: statuses[503] >= 30)
        assert client.ask("/readyz").status == 200
        assert client.gauge("efftune_waiting") == 12
        free.set()
        for each in threads:
            each.join()
        assert all(each.result() for each in blockers)
        assert sum(statuses.values()) == 400
        assert set(statuses) == {200, 503}
        counted = counts(client, "efftune_requests_total")
        assert counted["200", "/predict"] == statuses[200]
        assert counted["503", "/predict"] == statuses[503]
        assert client.gauge("efftune_waiting") == client.gauge("efftune_at_work") == 0


@pytest.mark.ci
def test_what_is_no_request_is_counted(finished_run):
    with serving(finished_run.folder) as client:
        client.raw(b"nonsense\r\n\r\n")
        client.raw(head("GET /healthz", X="a" * 70_000))
        counted = counts(client, "efftune_requests_total")
        assert counted["400", "(no request)"] == counted["431", "(no request)"] == 1


@pytest.mark.ci
def test_many_classes_stay_few_labels():
    classes = tuple((f"class {number}", number + 1) for number in range(5000))
    metrics = Metrics(lambda: (0, 0))
    metrics.expected = Expected(sum(count for _, count in classes), 0, classes)
    for number in range(3000):
        name = f"class {number}"
        metrics.answered(Prediction(None, name, 1.0, ((name, 1.0),), class_index=number), 0, 0)
    page = metrics.page().decode()
    assert len(values(page, "efftune_answers_total")) == 1001
    assert len(values(page, "efftune_class_share")) <= 6000


def test_answers_of_what_was_served_before_are_not_compared():
    old, new = (Classifier(Path(), ("cat", "dog"), 32, "crop") for _ in range(2))
    metrics = Metrics(lambda: (0, 0))
    metrics.expect(Expected(2, 1, (("cat", 2),)), old)

    def shares(name):
        return values(metrics.page().decode(), name)

    def answered(label, unlike, by):
        metrics.answered(Prediction(None, label, 1.0, (), unlike=unlike), 0, 0, by)

    answered("cat", True, old)
    assert shares("efftune_class_share")["share", "cat", "recent"] == 1
    metrics.expect(Expected(4, 1, (("dog", 4),)), new)
    assert ("share", "cat", "recent") not in shares("efftune_class_share")
    answered("cat", True, old)  # which was under way
    answered("dog", False, new)
    assert shares("efftune_class_share")["share", "dog", "recent"] == 1
    assert shares("efftune_unlike_share")["share", "recent"] == 0
    assert shares("efftune_answers_total") == {("cat",): 2, ("dog",): 1}


def test_classifiers_that_cannot_tell_have_no_share_of_unlike_pictures():
    metrics = Metrics(lambda: (0, 0))
    metrics.answered(Prediction(None, "cat", 1.0, (), unlike=None), 0, 0)
    page = metrics.page().decode()
    assert values(page, "efftune_unlike_share") == {}
    assert values(page, "efftune_class_share")["share", "cat", "recent"] == 1


def test_names_of_classes_do_not_break_the_page():
    metrics = Metrics(lambda: (0, 0))
    for name in ('a"b', "a\\b", "a\nb", "{}", "ü"):
        metrics.answered(Prediction(None, name, 1.0, ((name, 1.0),)), 0, 0)
    page = metrics.page().decode()
    found = {label for (label,) in values(page, "efftune_answers_total")}
    assert found == {'a"b', "a\\b", "a\nb", "{}", "ü"}
    assert not re.search(r"^b", page, re.MULTILINE)
