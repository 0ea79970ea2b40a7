"""A run's folder: what it says survives, it is used by one process, and old checkpoints go."""

from __future__ import annotations

import msgspec
import pytest

from collab.errors import Conflict, InputError
from collab.toolchain.training.run import Run, Source, State, read_state
from collab.toolchain.training.settings import read_settings

SOURCE = Source(model="cnn", data="d", data_digest="0", classes=("a", "b"), input_shape=(8, 8, 1))


def state(*accuracies, best=0):
    return State(
        source=SOURCE,
        settings=read_settings({"lr": 0.5, "augment": {"flip": True}}),
        history=tuple({"loss": 0.5, "val_accuracy": each} for each in accuracies),
        best=best,
    )


def test_what_was_written_is_read_and_defaults_are_written_out(tmp_path):
    with Run(tmp_path) as run:
        before = run.begun
        run.write(state(0.5, best=1))
        assert (before, run.begun) == (False, True)
        assert run.read() == state(0.5, best=1)
    written = msgspec.json.decode((tmp_path / "training.json").read_bytes())
    assert written["settings"]["epochs"] == 10
    assert written["settings"]["augment"]["zoom"] == 0


def test_only_the_last_and_the_best_checkpoint_are_kept(tmp_path):
    with Run(tmp_path) as run:
        for epoch in range(5):
            run.checkpoint(epoch).write_bytes(b"")
        (tmp_path / "checkpoints" / ".epoch-000004.x.keras").write_bytes(b"half of one")
        run.write(state(0.1, 0.9, 0.3, 0.2, best=2))
        assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
            "epoch-000002.keras",
            "epoch-000004.keras",
        ]


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    with Run(tmp_path), pytest.raises(Conflict, match="another process trains there"), Run(tmp_path):
        pass
    with Run(tmp_path):
        pass


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no training run"),
        (b"{", "train anew"),
        (b'{"source": 1}', "train anew"),
        (b"\xff", "train anew"),
    ],
)
def test_a_folder_without_a_readable_run_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "training.json").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_state(tmp_path)
