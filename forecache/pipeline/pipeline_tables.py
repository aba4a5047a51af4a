"""Names and columns of the Delta tables of a pipeline."""

from forecache.pipeline.features.view import FeatureView
from forecache.pipeline.names import FEATURES, PREDICTIONS, TRAINING_SET
from forecache.pipeline.served import Predictions


class PipelineTables(Predictions):
    """Names and columns of the Delta tables of a pipeline."""

    name: str

    @property
    def views(self) -> tuple[FeatureView, ...]:
        raise NotImplementedError

    @property
    def is_joined(self) -> bool:
        raise NotImplementedError

    @property
    def feature_table(self) -> str:
        """Delta table: key, as_of (date, partition), features (float32)."""
        return FEATURES + self.name if self.is_joined else self.views[0].feature_table

    @property
    def training_table(self) -> str:
        """Delta table: key, as_of, split ("train", "validation", "test"), features (float32), label (double)."""
        return TRAINING_SET + self.name

    @property
    def prediction_table(self) -> str:
        """Delta table: key, as_of (date, partition), output_columns, PROVENANCE_COLUMNS."""
        return PREDICTIONS + self.name

    @property
    def challenger_table(self) -> str:
        """Delta table of the challenger's predictions, with the prediction table's columns; it is never published."""
        return f"{self.prediction_table}_challenger"
