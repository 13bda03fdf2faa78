import pytest

from toolkit.training.schedules import value_at


def test_a_number_is_constant():
    assert [value_at(0.25, step) for step in (0, 10**9)] == [0.25, 0.25]
    assert isinstance(value_at(2, 0), float)


def test_points_are_joined_by_lines_and_the_ends_are_constant():
    schedule = [(10, 1.0), (20, 3.0), (40, -1.0)]
    # 1 + 2 * (s - 10) / 10, then 3 - 4 * (s - 20) / 20
    expected = {0: 1.0, 10: 1.0, 15: 2.0, 20: 3.0, 25: 2.0, 30: 1.0, 40: -1.0, 99: -1.0}
    assert {step: value_at(schedule, step) for step in expected} == expected


def test_two_points_at_one_step_are_a_jump():
    schedule = [(0, 0.0), (5, 1.0), (5, 4.0), (10, 4.0), (10, 0.5)]
    assert value_at(schedule, 4) == pytest.approx(0.8)
    assert [value_at(schedule, step) for step in (5, 9, 10, 11)] == [4.0, 4.0, 0.5, 0.5]


def test_a_jump_at_the_first_step_holds_from_there_on():
    assert [value_at([(500, 0.0), (500, 1.0)], step) for step in (0, 499, 500, 501)] == [0.0, 0.0, 1.0, 1.0]


def test_one_point_is_constant():
    assert [value_at([(100, 0.3)], step) for step in (0, 100, 200)] == [0.3] * 3


@pytest.mark.parametrize("schedule", ["0.1", None, [], [(10, 1.0), (5, 2.0)], [(0, 1.0, 2.0)], {"a": 1}, [1, 2],
                                      [(0, "a")], [("a", 1.0)]])
def test_malformed_schedules_are_refused(schedule):
    with pytest.raises(ValueError, match="points"):
        value_at(schedule, 0)
