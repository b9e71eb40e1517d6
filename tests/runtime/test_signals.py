"""What a stop tidies up, and what it waits for; the commands' own stops are in the tests of their wings."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

BEGIN = """
import os, signal, time
from pathlib import Path
from ser_batch.storage.writing import open_atomically, remove_partials
from ser_batch.runtime.process import native_code_silenced, temporary_files_removed
from ser_batch.runtime.signals import signals_deferred, resumable, signals_handled, cleanup_on_signal

def stop():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.01)

"""


def ended(folder: Path, body: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a program whose body may be stopped."""
    lines = "\n".join("    " + line for line in body.strip().splitlines())
    code = f"{BEGIN}with signals_handled(), cleanup_on_signal(remove_partials):\n{lines}\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, timeout=60)
    return done.returncode, done.stdout, done.stderr


SAID = "terminated\n"
ADVISED = "terminated; to go on, run the same command again, without --restart\n"


@pytest.mark.parametrize(
    ("body", "printed"),
    [
        ("stop()\nprint('later')", ""),
        ("try:\n    stop()\nfinally:\n    print('unwound', flush=True)", ""),
        ("with native_code_silenced():\n    stop()", ""),
        (
            "with cleanup_on_signal(lambda: 1 / 0), "
            "cleanup_on_signal(lambda: print('cleaned', flush=True)):\n    stop()",
            "cleaned\n",
        ),
        ("with cleanup_on_signal(lambda: print('cleaned', flush=True)):\n    pass\nstop()", ""),
        (
            "with signals_deferred():\n    stop()\n    print('inside', flush=True)\nprint('outside', flush=True)",
            "inside\n",
        ),
    ],
)
def test_a_stop_ends_the_program_with_one_line(tmp_path: Path, body: str, printed: str) -> None:
    assert ended(tmp_path, body) == (128 + signal.SIGTERM, printed, SAID)


def test_it_advises_to_go_on_where_work_is_kept(tmp_path: Path) -> None:
    assert ended(tmp_path, "with resumable():\n    stop()")[2] == ADVISED
    assert ended(tmp_path, "with resumable():\n    with resumable():\n        pass\n    stop()")[2] == ADVISED
    assert ended(tmp_path, "with resumable():\n    pass\nstop()")[2] == SAID


def test_temporary_files_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    body = "import tempfile\nwith temporary_files_removed():\n    tempfile.mkstemp()\n    tempfile.mkdtemp()\n"
    for then in ("", "    stop()"):
        assert ended(tmp_path, body + then)[0] == (128 + signal.SIGTERM if then else 0)
        assert not list(tmp_path.iterdir())


def test_half_a_file_is_not_left_behind(tmp_path: Path) -> None:
    code, _, said = ended(tmp_path, "with open_atomically(Path('table.csv')) as file:\n    file.write('1')\n    stop()")
    assert (code, said) == (128 + signal.SIGTERM, SAID)
    assert not list(tmp_path.iterdir())


def test_the_second_stop_does_not_wait_for_the_first(tmp_path: Path) -> None:
    code, _, said = ended(tmp_path, "with cleanup_on_signal(lambda: (stop(), time.sleep(60))):\n    stop()")
    assert (code, said) == (128 + signal.SIGTERM, "")


def test_nothing_is_stopped_once_the_work_is_done(tmp_path: Path) -> None:
    body = "import atexit\natexit.register(stop)"
    assert ended(tmp_path, body) == (0, "", "")
