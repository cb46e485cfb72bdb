"""Who gets which nodes: by example and by property."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_prominence.placement import Busy, Capacity, Need, could_ever_fit, in_order, schedule

NODE = Capacity(1, "here", 4, 4096, 40960, frozenset({"singularity"}))
NEED = Need(1, "alice", 0, 1, 1, 1024, 10240, 600, frozenset({"singularity"}))


def test_a_job_that_fits_is_granted() -> None:
    [grant] = schedule([NEED], [NODE], now=0)
    assert (grant.job_id, grant.site, grant.node_ids) == (1, "here", (1,))


@pytest.mark.parametrize(
    "change",
    [
        {"cpus": 5},
        {"memory_mb": 4097},
        {"disk_mb": 40961},
        {"runtimes": frozenset({"udocker"})},
        {"sites": frozenset({"elsewhere"})},
        {"nodes": 2},
    ],
)
def test_each_requirement_alone_can_rule_a_node_out(change: dict[str, object]) -> None:
    need = replace(NEED, **change)
    assert schedule([need], [NODE], now=0) == []
    assert not could_ever_fit(need, [NODE])


def test_a_smaller_job_passes_only_if_the_first_is_not_delayed() -> None:
    node = replace(NODE, busy=(Busy(3, 1024, 1024, until=100),))
    big = replace(NEED, job_id=1, cpus=4)
    short = replace(NEED, job_id=2, walltime_s=90)
    long = replace(NEED, job_id=3, walltime_s=200)
    assert [g.job_id for g in schedule([big, long, short], [node], now=0)] == [2]


def test_a_long_job_may_use_what_the_first_will_not_need() -> None:
    node = replace(NODE, busy=(Busy(3, 1024, 1024, until=100),))
    big = replace(NEED, job_id=1, cpus=3)
    long = replace(NEED, job_id=2, walltime_s=10_000)
    assert [g.job_id for g in schedule([big, long], [node], now=0)] == [2]


def test_owners_with_nothing_running_alternate() -> None:
    waiting = [replace(NEED, job_id=i, owner="alice") for i in (1, 2, 3)] + [replace(NEED, job_id=9, owner="bob")]
    assert [n.job_id for n in in_order(waiting, {})] == [1, 9, 2, 3]


def test_priority_goes_before_fair_share_and_age() -> None:
    waiting = [NEED, replace(NEED, job_id=2, priority=5)]
    assert [n.job_id for n in in_order(waiting, {"alice": 100})] == [2, 1]


def test_who_uses_much_waits_for_who_uses_little() -> None:
    waiting = [NEED, replace(NEED, job_id=2, owner="bob")]
    assert [n.job_id for n in in_order(waiting, {"alice": 8})] == [2, 1]


needs = st.builds(
    Need,
    job_id=st.integers(1, 10_000),
    owner=st.sampled_from(["a", "b"]),
    priority=st.integers(0, 2),
    nodes=st.integers(1, 3),
    cpus=st.integers(1, 5),
    memory_mb=st.integers(1, 5000),
    disk_mb=st.integers(1, 50_000),
    walltime_s=st.floats(1, 1000),
)
busy = st.builds(
    Busy, cpus=st.integers(0, 2), memory_mb=st.integers(0, 1000), disk_mb=st.integers(0, 9000), until=st.floats(1, 500)
)
capacities = st.builds(
    Capacity,
    node_id=st.integers(1, 1000),
    site=st.sampled_from(["x", "y"]),
    cpus=st.integers(4, 8),
    memory_mb=st.integers(4000, 8000),
    disk_mb=st.integers(40_000, 80_000),
    runtimes=st.just(frozenset({"singularity", "udocker"})),
    busy=st.lists(busy, max_size=2),
)
queues = st.lists(needs, max_size=12, unique_by=lambda need: need.job_id)
sites = st.lists(capacities, max_size=5, unique_by=lambda node: node.node_id)


@given(queues, sites)
def test_no_node_is_ever_given_more_than_it_has(queue: list[Need], nodes: list[Capacity]) -> None:
    by_id = {need.job_id: need for need in queue}
    grants = schedule(in_order(queue, {}), nodes, now=0)
    assert len({grant.job_id for grant in grants}) == len(grants)
    for node in nodes:
        here = [by_id[g.job_id] for g in grants if node.node_id in g.node_ids]
        for size in ("cpus", "memory_mb", "disk_mb"):
            used = sum(getattr(item, size) for item in [*node.busy, *here])
            assert used <= max(getattr(node, size), sum(getattr(b, size) for b in node.busy))


@given(queues, sites)
def test_nodes_of_a_job_are_distinct_of_one_site_and_as_many_as_asked(queue: list[Need], nodes: list[Capacity]) -> None:
    by_id = {need.job_id: need for need in queue}
    site_of = {node.node_id: node.site for node in nodes}
    for grant in schedule(in_order(queue, {}), nodes, now=0):
        assert len(set(grant.node_ids)) == len(grant.node_ids) == by_id[grant.job_id].nodes
        assert {site_of[n] for n in grant.node_ids} == {grant.site}


@given(queues, sites)
def test_on_empty_nodes_the_first_that_could_ever_fit_is_served(queue: list[Need], nodes: list[Capacity]) -> None:
    empty = [replace(node, busy=()) for node in nodes]
    ordered = in_order(queue, {})
    fitting = [need.job_id for need in ordered if could_ever_fit(need, empty)]
    granted = {grant.job_id for grant in schedule(ordered, empty, now=0)}
    assert not fitting or fitting[0] in granted


@given(queues)
def test_the_order_loses_and_adds_no_job(queue: list[Need]) -> None:
    assert sorted(n.job_id for n in in_order(queue, {})) == sorted(n.job_id for n in queue)


RANGE = replace(NEED, cpus=2, most_cpus=8, molds=True)


@pytest.mark.parametrize(
    ("taken", "cpus"),
    [(0, 4), (1, 3), (2, 2), (3, None)],
)
def test_a_job_with_a_range_gets_what_is_free(taken: int, cpus: int | None) -> None:
    node = replace(NODE, busy=(Busy(taken, 0, 0, until=100),))
    assert [grant.cpus for grant in schedule([RANGE], [node], now=0)] == ([] if cpus is None else [cpus])


def test_a_range_ends_where_it_says() -> None:
    [grant] = schedule([replace(RANGE, most_cpus=3)], [NODE], now=0)
    assert (grant.cpus, grant.memory_mb) == (3, 1024)


def test_memory_grows_with_the_cores_where_it_is_asked_for_each() -> None:
    need = replace(RANGE, memory_mb=3000, memory_mb_per_cpu=1300.5)
    [grant] = schedule([need], [NODE], now=0)
    assert (grant.cpus, grant.memory_mb) == (3, 3902), "there is no memory for a fourth"


@pytest.mark.parametrize(("free", "cpus"), [(4, 4), (3, 2), (2, 2), (1, None)])
def test_of_two_options_the_second_is_tried_first_and_nothing_between(free: int, cpus: int | None) -> None:
    node = replace(NODE, busy=(Busy(4 - free, 0, 0, until=100),))
    need = replace(NEED, cpus=2, most_cpus=4)
    assert [grant.cpus for grant in schedule([need], [node], now=0)] == ([] if cpus is None else [cpus])


def test_a_larger_node_is_found_for_a_larger_size() -> None:
    small = replace(NODE, node_id=2, site="elsewhere", cpus=2)
    assert [grant.node_ids for grant in schedule([RANGE], [small, NODE], now=0)] == [(1,)]


def test_a_job_with_a_range_that_must_wait_waits_for_the_least() -> None:
    node = replace(NODE, busy=(Busy(3, 1024, 1024, until=100), Busy(1, 1024, 1024, until=300)))
    long = replace(NEED, job_id=2, cpus=1, walltime_s=10_000)
    assert schedule([RANGE, long], [node], now=0) == []
    later = replace(node, busy=(Busy(2, 1024, 1024, until=300),))
    assert [(grant.job_id, grant.cpus) for grant in schedule([RANGE, long], [later], now=100)] == [(1, 2)]


@given(
    least=st.integers(1, 6),
    more=st.integers(0, 6),
    per_cpu=st.sampled_from([0.0, 512.0, 1000.3]),
    taken=st.lists(st.integers(0, 4), min_size=1, max_size=3),
    molds=st.booleans(),
    nodes=st.integers(1, 2),
)
def test_no_size_is_outside_what_was_asked_for_or_what_there_is(
    least: int, more: int, per_cpu: float, taken: list[int], molds: bool, nodes: int
) -> None:
    need = replace(NEED, cpus=least, nodes=nodes, most_cpus=least + more, molds=molds, memory_mb_per_cpu=per_cpu)
    need = need.with_cpus(least) if not more else replace(need.with_cpus(least), most_cpus=least + more)
    there = [replace(NODE, node_id=number, busy=(Busy(cpus, 0, 0, until=100),)) for number, cpus in enumerate(taken)]
    grants = schedule([need], there, now=0)
    fits = sum(4 - cpus >= least and need.memory_mb <= 4096 for cpus in taken) >= nodes
    assert len(grants) == fits
    for grant in grants:
        assert least <= grant.cpus <= least + more
        assert molds or grant.cpus in (least, least + more)
        assert grant.memory_mb == (math.ceil(per_cpu * grant.cpus) or need.memory_mb)
        assert all(taken[node_id] + grant.cpus <= 4 for node_id in grant.node_ids)
        assert grant.memory_mb <= 4096
