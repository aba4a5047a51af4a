"""Section fraud: a week of the example `cards` in the stream, a night before each day, by the Handbook's protocol."""

import os
import shutil
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _common.rows import Asked, Row, Value

from _stream.sizes import Sizes

if TYPE_CHECKING:
    from forecache.base.settings import Settings

CARDS = Path(__file__).resolve().parents[2] / "examples" / "cards"
_CUSTOMERS = {"tiny": 1_000, "full": 5_000}
_PARTITIONS = 1  # all payments in the order of time, as the batch sees them
_DAY_S, _START_S = 300.0, 120.0
_LABELS_DAYS = 7
_DAY = timedelta(days=1)
_ANCHORS = {"average_precision": 0.66, "card_precision_100": 0.29}
_BOOK = {"roc_auc": 0.867, "average_precision": 0.658, "card_precision_100": 0.287}
"""What the Handbook prints of its random forest, of its own payments (chapter 3.4)."""
_NAMES = {"average_precision": "average precision", "card_precision_100": "card precision@100", "roc_auc": "ROC AUC"}


def measure(work: Path, sizes: Sizes) -> dict[str, Any]:
    """Seven nights and seven days; then the scores of the stream, and the same scores from the batch's features."""
    import numpy as np
    from _store.progress import say

    from _stream import home, services
    from _stream.broker import Broker

    _find_cards()
    from cards.demo.replay import send
    from cards.protocol import Protocol
    from cards.simulator import START, Simulator

    protocol, customers = Protocol(), _CUSTOMERS[sizes.name]
    settings = home.settings_of(work / "fraud", "cards")
    shutil.rmtree(settings.home_path, ignore_errors=True)
    settings.home_path.mkdir(parents=True)
    simulator = Simulator(customers)
    days = {each.day: each for each in simulator.days(START, protocol.judged_to + _LABELS_DAYS * _DAY)}
    judged = [protocol.judged_from + number * _DAY for number in range(protocol.judged_days)]
    with ExitStack() as stack:
        broker = stack.enter_context(Broker(settings.home_path / "kafka"))
        broker.create_topic("card-payments", _PARTITIONS)
        environment = services.environment_of(settings, broker.brokers, PYTHONPATH=_python_path())
        job, sent = "full", 0
        for day in judged:
            say(f"fraud: the night of {day - _DAY}")
            _land(customers, day - _DAY, environment)
            _forecache(environment, "run", "card_fraud", "--job", job, "--date", str(day - _DAY))
            if job == "full":
                engine = stack.enter_context(services.engine(settings, "cards", environment))
                tailer = stack.enter_context(services.tailer(settings, "cards", environment))
                home.wait_for("the engine", lambda: home.state_of(settings, "cards") is not None, seconds=_START_S)
                job = "nightly"
            say(f"fraud: {len(days[day].ids):,} payments of {day}")
            send(broker.brokers, "card-payments", days[day], speed=float("inf"))
            sent += len(days[day].ids)
            home.wait_for("a day", partial(_has_rows, settings, sent), seconds=_DAY_S)
            engine.check()
            tailer.check()
    say("fraud: the features of the batch")
    last = protocol.judged_to + _LABELS_DAYS * _DAY
    _land(customers, last, environment)
    batch = _batch(environment, last, settings.home_path / "batch.npz")
    columns = ["transaction_id", "event_day", "fraud_score", "features", "feature_version", "late"]
    rows = home.rows_of(settings, "stream_cards", columns)
    ids = rows["transaction_id"].to_numpy()
    streamed = dict(zip(ids.tolist(), rows["fraud_score"].to_pylist(), strict=True))
    payments = {
        name: np.concatenate([getattr(each, name) for each in days.values()])
        for name in ("ids", "customer", "terminal", "amount", "fraud", "second")
    }
    payments["day"] = np.concatenate([np.full(len(each.ids), each.day, "datetime64[D]") for each in days.values()])
    nights = [_nights_of(base) for base in rows["feature_version"].to_pylist()]
    expected = [{str(day - _DAY)} for day in rows["event_day"].to_pylist()]
    return {
        "customers": customers,
        "payments": sent,
        "rows": len(ids),
        "distinct": len(streamed),
        "other_night": sum(a != b for a, b in zip(nights, expected, strict=True)),
        "late": int(np.sum(rows["late"].to_numpy(zero_copy_only=False))),
        "differ": sum(streamed.get(each) != score for each, score in _scores(batch)),
        "compared": len(batch["ids"]),
        "features": _same(rows, batch),
        "stream": _judged(protocol, payments, streamed),
        "peer": _peer(protocol, payments, START),
    }


def _has_rows(settings: "Settings", count: int) -> bool:
    from _stream import home

    return home.count_rows(settings, "stream_cards") >= count


def _nights_of(base: str) -> set[str]:
    """The as-of dates in a row's `feature_version`, which is `view=as_of@delta_version` of each view."""
    return {each.partition("=")[2].partition("@")[0] for each in base.split(",")}


def _find_cards() -> None:
    if str(CARDS) not in sys.path:
        sys.path.insert(0, str(CARDS))


def _python_path() -> str:
    return os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(CARDS)])


def _land(customers: int, last: date, environment: Mapping[str, str]) -> None:
    _python(environment, "-m", "cards.demo.land", "--customers", str(customers), "--last", str(last))


