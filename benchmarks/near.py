"""How far two processors are from each other: whether what one writes reaches the other through a cache they share.

A virtual machine's processors may be moved apart for seconds or minutes, to cores that share none: what two threads
hand each other then takes as long as working it out, and they are as slow as one. Nothing inside the machine says so
but the time that a line of cache takes from one to the other and back.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

from pruneopt.backends.cores import bound

T = TypeVar("T")
NEAR = 200.0  # nanoseconds there and back: 50 to 130 through a shared cache, 300 to 600 without
TURNS = 20_000
TRIES = 8  # measurements during which they are moved apart
PATIENCE = 60.0  # seconds that are waited for processors to be near
SOURCE = """
#include <stdatomic.h>
#include <time.h>
static _Alignas(128) atomic_int ball;
void start(void) { atomic_store(&ball, -1); }
void catch_it(int turns) {
    atomic_store(&ball, 0);
    for (int i = 0; i < turns; i++) { while (atomic_load(&ball) != 2 * i + 1); atomic_store(&ball, 2 * i + 2); }
}
double throw_it(int turns) {
    struct timespec a, b;
    while (atomic_load(&ball) != 0);
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (int i = 0; i < turns; i++) { atomic_store(&ball, 2 * i + 1); while (atomic_load(&ball) != 2 * i + 2); }
    clock_gettime(CLOCK_MONOTONIC, &b);
    return (1e9 * (b.tv_sec - a.tv_sec) + (b.tv_nsec - a.tv_nsec)) / turns;
}
"""


@cache
def _library() -> ctypes.CDLL | None:
    """The two players; None without a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder) / "near.c", Path(folder) / "near.so"
        source.write_text(SOURCE)
        subprocess.run([compiler, "-O2", "-shared", "-fPIC", str(source), "-o", str(made)], check=True)
        library = ctypes.CDLL(str(made))
    library.throw_it.restype = ctypes.c_double
    return library


def round_trip(processors: list[int]) -> float:
    """Nanoseconds that a line of cache takes from the first to the second processor and back, as a mean; 0 where that
    cannot be known."""
    library = _library() if len(processors) > 1 else None
    if library is None:
        return 0.0
    library.start()

    def other() -> None:
        with bound(processors[1:]):
            library.catch_it(TURNS)

    thread = threading.Thread(target=other)
    thread.start()
    with bound(processors):
        found = float(library.throw_it(TURNS))
    thread.join()
    return found


def while_near(measure: Callable[[], T], processors: list[int]) -> T:
    """What is measured while processors are near; what it is where that cannot be had."""
    for _ in range(TRIES):
        waited = near(processors)
        found = measure()
        if not waited or near(processors, 0):
            break
    return found


def near(processors: list[int], patience: float = PATIENCE) -> bool:
    """Whether they come to be near within so many seconds; one alone is."""
    end = time.perf_counter() + patience
    while round_trip(processors) > NEAR:
        if time.perf_counter() > end:
            return False
        time.sleep(0.05)
    return True
