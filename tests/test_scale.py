"""The simulation of many scans, against what queueing theory knows in closed form."""

import sys
from collections import deque

import pytest
from conftest import ROOT

pytest.importorskip("simpy", reason="needs the extra: pip install 'lungseg[bench]'")
sys.path.append(str(ROOT / "benchmarks"))

import simulate_cohort as cohort
from simulate_cohort import Fleet
from simulation import Cores, Flow, Stage, Step, simulate

SECONDS = {"read": 3.0, "segment": 5.0, "write": 1.0}


def stages(seats=(1, 1, 1), **seconds: float) -> list[Stage]:
    seconds = SECONDS | seconds
    return [Stage(name, [Step([seconds[name]])], own) for name, own in zip(SECONDS, seats)]


def run(own: list[Stage], scans=200, in_hand=20, crews=1, **options) -> Flow:
    return simulate(own, [deque([0] * scans)] * crews, in_hand=in_hand, **options)


def test_without_variance_the_rate_is_that_of_the_slowest_stage():
    assert run(stages()).rate == pytest.approx(1 / 5)
    assert run(stages(read=8.0)).rate == pytest.approx(1 / 8)
    assert run(stages(seats=(1, 2, 1))).rate == pytest.approx(1 / 3, rel=0.01)
    assert run(stages(seats=(2, 5, 1))).rate == pytest.approx(2 / 3, rel=0.01)
    assert run(stages(seats=(4, 6, 1))).rate == pytest.approx(1, rel=0.01)


def test_the_first_scan_takes_the_sum_and_all_take_the_closed_form():
    flow = run(stages(), scans=10)
    assert flow.finished[0] == 9 and flow.finished[-1] == 9 + 9 * 5
    alone = run(stages(), scans=10, in_hand=1)
    assert alone.finished == [9.0 * number for number in range(1, 11)]


@pytest.mark.parametrize("seats", [(7, 1, 1), (1, 1, 9), (4, 1, 4)])
def test_more_of_a_stage_that_is_no_bottleneck_changes_nothing(seats):
    assert run(stages(seats)).rate == pytest.approx(run(stages()).rate)


def test_more_of_the_bottleneck_moves_it_to_the_next_stage():
    rates = [run(stages((1, devices, 1))).rate for devices in (1, 2, 3, 4)]
    assert rates[0] < rates[1] == pytest.approx(rates[2]) == pytest.approx(rates[3])


@pytest.mark.parametrize("in_hand", [1, 2, 3, 10])
def test_little_s_law_holds(in_hand):
    """As many are on their way as the rate times the time that each one takes."""
    flow = run(stages(), scans=2000, in_hand=in_hand)
    mean_s = sum(flow.times) / len(flow.times)
    assert flow.rate * mean_s == pytest.approx(in_hand, rel=0.01)


def test_seats_are_busy_as_long_as_they_work():
    """The utilisation law: a stage's share of the time is its rate times its seconds."""
    flow = run(stages(), scans=500)
    assert flow.busy == {name: pytest.approx(500 * seconds) for name, seconds in SECONDS.items()}
    assert flow.busy["segment"] / flow.finished[-1] == pytest.approx(1, rel=0.01)


def test_kinds_take_their_own_time_in_their_order():
    own = [Stage("segment", [Step([1.0, 10.0])])]
    flow = simulate(own, [deque([0, 1, 0])], in_hand=2)
    assert flow.finished == [1, 11, 12]


# --- on few cores ---------------------------------------------------------------------------------


def test_cores_bound_the_work_whatever_the_seats():
    """Nine seconds of work a scan: one core does 1/9 of a scan a second, two do twice as many."""
    for count in (1, 2):
        flow = run(stages((9, 9, 9)), cores=Cores(count))
        assert flow.finished[-1] == pytest.approx(200 * 9 / count, rel=0.01)


def test_a_core_for_each_is_as_if_they_were_not_counted():
    assert run(stages(), cores=Cores(3)).rate == pytest.approx(run(stages()).rate)


def test_cores_that_slow_each_other_down_are_slower_together_only():
    one = [Stage("segment", [Step([4.0])], 2)]
    assert run(one, cores=Cores(2, 1.5), in_hand=1).rate == pytest.approx(1 / 4)
    assert run(one, cores=Cores(2, 1.5), in_hand=2).finished[-1] == pytest.approx(600, rel=0.01)


def test_threads_share_the_cores_with_the_reader():
    """Two threads of 1 s, and a reader of 1 s: 3 s of work on two cores."""
    own = [Stage("read", [Step([1.0])]), Stage("segment", [Step([1.0], 2)])]
    assert run(own, cores=Cores(3)).rate == pytest.approx(1)
    assert run(own, cores=Cores(2)).rate == pytest.approx(2 / 3, rel=0.03)


def test_crews_of_one_queue_do_each_scan_once_and_twice_as_fast():
    flow = run(stages(), scans=200, crews=2)
    assert len(flow.finished) == 200
    assert flow.finished[-1] == pytest.approx(9 + 99 * 5)


# --- the measured times ---------------------------------------------------------------------------


def found(**more) -> dict:
    row = {"hash": 0.0, "read": 1.0, "prepare": 0.5, "network": 3.0, "back": 0.5, "write": 0.1}
    scan = {"slices": 100, "bytes": 1, "plain_bytes": 2, "read": 1.0, "read_plain": 0.2}
    every = {name: [row, row] for name in ("alone", "beside", "threads")}
    return {"cores": 2, "count": 40, "scans": [scan, scan], **every, **more}


def test_the_doors_of_two_cores_have_the_rates_that_their_work_has():
    """5.1 s of one core a scan; one process: 2 s of two threads more."""
    two = cohort.simulate_door("`--ray`, 2 actors", found()).rate
    assert two == pytest.approx(2 / 5.1, rel=0.05)
    assert cohort.simulate_door(cohort.SHARDS, found()).rate == pytest.approx(two, rel=0.05)
    one = cohort.simulate_door("`--ray`, 1 actor", found()).rate
    assert one == pytest.approx(1 / 4, rel=0.03)
    alone = cohort.simulate_door(cohort.ONE, found()).rate
    assert 1 / 5 < alone < 1 / 4


def test_a_fast_device_waits_for_gzip_and_less_for_plain_files():
    def rate(**more):
        return cohort.simulate_fleet(found(), Fleet(**{"readers": 1, "devices": 1} | more))

    slow, fast = ({"speed": speed, "writers": 1} for speed in (2.0, 100.0))
    assert rate(**slow) == pytest.approx(1 / 2, rel=0.01)
    assert rate(**fast) == pytest.approx(1, rel=0.01)
    assert rate(**fast, plain=True) == pytest.approx(1 / 0.2, rel=0.01)
    assert rate(**fast, readers=4) == pytest.approx(4, rel=0.01)
    assert rate(**fast, readers=90) == pytest.approx(1 / 0.1, rel=0.01)  # one writer
