"""The figures of recommendations beside their peers and limits."""

from typing import Any

from _common.rows import Asked, Row, Value

SECTIONS = {
    "movielens": "MovieLens 100k, a random quarter of each user's ratings held out, training items left out",
    "ranking": "The 50 best of 20,000 items, 64 factors, two cores; peers with the factors of a trained Spark ALS",
    "reading": "Lists over HTTP, one key a request, one core for the reader, beside a text of as many bytes",
}
_NAMES = {
    "popularity": "popularity",
    "ease_plain": "EASE as published, l2 only",
    "als": "Forecache's ALS",
    "two_towers": "two towers",
    "implicit_als": "implicit ALS, same parameters",
    "implicit_bpr": "implicit BPR",
    "implicit_bm25": "implicit BM25 item to item",
}
_METRICS = {"ndcg": "nDCG@10", "recall": "recall@10"}


def rows_of(name: str, section: dict[str, Any]) -> list[Row]:
    """A section's rows; each ratio is of figures of that section."""
    return {"movielens": _movielens, "ranking": _ranking, "reading": _reading}[name](section)


def _movielens(section: dict[str, Any]) -> list[Row]:
    models, rows = section["models"], []
    for metric, title in _METRICS.items():
        of = {model: _percent(found[metric]) for model, found in models.items()}
        asked = Asked(48, of_ratio=False, unit="%") if metric == "ndcg" else None
        rows.append(Row(f"{title} of EASE, {len(section['gains'])} seeds", of["ease"], "%", asked=asked, key=metric))
        for peer, said in _NAMES.items():
            rows.append(Row(f"{title} of EASE", of["ease"], "%", said, of[peer], of["ease"] / of[peer]))
        for model in ("als", "two_towers"):
            ratio = of[model] / of["implicit_als"]
            what = f"{title} of {_NAMES[model]}"
            rows.append(Row(what, of[model], "%", _NAMES["implicit_als"], of["implicit_als"], ratio))
    lowest = _percent([min(low for low, _ in section["gains"])])
    what = "nDCG@10 of EASE above popularity, low end of the 95 % interval of the worst seed"
    rows.append(Row(what, lowest, "%", asked=Asked(0, of_ratio=False, unit="%"), key="gain"))
    seconds = {model: Value.of(found["fit_s"]) for model, found in models.items()}
    asked = Asked(5, at_least=False, of_ratio=False, unit="s")
    rows.append(Row("seconds to train EASE, one core", seconds["ease"], "s", asked=asked, key="seconds"))
    for model in ("als", "two_towers"):
        theirs, ratio = seconds["implicit_als"], seconds["implicit_als"] / seconds[model]
        what = f"seconds to train {_NAMES[model]}, one core"
        rows.append(Row(what, seconds[model], "s", _NAMES["implicit_als"], theirs, ratio))
    return rows


def _ranking(section: dict[str, Any]) -> list[Row]:
    delta, peers = section["delta"], section["peers"]
    most = Asked(120, at_least=False, of_ratio=False, unit="s")
    memory = Asked(2000, at_least=False, of_ratio=False, unit="MB")
    rows = [
        Row(
            f"lists of {delta['users']:,} users into Delta, no item left out",
            Value.of([delta["seconds"]]),
            "s",
            asked=most,
        ),
        Row("most memory while doing so", Value.of([delta["peak_mb"]]), "MB", asked=memory),
    ]
    ours = Value.of(peers["users"] / each for each in peers["forecache_s"])
    for peer, said, asked in (("spark", "Spark's recommendForAllUsers", 30), ("implicit", "implicit's topk", 2)):
        theirs = Value.of(peers["users"] / each for each in peers[f"{peer}_s"])
        rows.append(
            Row(f"users per second, {peers['users']:,} users", ours, "/s", said, theirs, ours / theirs, Asked(asked))
        )
    return rows


def _reading(section: dict[str, Any]) -> list[Row]:
    from _store import lists

    return lists.table_rows([section])


def _percent(samples: list[float]) -> Value:
    return Value.of(100 * sample for sample in samples)
