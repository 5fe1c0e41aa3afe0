"""Held here: what a race concludes from its samples, and when it refuses to."""

import json
import random
import time

import pytest

measure = pytest.importorskip(
    "benchmarks.measure", reason="benchmarks are only in the tree, and found by python -m pytest"
)
report = pytest.importorskip("benchmarks.report")
results = pytest.importorskip("benchmarks.results")


def sample(cpu, wall=None, *, units=1, peak=0, wrong="", **facts):
    return measure.Sample(cpu, cpu if wall is None else wall, 0, peak, measure.Outcome(units, facts, wrong))


def race_of(again=(1.0, 1.0, 1.0), **others):
    """A race whose first contender takes 1, 2 and 4 seconds, and its control `again` times that."""
    base = (1.0, 2.0, 4.0)
    samples = {
        "ours": [sample(t) for t in base],
        "ours" + measure.CONTROL: [sample(t * a) for t, a in zip(base, again, strict=True)],
    }
    samples |= {
        name: [sample(*one) if isinstance(one, tuple) else one for one in many] for name, many in others.items()
    }
    return measure.Race("case", "chip", "ours", samples)


def busy(seconds, units, *, wrong=""):
    """Sets up and checks for longer than it works."""
    time.sleep(2 * seconds)
    yield
    time.sleep(seconds)
    yield
    time.sleep(2 * seconds)
    return measure.Outcome(units, {"slept": seconds}, wrong)


def ends_badly():
    yield
    raise SystemExit(3)
    yield


def test_ratios_are_of_one_round_so_that_a_slow_round_slows_both():
    found = race_of(theirs=[(3.0,), (6.0,), (12.0,)]).ratio("theirs", "cpu")
    assert found == measure.Spread(median=3.0, low=3.0, high=3.0)
    assert measure.paired_ratios([2.0, 9.0], [4.0, 3.0]) == [0.5, 3.0]


def test_a_ratio_is_the_median_of_rounds_with_least_and_most():
    found = race_of(theirs=[(2.0,), (2.0,), (40.0,)]).ratio("theirs", "cpu")  # 2, 1 and 10 times
    assert found == measure.Spread(median=2.0, low=1.0, high=10.0)


def test_rounds_that_do_not_pair_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        measure.paired_ratios([1.0, 2.0], [1.0])


def test_cpu_and_wall_are_told_apart():
    found = race_of(theirs=[(2.0, 0.5), (4.0, 1.0), (8.0, 2.0)])
    assert found.ratio("theirs", "cpu").median == 2.0
    assert found.ratio("theirs", "wall").median == 0.5


def test_seconds_are_of_a_unit_of_work():
    found = race_of(theirs=[sample(8.0, units=4), sample(8.0, units=2), sample(8.0, units=1)])
    assert found.seconds("theirs", "cpu") == [2.0, 4.0, 8.0]
    assert found.ratio("theirs", "cpu").median == 2.0


def test_another_than_the_first_can_be_compared_with():
    found = race_of(theirs=[(6.0,)] * 3, others=[(2.0,)] * 3)
    assert found.ratio("theirs", "cpu", "others").median == 3.0
    assert found.best(["theirs", "others", "absent"], "cpu") == "others"
    assert found.best(["absent"], "cpu") == ""


@pytest.mark.parametrize(
    ("control", "says"),
    [
        ((1.0,), True),
        ((1.1,), True),  # the edge belongs to it
        ((0.9,), True),
        ((1.11,), False),
        ((0.89,), False),
        ((0.5, 1.0, 2.0), True),  # noisy rounds whose middle is 1
        ((0.5, 1.2, 2.0), False),
    ],
)
def test_a_run_is_conclusive_where_the_median_of_its_control_is_within_a_tenth_of_one(control, says):
    assert measure.conclusive([c + 1e-12 * (1 - c) for c in control]) is says


def test_a_goal_is_inconclusive_where_the_control_is_however_good_the_ratio():
    steady, noisy = race_of(theirs=[(9.0,)] * 3), race_of((1.3, 1.3, 1.3), theirs=[(9.0,)] * 3)
    assert report.at_least("1", "less", 4, steady, "theirs", "cpu").verdict == "met"
    assert report.at_least("1", "less", 5, steady, "theirs", "cpu").verdict == "not met"  # 9, 4.5 and 2.25 times
    assert report.at_least("1", "less", 4, noisy, "theirs", "cpu").verdict == "inconclusive"


