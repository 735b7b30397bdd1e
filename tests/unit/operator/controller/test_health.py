"""Liveness, readiness and metrics: the rules, and the answers to kubelet and Prometheus."""

import asyncio
import threading
from collections.abc import Callable

import aiohttp
import pytest

from scalerl_operator.controller.health import (
    HEARTBEAT_SECONDS,
    WATCH_SECONDS,
    WORKER_SECONDS,
    HealthSignals,
    find_dead,
    find_unready,
    start_health,
)

NOW = 50_000.0
FRESH = NOW - 1.0
LEASE, WORKERS, WATCHES = (
    "the lease loop has no heartbeat",
    "no worker polls the queue",
    "the watches deliver nothing",
)

ROWS = [
    ("a standby polls the lease", HealthSignals(FRESH), ""),
    ("a standby's loop is blocked", HealthSignals(NOW - HEARTBEAT_SECONDS - 1), LEASE),
    ("a leader works", HealthSignals(FRESH, FRESH, FRESH), ""),
    ("a quiet cluster: whole lists are read every 300 s", HealthSignals(FRESH, FRESH, NOW - 310), ""),
    ("the lease is renewed, but no worker works", HealthSignals(FRESH, NOW - WORKER_SECONDS - 1, FRESH), WORKERS),
    ("all workers are in passes that end after 60 s", HealthSignals(FRESH, NOW - 70, FRESH), ""),
    ("the loop runs, but the watches are silent", HealthSignals(FRESH, FRESH, NOW - WATCH_SECONDS - 1), WATCHES),
    ("the workers work, but the lease is not renewed", HealthSignals(NOW - HEARTBEAT_SECONDS - 1, FRESH, FRESH), LEASE),
    ("all is dead", HealthSignals(0.0, 0.0, 0.0), f"{LEASE}; {WORKERS}; {WATCHES}"),
]


@pytest.mark.parametrize(("signals", "dead"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_liveness(signals: HealthSignals, dead: str) -> None:
    assert find_dead(signals, NOW) == dead


@pytest.mark.parametrize(
    ("is_leading", "is_synced", "ready"),
    [(False, False, True), (True, False, False), (True, True, True), (False, True, True)],
)
def test_a_leader_is_ready_when_its_caches_are_filled_and_a_standby_always(
    *, is_leading: bool, is_synced: bool, ready: bool
) -> None:
    assert (find_unready(is_leading=is_leading, is_synced=is_synced) == "") is ready


def ask(paths: list[str], *, dead: str = "", unready: str = "", render: Callable[[], bytes] = bytes) -> list[object]:
    async def play() -> list[object]:
        runner = await start_health(0, dead=lambda: dead, unready=lambda: unready, render=render)
        (port,) = [address[1] for address in runner.addresses if len(address) == 2]  # of IPv4; IPv6 has another
        found: list[object] = []
        try:
            async with aiohttp.ClientSession() as session:
                for path in paths:
                    async with session.get(f"http://127.0.0.1:{port}{path}") as answer:
                        found.append((answer.status, await answer.text()))
        finally:
            await runner.cleanup()
        return found

    return asyncio.run(play())


def test_a_failed_probe_states_its_reason() -> None:
    assert ask(["/healthz", "/readyz"]) == [(200, "ok"), (200, "ok")]
    assert ask(["/healthz", "/readyz"], dead="silence") == [(503, "silence"), (200, "ok")]
    assert ask(["/healthz", "/readyz"], unready="not yet") == [(200, "ok"), (503, "not yet")]


def test_metrics_are_rendered_outside_the_loop() -> None:
    """With 1,000 runs rendering takes a second, during which the lease must be renewed."""
    threads: list[int] = []

    def render() -> bytes:
        threads.append(threading.get_ident())
        return b"a 1\n"

    assert ask(["/metrics"], render=render) == [(200, "a 1\n")]
    assert threads[0] != threading.get_ident()
