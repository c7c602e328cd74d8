import pytest

from efftune.report import related, words

from .test_report import plain, scored

EVERYTHING = scored(("hat", "hat", 60), ("shoe", "shoe", 36), ("shoe", "hat", 4))
CLEAN = scored(("hat", "hat", 30), ("shoe", "shoe", 16), ("shoe", "hat", 4))["test"]


def record(val=0, test=0, *, groups=0, val_is_test=False):
    findings = {"leak": test, **({"group-leak": groups} if groups else {})}
    leaked = {"val": val, "test": test}
    return {"data": {"val_is_test": val_is_test, "findings": findings, "leaked": leaked}}


def told(evaluation, given):
    found = words.summary(evaluation, given)
    return [" ".join(map(plain, found[part])) for part in ("sentences", "remarks")]


@pytest.mark.parametrize("val_is_test", [False, True])
def test_accuracy_on_leaks_alone_is_told_as_such(val_is_test):
    given = record(100, 100, val_is_test=val_is_test)
    sentences, remarks = told(EVERYTHING, given)
    assert sentences.startswith(
        "On 100 test pictures, all of which have copies in an earlier split, this classifier got"
    )
    assert (
        "All test pictures have copies in an earlier split: this accuracy says nothing" in remarks
    )
    line = related.leaks(EVERYTHING, given)
    assert "100 pictures of test have copies in an earlier split. These are all" in line
    assert "does not count" not in line
    assert ("of validation" in line) != val_is_test


def test_some_leaks_are_not_counted():
    evaluation, given = EVERYTHING | {"test_without_leaks": CLEAN}, record(test=50)
    assert not related.all_leaked(evaluation, given)
    sentences, remarks = told(evaluation, given)
    assert "On 50 test pictures that have no copies in an earlier split" in sentences
    assert "50 test pictures were left out because an earlier split contains copies of" in remarks
    assert related.leaks(evaluation, given) == (
        "50 pictures of test have copies in an earlier split. The accuracy above does not count "
        "them."
    )
    assert related.leaks(evaluation, record(val=1)).startswith("1 picture of validation has copies")


def test_nothing_is_said_where_nothing_leaked():
    assert related.leaks(EVERYTHING, record()) == ""
    assert related.left_out(EVERYTHING, record()) == ""
    older = {"data": {}}
    assert related.leaks(EVERYTHING, older) == related.left_out(EVERYTHING, older) == ""


def test_pictures_of_a_group_are_not_called_copies():
    evaluation, given = EVERYTHING | {"test_without_leaks": CLEAN}, record(test=50, groups=50)
    sentences, remarks = told(evaluation, given)
    assert "that have no copies or pictures of the same group in an earlier split" in sentences
    assert "contains copies of them or pictures of the same group; counting all" in remarks
    one = evaluation | {"test_without_leaks": CLEAN | {"pictures": 99}}
    assert "contains a copy of it or a picture of the same group" in related.left_out(one, given)
    assert "have copies or pictures of the same group" in related.leaks(evaluation, given)
    everything = record(test=100, groups=100)
    assert (
        "all of which have copies or pictures of the same group" in told(EVERYTHING, everything)[0]
    )


def test_share_of_unsure_pictures_says_whether_it_counts_leaks():
    unsure = {"pictures": 100, "answered": 90, "wrong": 1}
    evaluation = EVERYTHING | {"test_without_leaks": CLEAN, "unsure": {"test": unsure}}
    all_of_them = "counting all 100 test pictures, without the 10.0 % of pictures it marks"
    assert all_of_them in told(evaluation, record(test=50))[0]
    evaluation["unsure"] = {"test": {"pictures": 50, "answered": 45, "wrong": 1}}
    sentences = told(evaluation, record(test=50))[0]
    assert "without the 10.0 % of pictures it marks" in sentences
    assert "counting all" not in sentences


def test_interval_of_few_groups_is_told_to_be_too_narrow():
    row = {"kind": "few-groups", "name": "test", "detail": "500 pictures of 5 groups"}
    assert "500 pictures of 5 groups of the source: for pictures of new groups it is too" in (
        related.few_groups([{"kind": "dark", "detail": ""}, row])
    )
    assert related.few_groups([{"kind": "dark", "detail": ""}]) == related.few_groups(None) == ""


def test_findings_that_cannot_be_read_are_none(tmp_path):
    assert related.findings(tmp_path) == []
    (tmp_path / "findings.csv").write_text("kind,detail\nfew-groups,x,y\n")
    assert related.findings(tmp_path) == []
    (tmp_path / "findings.csv").write_text("kind,detail\nfew-groups,x\n")
    assert related.findings(tmp_path) == [{"kind": "few-groups", "detail": "x"}]
