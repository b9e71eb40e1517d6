"""What native libraries do with memory."""

import subprocess
import sys

import pytest

_POOLS = """
import ctypes, sys, threading
from ser_batch.runtime.process import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
libc = ctypes.CDLL(None)
held = threading.Barrier(9)
def allocate():
    libc.malloc(1000)
    held.wait()
for _ in range(8):
    threading.Thread(target=allocate).start()
held.wait()
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
@pytest.mark.parametrize(("how", "few"), [("kept", True), ("default", False)])
def test_threads_share_two_pools_of_memory(how: str, few: bool) -> None:
    result = subprocess.run([sys.executable, "-c", _POOLS, how], capture_output=True, text=True, check=True)
    assert (result.stdout.count("<heap nr=") <= 2) == few
