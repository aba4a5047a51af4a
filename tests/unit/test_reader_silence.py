"""Which silent connections are closed: the late ones always, others where connections run out."""

from typing import Any

from forecache.kit.http.connections import SilentConnection, choose_to_close


def silent(peer: str, *silences_s: float) -> list[SilentConnection]:
    connection: Any = None
    return [SilentConnection(connection, peer, silent_s) for silent_s in silences_s]


def test_only_late_connections_are_closed_while_there_are_enough() -> None:
    held = silent("10.0.0.1", 0.0, 3.0, 14.9, 15.0, 99.0)
    assert [each.silent_s for each in choose_to_close(held, len(held), after_s=15.0, most=10)] == [15.0, 99.0]


def test_under_pressure_the_address_that_holds_the_most_gives_up_its_longest_silent_ones() -> None:
    greedy, other = silent("10.0.0.1", 1.0, 9.0, 5.0, 0.1), silent("10.0.0.2", 12.0)
    chosen = choose_to_close(other + greedy, 5, after_s=15.0, most=4)
    assert [(each.peer, each.silent_s) for each in chosen] == [("10.0.0.1", s) for s in (9.0, 5.0, 1.0)]


def test_connections_that_have_just_spoken_are_never_closed() -> None:
    assert choose_to_close(silent("10.0.0.1", *[0.2] * 50), 50, after_s=15.0, most=10) == []


def test_no_more_is_closed_than_the_pressure_asks_for() -> None:
    assert len(choose_to_close(silent("10.0.0.1", *[2.0] * 10), 10, after_s=15.0, most=16)) == 2


def test_connections_that_are_being_answered_count_and_are_not_closed() -> None:
    assert len(choose_to_close(silent("10.0.0.1", *[2.0] * 4), 14, after_s=15.0, most=16)) == 4
