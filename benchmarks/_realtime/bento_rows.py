"""The rows of the section `bento`: the reader beside the service that `forecache release bento` writes."""

from typing import Any

from _common.rows import Asked, Row, Value

from _realtime.best_rate import LIMITS, OURS

SERVICE = "BentoML service"
_FIGURES = (("p50_ms", "p50", "ms"), ("p99_ms", "p99", "ms"), ("cpu_us", "processor time of a request", "us"))


def rows_of(_: str, section: dict[str, Any]) -> list[Row]:
    ours, service = section["servers"][OURS], section["servers"][SERVICE]
    none = Asked(0, at_least=False, of_ratio=False)
    rows = [_rate_row(ours, service)]
    for name, title, unit in _FIGURES:
        mine, theirs = (Value.of(run[name] for run in server["low"]) for server in (ours, service))
        what = f"{title}, {section['low_rate']:,.0f} requests/s"
        rows.append(Row(what, mine, unit, SERVICE, theirs, theirs / mine, key=name))
    if not section["in_loop"]:
        rows.append(
            Row("The reader asked the model in a process of its own, the service in its event loop", Value.of([1]))
        )
    for title, server in (("Reader", ours), (SERVICE, service)):
        failed = sum(run["failed"] for run in server["low"])
        what = f"{title}: requests without an answer of status 200, {section['low_rate']:,.0f} requests/s"
        rows.append(Row(what, Value.of([failed]), asked=none))
    compared = section["compared"]
    what = f"Of {compared['answers']:,} answers of the {SERVICE}, those that differ from the reader's in any bit"
    return [*rows, Row(what, Value.of([compared["wrong"]]), asked=none, key="wrong")]


def _rate_row(ours: dict[str, Any], service: dict[str, Any]) -> Row:
    what, limit = f"Requests per second at p99 under {LIMITS.p99_ms:g} ms", service["p99_limit_ms"]
    mine, theirs = float(ours["rate"]), float(service["rate"])
    if not theirs:
        peer = f"{SERVICE}: at no rate a p99 under {limit:g} ms"
        return Row(what, Value.of([mine]), "/s", peer, key="rate")
    note = "" if limit == LIMITS.p99_ms else f", at p99 under {limit:g} ms"
    note += "" if service["runs"] else " (short runs)"
    return Row(what, Value.of([mine]), "/s", f"{SERVICE}{note}", Value.of([theirs]), mine / theirs, key="rate")
