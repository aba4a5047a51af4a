"""Recommenders behind one interface: declared, and fitted to interactions."""

from forecache.plugins.recommend.models.als import Als
from forecache.plugins.recommend.models.base import Factors, Fitted, RecommenderModel
from forecache.plugins.recommend.models.ease import Ease
from forecache.plugins.recommend.models.popularity import Habits, Popularity, RepeatPurchase, WithFallback
from forecache.plugins.recommend.models.two_towers import TwoTowers

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
