"""Whose turn it is, as every process works it out for itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prefect_nanobanana.slots._fairness import line, share, size, to_give_up
from prefect_nanobanana.slots._server import Peer
from prefect_nanobanana.slots._timings import DEFAULT


def _holder(name: str, held: int, *, waiting: bool = True, since: float = 0.0, limit: int = 4) -> Peer:
    return Peer(name, "h", 1, limit, held=held, waiting=waiting, since=since, served=True)


def test_who_holds_the_fewest_comes_first_then_who_has_waited_longest() -> None:
    assert line(
        [
            _holder("rich", 2, since=1),
            _holder("late", 0, since=9),
            _holder("early", 0, since=3),
            _holder("done", 0, since=0, waiting=False),
        ]
    ) == ["early", "late", "rich"]


def test_the_account_has_what_the_most_modest_believes() -> None:
    assert size(_holder("a", 0, limit=4), []) == 4
    assert size(_holder("a", 0, limit=4), [_holder("b", 0, limit=1), _holder("c", 0, limit=9)]) == 1


def test_everybody_has_the_same_share() -> None:
    idle = _holder("idle", 0, waiting=False)
    assert share(_holder("a", 0), []) == 4
    assert share(_holder("a", 0), [idle]) == 4
    assert share(_holder("a", 0), [_holder("b", 4, waiting=False), idle]) == 2
    assert share(_holder("a", 0), [_holder("b", 4), _holder("c", 0)]) == 1


LONG, SHORT = DEFAULT.odd + 1, DEFAULT.newcomer - 1


@pytest.mark.parametrize(
    ("me", "others", "giving", "longest", "expected"),
    [
        pytest.param(4, [], 0, LONG, 0, id="nobody else is there"),
        pytest.param(4, [(0, False)], 0, LONG, 0, id="nobody else waits"),
        pytest.param(4, [(0, True)], 0, SHORT, 1, id="one with none gets one at once"),
        pytest.param(4, [(0, True)], 1, SHORT, 1, id="and another one on top of it"),
        pytest.param(4, [(0, True)], 2, LONG, 0, id="not more than half"),
        pytest.param(2, [(2, True)], 0, LONG, 0, id="who has as many must wait"),
        pytest.param(1, [(0, True)], 0, SHORT, 0, id="the last slot is kept for a turn"),
        pytest.param(1, [(0, True)], 0, LONG, 1, id="and given up after it"),
        pytest.param(2, [(1, True), (1, True)], 0, LONG, 1, id="the odd one goes round"),
        pytest.param(2, [(2, False), (0, True)], 0, LONG, 1, id="of two with as many, one"),
        pytest.param(0, [(0, True)], 0, 0, 0, id="who has none gives none"),
        pytest.param(9, [], 0, SHORT, 5, id="the account has fewer: at once"),
        pytest.param(5, [(1, False)], 0, SHORT, 2, id="who holds most gives first"),
        pytest.param(1, [(5, False)], 0, SHORT, 0, id="who holds few does not"),
    ],
)
def test_what_is_given_up(
    me: int, others: list[tuple[int, bool]], giving: int, longest: float, expected: int
) -> None:
    them = [_holder(f"o{n}", held, waiting=waits, since=5) for n, (held, waits) in enumerate(others)]
    assert to_give_up(_holder("me", me, since=1), them, giving, longest) == expected


def test_of_those_who_hold_as_many_the_one_that_has_for_longest_gives() -> None:
    a, b, poor = _holder("a", 2, since=1), _holder("b", 2, since=2), _holder("c", 0)
    assert to_give_up(a, [b, poor], 0, LONG) == 1
    assert to_give_up(b, [a, poor], 0, LONG) == 0


def test_a_newcomer_waits_for_less_than_one_whose_turn_has_passed() -> None:
    me, waiting = _holder("me", 1), _holder("other", 0)
    assert to_give_up(me, [waiting], 0, DEFAULT.turn - 1) == 0
    assert to_give_up(me, [waiting], 0, DEFAULT.turn + 1) == 1
    waiting = replace(waiting, served=False)
    assert to_give_up(me, [waiting], 0, DEFAULT.newcomer + 1) == 1
    assert to_give_up(me, [waiting], 0, DEFAULT.newcomer - 1) == 0


def test_the_odd_slot_goes_round_slowly() -> None:
    me, other = _holder("me", 2), _holder("other", 1)
    assert to_give_up(me, [other], 0, DEFAULT.turn + 1) == 0
    assert to_give_up(me, [other], 0, DEFAULT.odd + 1) == 1
