"""The memory of the process that asks."""

import re
import resource
import sys
from pathlib import Path


def peak_bytes() -> int:
    """Returns the most resident memory that this process has had, in bytes.

    Linux hands `ru_maxrss` on to a process that is started: a small program that a large test
    starts would be told the memory of the test. `VmHWM` begins anew with each program.
    """
    status = Path("/proc/self/status")
    found = re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.M) if status.exists() else None
    if found:
        return int(found[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
