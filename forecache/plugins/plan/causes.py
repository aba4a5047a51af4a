"""Causes: what differs between the inputs of a stage's last record and those that it has now, in words."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from typing import Any

from forecache.base.settings import Settings
from forecache.base.table_names import split_kept_name
from forecache.declare import Pipeline, Realtime
from forecache.declare.code.definition import ORDER, Definition
from forecache.lake.definitions import read_fingerprint_definition
from forecache.lake.ledger import last_record
from forecache.lake.stage_runner import StaleWork
from forecache.lake.training_set import STAGE as TRAINING_SET
from forecache.models.training.launch import STAGE as TRAIN

_FINGERPRINTED = ("code", "declared", "label", "examples")
_FINGERPRINT = re.compile(r"[0-9a-f]{16}")
_VIEW = re.compile(r"`views\.(\d+)\.")
_MOST_SHOWN, _MOST_LETTERS, _CONTEXT = 6, 60, 12


class CauseFinder:
    """Finds the causes of stale work.

    Attributes:
        pending: By table that a planned stage writes, what it gets, in words.
        views: Names of the views of the declaration whose stages are compared, in their order.
    """

    def __init__(self, settings: Settings, *, before: Settings | None = None) -> None:
        """Compare records of an environment, or with `before` those of another one with its own."""
        self._settings, self._before = settings, before or settings
        self.pending: dict[str, str] = {}
        self.views: list[str] = []

    def find(self, work: StaleWork, *, rebuild: bool = False) -> tuple[str, ...]:
        """The causes of all dates of some work, each once."""
        if rebuild:
            return ("--rebuild asks for it",)
        found: dict[str, None] = {}
        compared: set[tuple[str, str]] = set()
        for day, inputs in work.inputs.items():
            before = work.before.get(day)
            if before is None:
                found["it has not run for this date" if isinstance(day, date) else "it has not run yet"] = None
            elif (before.inputs, inputs) not in compared:
                compared.add((before.inputs, inputs))
                same = "its rows are no longer there" if before.inputs == inputs else ""
                found |= dict.fromkeys([same] if same else self.compare(before.inputs, inputs))
        return tuple(found)

    def compare(self, before: str, now: str) -> list[str]:
        """The differences of two texts of inputs, in words."""
        if _FINGERPRINT.fullmatch(before) and _FINGERPRINT.fullmatch(now):
            return self.compare_fingerprints(before, now)
        old, new = _split_inputs(before), _split_inputs(now)
        found: list[str] = []
        # Of windows, a digest of the days in them: it says more only if nothing else has changed.
        explains_days = all(old.get(name) == new.get(name) for name in {*old, *new} - {"days"})
        for name in dict.fromkeys([*new, *old]):
            was, comes = old.get(name), new.get(name)
            if was == comes or (name == "of" and old.get("model") != new.get("model")):
                continue
            if other := _find_same_table(name, new if comes is None else old):
                # Features of another definition have another table, which is said once.
                found += [self.pending.get(name, f"{other} -> {name}")] if comes is not None else []
                continue
            if name in _FINGERPRINTED and was and comes:
                found += self.compare_fingerprints(was, comes)
            elif name != "days" or explains_days:
                found.append(self._describe_change(name, was, comes))
        return list(dict.fromkeys(found))

    def _describe_change(self, name: str, was: str | None, comes: str | None) -> str:
        if comes is not None and name in self.pending:
            return self.pending[name]
        if name == "model" and was and comes:
            (old_name, old), (new_name, new) = was.split("@"), comes.split("@")
            return f"model {new_name} {old} -> {new}" if old_name == new_name else f"model {was} -> {comes}"
        if name == "expectations":
            return "its expectations changed"
        if name == "rows":
            return "its rows changed"
        if name == "of":
            return "its model was registered again"
        if name == "dates":
            return "the splits have other as-of dates"
        if name == "days":
            return "the rows of days in its windows changed"
        if name.endswith("_before"):
            return f"earlier states of {name.removesuffix('_before')} changed"
        if was is None or comes is None:
            return f"{name} is {'new' if was is None else 'gone'}"
        return f"{name} {was} -> {comes}"

    def compare_fingerprints(self, before: str, now: str) -> list[str]:
        """The differences of what two fingerprints were made of."""
        old = read_fingerprint_definition(self._before, before)
        new = read_fingerprint_definition(self._settings, now)
        if old is None or new is None:
            return ["its code or declaration changed; the lake does not have what it was before"]
        found = compare_definitions(old, new) or ["its code or declaration changed"]
        return [_VIEW.sub(self._name_view, each) for each in found]

    def describe_training(self, declared: Pipeline | Realtime) -> Iterator[str]:
        """A sentence for each stage of a training, which a nightly run leaves out, that would find the declaration
        changed.
        """
        for stage in (TRAINING_SET, TRAIN):
            before = last_record(self._settings, stage, declared.name)
            if before is None:
                continue
            now = {"label": declared.fingerprints.training_set, "declared": declared.fingerprints.training}
            words = dict(word.split("=", 1) for word in before.inputs.split() if "=" in word)
            for part, fingerprint in now.items():
                if words.get(part, fingerprint) != fingerprint:
                    differences = "; ".join(self.compare_fingerprints(words[part], fingerprint))
                    yield f"The next {stage.replace('_', ' ')} of {declared.name} differs: {differences}."

    def _name_view(self, match: re.Match[str]) -> str:
        number = int(match[1])
        return f"`views.{self.views[number] if number < len(self.views) else number}."


def compare_inputs(before: Settings, old: str, settings: Settings, now: str) -> list[str]:
    """The differences of a stage's inputs in two environments, in words."""
    return CauseFinder(settings, before=before).compare(old, now)