def test_a_peer_that_is_missing_is_named_and_its_goal_is_not_run():
    peer = measure.Contender("peer", busy, packages=("no_such_package_at_all",))
    assert "no_such_package_at_all is not installed" in peer.missing
    found = race_of()
    found.absent["peer"] = peer.missing
    goal = report.at_least("2", "less", 2, found, "peer", "cpu")
    assert (goal.verdict, goal.found) == ("not run", peer.missing)
    table = report.text_table(report.case_of(found))
    assert peer.missing in table
    assert "conclusive" in table


def test_only_the_part_between_the_two_yields_is_timed():
    found = measure.timed(measure.Contender("sleeper", busy, {"seconds": 0.05, "units": 5}))
    assert 0.05 <= found.wall < 0.15  # all of it takes 0.25
    assert found.cpu < 0.05
    assert found.each("wall") == found.wall / 5
    assert found.outcome.facts == {"slept": 0.05}
    assert found.peak >= found.resting > 0


def test_a_contender_that_works_on_after_its_checks_is_a_fault():
    def steps():
        yield
        yield
        yield

    with pytest.raises(RuntimeError, match="yields more than twice"):
        measure.timed(measure.Contender("talker", steps))


def test_processes_race_in_shuffled_rounds_and_one_that_dies_is_left_out():
    contenders = [
        measure.Contender("ours", busy, {"seconds": 0.001, "units": 2}),
        measure.Contender("wrong", busy, {"seconds": 0.001, "units": 2, "wrong": "one pixel"}),
        measure.Contender("dies", ends_badly),
        measure.Contender("missing", busy, packages=("no_such_package_at_all",)),
    ]
    found = measure.race("sleeping", contenders, unit="nap", rounds=2, preload=[__name__])
    assert set(found.samples) == {"ours", "ours" + measure.CONTROL, "wrong"}
    assert {len(samples) for samples in found.samples.values()} == {2}
    assert "code 3" in found.absent["dies"]
    assert found.wrong("wrong") == "one pixel"
    plain = json.loads(json.dumps(report.case_of(found)))
    assert plain["contenders"]["wrong"]["wrong"] == "one pixel"
    assert plain["contenders"]["ours"]["cpu_ratio"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert set(plain["absent"]) == {"dies", "missing"}


def test_wrong_output_of_the_one_compared_with_ends_the_race():
    ours = measure.Contender("ours", busy, {"seconds": 0.001, "units": 1, "wrong": "other pixels"})
    with pytest.raises(RuntimeError, match="other pixels"):
        measure.race("wrong", [ours], unit="nap", rounds=1, preload=[__name__])


def test_two_contenders_of_one_name_are_refused():
    ours = measure.Contender("ours", busy, {"seconds": 0.001, "units": 1})
    with pytest.raises(ValueError, match="names of their own; got ours, ours"):
        measure.race("twice", [ours, ours], unit="nap", rounds=1)


def test_the_page_tells_goals_ratios_absent_peers_and_quick_runs(tmp_path):
    found = race_of(theirs=[(3.0,), (6.0,), (12.0,)], liar=[sample(1.0, wrong="one|pixel")] * 3)
    found.absent["peer"] = "not run: it is not installed"
    goals = [report.at_least("12", "less CPU", 2, found, "theirs", "cpu"), report.Goal("-", "none", "", "", "met")]
    written = report.Report("reading", {"quick": True, "rounds": 3, "rows": None}, [found], goals)
    written.finish(tmp_path)
    (tmp_path / "other.json").write_text("[1]")
    page = results.render(results.read(tmp_path)).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page if line.startswith("|")]
    assert ["12", "less CPU", "2x", "3.00x (3.00 to 3.00)", "met", "reading"] in rows
    assert ["theirs", "6e+03", "6e+03", "3.00x (3.00 to 3.00)", "3.00x (3.00 to 3.00)", "0"] in rows
    assert ["peer", "not run: it is not installed", "", "", "", ""] in rows
    assert any(row[0] == "liar (WRONG: one/pixel)" for row in rows)
    assert not any(row[0] == "-" for row in rows)
    assert any("not to be cited" in line for line in page)
    assert any("3 rounds" in line and "conclusive" in line for line in page)


def test_a_spread_is_that_of_sorted_values():
    chance = random.Random(0)
    for count in (1, 2, 5, 8):
        values = [chance.uniform(0.5, 3) for _ in range(count)]
        middle = sorted(values)[(count - 1) // 2 : count // 2 + 1]
        expected = measure.Spread(sum(middle) / len(middle), sorted(values)[0], sorted(values)[-1])
        assert measure.Spread.of(values) == expected
