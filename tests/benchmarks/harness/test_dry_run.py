"""Whether what a run would fit could be kept."""

import pytest

from benchmarks.harness.dry_run import check_writable
from sae_gap.storage.results import Store
from sae_gap.study.models import Models
from tests import tiny


def test_models_that_are_all_there_may_lie_where_nothing_can_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    given = tiny.make(tiny.SETTING), Store(tmp_path / "results"), Models(tmp_path / "file")
    with pytest.raises(ValueError, match="models cannot be kept in"):
        check_writable(*given)
    monkeypatch.setattr(Models, "missing", lambda *_: [])
    check_writable(*given)
