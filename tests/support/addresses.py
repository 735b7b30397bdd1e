"""Addresses of simulated pods, from the network that is reserved for benchmarks (RFC 2544). I/O (a route).

Not of the loopback network: Kubernetes refuses an endpoint there, and its controllers then try again and again, which
took a core away from what was measured. Without root there is no other way.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

SIZE = 1024  # addresses of one process
BLOCKS = 128  # of that size in 198.18.0.0/15: processes that run at once seldom meet


def address(index: int) -> str:
    """Return this process's address number `index`, from 0 on. Raises ValueError where it has no more."""
    if not 0 <= index < SIZE:
        raise ValueError(f"address {index}: this process has {SIZE}")
    if os.geteuid() != 0:
        return f"127.{2 + os.getpid() % 60}.{index // 250}.{1 + index % 250}"  # below what the tests use
    number = os.getpid() % BLOCKS * SIZE + index
    return f"198.{18 + number // 65536}.{number // 256 % 256}.{number % 256}"


@contextmanager
def owned_addresses() -> Iterator[None]:
    """Route this process's addresses to this machine within the context."""
    if os.geteuid() != 0:
        yield
        return
    block = f"{address(0)}/22"
    subprocess.run(["ip", "route", "replace", "local", block, "dev", "lo"], check=True)
    try:
        yield
    finally:
        subprocess.run(["ip", "route", "delete", "local", block, "dev", "lo"], check=False)