def _find_same_table(name: str, others: Iterable[str]) -> str:
    """Find the table of the same features by another definition among the parts of inputs; "" without one."""
    present = _drop_contract(name)
    return next((each for each in others if each != name and _drop_contract(each) == present), "")


def _drop_contract(name: str) -> str:
    kept = split_kept_name(name)
    return kept[0] if kept else name


def _split_inputs(text: str) -> dict[str, str]:
    """Parts of a text of inputs by name, such as `raw_sales` of `raw_sales@3` and `code` of `code=...`."""
    found = {}
    words = text.split()
    if len(words) == 2 and _FINGERPRINT.fullmatch(words[1]):  # of a check: the rows, and the expectations
        return {"rows": words[0], "expectations": words[1]}
    for word in words:
        name, sign, value = re.match(r"([^@=]*)([@=]?)(.*)", word).groups()  # type: ignore[union-attr]
        found[name] = value if sign else word
    return found


def describe_content_change(before: str, now: str) -> str:
    """The difference of what the contents of two published versions depend on."""
    if not before:
        return "nothing is published yet"
    old, new = before.split(":"), now.split(":")
    changed = [f"{was} -> {comes}" for was, comes in zip(old, new, strict=False) if was != comes]
    if len(old) != len(new) or not changed or max(map(len, changed)) > _MOST_LETTERS:
        return "the published version has other rows, fields or rules"
    return f"the published version has other rules: {', '.join(changed)}"


def compare_definitions(old: Definition, new: Definition) -> list[str]:
    """The differences of two definitions: declared values, and pieces of source with a value that reaches each."""
    found = [*_compare_values(old, new), *_compare_pieces(old, new)]
    return found if len(found) <= _MOST_SHOWN else [*found[:_MOST_SHOWN], f"{len(found) - _MOST_SHOWN} more changes"]


def _compare_values(old: Definition, new: Definition) -> Iterator[str]:
    added = [path for path in new.values if path not in old.values]
    gone = [path for path in old.values if path not in new.values]
    for word, paths, others in (("new", added, old.values), ("gone", gone, new.values)):
        for path in _shorten(paths, others):
            whole = (new if word == "new" else old).values.get(path)
            says_more = whole is not None and word == "new" and whole[0] != repr(path.rpartition(".")[2])
            yield f"`{path}` is {word}" + (f": {_cut(whole[0])}" if whole and says_more else "")
    for path, (shown, digest) in new.values.items():
        if path not in old.values or old.values[path][1] == digest:
            continue
        if path.endswith(ORDER) and any(each.startswith(f"{path.removesuffix(ORDER)}.") for each in (*added, *gone)):
            continue
        was = old.values[path][0]
        if shown.startswith(("function ", "class ")):
            yield f"the {shown} changed (`{path}`)" if shown == was else f"`{path}` {was} -> {shown}"
        else:
            yield f"`{path}` changed" if was == shown else f"`{path}` {' -> '.join(_show_difference(was, shown))}"


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]}..."


def _show_difference(was: str, comes: str) -> tuple[str, str]:
    """Two texts, or of long ones the part in which they differ with some letters around it."""
    if max(len(was), len(comes)) <= _MOST_LETTERS:
        return was, comes
    first = len(os.path.commonprefix([was, comes]))
    last = len(os.path.commonprefix([was[first:][::-1], comes[first:][::-1]]))
    start = max(0, first - _CONTEXT)
    parts = (text[start : len(text) - max(0, last - _CONTEXT)] for text in (was, comes))
    before, after = "..." if start else "", "..." if last > _CONTEXT else ""
    old, new = (f"{before}{part}{after}" if len(part) <= _MOST_LETTERS else f"{before}{_cut(part)}" for part in parts)
    return old, new


def _shorten(paths: Sequence[str], others: Iterable[str]) -> list[str]:
    """The shortest beginnings of paths of which no other path begins so."""
    taken = {".".join(each.split(".")[:length]) for each in others for length in range(1, each.count(".") + 2)}
    found: dict[str, None] = {}
    for path in paths:
        steps = path.split(".")
        beginnings = (".".join(steps[: length + 1]) for length in range(len(steps)))
        found[next((each for each in beginnings if each not in taken), path)] = None
    return list(found)


def _compare_pieces(old: Definition, new: Definition) -> Iterator[str]:
    for name in dict.fromkeys([*new.pieces, *old.pieces]):
        if old.pieces.get(name) == new.pieces.get(name):
            continue
        reaching = [path for path, names in (new if name in new.pieces else old).reached.items() if name in names]
        through = f", which `{reaching[0]}` reaches" if reaching else ""
        yield f"{_describe_piece(name)} {_describe_state(name, old.pieces, new.pieces)}{through}"


def _describe_state(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    return "changed" if name in old and name in new else "is new" if name in new else "is gone"


def _describe_piece(name: str) -> str:
    module, _, what = name.partition(":")
    if what == "import":
        return f"what `{module}` runs when it is imported"
    if what in ("*", "bytes"):
        return f"the module `{module}`"
    if what.endswith(" is"):
        return f"the value of `{module}:{what.removesuffix(' is')}`"
    if " = " in what:
        return f"the import of `{what.partition(' = ')[0]}` in `{module}`"
    return f"`{name}`"
