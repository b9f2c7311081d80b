"""Studies of activations in stages, where a stage may ask for methods that the rows so far name."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from sae_gap.data import Source
from sae_gap.measure import finite, study_of
from sae_gap.metrics import Metric
from sae_gap.runtime import progress
from sae_gap.storage import Row, Store
from sae_gap.study import Method, runner


@dataclasses.dataclass
class Stages:
    """Studies of one name, one after the other on one store.

    Attributes:
      name: of all studies.
      store: where rows go.
      shown: whether to show a line of progress.
      rows: the rows of all stages so far whose codes are finite.
    """

    name: str
    store: Store
    shown: bool = True
    rows: list[Row] = dataclasses.field(default_factory=list)

    def run(
        self,
        source: Source,
        methods: Iterable[Method],
        metrics: Sequence[Metric] = (),
        **options: Any,
    ) -> list[Row]:
        """Runs a stage, adds its rows to `rows`, and returns them.

        Args:
          source: the activations.
          methods: methods, of which equal ones run once.
          metrics: further metrics.
          **options: of `study_of`.

        Raises:
          UnfinishedError: the time is over; it has the rows of all dictionaries that are finished.
        """
        # Equal methods, as two levels of one L0 ask for, run once.
        distinct = {
            (method.learner, method.encoder, *method.row.items()): method
            for method in methods
        }
        if not distinct:
            return []
        study = study_of(self.name, [source], [*distinct.values()], *metrics, **options)
        try:
            rows = finite(runner.run(study, self.store, show_progress=self.shown))
        except progress.UnfinishedError as error:
            # Some codes of a dictionary do not tell which are its best.
            error.rows = [
                row
                for row in [*self.rows, *finite(error.rows)]
                if row["dictionary"] not in error.dictionaries
            ]
            raise
        self.rows += rows
        return rows
