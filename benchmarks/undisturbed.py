"""Whether processors are what they are sold as: near each other, so that they share a cache, and whole.

A virtual machine's processors may be moved apart for seconds, to cores that share no cache: what two threads hand each
other then takes as long as working it out, and they are as slow as one. And a core's other half may work for somebody
else: then it multiplies at two thirds of its speed, and two threads wait for it. Inside the machine nothing says so but
the time that a line of cache takes from one to the other and back, and that of work that is always the same.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
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
WHOLE = 1.08  # times the least that the work ever took
TURNS, ROUNDS = 5_000, 5_000
PATIENCE = 1200.0  # seconds that a process waits in all
TRIES = 8  # measurements that are disturbed
SOURCE = """
#include <stdatomic.h>
#include <time.h>
static _Alignas(128) atomic_int ball;
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e9 * t.tv_sec + t.tv_nsec;
}
static double work(int rounds) {
    static _Thread_local float x[160];
    double least = 1e30;
    for (int try = 0; try < 4; try++) {
        double start = now();
        for (int r = 0; r < rounds; r++) for (int i = 0; i < 160; i++) x[i] = x[i] * 0.999f + 1e-5f;
        double spent = now() - start;
        if (spent < least) least = spent;
    }
    return least;
}
void start(void) { atomic_store(&ball, -1); }
double catch_it(int turns, int rounds) {
    atomic_store(&ball, 0);
    for (int i = 0; i < turns; i++) { while (atomic_load(&ball) != 2 * i + 1); atomic_store(&ball, 2 * i + 2); }
    return work(rounds);
}
double throw_it(int turns, int rounds, double *trip) {
    while (atomic_load(&ball) != 0);
    double start = now();
    for (int i = 0; i < turns; i++) { atomic_store(&ball, 2 * i + 1); while (atomic_load(&ball) != 2 * i + 2); }
    *trip = (now() - start) / turns;
    return work(rounds);
}
"""


class _Watch:
    """What two processors are like, and what they were like at their best."""

    def __init__(self) -> None:
        self.patience, self.least = PATIENCE, float("inf")
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        self.library = _built(compiler) if compiler else None

    def are_quiet(self, processors: list[int]) -> bool:
        """Whether they are near and whole now; so is one alone, and those that cannot be looked at."""
        if self.library is None or len(processors) < 2:
            return True
        trip, works = ctypes.c_double(), [0.0, 0.0]
        self.library.start()

        def other() -> None:
            with bound(processors[1:]):
                works[1] = self.library.catch_it(TURNS, ROUNDS)

        thread = threading.Thread(target=other)
        thread.start()
        with bound(processors):
            works[0] = self.library.throw_it(TURNS, ROUNDS, ctypes.byref(trip))
        thread.join()
        self.least = min(self.least, *works)
        return trip.value <= NEAR and max(works) <= WHOLE * self.least

    def wait(self, processors: list[int]) -> bool:
        """Whether they come to be so while there is patience left."""
        while not self.are_quiet(processors):
            if self.patience <= 0:
                return False
            time.sleep(0.05)
            self.patience -= 0.05
            if self.patience <= 0:
                print("processors are apart or shared for too long: times may be off", file=sys.stderr)
        return True


def _built(compiler: str) -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder) / "watch.c", Path(folder) / "watch.so"
        source.write_text(SOURCE)
        flags = ["-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC"]
        subprocess.run([compiler, *flags, str(source), "-o", str(made)], check=True)
        library = ctypes.CDLL(str(made))
    library.throw_it.restype = library.catch_it.restype = ctypes.c_double
    return library


@cache
def _watch() -> _Watch:
    return _Watch()


def wait(processors: list[int]) -> bool:
    """Waits until they are near and whole; False where they do not come to be so."""
    return _watch().wait(processors)


def while_undisturbed(measure: Callable[[], T], processors: list[int]) -> T:
    """What is measured while processors are near and whole; what it is where that cannot be had."""
    for _ in range(TRIES):
        waited = wait(processors)
        found = measure()
        if not waited or _watch().are_quiet(processors):
            break
    return found
