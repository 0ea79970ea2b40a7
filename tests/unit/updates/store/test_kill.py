"""Real processes over a real disk are killed before each system call."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[4]

PROGRAM = """
import os, shutil, signal, sys
from pathlib import Path
from collab.updates.store.disk import RealDisk
from collab.updates.store.store import Store
from tests.unit.updates.store.releases import parts, release

class Fatal(RealDisk):
    def __init__(self, root, point):
        super().__init__(root)
        self.left = point
def count(name):
    def call(self, *arguments):
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1
        return getattr(RealDisk, name)(self, *arguments)
    return call
for name in ("mkdir", "write", "fsync", "rename", "unlink", "fsync_dir"):
    setattr(Fatal, name, count(name))

def life(store):
    store.add(release(2), parts(2))
    store.start()
    store.activate()
    store.healthy()
    store.rollback("by hand")

first = Path(sys.argv[1]) / "first"
store = Store(RealDisk(first), lambda: 1000.0)
store.add(release(1), parts(1))
store.activate()
store.healthy()
point, bricked = 0, 0
while True:
    root = Path(shutil.copytree(first, Path(sys.argv[1]) / str(point)))
    store = Store(RealDisk(root), lambda: 1000.0)
    child = os.fork()
    if child == 0:
        life(Store(Fatal(root, point), lambda: 1000.0))
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    running = store.start()
    if running is None or running.version not in (1, 2) or not store.is_whole(running):
        bricked += 1
    if status == 0:
        break
    assert os.WTERMSIG(status) == signal.SIGKILL
    point += 1
print(point, bricked)
"""


def test_a_process_killed_before_each_system_call_leaves_a_whole_model(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    points, bricked = map(int, done.stdout.split())
    assert points > 30
    assert bricked == 0
