"""The journal and the weights beside it: what is whole is read, what is torn is cut off, the rest refused."""

from __future__ import annotations

import pytest

from collab.core.ids import Digest
from collab.errors import IntegrityError, StoreError
from collab.federated import entries
from collab.federated.disk import Folder
from collab.federated.journal import Blobs, FileJournal, MemoryJournal
from collab.federated.ledger import Ledger
from tests.unit.federated.disks import MemoryDisk

STARTED = entries.Started(run="run", task=Digest("0" * 64), model=Digest("1" * 64))
NAME = "journal"


def asked(round_=1):
    return entries.Asked(round=round_, attempt=0, clients=("a", "b"), wanted=2, quorum=1)


def written(disk, *more):
    journal = FileJournal(disk)
    journal.read()
    for entry in (STARTED, asked(), *more):
        journal.append(entry)
    return disk.read(NAME)


@pytest.mark.parametrize(
    "journal", [MemoryJournal, lambda: FileJournal(MemoryDisk())], ids=["memory", "file"]
)
def test_a_journal_tells_what_was_appended_and_what_it_was_compacted_to(journal):
    journal = journal()
    assert journal.read() == Ledger()
    journal.append(STARTED)
    journal.append(asked())
    ledger = journal.read()
    assert (ledger.run, sorted(ledger.asked)) == ("run", ["a", "b"])
    journal.compact(ledger)
    journal.append(entries.Extended(round=1))
    assert journal.read().extensions == 1
    assert journal.read().run == "run"


def test_a_journal_in_a_folder_is_read_by_another_process(tmp_path):
    data = written(Folder(tmp_path / "run"))
    assert FileJournal(Folder(tmp_path / "run")).read().run == "run"
    assert (tmp_path / "run" / NAME).read_bytes() == data


def test_wherever_it_was_torn_the_whole_entries_before_are_read_and_more_can_follow():
    data = written(MemoryDisk())
    for end in range(len(b"collab federated journal 1\n"), len(data)):
        for tail in (b"", bytes(100)):
            disk = MemoryDisk()
            disk.write(NAME, data[:end] + tail)
            journal = FileJournal(disk)
            ledger = journal.read()
            assert ledger.run in ("", "run")
            assert not ledger.asked
            journal.append(STARTED)
            assert FileJournal(disk).read().run == "run"


def test_a_flipped_bit_anywhere_before_the_last_entry_is_refused():
    data = written(MemoryDisk(), entries.Extended(round=1))
    last = len(data) - len(sound_record(data))
    for at in range(last):
        disk = MemoryDisk()
        broken = bytearray(data)
        broken[at] ^= 0x10
        disk.write(NAME, bytes(broken))
        with pytest.raises(IntegrityError, match="journal"):
            FileJournal(disk).read()


def sound_record(data):
    """The last record's bytes."""
    return data[data.rindex(b"extended") - 7 - 24 :]


def test_records_cannot_be_left_out_between_others():
    data = written(MemoryDisk(), entries.Extended(round=1))
    last = sound_record(data)
    at = data.index(b"asked") - 7 - 24
    disk = MemoryDisk()
    disk.write(NAME, data[:at] + last)
    with pytest.raises(IntegrityError, match="corrupted at byte"):
        FileJournal(disk).read()


def test_another_file_is_not_taken_for_a_journal():
    disk = MemoryDisk()
    disk.write(NAME, b"something else altogether")
    with pytest.raises(IntegrityError, match="another checkpoint folder"):
        FileJournal(disk).read()


class Full(MemoryDisk):
    full = False

    def append(self, name, data):
        if self.full:
            super().append(name, data[:10])
            raise StoreError("no space left")
        super().append(name, data)


def test_after_a_full_disk_the_journal_goes_on_without_the_torn_part():
    disk = Full()
    written(disk)
    journal = FileJournal(disk)
    journal.read()
    disk.full = True
    with pytest.raises(StoreError, match="no space"):
        journal.append(entries.Extended(round=1))
    disk.full = False
    journal.append(entries.Extended(round=1))
    assert FileJournal(disk).read().extensions == 1


def test_blobs_are_checked_when_they_are_read_and_forgotten_when_nothing_names_them(tmp_path):
    blobs = Blobs(Folder(tmp_path))
    one, two = blobs.put(b"one"), blobs.put(b"two")
    assert blobs.get(one) == b"one"
    (tmp_path / two).write_bytes(b"2")
    with pytest.raises(IntegrityError, match="corrupted"):
        blobs.get(two)
    assert blobs.put(b"two") == two
    assert blobs.get(two) == b"two"
    blobs.keep([two])
    with pytest.raises(StoreError, match="not in the checkpoint"):
        blobs.get(one)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"):
        Folder(tmp_path / "file")
    with pytest.raises(StoreError, match="missing"):
        Folder(tmp_path).sync("missing")
