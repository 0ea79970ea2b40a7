"""Limits of hosts as the kernel's control groups take them, and where a quota misleads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from collab.emulation.cgroups import Groups, Hierarchy, find_hierarchy
from collab.emulation.devices import Limits, settings, untrustworthy_stages
from collab.errors import BackendError, ConfigError

V1 = """\
cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0
cgroup /sys/fs/cgroup/my\\040memory cgroup rw,memory 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0
"""
V2 = "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n"


def test_quota_and_memory_are_written_as_each_version_has_them():
    limits = Limits(cpu=0.25, memory_bytes=1 << 28)
    assert limits.controllers == ["cpu", "memory"]
    assert settings(1, limits)[:3] == [
        ("cpu", "cpu.cfs_period_us", "10000", True),
        ("cpu", "cpu.cfs_quota_us", "2500", True),
        ("memory", "memory.limit_in_bytes", "268435456", True),
    ]
    assert settings(2, limits) == [
        ("cpu", "cpu.max", "2500 10000", True),
        ("memory", "memory.max", "268435456", True),
        ("memory", "memory.swap.max", "0", False),
    ]
    assert settings(2, Limits()) == []


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"cpu": 0.0}, "cpu: 0 cores"),
        ({"cpu": 0.05}, "0.1 to 1024"),
        ({"cpu": -1.0}, "cpu"),
        ({"cpu": float("nan")}, "cpu"),
        ({"memory_bytes": 1000}, "memory_bytes: 1000"),
    ],
)
def test_impossible_limits_are_refused(fields, said):
    with pytest.raises(ConfigError, match=said):
        Limits(**fields)


def test_groups_of_version_1_stand_beneath_our_own():
    found = find_hierarchy(V1, "4:memory:/box/one\n1:cpu,cpuacct:/\n0::/\n", "hugetlb")
    assert found == Hierarchy(
        1, {"cpu": Path("/sys/fs/cgroup/cpu,cpuacct"), "memory": Path("/sys/fs/cgroup/my memory/box/one")}
    )


def test_groups_of_version_2_stand_beside_our_own():
    found = find_hierarchy(V2, "0::/user.slice/session-1.scope\n", "cpuset cpu io memory pids")
    place = Path("/sys/fs/cgroup/user.slice")
    assert found == Hierarchy(2, {"cpu": place, "memory": place})
    assert find_hierarchy(V2, "0::/\n", "memory") == Hierarchy(2, {"memory": Path("/sys/fs/cgroup")})


def test_a_group_outside_of_what_is_mounted_is_not_followed():
    assert find_hierarchy(V1, "4:memory:/../../host\n", "").roots["memory"] == Path(
        "/sys/fs/cgroup/my memory"
    )


def test_a_missing_controller_and_a_read_only_tree_are_named_with_the_remedy(tmp_path):
    with pytest.raises(BackendError, match=r"cpu limit: no cgroup controller.*stretch"):
        Groups(Hierarchy(2, {})).make(0, Limits(cpu=0.5))
    with pytest.raises(BackendError, match=r"cgroup: .*nowhere.*--privileged"):
        Groups(Hierarchy(1, {"cpu": tmp_path / "nowhere"})).make(0, Limits(cpu=0.5))


def test_version_2_controllers_are_switched_on_first(tmp_path):
    (tmp_path / "cgroup.subtree_control").write_text("memory")
    groups = Groups(Hierarchy(2, {"cpu": tmp_path, "memory": tmp_path}))
    (file,) = groups.make(3, Limits(cpu=0.5, memory_bytes=1 << 30))
    made = Path(file).parent
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpu"
    assert (made / "cpu.max").read_text() == "5000 10000"
    assert (made / "memory.max").read_text() == str(1 << 30)
    assert not (made / "memory.swap.max").exists()


def test_stages_shorter_than_five_periods_are_flagged_where_only_a_quota_slows():
    stages = {"stage-0": 1.5, "stage-1": 12.6}
    (line,) = untrustworthy_stages(Limits(cpu=0.25), 1.0, stages)
    assert "stage-0: 6 ms" in line
    assert "stretch 4" in line
    assert untrustworthy_stages(Limits(cpu=0.25), 4.0, stages) == []
    assert untrustworthy_stages(Limits(cpu=1.0), 1.0, stages) == []
    assert untrustworthy_stages(Limits(memory_bytes=1 << 30), 1.0, stages) == []


def test_only_groups_whose_emulator_is_gone_are_swept(tmp_path):
    groups = Groups(Hierarchy(1, {"cpu": tmp_path}))
    (mine,) = groups.make(0, Limits(cpu=0.5))
    ours = Path(mine).parent
    # No process has this id: it is above the kernel's highest.
    left, elsewhere = (
        ours.with_name(ours.name.replace(f"-{os.getpid()}-", f"-{2**22 + 1}-")),
        tmp_path / f"collab-emulation-1-{2**22 + 1}-0",
    )
    for path in (left, elsewhere):
        path.mkdir()
    groups.sweep()
    assert not left.exists()
    assert ours.exists()
    assert elsewhere.exists()
