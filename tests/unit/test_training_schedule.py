"""The learning rate of each step, and what a declaration of the training may say."""

from dataclasses import replace

import pytest

from forecache.base.errors import SettingsError
from forecache.declare import Training
from forecache.plugins.torch.worker.loop import learning_rate

STEPS = 100


def rates(**declared: object) -> list[float]:
    training = replace(Training(learning_rate=0.1), **declared)  # type: ignore[arg-type]
    return [learning_rate(training, step, STEPS) for step in range(STEPS)]


def test_a_constant_rate_is_the_declared_one_to_the_bit() -> None:
    assert set(rates()) == {0.1}


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
def test_the_warm_up_rises_in_a_line_and_ends_at_the_declared_rate(schedule: str) -> None:
    found = rates(schedule=schedule, warmup_share=0.1)
    assert found[:10] == pytest.approx([0.01 * step for step in range(1, 11)])
    assert found[10] == pytest.approx(0.1)


def test_falling_rates_end_just_above_zero_and_halve_in_the_middle() -> None:
    for schedule in ("cosine", "linear"):
        found = rates(schedule=schedule)
        assert found == sorted(found, reverse=True)
        assert found[50] == pytest.approx(0.05)
        assert 0 < found[-1] < 0.0011
    assert rates(schedule="cosine")[10] > rates(schedule="linear")[10]


@pytest.mark.parametrize(
    ("declared", "sentence"),
    [
        ({"accumulation": 0}, "accumulation=0"),
        ({"batch_size": -1}, "batch_size=-1"),
        ({"max_gradient_norm": 0.0}, r"max_gradient_norm=0\.0"),
        ({"warmup_share": 1.0}, r"warmup_share=1\.0"),
        ({"schedule": "cosin"}, "schedule='cosin'.*'constant', 'cosine', 'linear'"),
    ],
)
def test_a_declaration_that_cannot_be_is_refused_by_name_and_value(declared: dict[str, object], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        Training(**declared)  # type: ignore[arg-type]
