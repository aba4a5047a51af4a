"""A project with one recommender, and the purchases that it learns from."""

import random
from datetime import date, timedelta
from pathlib import Path

FIRST, LAST = date(2026, 1, 1), date(2026, 2, 28)
_SHELVES = ("tools", "garden", "kitchen", "books", "music")


def shelf_of(article: str) -> str:
    return article.partition("-")[0]


def land(landing: Path, *, customers: int = 120, per_shelf: int = 16, seed: int = 1) -> None:
    """Write a file of purchases a day: a customer buys from two shelves, mostly, and nothing twice."""
    rng = random.Random(seed)
    tastes = {f"c{number:03d}": rng.sample(_SHELVES, 2) for number in range(customers)}
    bought: set[tuple[str, str]] = set()
    folder = landing / "purchases"
    folder.mkdir(parents=True, exist_ok=True)
    day = FIRST
    while day <= LAST:
        rows = []
        for customer, taste in tastes.items():
            if rng.random() < 0.35:
                shelf = rng.choice(taste) if rng.random() < 0.95 else rng.choice(_SHELVES)
                article = f"{shelf}-{int(per_shelf * rng.random() ** 1.3):02d}"
                if (customer, article) not in bought:
                    bought.add((customer, article))
                    rows.append(f"{customer},{article},{shelf},{rng.randint(1, 3)},{day}")
        text = "\n".join(["customer,article,shelf,quantity,day", *rows])
        (folder / f"{day}.csv").write_text(text + "\n")
        day += timedelta(days=1)
