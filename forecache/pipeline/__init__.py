"""The declarations that a user writes: what is particular to one pipeline, and nothing about how it runs.

A project is a package with a `pipelines` sub-package; every module-level `Pipeline`, `Recommender`, `Realtime`,
`Stream` or `Mailing` in it is found by `read_project`. Declarations hold plain values and functions; heavy libraries
are imported inside those.
"""

from forecache.pipeline.declaration import Pipeline
from forecache.pipeline.expectations import Expectation, expect
from forecache.pipeline.features.entities import Entities
from forecache.pipeline.features.feature import Feature
from forecache.pipeline.features.features import Features, Label
from forecache.pipeline.features.view import FeatureView
from forecache.pipeline.features.window import Where, Window
from forecache.pipeline.loading import load_pipeline, load_pipelines, load_realtime, load_served, load_stream
from forecache.pipeline.mailings.mailing import Mailing
from forecache.pipeline.models.applied import FunctionModel, Labelled, RegisteredModel, SqlModel
from forecache.pipeline.models.fit_run import FitRun
from forecache.pipeline.models.gate import Baseline, Gate, Metric
from forecache.pipeline.models.model import EntitySplit, EstimatorModel, TorchModel, Training
from forecache.pipeline.models.output import (
    AnyOutput,
    Boolean,
    Classes,
    Output,
    Quantiles,
    Segment,
    Structs,
    Text,
    Vector,
)
from forecache.pipeline.models.task import Task
from forecache.pipeline.names import AS_OF, PROVENANCE_COLUMNS, SOURCE_COLUMNS
from forecache.pipeline.policies import Drift, Effect, Publish, Retraining
from forecache.pipeline.realtime.examples import Examples
from forecache.pipeline.realtime.ladder import Default, DotProduct, LastNight, OrderGiven, Stored
from forecache.pipeline.realtime.log import Log
from forecache.pipeline.realtime.lookup import Lookup
from forecache.pipeline.realtime.realtime import Realtime
from forecache.pipeline.realtime.request import Candidates, RequestField
from forecache.pipeline.realtime.rollout import Guards, Outcome, Rollout
from forecache.pipeline.realtime.rows import Rows
from forecache.pipeline.recommenders.catalogue import Catalogue
from forecache.pipeline.recommenders.recommender import RankingGate, Recommender
from forecache.pipeline.schedules.schedule import Schedule
from forecache.pipeline.served import Served
from forecache.pipeline.sources.column import Column, ColumnType
from forecache.pipeline.sources.query import Query
from forecache.pipeline.sources.source import Source
from forecache.pipeline.sources.source_time import Snapshot, Static
from forecache.pipeline.sources.stream_day import StreamDay
from forecache.pipeline.sources.table_source import AnySource, TableSource
from forecache.pipeline.streams.live import Live
from forecache.pipeline.streams.results import LiveRows, Table, ToTopic
from forecache.pipeline.streams.stream import Stream
from forecache.pipeline.streams.topic import Avro, Json, Topic

__all__ = [
    "AS_OF",
    "PROVENANCE_COLUMNS",
    "SOURCE_COLUMNS",
    "AnyOutput",
    "AnySource",
    "Avro",
    "Baseline",
    "Boolean",
    "Candidates",
    "Catalogue",
    "Classes",
    "Column",
    "ColumnType",
    "Default",
    "DotProduct",
    "Drift",
    "Effect",
    "Entities",
    "EntitySplit",
    "EstimatorModel",
    "Examples",
    "Expectation",
    "Feature",
    "FeatureView",
    "Features",
    "FitRun",
    "FunctionModel",
    "Gate",
    "Guards",
    "Json",
    "Label",
    "Labelled",
    "LastNight",
    "Live",
    "LiveRows",
    "Log",
    "Lookup",
    "Mailing",
    "Metric",
    "OrderGiven",
    "Outcome",
    "Output",
    "Pipeline",
    "Publish",
    "Quantiles",
    "Query",
    "RankingGate",
    "Realtime",
    "Recommender",
    "RegisteredModel",
    "RequestField",
    "Retraining",
    "Rollout",
    "Rows",
    "Schedule",
    "Segment",
    "Served",
    "Snapshot",
    "Source",
    "SqlModel",
    "Static",
    "Stored",
    "Stream",
    "StreamDay",
    "Structs",
    "Table",
    "TableSource",
    "Task",
    "Text",
    "ToTopic",
    "Topic",
    "TorchModel",
    "Training",
    "Vector",
    "Where",
    "Window",
    "expect",
    "load_pipeline",
    "load_pipelines",
    "load_realtime",
    "load_served",
    "load_stream",
]
