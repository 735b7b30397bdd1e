"""From the scale benchmark's results to the tables of docs/scale.md. I/O (that file)."""

from typing import Any

from cluster_lab import ROOT, build_table, write_part

DOCUMENT = ROOT / "docs/scale.md"
Found = dict[str, Any]


def write_tables(found: Found) -> None:
    """Write the results of cluster.json into their tables."""
    phases: dict[str, Found] = {each["name"]: each for each in found["phases"]}
    parts = [
        _head(found),
        _goals(found, phases),
        _costs(found["phases"]),
        _writes(phases),
        _programs(found["phases"]),
    ]
    write_part(DOCUMENT, "cluster", "\n\n".join(parts))


def _head(found: Found) -> str:
    return f"`{found['command']}`, {found['date']}, {found['machine']}."


def _goals(found: Found, phases: dict[str, Found]) -> str:
    create, idle, turn = phases["create"], phases["idle"], phases["transitions"]
    facts, moved = create["facts"], turn["facts"]
    transitions = moved["suspended"] + moved["resumed"]
    rows = [
        ["pods made per second", "> 50", f"{facts['pods per second']} ({facts['pods made']} pods)"],
        ["one pass (reconcile), p99", "< 2 s", f"{_worst(found)} s in the worst phase"],
        ["operator's memory (RSS), most", "< 512 MiB", f"{found['rss_peak_mib']:.0f} MiB"],
        ["writes for idle runs", "0", f"{sum(idle['writes'].values())} in {idle['seconds']:.0f} s"],
        [
            "transitions per second, held",
            "10 for 300 s",
            f"{transitions / moved['seconds of asking']:.1f}, {_held(moved)}",
        ],
        ["pods made twice, or too many", "0", f"{len(found['doubles'])}, {moved['pods made'] - moved['pods wanted']}"],
    ]
    return build_table(["", "goal", "measured"], rows)


def _held(moved: Found) -> str:
    left = moved["under way at the end of asking"]
    return f"for {moved['seconds of asking']:.0f} s; {left} under way then, the last done {_lag(moved)} s later"


def _lag(moved: Found) -> str:
    return f"{moved['seconds until all were done'] - moved['seconds of asking']:.0f}"


def _worst(found: Found) -> str:
    return f"{max(each['pass_seconds']['p99'] or 0.0 for each in found['phases']):.2f}"


def _costs(phases: list[Found]) -> str:
    header = ["phase", "seconds", "operator CPU s", "RSS MiB", "passes", "pass p50 / p99 s", "wait p50 / p99 s"]
    header += ["own HTTP p99 / max s", "polls (missed)", "runs written", "load"]
    rows = [
        [
            each["name"],
            f"{each['seconds']:.0f}",
            f"{each['cpu_seconds']['operator']:.1f}",
            f"{each['rss_mib']:.0f}",
            str(each["passes"]),
            _pair(each["pass_seconds"]),
            _pair(each["wait_seconds"]),
            f"{each['answer_seconds'].get('p99', 0.0):.2f} / {each['answer_seconds'].get('max', 0.0):.2f}",
            f"{each['polls']['answered']} ({each['polls']['missed']})",
            str(each["facts"].get("runs written", "")),
            f"{each['load']:.1f}",
        ]
        for each in phases
    ]
    return build_table(header, rows)


def _pair(found: Found) -> str:
    return " / ".join("-" if found[key] is None else f"{found[key]:.3f}" for key in ("p50", "p99"))


def _writes(phases: dict[str, Found]) -> str:
    create, turn, training = phases["create"], phases["transitions"], phases["training"]
    runs = create["facts"]["runs"]
    moves = turn["facts"]["suspended"] + turn["facts"]["resumed"]
    kinds = sorted({*create["writes"], *turn["writes"], *training["writes"]})
    rows = [
        [
            kind,
            f"{create['writes'].get(kind, 0) / runs:.2f}",
            f"{turn['writes'].get(kind, 0) / moves:.2f}",
            f"{training['writes'].get(kind, 0) / runs / training['seconds'] * 60:.2f}",
        ]
        for kind in kinds
    ]
    sums = [f"{sum(float(row[column]) for row in rows):.1f}" for column in (1, 2, 3)]
    return build_table(
        ["write", "per new run", "per transition", "per training run and minute"], [*rows, ["all", *sums]]
    )


def _programs(phases: list[Found]) -> str:
    names = list(phases[0]["cpu_seconds"])
    rows = [[each["name"], *(f"{each['cpu_seconds'][name]:.0f}" for name in names)] for each in phases]
    return build_table(["CPU seconds", *names], rows)
