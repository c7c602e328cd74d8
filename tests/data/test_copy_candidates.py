"""Candidates of many pictures are those of all pairs, but for very few."""

import numpy as np
import pytest

from efftune.data import copy_candidates
from efftune.data.measurements import SMALL


@pytest.fixture(scope="module")
def thumbnails():
    """Smooth random pictures, with changed and mirrored copies of some at the end."""
    random = np.random.default_rng(0)
    coarse = random.normal(size=(1500, 7, 7))
    ramp = np.linspace(0, 6, SMALL)
    below = ramp.astype(int).clip(max=5)
    share = ramp - below
    along = coarse[:, below] * (1 - share)[None, :, None] + coarse[:, below + 1] * share[:, None]
    large = along[:, :, below] * (1 - share) + along[:, :, below + 1] * share
    changed = large[:300] + random.normal(scale=0.45, size=(300, SMALL, SMALL))
    changed[150:] = changed[150:, :, ::-1]
    return (128 + 40 * np.concatenate([large, changed])).clip(0, 255).astype(np.uint8)


def found(thumbnails, chosen):
    pairs, done = [], [0]
    for count, some in copy_candidates.candidates(thumbnails, chosen):
        done.append(count)
        pairs += some
    assert done == sorted(done)
    assert done[-1] == len(chosen)
    return pairs


def test_neighbourhoods_hold_what_all_pairs_do(thumbnails, monkeypatch):
    chosen = np.arange(len(thumbnails))
    wanted = found(thumbnails, chosen)
    planted = {(i, 1500 + i, i >= 150) for i in range(300)}
    assert planted <= set(wanted)
    monkeypatch.setattr(copy_candidates, "_FEW", 0)
    monkeypatch.setattr(copy_candidates, "_LANDMARKS", 512)
    pairs = found(thumbnails, chosen)
    assert len(pairs) == len(set(pairs))
    assert set(pairs) <= set(wanted)
    assert len(planted & set(pairs)) >= 0.98 * len(planted)
    assert len(pairs) >= 0.98 * len(wanted)


def test_only_chosen_pictures_are_compared(thumbnails, monkeypatch):
    chosen = np.flatnonzero(np.arange(len(thumbnails)) % 3)
    wanted = found(thumbnails, chosen)
    assert {i for pair in wanted for i in pair[:2]} <= {*chosen.tolist()}
    monkeypatch.setattr(copy_candidates, "_FEW", 0)
    monkeypatch.setattr(copy_candidates, "_LANDMARKS", 512)
    assert len(found(thumbnails, chosen)) >= 0.98 * len(wanted)


def test_of_many_that_are_alike_the_most_similar_are_taken(monkeypatch):
    random = np.random.default_rng(0)
    base = random.integers(0, 256, (6, 6)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    same = np.stack([base ^ random.integers(0, 8, base.shape, np.uint8) for _ in range(600)])
    for few, landmarks in ((30_000, 512), (0, 512)):
        monkeypatch.setattr(copy_candidates, "_FEW", few)
        monkeypatch.setattr(copy_candidates, "_LANDMARKS", landmarks)
        first = [i for i, _, _ in found(same, np.arange(600))]
        assert np.bincount(first).max() == 16
