"""Every value of a declaration is checked when the declaration loads: the message names the thing, value and remedy."""

import dataclasses
from collections.abc import Callable
from datetime import date, datetime
from typing import Any

import pytest
from sample_project.pipelines.visits import VISITS, basket, returns

from forecache.base.errors import SettingsError
from forecache.declare import (
    Baseline,
    Column,
    Drift,
    EstimatorModel,
    Expectation,
    Feature,
    Features,
    Gate,
    Label,
    Output,
    Publish,
    Retraining,
    Segment,
    Source,
    TorchModel,
    Training,
    expect,
)


def nothing(*arguments: Any) -> None:
    pass


def column(**changes: Any) -> Column:
    return Column(**{"name": "amount", "type": "double", **changes})


def source(**changes: Any) -> Source:
    return dataclasses.replace(VISITS, **changes)


def with_key(kind: str) -> Any:
    columns = (Column("user_id", kind), Column("day", "date"))  # type: ignore[arg-type]
    return dataclasses.replace(returns, sources=(source(columns=columns),))


WRONG: list[tuple[Callable[[], object], str]] = [
    (lambda: column(type="float"), r"Column 'amount' has type='float'\. It is one of 'string', 'int'"),
    (lambda: column(required="yes"), r"required='yes'\. It is True or False"),
    (lambda: column(minimum="0"), r"minimum='0'\. It is a number or None"),
    (lambda: column(minimum=2, maximum=1), r"maximum=1\. It is not below the minimum, 2"),
    (lambda: column(type="string", minimum=1), r"minimum=1\. A string has no limits"),
    (lambda: column(name="two words"), r"column name 'two words', which a table cannot have"),
    (lambda: source(start="2024-01-01"), r"Source 'visits' has start='2024-01-01'\. It is a date"),
    (lambda: source(start=datetime(2024, 1, 1)), r"start=datetime.*It is a date"),
    (lambda: source(columns=(column(), "day")), r"columns=\(.*It is a tuple, each item a Column"),
    (lambda: source(end=date(2023, 1, 1)), r"end=.*It is not before the start, 2024-01-01"),
    (lambda: source(event_time="amount"), r"event_time='amount'\. It is a date or timestamp column, not a double"),
    (lambda: source(file_pattern="(?P<day>"), r"which is no regular expression: "),
    (lambda: source(columns=[column()]), r"columns=\[.*It is a tuple, each item a Column"),
    (lambda: source(expectations=(expect("expect_column_values_to_not_be_null", column="ammount"),)), "'ammount'"),
    (lambda: expect("expect_column_values_to_be_betwen"), r"Did you mean 'expect_column_values_to_be_between'\?"),
    (lambda: Expectation("expect_column_values_to_be_between", {}, "fatal"), r"severity='fatal'\. It is one of"),
    (lambda: Feature("a feature"), "column name 'a feature'"),
    (lambda: Feature("f", log=1), r"Feature 'f' has log=1\. It is True or False"),
    (lambda: Features((), nothing), "Declare at least one feature"),
    (lambda: Features((Feature("f"),), "compute"), r"compute='compute'\. It is a function"),
    (lambda: Label("y", "binray", 30, nothing), r"Label 'y' has kind='binray'\. It is one of 'binary', 'regression'"),
    (lambda: Label("y", "binary", 0, nothing), r"horizon_days=0\. Give 1 or more"),
    (lambda: Label("y", "binary", 1.5, nothing), r"horizon_days=1\.5\. It is a whole number"),
    (lambda: TorchModel(nothing, target="log"), r"target='log'\. It is one of 'identity', 'log1p'"),
    (lambda: TorchModel(nothing, fit=3), r"fit=3\. It is a function or None"),
    (lambda: EstimatorModel(nothing, patience=0), r"patience=0\. Give 1 or more"),
    (lambda: Training(epochs=0), r"`Training` has epochs=0\. Give 1 or more"),
    (lambda: Training(epochs=2.5), r"epochs=2\.5\. It is a whole number"),
    (lambda: Training(epochs=True), r"epochs=True\. It is a whole number"),
    (lambda: Training(learning_rate=10**400), r"learning_rate=1000.*\. It is a number"),
    (lambda: Training(learning_rate=0.0), r"learning_rate=0\.0\. Give more than 0"),
    (lambda: Training(learning_rate=float("nan")), r"learning_rate=nan\. It is a number"),
    (lambda: Training(parallel="dpp"), r"parallel='dpp'\. It is one of"),
    (lambda: Output("p", minimum=1.0, maximum=0.0), r"maximum=0\.0\. It is more than the minimum, 1"),
    (lambda: Segment("s", "p", (0.5, 0.5), ("a", "b", "c")), r"bounds=\(0\.5, 0\.5\)\. They ascend"),
    (lambda: Segment("s", "p", (0.5,), (1, 2)), r"labels=\(1, 2\)\. It is a tuple, each item a text"),
    (lambda: Baseline("f", scale="1"), r"scale='1'\. It is a number"),
    (lambda: Gate("roc_auc", {"roc_auc": "0.5"}, Baseline("f")), r"It is a mapping from a text to a number"),
    (lambda: Gate("roc_auc", ["roc_auc"], Baseline("f")), r"floors=\['roc_auc'\]\. It is a mapping"),
    (lambda: Gate("roc_auc", {}, Baseline("f"), max_regression=-0.1), r"max_regression=-0\.1\. Give 0 or more"),
    (lambda: Publish(backend="dynamodb"), r"`Publish` has backend='dynamodb'\. It is one of 'lmdb', 'redis'"),
    (lambda: Publish(on_stale="refused"), r"on_stale='refused'\. It is one of 'serve', 'flag', 'refuse'"),
    (lambda: Publish(fields="p"), r"fields='p'\. It is a tuple, each item a text or None"),
    (lambda: Publish(fields=()), "Name a column, or None for all"),
    (lambda: Publish(max_age_h=0), r"max_age_h=0\. Give more than 0"),
    (lambda: Publish(max_null_share=2), r"max_null_share=2\. It is a share, at most 1"),
    (lambda: Drift(blocking="no"), r"`Drift` has blocking='no'"),
    (lambda: Retraining(max_feature_psi="0.2"), r"`Retraining` has max_feature_psi='0\.2'\. It is a number or None"),
    (lambda: Retraining(min_nights=2.5), r"min_nights=2\.5\. It is a whole number"),
    (lambda: dataclasses.replace(returns, key="user_id"), r"key='user_id'\. It is a tuple, each item a text"),
    (lambda: dataclasses.replace(returns, shadow="yes"), r"shadow='yes'\. It is True or False"),
    (lambda: dataclasses.replace(returns, label=nothing), r"It is a Label"),
    (lambda: dataclasses.replace(returns, sources=(VISITS, VISITS)), "declares the source 'visits' twice"),
    (lambda: dataclasses.replace(returns, model=basket.model), r"model\.target='log1p'\. log1p is for a regression"),
    (
        lambda: dataclasses.replace(returns, expectations=(expect("expect_column_min_to_be_between", column="x"),)),
        r"expects expect_column_min_to_be_between of the column 'x', which its table does not have",
    ),
    (lambda: with_key("double"), r"key column 'user_id', which is a double in source 'visits'\. Keys are strings"),
    (lambda: with_key("boolean"), "which is a boolean in source"),
    (lambda: with_key("timestamp"), "which is a timestamp in source"),
]


@pytest.mark.parametrize(("declare", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_a_wrong_value_is_refused_where_it_is_declared(declare: Callable[[], object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        declare()


@pytest.mark.parametrize("kind", ["string", "int", "bigint", "date"])
def test_every_key_type_that_is_accepted_can_be_published_and_read(kind: str) -> None:
    import pyarrow as pa

    from forecache.base.output_kinds import KEY_TYPES
    from forecache.serve.store.encoding.entries import key_schema

    with_key(kind)
    arrow = {"string": pa.string(), "int": pa.int32(), "bigint": pa.int64(), "date": pa.date32()}[kind]
    (column_,) = key_schema(pa.schema([("user_id", arrow)]), ("user_id",)).columns
    assert column_.type in KEY_TYPES


def test_numbers_of_numpy_are_numbers() -> None:
    import numpy as np

    spec = Output("p", minimum=np.float32(0.5), maximum=np.int64(1)).spec
    assert (spec.minimum, spec.maximum) == (0.5, 1)
    assert Training(epochs=np.int64(3)).epochs == 3
