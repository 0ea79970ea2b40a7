import pytest

from collab.errors import BackendError, UsageError
from collab.toolchain.steps import run_step
from collab.toolchain.steps.runner import LOG, _result, _tell


def test_a_step_gives_values_back_and_tells_how_it_goes(tmp_path):
    told = []
    result = run_step("echo", {"a": [1, "b"]}, tmp_path / "step", lambda *how: told.append(how))
    assert result.values == {"settings": {"a": [1, "b"]}}
    assert told == [("echo", 1, 1)]


def test_an_error_of_a_step_comes_back_as_what_it_was(tmp_path):
    with pytest.raises(UsageError, match="step nosuch: there is none of that name"):
        run_step("nosuch", {}, tmp_path)


def test_a_process_that_ends_without_a_result_says_its_last_line(tmp_path):
    (tmp_path / LOG).write_text("first\nlast words\n\n")
    with pytest.raises(BackendError, match=r"signal 9 \(out of memory\?\): last words"):
        _result("some", tmp_path, -9)


def test_what_libraries_print_between_lines_of_progress_is_left_out():
    told = []
    for line in ("hello\n", '{"progress": [1]}\n', "[1]\n", '{"progress": ["x", 1, 2]}\n', "x" * 5000):
        _tell(line, lambda *how: told.append(how))
    assert told == [("x", 1, 2)]
