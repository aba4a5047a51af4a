"""Errors for names that are not known: the closest one, and no list that nobody reads."""

import pytest

from forecache.base.errors import SettingsError
from forecache.base.table_names import list_names
from forecache.declare.checks import check_known

FEATURES = [f"f{number:03d}" for number in range(136)]


def test_the_closest_name_comes_first_and_a_long_list_is_cut() -> None:
    with pytest.raises(SettingsError) as refused:
        check_known("The gate has the baseline feature", ["f1300"], FEATURES, listed="Its features are")
    shown = ", ".join(FEATURES[:30])
    assert str(refused.value) == (
        "The gate has the baseline feature 'f1300', which it does not declare. Did you mean 'f130'? "
        f"Its features are {shown} and 106 more."
    )


def test_a_short_list_is_whole_and_an_empty_one_says_so() -> None:
    assert list_names(FEATURES[:30]) == ", ".join(FEATURES[:30])
    assert list_names([]) == "none"
