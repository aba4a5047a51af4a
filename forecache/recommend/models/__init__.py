"""Recommenders behind one interface: declared, and fitted to interactions."""

from forecache.recommend.models.als import Als
from forecache.recommend.models.base import Factors, Fitted, RecommenderModel
from forecache.recommend.models.ease import Ease
from forecache.recommend.models.fallback import WithFallback
from forecache.recommend.models.habits import Habits
from forecache.recommend.models.popularity import Popularity
from forecache.recommend.models.repeat_purchase import RepeatPurchase
from forecache.recommend.models.two_towers import TwoTowers

__all__ = [
    "Als",
    "Ease",
    "Factors",
    "Fitted",
    "Habits",
    "Popularity",
    "RecommenderModel",
    "RepeatPurchase",
    "TwoTowers",
    "WithFallback",
]
