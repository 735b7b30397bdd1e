import os
import subprocess
import sys

import pytest
from living_children import living_children

from scalerl_runtime.rewards import sandbox
from scalerl_runtime.rewards.code_reference import CodeReference
from scalerl_runtime.rewards.confined.child import build_filter
from scalerl_runtime.rewards.sandbox import Sandbox, SandboxLimits, SandboxUnavailable, parse_result, run_program

ASSERTS = "assert square(3) == 9\nassert square(-2) == 4"
TESTS = CodeReference("tests", tests=ASSERTS, names=("square",))
RIGHT = "def square(x):\n    return x * x\n"


def run(program: str, *, timeout_seconds: float = 30.0) -> str:
    return run_program(program, TESTS, SandboxLimits(timeout_seconds, 64)).kind


@pytest.mark.parametrize(
    ("program", "kind", "rule"),
    [
        (RIGHT, "passed", "a right program passes"),
        ("def square(x):\n    return x + x\n", "failed", "a failing test fails"),
        ("def square(x:\n", "failed", "a syntax error fails"),
        ("1 / 0\n" + RIGHT, "failed", "a crash fails"),
        ("import sys\nsys.exit(0)\n" + RIGHT, "failed", "leaving before the tests is not passing"),
        ("import os\nos._exit(0)\n" + RIGHT, "failed", "leaving hard before the tests is not passing"),
        ("x = bytearray(200 * 2**20)\n" + RIGHT, "failed", "more memory than allowed fails"),
        ("x = bytearray(30 * 2**20)\n" + RIGHT, "passed", "less memory than allowed is given"),
        ("import numpy\n" + RIGHT, "failed", "installed packages are not there"),
        ("input()\n" + RIGHT, "failed", "there is nothing to read"),
        ("print('x' * 5_000_000)\n" + RIGHT, "passed", "printed text is discarded"),
        (
            "import dataclasses, math, re, json, heapq, collections, decimal\n"
            "@dataclasses.dataclass\nclass A:\n    x: 'int'\n" + RIGHT,
            "passed",
            "the standard library is there",
        ),
        (
            "import threading\nt = threading.Thread(target=print)\nt.start()\nt.join()\n" + RIGHT,
            "passed",
            "threads are allowed",
        ),
        (
            "import threading, time\nthreading.Thread(target=lambda: time.sleep(900)).start()\n" + RIGHT,
            "passed",
            "a thread that goes on does not delay the result",
        ),
    ],
)
def test_programs(program, kind, rule):
    assert run(program) == kind, rule


@pytest.mark.parametrize(
    ("program", "rule"),
    [
        ("while True: pass", "an endless loop is cut"),
        ("import time\ntime.sleep(900)", "sleeping is cut, though it takes no processor time"),
        ("while True: print('x' * 1000)", "printing without end is cut"),
        (
            "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: pass",
            "ignoring signals does not help",
        ),
    ],
)
def test_a_program_that_does_not_end_is_cut(program, rule):
    assert run(program, timeout_seconds=0.5) == "timeout", rule


ATTEMPT = "try:\n    {attempt}\nexcept OSError:\n    pass\nelse:\n    raise SystemExit('it worked')\n" + RIGHT


