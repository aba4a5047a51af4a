"""The chain from a served answer to its data and model, as text: titles and lines for the terminal and for pages."""

from typing import Any

from forecache.cli.commands.get import provenance_text
from forecache.cli.output import format_cell, json_value
from forecache.plugins.explain.trace import live_lines, live_title

MOST_ITEMS = 5
MOST_FILES = 3  # landing files named in the text; `--json` has them all


def chain_parts(pipeline: str, chain: dict[str, Any]) -> tuple[str, list[tuple[str, list[str]]]]:
    """A chain as its answer in a line, and the title and lines of each link; the first link is where it comes from."""
    answer = chain["answer"]
    value = ", ".join(f"{name} {_value_text(item)}" for name, item in answer["value"].items())
    head, parts = f"{pipeline} {answer['key']}: {value}", [(provenance_text(answer), list[str]())]

    def link(title: str, lines: list[str]) -> None:
        parts.append((title, [line for line in lines if line]))

    if "live" in chain:
        link(live_title(chain["live"]), live_lines(chain["live"]))
    if "store" not in chain:
        return head, parts
    store = chain["store"]
    link(
        f"{'below it, ' if answer['source'] == 'live' else ''}store version {store['version']} "
        f"({store['kind']}, {store['rows']:,} keys)",
        [
            f"published {store['published_at'][:19]}Z{_code_and_run(store)}",
            f"from {store['table']} at Delta version {store['delta_version']}",
            f"content hash {store['content_hash']}, verified before it was served",
        ],
    )
    if "prediction" in chain:
        prediction = chain["prediction"]
        link(_title("prediction row", prediction), [_row_text(prediction), _made_text("scored", prediction)])
    if "interactions" in chain:
        link(_title("interactions", chain["interactions"]), _raw_lines(chain["interactions"]))
        _show_ranking(chain["model"], link)
        return head, parts
    if "contributions" in chain:
        link(*_contribution_lines(chain["contributions"], is_streamed="live" in chain))
    features = chain["features"]
    link(_title("feature row", features), [_row_text(features), _made_text("computed", features)])
    for raw in chain["raw"]:
        link(_title("raw events", raw), _raw_lines(raw))
    if "model" in chain:
        _show_model(chain["model"], link)
    return head, parts


def _contribution_lines(found: dict[str, Any], *, is_streamed: bool) -> tuple[str, list[str]]:
    """Title and lines of what the features add to the nightly prediction, the largest first."""
    if "missing" in found:
        return "why", [f"not available: {found['missing']}"]
    shown = [
        f"{each['contribution']:+.4g} by {each['name']} = {format_cell(each['value'])}"
        for each in found["features"][:MOST_ITEMS]
    ]
    others = sum(each["contribution"] for each in found["features"][MOST_ITEMS:])
    more = (
        [f"{others:+.4g} by {len(found['features']) - MOST_ITEMS} others"]
        if len(found["features"]) > MOST_ITEMS
        else []
    )
    which = f"{'the nightly ' if is_streamed else ''}{found['output']}"
    title = f"why {which} is {found['sum']:.4g}, and not the mean {found['base']:.4g} of {found['background']}"
    return title, [*shown, *more]


def _show_ranking(model: dict[str, Any], link: Any) -> None:
    lines = [model["declared"]]
    if "gate" in model and "figures" in model["gate"]:
        gate = model["gate"]
        figures = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in gate["figures"].items())
        lines.append(f"gate: {gate['metric']} on {gate['users']:,} users: {figures}")
        lines.append(f"fitted to {gate['interactions']:,} interactions with {gate['items']:,} items")
    if "missing" in model:
        lines.append(f"not available: {model['missing']}")
    link(f"model {model['name']} {model['version']}, fitted for that date", lines)


def _value_text(value: Any) -> str:
    """A value for people; for a list, the first items, each with its reason."""
    if not isinstance(value, list):
        return str(format_cell(value))
    places = [_place_text(place) if isinstance(place, dict) else str(place) for place in value]
    more = f" and {len(places) - MOST_ITEMS} more" if len(places) > MOST_ITEMS else ""
    return f"{', '.join(places[:MOST_ITEMS])}{more}"


def _show_model(model: dict[str, Any], link: Any) -> None:
    title = f"model {model['name']} {model['version']}"
    if "missing" in model:
        link(title, [f"not available: {model['missing']}"])
        return
    alias = f" ({', '.join(model['aliases'])})" if model["aliases"] else ""
    link(
        f"{title}{alias}{'' if model['gate'] == 'none' else ', gate ' + model['gate']}",
        [
            f"{'MLflow run ' + model['run_id'] + ', ' if model['run_id'] else ''}registered "
            f"{json_value(model['created_at'])}"
            if model["run_id"] or model["uri"].startswith("models:/")
            else (
                f"{model['uri']}, first scored with at "
                f"{json_value(model['created_at'])}{_code_and_run(model | {'run_id': ''})}"
            ),
            f"trained on {model['training_table']} at Delta version {model['training_delta_version']}"
            f"{_code_and_run(model)}"
            if model["training_table"]
            else "not trained by Forecache",
            "test split: " + ", ".join(f"{name} {format_cell(value)}" for name, value in model["metrics"].items())
            if model["metrics"]
            else "",
            f"gate: {model['gate_reason']}" if model["gate_reason"] else "",
        ],
    )


def _place_text(place: dict[str, Any]) -> str:
    return f"{place['item']} ({place['reason']})" if place.get("reason") else str(place["item"])


def _title(what: str, link: dict[str, Any]) -> str:
    version = link["delta_version"]
    return f"{what} in {link['table']} at Delta version {'?' if version is None else version}"


def _code_and_run(made: dict[str, Any]) -> str:
    text = f", code {made['code_version']}" if made.get("code_version") else ""
    return text + (f", run {made['run_id']}" if made.get("run_id") else "")


def _made_text(verb: str, link: dict[str, Any]) -> str:
    return f"{verb} {link['recorded_at']}{_code_and_run(link)}" if "recorded_at" in link else ""


def _row_text(link: dict[str, Any]) -> str:
    if "missing" in link:
        return f"not available: {link['missing']}"
    return ", ".join(f"{name}={_value_text(value)}" for name, value in link["row"].items())


def _raw_lines(raw: dict[str, Any]) -> list[str]:
    if "missing" in raw:
        return [f"not available: {raw['missing']}"]
    if not raw["events"]:
        return ["no event of this key"]
    lines = [f"{line['file']} line {line['line']}" for line in raw["lines"][-MOST_FILES:]]
    more = f" and {raw['events'] - MOST_FILES} earlier" if raw["events"] > MOST_FILES else ""
    return [f"{raw['events']:,} events from {raw['first']} to {raw['last']}", f"from {', '.join(lines)}{more}"]
