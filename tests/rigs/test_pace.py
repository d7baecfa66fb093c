"""Time limits grow on a slow machine, and a wait ends as soon as its condition is true."""

from __future__ import annotations

import pytest

from tests.rigs import pace


@pytest.fixture
def unit(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The duration of a unit of work, which tests change."""
    took = [pace.UNIT_SECONDS]
    monkeypatch.setattr(pace, "_unit", lambda: took[0])
    monkeypatch.setattr(pace, "_measured_at", float("-inf"))
    monkeypatch.setattr(pace, "_slowness", 1.0)
    return took


def test_a_limit_is_scaled_to_the_machine_as_it_is_now(unit: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    unit[0] = 3 * pace.UNIT_SECONDS
    assert pace.seconds(10) == pytest.approx(30)
    unit[0] = pace.UNIT_SECONDS / 3
    assert pace.seconds(10) == pytest.approx(30), "measured a moment ago"
    monkeypatch.setattr(pace, "FRESH", -1.0)
    assert pace.seconds(10) == 10, "a fast machine keeps the limit"


def test_a_wait_ends_with_what_it_waits_for_or_with_its_limit(unit: list[float]) -> None:
    answers = iter((0, "", "found"))
    assert pace.until(lambda: next(answers), every=0) == "found"
    with pytest.raises(TimeoutError):
        pace.until(lambda: False, 0)
