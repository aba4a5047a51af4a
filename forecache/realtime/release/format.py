"""The description of a release, as JSON with a checksum: all that a reader needs beside model and code."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import date
from typing import Any, Literal

from forecache.base.errors import DamagedError
from forecache.declare.realtime.examples import Log
from forecache.declare.realtime.lookups import DeclaredFallback, Default, DotProduct, OrderGiven, Precomputed, Stored
from forecache.declare.realtime.request import Candidates, RequestField, convert_value
from forecache.kit.versioned.folder import dump_with_checksum, load_with_checksum
from forecache.models.inference.kernel_spec import KernelSpec, OutputColumn

FORMAT = 1
RELEASE_FILE, MODEL_FILE, WARMUP_FILE, CODE_FOLDER = "release.json", "model.bin", "warmup.json", "code"
BINS_FILE = "bins.json"
"""The file with the bins of the training data, for drift; only for models that were trained here."""


@dataclass(frozen=True)
class LookupContract:
    """A look-up, and the features that the model was trained with."""

    called: str  # its name in the transform
    view: str  # name of the feature view, and of its store
    by: tuple[str, ...]  # fields of the request or of a candidate that hold the view's key, in its order
    columns: tuple[str, ...]  # names of the columns of its matrix, in the order that the transform knows
    contract: str  # contract that the store's manifest must have; see `FeatureView.packed`
    max_age_h: float | None = None  # features that ended longer ago are not found; None: as the store says
    live: bool = False  # features are merged with a stream's events when they are read


@dataclass(frozen=True)
class ReleasedModel:
    """The model of a release."""

    name: str  # in the registry; if the model is a function, that of the real-time model
    version: int  # in the registry; of a function, the number of its code
    uri: str  # where it came from
    spec: KernelSpec  # for the kernel; its inputs are some of the release's features, in the model's order

    @property
    def runtime(self) -> str:
        return self.spec.runtime

    @property
    def summary(self) -> dict[str, Any]:
        """The model as answers say it; version 1 of a function is another model than version 1 in the registry."""
        return {"name": self.name, "version": self.version, "runtime": self.runtime}


@dataclass(frozen=True)
class ReleaseFile:
    """A file of a release; `checksum` is the XXH3-128 of its bytes."""

    size_bytes: int
    checksum: str


@dataclass(frozen=True)
class Release:
    """One release of a real-time model; fields not described here are those of its declaration, `Realtime`."""

    name: str
    request: tuple[RequestField, ...]
    candidates: Candidates | None
    lookups: tuple[LookupContract, ...]
    features: tuple[str, ...]  # names of what the transform returns, in order
    transform: str  # `module:name` in its code
    model: ReleasedModel
    output: str
    fallbacks: tuple[DeclaredFallback, ...]
    deadline_ms: float
    on_contract: Literal["refuse", "flag"] = "refuse"
    on_unknown: Literal["refuse", "ignore"] = "refuse"
    on_nan: Literal["refuse", "accept"] = "refuse"
    runs: Literal["auto", "loop", "process"] = "auto"
    cache_bytes: int = 0
    log: Log | None = None
    description: str = ""
    inputs: str = ""  # hash of everything that it was made from: equal inputs need no new release
    created_at: str = ""  # ISO 8601 in UTC
    code_version: str = ""
    number: int = 0  # from 1 on; given when it is written
    files: Mapping[str, ReleaseFile] = field(default_factory=dict)  # by name, its other files
    format: int = FORMAT

    @property
    def all_fields(self) -> tuple[RequestField, ...]:
        """Of the request, then of each candidate."""
        return self.request + (self.candidates.fields if self.candidates else ())

    def to_json(self) -> bytes:
        content = {each.name: getattr(self, each.name) for each in fields(self)}
        content["request"] = [_field_to_json(each) for each in self.request]
        if self.candidates is not None:
            content["candidates"] = {
                **asdict(self.candidates),
                "fields": [_field_to_json(each) for each in self.candidates.fields],
            }
        content["lookups"] = [_lookup_to_json(each) for each in self.lookups]
        content["model"] = asdict(self.model)
        content["log"] = self.log and asdict(self.log)
        content["fallbacks"] = [{"kind": type(fallback).__name__, **asdict(fallback)} for fallback in self.fallbacks]
        content["files"] = {name: asdict(each) for name, each in self.files.items()}
        return dump_with_checksum(content)


def release_from_json(content: bytes, *, what: str) -> Release:
    """Decode what `Release.to_json` wrote. Raises `DamagedError`: the content is damaged, or has another format."""
    data = load_with_checksum(content, what=what)
    if data.get("format") != FORMAT:
        raise DamagedError(
            f"{what} has the format {data.get('format')}, and this Forecache reads {FORMAT}.",
            remedy=f"Release {data.get('name')} again with this version: `forecache release build {data.get('name')}`.",
        )
    for name in data["files"]:
        if name.startswith("/") or ".." in name.split("/"):
            raise DamagedError(f"{what} names the file {name!r}, which is not inside of the release.")
    listed = data["candidates"]
    return Release(
        **{
            **data,
            "request": tuple(map(_field_from_json, data["request"])),
            "candidates": listed and Candidates(**{**listed, "fields": tuple(map(_field_from_json, listed["fields"]))}),
            "lookups": tuple(LookupContract(**_tuples(each, "by", "columns")) for each in data["lookups"]),
            "features": tuple(data["features"]),
            "model": ReleasedModel(**{**data["model"], "spec": _spec_from_json(data["model"]["spec"])}),
            "log": data.get("log") and Log(**_tuples(data["log"], "by")),
            "fallbacks": tuple(map(_fallback_from_json, data["fallbacks"])),
            "files": {name: ReleaseFile(**each) for name, each in data["files"].items()},
        }
    )


def _field_to_json(declared: RequestField) -> dict[str, Any]:
    default = declared.default
    return {**asdict(declared), "default": default.isoformat() if isinstance(default, date) else default}


def _field_from_json(stored: Mapping[str, Any]) -> RequestField:
    found = RequestField(**stored)
    return found if found.default is None else RequestField(**{**stored, "default": convert_value(found, None)})


def _fallback_from_json(stored: Mapping[str, Any]) -> DeclaredFallback:
    kind, values = stored["kind"], {name: value for name, value in stored.items() if name != "kind"}
    if kind == "DotProduct":
        return DotProduct(_stored_from_json(values["user"]), _stored_from_json(values["item"]))
    if kind == "Precomputed":
        return Precomputed(_stored_from_json(values["of"]))
    return OrderGiven() if kind == "OrderGiven" else Default(**values)


def _stored_from_json(stored: Mapping[str, Any]) -> Stored:
    return Stored(**_tuples(stored, "key"))


def _spec_from_json(stored: Mapping[str, Any]) -> KernelSpec:
    outputs = tuple(OutputColumn(**each) for each in stored["outputs"])
    return KernelSpec(**{**_tuples(stored, "inputs", "input_types", "optional"), "outputs": outputs})


def _tuples(stored: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {**stored, **{name: tuple(stored[name]) for name in names}}


def _lookup_to_json(lookup: LookupContract) -> dict[str, Any]:
    """Encode a look-up; one without a live view has the format from before there were live views."""
    content = asdict(lookup)
    if not lookup.live:
        del content["live"]
    return content
