"""What the tests of the commands share."""

import pytest


@pytest.fixture(autouse=True)
def no_rehearsal(request, monkeypatch):
    """A dry run times no steps here, which takes seconds: tests/training/test_rehearsal.py has one that does."""
    from t2i.training import rehearsal

    monkeypatch.setattr(rehearsal, "rehearse", lambda *_: rehearsal.Rehearsal([], 0.0))
