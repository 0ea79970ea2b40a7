"""Means and rates between two looks at counters."""

from collab.dashboard.measured import StageMeans


def counters(total_us, runs):
    return {"stage_us:p/1/s": total_us, "stage_runs:p/1/s": runs}


def test_a_mean_is_of_the_runs_between_two_looks():
    means = StageMeans()
    means.take("a", counters(10_000, 10), 1.0)
    assert (means.ms("p", 1, "s"), means.rate("p", 1, "s", 1.0)) == (1.0, 0.0)
    means.take("a", counters(40_000, 20), 3.0)
    assert (means.ms("p", 1, "s"), means.rate("p", 1, "s", 3.0)) == (3.0, 5.0)


def test_the_first_runs_of_a_stage_count_though_it_had_no_counters_before():
    means = StageMeans()
    means.take("a", {}, 1.0)
    means.take("a", counters(4_000, 2), 2.0)
    assert (means.ms("p", 1, "s"), means.rate("p", 1, "s", 2.0)) == (2.0, 2.0)
    assert means.ran("p", 1.5)
    assert not means.ran("p", 2.0)


def test_a_node_that_was_started_again_has_no_negative_rate():
    means = StageMeans()
    means.take("a", counters(90_000, 90), 1.0)
    means.take("a", counters(1_000, 1), 2.0)
    assert means.rate("p", 1, "s", 2.0) == 0.0
    means.forget("a")
    assert means.ms("p", 1, "s") is None


def test_replicas_rates_add_up_and_an_old_one_is_none():
    means = StageMeans()
    for node, ms in (("a", 1000), ("b", 2000)):
        means.take(node, counters(0, 0), 1.0)
        means.take(node, counters(4 * ms, 4), 2.0)
    assert (means.rate("p", 1, "s", 2.0), means.ms("p", 1, "s")) == (8.0, 2.0)
    assert means.rate("p", 1, "s", 60.0) == 0.0
