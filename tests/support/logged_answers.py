"""Real answers of the engine, in process, written to the request log as the reader writes them; and published views."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from typing import Any, cast

import numpy as np
import pyarrow as pa
from ranking_code import transforms
from release_support import make_release
from view_tables import write_features

from forecache.base.settings import Settings
from forecache.declare import Column, Feature, Features, FeatureView, Publish, Source
from forecache.kit.delta.tables import append_rows
from forecache.plugins.parity.replay import replay_day
from forecache.plugins.parity.replay_result import ParityReport
from forecache.realtime.answer.engine import AnswerEngine
from forecache.realtime.answer.in_loop import DirectPath
from forecache.realtime.answer.served_release import ServedRelease, serve_release
from forecache.realtime.deadline import RequestClock
from forecache.realtime.log.answer_log import encode_request
from forecache.realtime.log.record import TIMES, schema, table_of
from forecache.realtime.metrics import ModelCells
from forecache.realtime.release.folder import open_releases
from forecache.realtime.release.format import LookupContract, Release
from forecache.realtime.release.load import load_release
from forecache.realtime.request.request_answer import (
    LookupResult,
    ModelCallError,
    ParsedRequest,
    RequestAnswer,
    StageTimes,
    lowest_fallback,
)
from forecache.serve.reader.versions.answers import VersionAnswers
from forecache.serve.store import open_store, publish

DAY = date(2026, 3, 2)
NIGHT = date(2026, 3, 1)
ARRIVED = datetime(2026, 3, 2, 9, tzinfo=timezone.utc)
OPEN = Publish(max_row_change=None, max_null_share=1.0, max_psi=None, max_age_h=100_000, keep=3)


def _unused(*_: Any) -> Any:
    raise AssertionError("the store calls no function of a view")


def _view(name: str, key: str, kind: str, columns: Sequence[str]) -> FeatureView:
    source = Source("baskets", (Column(key, kind), Column("day", "date")), event_time="day", start=date(2026, 1, 1))
    declared = Features(compute=_unused, columns=tuple(map(Feature, columns)))
    return FeatureView(name, (key,), (source,), declared, publish=OPEN)


HOUSEHOLD_VIEW = _view("household", "household_id", "bigint", ("spend_28d", "visits_28d"))
PRODUCT_VIEW = _view("product", "product_id", "string", ("popularity",))
LOOKUPS = tuple(
    LookupContract(view.name, view.name, view.key, view.served_columns, view.packed.contract)
    for view in (HOUSEHOLD_VIEW, PRODUCT_VIEW)
)
HOUSEHOLDS: Mapping[Any, tuple[float | None, ...]] = {
    number: (None if number % 7 == 0 else number / 3, float(number % 5)) for number in range(40)
}
PRODUCTS: Mapping[Any, tuple[float | None, ...]] = {f"p{number}": (number / 9,) for number in range(60)}


def publish_views(settings: Settings, *, night: date = NIGHT, shift: float = 0.0) -> None:
    """Write a night of both views to the lake, and publish it."""
    for view, rows in ((HOUSEHOLD_VIEW, HOUSEHOLDS), (PRODUCT_VIEW, PRODUCTS)):
        columns = list(zip(*rows.values(), strict=True))
        table = pa.table(
            {
                view.key[0]: list(rows),
                "as_of": pa.array([night] * len(rows), pa.date32()),
                **{
                    name: pa.array([None if each is None else each + shift for each in column], pa.float32())
                    for name, column in zip(view.served_columns, columns, strict=True)
                },
            }
        )
        write_features(settings, table, night=night, view=view.name)
        publish(settings, view, night=night)


def release(settings: Settings, transform: Any = transforms.rank, **declared: Any) -> Release:
    """A release that looks up the published views; made before anything of it arrives."""
    return make_release(
        settings, transform=transform, **{"lookups": LOOKUPS, "created_at": "2026-03-01T00:00:00Z", **declared}
    )


def requests(count: int, *, seed: int = 0, candidates: int = 8) -> list[bytes]:
    """Requests of households, known and unknown, with candidates of which some are unknown."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        products = [f"p{each}" for each in rng.choice(70, candidates, replace=False)]
        body = {
            "request_id": f"r{number:05}",
            "household_id": int(rng.integers(0, 45)),
            "candidates": [{"product_id": each, "price": float(rng.integers(1, 900)) / 100} for each in products],
        }
        found.append(json.dumps(body).encode())
    return found


