"""Policies do what Kubernetes, Knative and Ray Serve document; that of Kubernetes does not swing."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from forecache.base.errors import InputError
from forecache.cli.main import main
from forecache.plugins.cost.autoscalers import FixedReplicas, FleetSnapshot, Hpa, Kpa, RayServe, ScalingLimit
from forecache.plugins.cost.demand import DAY_S, Demand, built_in_demand, constant_demand, demand_from_csv
from forecache.plugins.cost.simulate_day import Replica, simulate_day

FREE = Hpa(
    least=1,
    most=1000,
    lag_s=0,
    window_s=1,
    down_window_s=0,
    up=(ScalingLimit(15, pods=1000),),
    down=(ScalingLimit(15, percent=100),),
)


def seen(
    in_flight: float, ready: int, *, wanted: int | None = None, now: int = 15, waiting: float = 0.0
) -> FleetSnapshot:
    return FleetSnapshot(now, ready, wanted or ready, [in_flight] * now, [waiting] * now, [ready] * now)


def test_the_hpa_wants_the_ceiling_of_the_ratio_beyond_its_tolerance() -> None:
    for in_flight, ready, wanted in (
        (6.0, 10, 10),
        (6.5, 10, 10),
        (6.7, 10, 12),
        (5.3, 10, 9),
        (0.0, 10, 1),
        (1.2, 1, 2),
    ):
        assert FREE.controller().choose_replicas(seen(in_flight, ready)) == wanted


def test_pods_that_are_starting_count_as_idle_on_the_way_up_and_as_at_target_on_the_way_down() -> None:
    # Ten at 1.2 of 0.6 want twenty; with ten already starting, all of them would be at target.
    assert FREE.controller().choose_replicas(seen(12.0, 10, wanted=20)) == 20
    assert FREE.controller().choose_replicas(seen(12.0, 10, wanted=15)) == 20
    # Ten at half the target and two starting: (5 + 2) of 12, so seven.
    assert FREE.controller().choose_replicas(seen(3.0, 10, wanted=12)) == 7


def test_scaling_down_waits_for_its_window_and_goes_by_its_limit() -> None:
    policy = replace(FREE, down_window_s=60, down=(ScalingLimit(60, percent=10),))
    controller = policy.controller()
    assert controller.choose_replicas(seen(6.0, 10, now=15)) == 10
    found, current = [], 10
    for now in range(30, 240, 15):
        current = controller.choose_replicas(seen(0.6, current, now=now))
        found.append(current)
    # The wish for ten holds through second 75; then a tenth a minute, at least one, rounded down.
    assert found == [10, 10, 10, 10, 9, 9, 9, 9, 8, 8, 8, 8, 7, 7]


def test_scaling_up_takes_the_larger_of_its_limits() -> None:
    for ready, wanted in ((2, 6), (3, 7), (10, 20)):
        assert replace(Hpa(), most=1000, lag_s=0).controller().choose_replicas(seen(ready * 100.0, ready)) == wanted


def test_the_kpa_panics_at_twice_what_is_ready_and_takes_none_away_then() -> None:
    policy = Kpa(target=1.0, least=1, most=100)
    controller = policy.controller()
    calm = [5.0] * 60
    assert controller.choose_replicas(FleetSnapshot(60, 5, 5, calm, [0.0] * 60, [5] * 60)) == 5
    burst = [*calm, *[20.0] * 6]
    assert controller.choose_replicas(FleetSnapshot(66, 5, 5, burst, [0.0] * 66, [5] * 66)) == 18  # 105 in six seconds
    after = [*burst, *[1.0] * 20]
    assert controller.choose_replicas(FleetSnapshot(86, 18, 18, after, [0.0] * 86, [18] * 86)) == 18
    later = [*burst, *[1.0] * 120]
    assert controller.choose_replicas(FleetSnapshot(186, 18, 18, later, [0.0] * 186, [18] * 186)) == 9


RAY_REPLICA = Replica(service_s=0.022, workers=5, deadline_s=0.1, start_s=10, fallbacks=False, gone_s=30)
"""Issue 63279 of Ray: requests of 22 ms; killed replicas stay routable, and routers try again up to 25 times."""


def test_the_swings_of_ray_serves_issue_63279_and_their_tail_are_reproduced() -> None:
    found = simulate_day(constant_demand(2300, 1800), RAY_REPLICA, RayServe(), first=600)
    late = found.replicas[600:]
    assert (late.min(), late.max()) == (509, 2000)
    swings = np.flatnonzero((late[1:] < 1000) & (late[:-1] >= 1000))
    assert 50 <= np.diff(swings).mean() <= 90  # "every ~60 s"
    assert found.worst_s.max() > 20  # "max 40 s": a thousand times the median
    assert found.late_share > 0.05


def test_the_hpa_at_half_the_default_target_does_not_swing_on_the_same_replicas_and_needs_fewer() -> None:
    bad = simulate_day(constant_demand(2300, 3600), RAY_REPLICA, RayServe(), first=600)
    found = simulate_day(constant_demand(2300, 3600), RAY_REPLICA, Hpa(target=1.5, least=5, most=2000), first=600)
    assert found.num_reversals == 0
    settled = found.replicas[-900:]
    assert (
        settled.min() == settled.max() == 36
    )  # 2,300 requests of 22 ms are 50.6 in flight: 1.4 each, which is near 1.5
    assert found.late[-900:].sum() / found.requests[-900:].sum() < 0.05
    assert found.replica_hours < 0.1 * bad.replica_hours


@pytest.mark.parametrize(("first", "replicas", "turns", "late_share"), [(600, 17, 0, 0.142), (3, 18, 1, 0.119)])
def test_the_default_policy_does_not_swing_on_the_same_replicas_and_one_request_in_seven_is_late(
    first: int, replicas: int, turns: int, late_share: float
) -> None:
    default = replace(Hpa(), target=Hpa().target * RAY_REPLICA.workers)  # as the command has it
    found = simulate_day(constant_demand(2300, 7200), RAY_REPLICA, default, first=first)
    # From three replicas it first rises to thirty for those that wait.
    assert (found.num_reversals, found.replicas[-1]) == (turns, replicas)
    settled = slice(-3600, None)
    assert set(found.replicas[settled].tolist()) == {replicas}
    # 50.6 requests in flight keep 85 or 90 workers busy more than half of the time, and 100 ms are only 4.5 requests.
    assert found.late[settled].sum() / found.requests[settled].sum() == pytest.approx(late_share, abs=0.001)


def test_a_day_with_the_default_policy_costs_less_than_what_its_bursts_need() -> None:
    demand, replica = built_in_demand(20_000), Replica(service_s=1 / 3000, start_s=30)
    fixed, found = simulate_day(demand, replica, FixedReplicas(20)), simulate_day(demand, replica, Hpa())
    assert fixed.replica_hours == 480
    assert found.replica_hours < 0.5 * fixed.replica_hours
    assert found.late_share < 0.001
    assert len(found.replicas) == DAY_S


def test_a_longer_start_misses_more() -> None:
    demand = constant_demand(1000, 900)
    burst = Demand(np.r_[demand.rates[:300], demand.rates[:600] * 4], "a burst")
    shares = [simulate_day(burst, Replica(1 / 1000, start_s=start), Hpa()).late_share for start in (5, 30, 120)]
    assert shares[0] < shares[1] < shares[2]


def test_a_file_of_demand_holds_each_rate_until_the_next(tmp_path: Path) -> None:
    file = tmp_path / "day.csv"
    file.write_text("seconds,requests_per_second\n0,10\n5,20.5\n8,0\n")
    assert demand_from_csv(file).rates.tolist() == [10.0] * 5 + [20.5] * 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("second,rate\n0,1\n", "has the columns second, rate"),
        ("seconds,requests_per_second\n0,1\n0,2\n", "line 3: 0, 2"),
        ("seconds,requests_per_second\n0,many\n", "line 2: 0, many"),
        ("seconds,requests_per_second\n0,-1\n", "line 2: 0, -1"),
        ("seconds,requests_per_second\n0,1\n", "has 1 lines"),
    ],
)
def test_a_file_that_is_no_demand_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "day.csv"
    file.write_text(text)
    with pytest.raises(InputError, match=said):
        demand_from_csv(file)


def asked(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict:
    capsys.readouterr()
    assert main(["simulate", "autoscale", *arguments, "--json"]) == code
    found: dict = json.loads(capsys.readouterr().out) if not code else {}
    return found


def test_the_command_compares_with_the_fewest_fixed_replicas_that_meet_the_objective(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, picture = tmp_path / "day.csv", tmp_path / "day.png"
    file.write_text("seconds,requests_per_second\n0,500\n600,4000\n1200,500\n1800,500\n")
    given = ("--file", str(file), "--capacity", "1000", "--plot", str(picture))
    found = asked(capsys, *given)
    fixed, hpa = found["outcomes"]
    assert fixed["replicas_least"] == fixed["replicas_most"] == 5
    assert fixed["meets_slo"]
    assert found["saving"] == pytest.approx(1 - hpa["replica_hours"] / fixed["replica_hours"])
    assert "price_missing" in found
    assert picture.read_bytes().startswith(b"\x89PNG")
    monkeypatch.setenv("FORECACHE_PRICES", '{"replica": [0.05, 0.02]}')
    fixed = asked(capsys, *given, "--fixed", "4")["outcomes"][0]
    assert not fixed["meets_slo"]
    assert fixed["price_on_demand"] == pytest.approx(4 * 0.5 * 0.05)
    assert fixed["price_per_million"] == pytest.approx(0.1 / 3_000_000 * 1e6)


@pytest.mark.parametrize(
    "arguments",
    [
        (), ("--peak", "10"), ("--peak", "10", "--capacity", "5", "--file", __file__),
        ("--peak", "10", "--capacity", "5", "--least", "40"),
    ],
)  # fmt: skip
def test_demand_and_capacity_have_to_be_given(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    asked(capsys, *arguments, code=2)


def test_a_request_that_takes_longer_than_its_deadline_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    asked(capsys, "--peak", "10", "--capacity", "5", "--deadline-ms", "100", code=4)