@pytest.mark.parametrize(
    ("attempt", "rule"),
    [
        ("import socket; socket.socket()", "no internet socket"),
        ("import socket; socket.socket(socket.AF_UNIX)", "no local socket"),
        ("import socket; socket.create_connection(('127.0.0.1', 9))", "no connection"),
        ("import os; os.fork()", "no process"),
        ("import subprocess; subprocess.run(['/bin/true'])", "no command"),
        ("import os; os.execv('/bin/true', ['true'])", "no other program"),
        ("import os; os.kill(os.getppid(), 0)", "no signal, not even a trial one"),
        ("import os; os.kill(os.getpid(), 0)", "no signal to itself"),
        ("open('here.txt', 'w')", "no file in its folder"),
        ("open({victim!r}, 'w')", "no file of others emptied"),
        ("open({victim!r}, 'a')", "no file of others grown"),
        ("open({victim!r}, 'r+')", "no file of others opened for writing"),
        ("import os; os.open({victim!r} + '2', os.O_RDONLY | os.O_CREAT)", "no file made by reading"),
        ("import os; os.remove({victim!r})", "no file removed"),
        ("import os; os.rename({victim!r}, {victim!r} + '2')", "no file renamed"),
        ("import os; os.chmod({victim!r}, 0)", "no file's rights changed"),
        ("import os; os.truncate({victim!r}, 0)", "no file cut"),
        ("import os; os.mkdir({victim!r} + '2')", "no folder"),
        ("import os; os.symlink('/', {victim!r} + '2')", "no link"),
        ("import os; os.memfd_create('x')", "no file in memory"),
        ("import resource, os; resource.prlimit(os.getppid(), resource.RLIMIT_AS)", "no limit of another process"),
    ],
)
def test_harmful_calls_fail(tmp_path, attempt, rule):
    victim = tmp_path / "victim.txt"
    victim.write_text("untouched")
    assert run(ATTEMPT.format(attempt=attempt.format(victim=str(victim)))) == "passed", rule
    assert [path.name for path in tmp_path.iterdir()] == ["victim.txt"], rule
    assert victim.read_text() == "untouched", rule
    assert victim.stat().st_mode & 0o777 != 0, rule


def test_the_attempts_would_work_outside(tmp_path):
    """The table above proves something only if its attempts succeed outside the sandbox."""
    exec("import socket; socket.socket().close(); import os; os.kill(os.getpid(), 0)")
    exec(f"open({str(tmp_path / 'here.txt')!r}, 'w').close()")
    assert (tmp_path / "here.txt").exists()


def test_fork_bomb_starts_nothing():
    program = """
import os
count = 0
for _ in range(1000):
    try:
        if os.fork() == 0:
            while True: pass
        count += 1
    except OSError:
        pass
assert count == 0, count
"""
    assert run(program + RIGHT) == "passed"


def test_flooding_the_result_pipe_is_not_passing_and_is_bounded():
    program = """
import os
for descriptor in range(3, 64):
    try:
        while True: os.write(descriptor, b'x' * 4096)
    except OSError: pass
"""
    outcome = run_program(program + RIGHT, TESTS, SandboxLimits(30.0, 64))
    assert outcome.kind == "failed"


def test_a_deadline_during_the_sandbox_setup_grades_nothing():
    """The program did not run, so it is neither right nor wrong."""
    ticks = iter([0.0, 100.0])
    outcome = run_program(RIGHT, TESTS, SandboxLimits(1.0, 64), clock=lambda: next(ticks))
    assert outcome.kind == "unavailable"


def test_a_sandbox_that_cannot_start_grades_nothing(monkeypatch):
    monkeypatch.setattr(sandbox.sys, "executable", "/nonexistent/python")
    outcome = run_program(RIGHT, TESTS, SandboxLimits(30.0, 64))
    assert (outcome.kind, "did not start" in outcome.reason) == ("unavailable", True)


@pytest.mark.parametrize(
    ("result", "ended", "kind", "rule"),
    [
        (b"ready\n0f", True, "passed", "ready, then the nonce"),
        (b"ready\n0f", False, "passed", "the nonce counts even if the process lingers"),
        (b"ready\n", True, "failed", "it ended before the last test had passed"),
        (b"ready\n", False, "timeout", "it was cut"),
        (b"ready\n0e", True, "failed", "a guessed nonce"),
        (b"ready\n0fx", True, "failed", "more than the nonce: the program wrote too"),
        (b"0f", True, "unavailable", "a nonce without confinement cannot be"),
        (b"", True, "unavailable", "the interpreter died"),
        (b"machine is vax", True, "unavailable", "the confinement was refused"),
    ],
)
def test_result_bytes(result, ended, kind, rule):
    outcome = parse_result(result, ended=ended, nonce="0f")
    assert outcome.kind == kind, rule
    assert outcome.right is {"passed": True, "failed": False, "timeout": False, "unavailable": None}[kind], rule


def test_sandbox_checks_within_its_limits():
    checked = Sandbox(timeout_seconds=30.0, memory_megabytes=40)
    assert checked.check(f"So:\n```python\n{RIGHT}```", ASSERTS).right is True
    assert "asserts nothing" in checked.check(RIGHT, "6").reason, "no reward, for the reference is no test"
    assert checked.check("x = bytearray(60 * 2**20)\n" + RIGHT, ASSERTS).right is False


