"""Kept definitions of features: the source that computes them as a released or trained model knows them, in the lake.

<lake>/.state/views/<view>/<contract>.json           of a view, before the first release that names the contract
<lake>/.state/features/<pipeline>/<contract>.json    of all features of a pipeline, with the first model trained on them
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from forecache.base.errors import DamagedError, NotFoundError
from forecache.base.settings import Settings
from forecache.base.table_names import kept_name
from forecache.kit.installation import open_state

Kind = Literal["views", "features"]
_FORMAT = 1


@dataclass(frozen=True)
class KeptDefinition:
    """The source of features under one contract; `problem` is the reason why it cannot be kept, else "".

    Attributes:
        name: That of the view, or of the pipeline if these are all its features.
        contract: That of the view, or the fingerprint of the pipeline's features.
        project: The package whose sub-package `pipelines` declares it.
        files: Source by path, such as "shop/pipelines/search.py".
        same_as: A later fingerprint of the same features: another version of Forecache can make fingerprints otherwise.
    """

    name: str
    contract: str
    project: str
    files: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""
    format: int = _FORMAT
    kind: Kind = "views"
    same_as: str = ""

    @property
    def kept_name(self) -> str:
        return kept_name(self.name, self.contract)

    @property
    def inline_name(self) -> str:
        """Its name in messages: "the view habits", "the features of churn"."""
        return f"the view {self.name}" if self.kind == "views" else f"the features of {self.name}"


def has_definition(settings: Settings, name: str, contract: str, kind: Kind = "views") -> bool:
    return open_state(settings).size(_file(name, contract, kind)) is not None


def write_definition(settings: Settings, definition: KeptDefinition) -> None:
    content = asdict(definition)
    del content["kind"]  # which its folder says
    open_state(settings).write(
        _file(definition.name, definition.contract, definition.kind), json.dumps(content).encode()
    )


def list_contracts(settings: Settings, name: str = "", kind: Kind = "views") -> list[tuple[str, str]]:
    """List names and contracts with a definition, of one name or of all, also if it says that it cannot be kept."""
    prefix = f"{kind}/{name}" if name else kind
    paths = [Path(file) for file in open_state(settings).names(prefix) if file.endswith(".json")]
    return sorted((path.parent.name, path.stem) for path in paths)


def read_definition(settings: Settings, name: str, contract: str, kind: Kind = "views") -> KeptDefinition:
    """Read a definition; raises `NotFoundError` if there is none, `DamagedError` if it cannot be read."""
    found = open_state(settings).read(_file(name, contract, kind))
    if found is None:
        raise NotFoundError(f"The lake has no definition of the contract {contract} of {name}.")
    what = f"The file .state/{_file(name, contract, kind)} of the lake"
    try:
        data = json.loads(found[0])
    except ValueError:
        raise DamagedError(f"{what} is damaged.", remedy="Remove it, which ends its features.") from None
    if data.get("format") != _FORMAT:
        raise DamagedError(
            f"{what} has the format {data.get('format')}, and this Forecache reads {_FORMAT}.",
            remedy="Run the version of Forecache that wrote it.",
        )
    return KeptDefinition(**data, kind=kind)


def remove_definition(settings: Settings, name: str, contract: str, kind: Kind = "views") -> None:
    open_state(settings).delete([_file(name, contract, kind)])


def _file(name: str, contract: str, kind: Kind) -> str:
    return f"{kind}/{name}/{contract}.json"
