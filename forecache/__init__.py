"""Batch-first machine learning on a data lake: all that projects and applications import, in one place.

A name loads when it is first used: `import forecache` costs nothing, and an installation of one part needs the
libraries of no other part.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forecache.base.alert import Alert as Alert
    from forecache.base.alert import Subject as Subject
    from forecache.base.errors import CheckError as CheckError
    from forecache.base.errors import ConflictError as ConflictError
    from forecache.base.errors import DamagedError as DamagedError
    from forecache.base.errors import ForecacheError as ForecacheError
    from forecache.base.errors import InputError as InputError
    from forecache.base.errors import NotEverywhereError as NotEverywhereError
    from forecache.base.errors import NotFoundError as NotFoundError
    from forecache.base.errors import NotYetError as NotYetError
    from forecache.base.errors import PipelinesFailedError as PipelinesFailedError
    from forecache.base.errors import SettingsError as SettingsError
    from forecache.base.errors import UnavailableError as UnavailableError
    from forecache.base.errors import UnreachableError as UnreachableError
    from forecache.base.results import StageResult as StageResult
    from forecache.base.settings import Settings as Settings
    from forecache.base.settings import load_settings as load_settings
    from forecache.base.version import __version__ as __version__
    from forecache.declare import *  # noqa: F403
    from forecache.declare.loading import read_project as read_project
    from forecache.declare.project import Project as Project
    from forecache.declare.realtime.request_rows import Rows as Rows
    from forecache.declare.realtime.request_rows import features_of as features_of
    from forecache.declare.realtime.request_rows import order_of as order_of
    from forecache.declare.realtime.request_rows import scores_of as scores_of
    from forecache.kit.delta.dataset import open_dataset as open_dataset
    from forecache.kit.delta.tables import open_table as open_table
    from forecache.lake.frame import Frame as Frame
    from forecache.lake.query import query as query
    from forecache.models.inference.encoding import read_encoding as read_encoding
    from forecache.notebook import explain as explain
    from forecache.notebook import features as features
    from forecache.notebook import model as model
    from forecache.notebook import predictions as predictions
    from forecache.notebook import score as score
    from forecache.notebook import sql as sql
    from forecache.notebook import training_set as training_set
    from forecache.plugins.alerts.notify import notify as notify
    from forecache.plugins.challengers.shadow import score_shadow as score_shadow
    from forecache.plugins.drift.prediction_drift import prediction_drift as prediction_drift
    from forecache.plugins.historical_features.historical import historical_features as historical_features
    from forecache.plugins.mail.mailing import Mailing as Mailing
    from forecache.plugins.recommend.models import Als as Als
    from forecache.plugins.recommend.models import Ease as Ease
    from forecache.plugins.recommend.models import Factors as Factors
    from forecache.plugins.recommend.models import Fitted as Fitted
    from forecache.plugins.recommend.models import Habits as Habits
    from forecache.plugins.recommend.models import Popularity as Popularity
    from forecache.plugins.recommend.models import RecommenderModel as RecommenderModel
    from forecache.plugins.recommend.models import RepeatPurchase as RepeatPurchase
    from forecache.plugins.recommend.models import TwoTowers as TwoTowers
    from forecache.plugins.recommend.models import WithFallback as WithFallback
    from forecache.plugins.recommend.recommender import Catalogue as Catalogue
    from forecache.plugins.recommend.recommender import RankingGate as RankingGate
    from forecache.plugins.recommend.recommender import Recommender as Recommender
    from forecache.plugins.torch.worker.network import EmbeddedCategories as EmbeddedCategories
    from forecache.realtime.log.read import read_log as read_log
    from forecache.runs import run_night as run_night
    from forecache.scoring.run import score_nights as score_nights
    from forecache.scoring.udf import scoring_udf as scoring_udf
    from forecache.serve.reader.client import AsyncClient as AsyncClient
    from forecache.serve.reader.client import Client as Client
    from forecache.serve.reader.wire import Answer as Answer
    from forecache.serve.reader.wire import RealtimeAnswer as RealtimeAnswer
    from forecache.serve.store.keys import encode_columns as encode_columns
    from forecache.serve.store.keys import encode_key as encode_key
    from forecache.serve.store.publishing.publish import publish as publish
    from forecache.serve.store.remote_store import open_store as open_store
    from forecache.serve.store.store import Store as Store

_PUBLIC = {
    "forecache.base.errors": """
        CheckError ConflictError DamagedError ForecacheError InputError NotEverywhereError NotFoundError NotYetError
        PipelinesFailedError SettingsError UnavailableError UnreachableError
    """,
    "forecache.plugins.recommend.models": """
        Als Ease Factors Fitted Habits Popularity RecommenderModel RepeatPurchase TwoTowers WithFallback
    """,
    "forecache.plugins.recommend.recommender": "Catalogue RankingGate Recommender",
    "forecache.plugins.mail.mailing": "Mailing",
    "forecache.base.alert": "Alert Subject",
    "forecache.plugins.alerts.notify": "notify",
    "forecache.models.inference.encoding": "read_encoding",
    "forecache.kit.delta.dataset": "open_dataset",
    "forecache.kit.delta.tables": "open_table",
    "forecache.plugins.historical_features.historical": "historical_features",
    "forecache.lake.frame": "Frame",
    "forecache.lake.query": "query",
    "forecache.notebook": "explain features model predictions score sql training_set",
    "forecache.plugins.drift.prediction_drift": "prediction_drift",
    "forecache.runs": "run_night",
    "forecache.declare": """
        AS_OF PROVENANCE_COLUMNS SOURCE_COLUMNS AnyOutput AnySource Avro Baseline Boolean Candidates Classes
        Column ColumnType Default DotProduct Drift Effect Entities EntitySplit EstimatorModel Examples Expectation
        Feature FeatureView Features FitRun FunctionModel Gate Guards Json Label Labelled Precomputed Live LiveRows Log
        Lookup Metric OrderGiven Outcome Output Pipeline Publish Quantiles Query Realtime
        RegisteredModel RequestField Retraining Rollout Schedule Segment Served Snapshot Source
        SqlModel Static Stored Stream StreamDay Structs Table TableSource Task Text ToTopic Topic TorchModel Trainable
        Training Vector Where Window expect load_pipeline load_pipelines load_realtime load_served load_stream
    """,
    "forecache.declare.loading": "read_project",
    "forecache.declare.project": "Project",
    "forecache.declare.realtime.request_rows": "Rows features_of order_of scores_of",
    "forecache.serve.reader.client": "AsyncClient Client",
    "forecache.serve.reader.wire": "Answer RealtimeAnswer",
    "forecache.realtime.log.read": "read_log",
    "forecache.base.results": "StageResult",
    "forecache.plugins.challengers.shadow": "score_shadow",
    "forecache.scoring.run": "score_nights",
    "forecache.scoring.udf": "scoring_udf",
    "forecache.base.settings": "Settings load_settings",
    "forecache.base.version": "__version__",
    "forecache.serve.store.keys": "encode_columns encode_key",
    "forecache.serve.store.publishing.publish": "publish",
    "forecache.serve.store.remote_store": "open_store",
    "forecache.serve.store.store": "Store",
    "forecache.plugins.torch.worker.network": "EmbeddedCategories",
}
_MODULES = {name: module for module, names in _PUBLIC.items() for name in names.split()}
__all__ = sorted(_MODULES)


def __dir__() -> list[str]:
    return [*globals(), *__all__]


if not TYPE_CHECKING:  # a type checker shall know a wrong name

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = _MODULES[name]
        if module.startswith("forecache.plugins."):
            importlib.import_module("forecache.base.plugins").require_plugin(module.split(".")[2])
        value = globals()[name] = getattr(importlib.import_module(module), name)
        return value