def test_a_machine_without_a_sandbox_is_refused_at_the_start(monkeypatch):
    monkeypatch.setattr(sandbox.sys, "executable", "/nonexistent/python")
    with pytest.raises(SandboxUnavailable, match="programs need Linux with seccomp"):
        Sandbox(timeout_seconds=1.0, memory_megabytes=40)


def test_an_unknown_machine_is_refused():
    with pytest.raises(ValueError, match="machine is vax; system calls are known for x86_64, aarch64"):
        build_filter("vax")


# (machine, call) -> its number, from the kernel's headers. A mistake in the filter would allow one of these.
DANGEROUS = {
    "x86_64": {"socket": 41, "connect": 42, "fork": 57, "vfork": 58, "execve": 59, "kill": 62, "ptrace": 101}
    | {"unlink": 87, "rename": 82, "mkdir": 83, "chmod": 90, "mount": 165, "unlinkat": 263, "io_uring_setup": 425}
    | {"clone3": 435, "openat2": 437, "tgkill": 234, "creat": 85, "truncate": 76, "socketpair": 53, "execveat": 322},
    "aarch64": {"socket": 198, "connect": 203, "execve": 221, "kill": 129, "ptrace": 117, "unlinkat": 35}
    | {"renameat": 38, "mkdirat": 34, "fchmodat": 53, "mount": 40, "io_uring_setup": 425, "clone3": 435}
    | {"openat2": 437, "tgkill": 131, "truncate": 45, "socketpair": 199, "execveat": 281},
}


def interpret(program, number, arguments=(0, 0, 0)):
    """Return what the kernel does with a call: classic BPF, the four operations that are used."""
    audit = program[1][3]
    data = {0: number, 4: audit} | {16 + 8 * index: value for index, value in enumerate(arguments)}
    value, at = 0, 0
    while True:
        code, yes, no, operand = program[at]
        at += 1
        if code == 0x20:
            value = data[operand]
        elif code == 0x15:
            at += yes if value == operand else no
        elif code == 0x45:
            at += yes if value & operand else no
        else:
            return operand


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_no_dangerous_call_is_allowed_on_any_machine(machine):
    program = build_filter(machine)
    for name, number in DANGEROUS[machine].items():
        assert interpret(program, number, (0, 0, 0)) == 0x50000 | 38, name


@pytest.mark.parametrize(("machine", "read", "open_at", "clone"), [("x86_64", 0, 257, 56), ("aarch64", 63, 56, 220)])
def test_filter_checks_arguments(machine, read, open_at, clone):
    program = build_filter(machine)
    allow, refuse = 0x7FFF0000, 0x50000 | 1
    assert interpret(program, read) == allow
    assert interpret(program, open_at, (0, 0, os.O_RDONLY | os.O_CLOEXEC)) == allow
    assert interpret(program, open_at, (0, 0, os.O_WRONLY)) == refuse
    assert interpret(program, open_at, (0, 0, os.O_CREAT)) == refuse
    assert interpret(program, clone, (0x00010F00, 0, 0)) == allow, "a thread"
    assert interpret(program, clone, (17, 0, 0)) == refuse, "a process"


def test_another_machines_calls_end_the_process():
    """A 32-bit call has other numbers, so that an allowed number could be a dangerous call."""
    load, compare, kill, *_ = build_filter("x86_64")
    assert load == (0x20, 0, 0, 4), "the machine is checked first"
    assert compare == (0x15, 1, 0, 0xC000003E), "the right machine jumps over the kill"
    assert kill == (0x06, 0, 0, 0x80000000)


def test_no_process_is_left_behind():
    """A program that hangs is dead when its result is returned."""
    before = living_children()
    assert run("import time\ntime.sleep(900)", timeout_seconds=0.5) == "timeout"
    assert living_children() == before


def test_the_child_needs_the_standard_library_only():
    """It runs without installed packages, and imports its own modules before the filter."""
    code = f"import sys; sys.path.insert(0, {sandbox.ROOT!r}); import scalerl_runtime.rewards.confined.tests"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)
