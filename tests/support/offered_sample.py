"""Landing files of the offers: what households bought, and what they were shown; and the same computed plainly."""

from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
from offered_project.pipelines.offers import SHOWN, offers
from offered_project.transforms import popular
from offered_project.views import START, VISITS
from offered_project.views import product as product_view

from forecache.base.settings import Settings
from forecache.declare import Feature, Lookup

DAYS = 16
NIGHT = START + timedelta(days=DAYS - 1)
HOUSEHOLDS, PRODUCTS = 24, 9

brief = replace(
    offers, lookups=(Lookup(product_view),), transform=popular, features=(Feature("popularity"), Feature("price"))
)
"""The offers with one look-up instead of four, whose training set Spark makes several times as fast."""


@dataclass(frozen=True)
class Visit:
    household: int
    product: str
    spend: float | None
    day: date


@dataclass(frozen=True)
class Shown:
    request: str
    household: int
    channel: str
    place: int
    product: str
    price: float
    taken: int
    at: datetime


def visits(seed: int = 1) -> list[Visit]:
    rng = np.random.default_rng(seed)
    found = []
    for number in range(DAYS):
        for _ in range(25):
            spend = None if rng.random() < 0.1 else float(rng.integers(1, 200)) / 4
            product = int(PRODUCTS * rng.random() ** 2)  # the lower its number, the more popular
            found.append(Visit(int(rng.integers(HOUSEHOLDS)), f"p{product}", spend, START + timedelta(days=number)))
    return found


def shown(seed: int = 2, *, per_day: int = 12) -> list[Shown]:
    """Requests at any time of the day, the first and the last moment included; cheap and popular offers are taken."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(1, DAYS):
        for asked in range(per_day):
            day = datetime.combine(START + timedelta(days=number), datetime.min.time(), timezone.utc)
            second = {0: 0.0, 1: 86399.999999}.get(asked, float(rng.integers(86400)))
            household, channel = int(rng.integers(HOUSEHOLDS + 2)), ("app", "web", "")[rng.integers(3)]
            offered = rng.permutation(PRODUCTS + 1)[: rng.integers(1, 10)]
            for place, product in enumerate(offered):
                price = float(rng.integers(1, 40)) / 8
                taken = int(rng.random() < 1 / (1 + np.exp(0.8 * product + 1.2 * price - 4)))
                request = f"r{number:02d}-{asked:02d}"
                at = day + timedelta(seconds=second)
                found.append(Shown(request, household, channel, place, f"p{product}", price, taken, at))
    return found


def land_offers(settings: Settings, bought: list[Visit], asked: list[Shown]) -> None:
    """Write the landing files of all days."""
    lines = {VISITS.name: defaultdict(list), SHOWN.name: defaultdict(list)}
    for each in bought:
        spend = "" if each.spend is None else each.spend
        lines[VISITS.name][each.day].append(f"{each.household},{each.product},{spend},{each.day}")
    for row in asked:
        values = (row.request, row.household, row.channel, row.place, row.product, row.price, row.taken)
        lines[SHOWN.name][row.at.date()].append(",".join(map(str, [*values, row.at.isoformat()])))
    for source in (VISITS, SHOWN):
        folder = Path(settings.landing_uri) / source.name
        folder.mkdir(parents=True, exist_ok=True)
        head = ",".join(column.name for column in source.columns)
        for number in range(DAYS):
            day = START + timedelta(days=number)
            (folder / f"{day}.csv").write_text("\n".join([head, *lines[source.name][day], ""]))


def expected(bought: list[Visit], asked: list[Shown]) -> dict[tuple[str, int], list[float]]:
    """By request and place the features as a request saw them, from the events of the days before its own."""
    found = {}
    by_request: dict[str, list[Shown]] = defaultdict(list)
    for row in asked:
        by_request[row.request].append(row)
    for request, rows in by_request.items():
        night = rows[0].at.date() - timedelta(days=1)
        most = max(row.price for row in rows)
        midnight = datetime.combine(rows[0].at.date(), datetime.min.time(), timezone.utc)
        for row in rows:
            known = [each for each in bought if each.day <= night]
            week = [each for each in known if each.day > night - timedelta(days=7)]
            own = [each for each in known if each.household == row.household]
            of_pair = [each for each in week if (each.household, each.product) == (row.household, row.product)]
            of_product = [each for each in week if each.product == row.product]
            spent = [e.spend for e in own if e.day > night - timedelta(days=3) and e.spend is not None]
            there = any(each.household == row.household for each in week)
            last = max(((e.day, e.product) for e in own), default=(None, "p3"))[1]
            spends = [each.spend for each in own if each.spend is not None]
            found[request, row.place] = [
                len(of_product) or np.nan,
                len(of_pair),
                sum(spent) if there else np.nan,
                row.price / most,
                bool(of_pair),
                row.channel == "app",
                (row.at - midnight) / timedelta(hours=1),
                np.nan if last == "p3" else int(last[1:]),
                len(own) or np.nan,
                sum(spends) if spends else np.nan,
                row.price,
            ]
    return found