def _forecache(environment: Mapping[str, str], *arguments: str) -> None:
    _python(environment, "-m", "forecache.cli.main", *arguments)


def _python(environment: Mapping[str, str], *arguments: str) -> str:
    from _store.processes import PYTHON, run_checked

    return run_checked([PYTHON, *arguments], environment=environment)


def _batch(environment: Mapping[str, str], night: date, file: Path) -> dict[str, Any]:
    """Of each payment of the judged week the features of the training set, and its score from these by the release."""
    import numpy as np

    path = os.pathsep.join([environment["PYTHONPATH"], str(Path(__file__).resolve().parents[1])])
    _python({**environment, "PYTHONPATH": path}, "-m", "_stream.fraud_batch", str(night), str(file))
    with np.load(file) as found:
        return dict(found)


def _scores(batch: Mapping[str, Any]) -> list[tuple[int, float]]:
    return list(zip(batch["ids"].tolist(), batch["scores"].tolist(), strict=True))


def _same(rows: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The features that payments were scored with in the stream against those of the batch."""
    import numpy as np

    from _stream.same_features import compared, matrix_of

    names = batch["names"].tolist()
    ids, first = np.unique(rows["transaction_id"].to_numpy(), return_index=True)
    streamed = matrix_of(rows["features"], len(names))[first]
    return compared(names, (ids, streamed), (batch["ids"], batch["features"]))


def _judged(protocol: Any, payments: Any, scores: Mapping[int, float]) -> dict[str, float]:
    """The metrics of the Handbook over the payments that it judges."""
    import numpy as np

    counts = protocol.judged(payments["day"], payments["customer"], payments["fraud"])
    given = np.array([scores[number] for number in payments["ids"][counts].tolist()])
    return _metrics({name: values[counts] for name, values in payments.items()}, given)


def _metrics(judged: Any, score: Any) -> dict[str, float]:
    from cards.protocol import card_precision
    from sklearn.metrics import average_precision_score, roc_auc_score

    return {
        "average_precision": float(average_precision_score(judged["fraud"], score)),
        "card_precision_100": card_precision(judged["day"], judged["customer"], judged["fraud"], score),
        "roc_auc": float(roc_auc_score(judged["fraud"], score)),
        "judged": len(score),
        "frauds": int(judged["fraud"].sum()),
    }


def _peer(protocol: Any, payments: Any, start: date) -> dict[str, float]:
    """The Handbook's features and its random forest, on the same payments."""
    import numpy as np

    from _stream.handbook import features, forest_scores

    since = (payments["day"] - np.datetime64(start)).astype(np.int64)
    given = {**payments, "second": since * 86_400 + payments["second"], "weekday": (since + start.weekday()) % 7}
    learned = np.datetime64(protocol.learned_from)
    train = (payments["day"] >= learned) & (payments["day"] < learned + protocol.learned_days)
    counts = protocol.judged(payments["day"], payments["customer"], payments["fraud"])
    score = forest_scores(features(given), payments["fraud"], train, counts)
    return _metrics({name: values[counts] for name, values in payments.items()}, score)


def rows_of(section: dict[str, Any]) -> list[Row]:
    stream, peer = section["stream"], section["peer"]
    of = f"{stream['judged']:,} payments, {stream['frauds']:,} frauds"
    book = "the Handbook's features and random forest, on the same payments (on its own it prints {})"
    rows = [
        Row(f"{_NAMES[name]} of the scores in the stream, {of}", Value.of([stream[name]]), "",
            book.format(_BOOK[name]), Value.of([peer[name]]), stream[name] / peer[name],
            Asked(_ANCHORS[name], of_ratio=False) if name in _ANCHORS else None, name)
        for name in _NAMES
    ]  # fmt: skip
    none = Asked(0, at_least=False, of_ratio=False)
    return [
        *rows,
        Row(f"Scores in the stream that differ from the batch's in a bit, of {section['compared']:,}",
            Value.of([section["differ"]]), asked=none, key="differ"),
        Row(f"Payments that have not exactly one row, of {section['payments']:,}",
            Value.of([section["payments"] - section["distinct"] + section["rows"] - section["distinct"]]), asked=none),
        *_feature_rows(section),
        Row("Payments that were scored with another night than the one before their day",
            Value.of([section["other_night"]]), asked=none),
    ]  # fmt: skip


def _feature_rows(section: dict[str, Any]) -> list[Row]:
    """The features of the stream against the batch's."""
    from _stream.same_features import total

    found, none = section.get("features"), Asked(0, at_least=False, of_ratio=False)
    if found is None:  # in results from before they were compared
        return []
    of = f"{len(found['features'])} features of {found['compared']:,} payments"
    return [
        Row(f"Values in the stream that differ from the batch's in a bit, {of}", Value.of([total(found, "differ")]),
            asked=none, key="features_differ"),
        Row("Values that the batch has and the stream has not", Value.of([total(found, "missing")]), asked=none),
        Row("Values that the stream has and the batch has not", Value.of([total(found, "extra")]), asked=none),
        Row("Payments of the batch's that are not in the stream, or the other way round",
            Value.of([found["missing"] + found["extra"]]), asked=none),
    ]  # fmt: skip