@dataclass
class Path(DirectPath):
    """Fails after the model was asked, where a test wants it."""

    fails: bool = False

    def score_now(self, request: ParsedRequest, found: LookupResult, left_ns: int) -> np.ndarray:
        scores = super().score_now(request, found, left_ns)
        if self.fails:
            raise ModelCallError("as the test wants it")
        return scores


class Answering:
    """Answers requests by the current release and the served versions, and gives each as a row of the log."""

    def __init__(self, settings: Settings, name: str = "ranking", *, number: int | None = None) -> None:
        folder = open_releases(settings, name)
        self.settings, self.name = settings, name
        self.loaded = load_release(folder, number or max(folder.numbers()))
        stores = {each.view for each in self.loaded.release.lookups}
        stores |= {path.name for path in settings.store_path.iterdir() if not path.name.startswith(".")}
        self.versions = {each: VersionAnswers(open_store(settings, each).snapshot()) for each in stores}
        self.path = Path(self.loaded)
        self.served: ServedRelease = serve_release(self.loaded, self.path, self.versions, cast(ModelCells, None))
        self.engine = AnswerEngine(self.versions)

    def answer(
        self, asked: bytes | ParsedRequest, *, at: datetime = ARRIVED, why: str = "", **changes: Any
    ) -> dict[str, Any]:
        """The row of an answer; `changes` are columns that are logged otherwise."""
        parsed = self.served.parser.parse(asked) if isinstance(asked, bytes) else asked
        if why:
            answered = self.engine.answer_by_fallback(self.served, parsed, _clock(), StageTimes(), why=why)
        else:
            answered = self.engine.answer_now(self.served, parsed, _clock(), StageTimes())
        ages = {name: int(at.timestamp() - each.manifest.as_of_end.timestamp()) for name, each in answered.used.items()}
        return {**row_of(self.loaded.release, parsed, answered, ages, at), **changes}

    def close(self) -> None:
        for each in self.versions.values():
            each.snapshot.close()
        self.loaded.close()


def _clock() -> RequestClock:
    from time import perf_counter_ns

    now = perf_counter_ns()
    return RequestClock(now, now + 10**12, 10**6)


def row_of(
    release: Release,
    parsed: ParsedRequest,
    answered: RequestAnswer,
    ages: Mapping[str, int],
    at: datetime,
) -> dict[str, Any]:
    """A row of the request log."""
    several = not answered.answered_by
    scores, features = answered.scores, cast("np.ndarray | None", answered.features)
    return {
        "request_id": parsed.request_id,
        "arrived_at": at,
        "day": at.date(),
        "key": "",
        "request": parsed.body or encode_request(release, parsed),
        "items": parsed.length,
        "release": release.number,
        "model_version": release.model.version,
        "variant": "current",
        "features": None if features is None else features.tobytes(),
        "scores": None if scores is None else scores.tobytes(),
        "score_dtype": "" if scores is None else scores.dtype.name,
        "answered_by": lowest_fallback(answered.item_answered_by) if several else answered.answered_by,
        "item_answered_by": list(answered.item_answered_by) if several else None,
        "ranking": answered.order.tolist() if several and answered.order is not None else None,
        "fallback_reason": answered.fallback_reason,
        "warnings": list(answered.warnings),
        "stores": [
            {
                "name": name, "version": each.manifest.version, "as_of": each.manifest.as_of, "age_s": ages[name],
                "store": each.manifest.store, "table": each.manifest.source.table,
                "delta_version": each.manifest.source.delta_version,
            }
            for name, each in answered.used.items()
        ],
        "live": [],
        "late": False,
        "deadline_ms": 50.0,
        **dict.fromkeys(TIMES, 1),
        "replica": "127.0.0.1:8100#0",
    }  # fmt: skip


def write_log(settings: Settings, rows: Sequence[Mapping[str, Any]], name: str = "ranking") -> None:
    """Append rows to the log of a model."""
    append_rows(
        settings, table_of(name), pa.Table.from_pylist(list(rows), schema=schema()), partition_by=("day",)
    )  # fmt: skip


def logged(answering: Answering, count: int = 30, **more: Any) -> list[dict[str, Any]]:
    """The rows of so many answers, a second apart."""
    return [
        answering.answer(body, at=ARRIVED + timedelta(seconds=number), **more)
        for number, body in enumerate(requests(count))
    ]


def replayed(settings: Settings, **more: Any) -> ParityReport:
    """The day of those answers, computed again in this process."""
    return replay_day(settings, "ranking", DAY, processes=0, **more)
