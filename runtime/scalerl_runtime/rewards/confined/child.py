"""Runs an untrusted program under a system-call filter; started by the sandbox as a file. I/O, standard library only.

Standard input holds two JSON objects, each after its length: what the program's process may know, then the tests. The
program runs in a fork that is made before the tests are read. Standard output receives READY once the filter is
installed, or the error that prevented it; then the nonce after the last test has passed, or what the program printed.
"""

import ctypes
import importlib
import json
import os
import platform
import resource
import signal
import struct
import sys
import types
from collections.abc import Callable
from typing import Any

READY = b"ready\n"
MAX_OUTPUT_BYTES = 2**24  # that one run may print

# A program may compute, read files and use threads. Every other call fails with ENOSYS: opening a socket, starting a
# process, sending a signal, changing a file. Each entry: name, number on x86_64 (the kernel's asm/unistd_64.h), number
# on arm64 (asm-generic/unistd.h); "-" where a machine has no such call.
ALLOWED_CALLS = """
read:0:63 readv:19:65 pread64:17:67 write:1:64 writev:20:66 close:3:57 fstat:5:80 newfstatat:262:79 statx:332:291
lseek:8:62 faccessat:269:48 faccessat2:439:439 readlinkat:267:78 getdents64:217:61 getcwd:79:17 mmap:9:222
mprotect:10:226 munmap:11:215 mremap:25:216 brk:12:214 madvise:28:233 mincore:27:232 dup:32:23 ppoll:271:73
pselect6:270:72 futex:202:98 set_robust_list:273:99 rseq:334:293 membarrier:324:283 set_tid_address:218:96
rt_sigaction:13:134 rt_sigprocmask:14:135 rt_sigreturn:15:139 sigaltstack:131:132 restart_syscall:219:128 exit:60:93
exit_group:231:94 gettid:186:178 getpid:39:172 getppid:110:173 getuid:102:174 geteuid:107:175 getgid:104:176
getegid:108:177 clock_gettime:228:113 clock_getres:229:114 clock_nanosleep:230:115 nanosleep:35:101
gettimeofday:96:169 getrandom:318:278 sched_yield:24:124 sched_getaffinity:204:123 uname:63:160 sysinfo:99:179
getrusage:98:165 times:100:153 stat:4:- lstat:6:- access:21:- readlink:89:- time:201:- poll:7:- select:23:-
dup2:33:- arch_prctl:158:- getrlimit:97:-
"""


def parse_calls(table: str, column: int) -> dict[str, int]:
    """Return name -> number for one machine's column of the table."""
    rows = [row.split(":") for row in table.split()]
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}


# machine -> (audit number, allowed calls, open or None, openat, clone, prlimit64)
MACHINES = {
    "x86_64": (0xC000003E, parse_calls(ALLOWED_CALLS, 1), 2, 257, 56, 302),
    "aarch64": (0xC00000B7, parse_calls(ALLOWED_CALLS, 2), None, 56, 220, 261),
}

# Classic BPF (linux/filter.h) over struct seccomp_data: number at 0, machine at 4, arguments of 8 bytes from 16.
LOAD, IF_EQUAL, IF_ANY, RETURN = 0x20, 0x15, 0x45, 0x06
NUMBER_AT, MACHINE_AT, ARGUMENTS_AT = 0, 4, 16
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000  # REFUSE carries the errno in its low bits
EPERM, ENOSYS = 1, 38
CHANGES_FILES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CLONE_THREAD = 0x00010000

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
FILTER_MODE = 2
CAPABILITY_VERSION_3 = 0x20080522


def main() -> None:
    """Run what standard input asks for."""
    # This process holds the tests; /proc must not show its memory and files to the program.
    libc = ctypes.CDLL(None, use_errno=True)
    _call(libc.prctl, PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _call(libc.prctl, PR_SET_DUMPABLE, 0, 0, 0, 0)
    request = read_section()
    sys.path.insert(0, request["own_folder"])
    name = "program" if request["kind"] == "stdio" else "tests"
    importlib.import_module(
        f"scalerl_runtime.rewards.confined.{name}"
    )  # here: the program's process cannot read our folder
    sys.path.pop(0)
    _import_packages(request)
    sys.set_int_max_str_digits(0)  # exact numbers of any length cross as decimals
    result = os.dup(1)
    (run_cases if request["kind"] == "stdio" else run_with_tests)(request, result)
    os._exit(0)


def read_section() -> dict[str, Any]:
    """Return the next JSON object of standard input, and read nothing behind it: the program's process forks first."""
    size = int.from_bytes(os.read(0, 8), "big")
    parts = []
    while size:
        part = os.read(0, size)
        if not part:
            raise EOFError("the request is cut")
        parts.append(part)
        size -= len(part)
    return dict(json.loads(b"".join(parts)))


def _import_packages(request: dict[str, Any]) -> None:
    """Import the packages of the request, with what they need; nothing else that is installed can be imported."""
    before = list(sys.path)
    sys.path += request["folders"]
    for name in request["packages"]:
        importlib.import_module(name)
    sys.path[:] = before


def run_with_tests(request: dict[str, Any], result: int) -> None:
    """Run the program in a process of its own, and the tests here; write READY, then the nonce if all is passed."""
    to_program, from_tests = os.pipe()
    to_tests, from_program = os.pipe()
    ready, set_up = os.pipe()
    if os.fork() == 0:
        for descriptor in (result, from_tests, to_tests, ready):
            os.close(descriptor)
        _close_standard()
        _enter(request, set_up)
        _serve_program(request, to_program, from_program)
        os._exit(0)
    for descriptor in (to_program, from_program, set_up):
        os.close(descriptor)
    problem = _read_all(ready)
    if problem != READY:
        os.write(result, problem or b"the program's process did not start")
        os._exit(1)
    tests = read_section()
    _close_standard()
    try:
        confine(memory_bytes=request["memory_bytes"], cpu_seconds=request["cpu_seconds"])
    except (OSError, ValueError) as error:
        os.write(result, str(error).encode())
        os._exit(1)
    os.write(result, READY)
    _judge(tests, to_tests, from_tests)
    os.write(result, tests["nonce"].encode())


def _judge(tests: dict[str, Any], to_tests: int, from_tests: int) -> None:
    from scalerl_runtime.rewards.confined.calls import Channel, ProgramClient
    from scalerl_runtime.rewards.confined.tests import run_tests

    channel = Channel(os.fdopen(to_tests, "rb"), os.fdopen(from_tests, "wb"))
    channel.send({"classes": tests["classes"]})
    run_tests(tests, lambda namespace: ProgramClient(channel, namespace))


def _serve_program(request: dict[str, Any], to_program: int, from_program: int) -> None:
    from scalerl_runtime.rewards.confined.calls import Channel, ProgramServer
    from scalerl_runtime.rewards.confined.program import bind_standard_names, complete_program

    channel = Channel(os.fdopen(to_program, "rb"), os.fdopen(from_program, "wb"))
    classes = frozenset(channel.receive()["classes"])
    head, program = complete_program(request["program"], request["prompt"], request["entry"])
    module = types.ModuleType("program")  # dataclasses and pickle look a class's module up
    sys.modules["program"] = module
    bind_standard_names(module.__dict__, head + program)
    exec(compile(head, "<prompt>", "exec"), module.__dict__)
    exec(compile(program, "<program>", "exec"), module.__dict__)
    ProgramServer(channel, module.__dict__, classes).serve()


def run_cases(request: dict[str, Any], result: int) -> None:
    """Run the program once for each input; write READY, then for each run a line of JSON and what it printed."""
    _close_standard()
    os.write(result, READY)
    for text in request["inputs"]:
        output, ended = _run_case(request, text, result)
        head = json.dumps({"size": len(output), "ended": ended}).encode() + b"\n"
        _write_all(result, head + output)


def _run_case(request: dict[str, Any], text: str, result: int) -> tuple[bytes, str]:
    given = os.memfd_create("input")
    _write_all(given, text.encode())
    os.lseek(given, 0, os.SEEK_SET)
    printed, to_print = os.pipe()
    ready, set_up = os.pipe()
    child = os.fork()
    if child == 0:
        for descriptor in (result, printed, ready):
            os.close(descriptor)
        os.dup2(given, 0)
        os.dup2(to_print, 1)
        for descriptor in (given, to_print):
            os.close(descriptor)
        _call(ctypes.CDLL(None).prctl, PR_SET_DUMPABLE, 1, 0, 0, 0)  # it holds no tests, and may open /dev/stdin
        _enter(request, set_up)
        _run_main(request["program"])
    for descriptor in (given, to_print, set_up):
        os.close(descriptor)
    problem = _read_all(ready)
    output = _read_all(printed, limit=MAX_OUTPUT_BYTES)
    os.close(printed)  # a program that prints more is ended by the signal
    _, status = os.waitpid(child, 0)
    if problem != READY:
        return problem, "unavailable"
    return output, "ok" if status == 0 and len(output) < MAX_OUTPUT_BYTES else "failed"


def _run_main(program: str) -> None:
    """Run a program as a main module, and end the process."""
    from scalerl_runtime.rewards.confined.program import bind_standard_names

    code = 1
    try:
        # Streams of its own: these were made for the request, and the first has read some of it.
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  # ends with the process
        sys.stdout = open(1, "w", encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115  # as stdin
        module = types.ModuleType("__main__")
        sys.modules["__main__"] = module
        bind_standard_names(module.__dict__, program)
        exec(compile(program, "<program>", "exec"), module.__dict__)
        code = 0
    except SystemExit as leaving:
        code = 0 if leaving.code in (None, 0) else 1
    finally:
        try:
            if "threading" in sys.modules:
                sys.modules["threading"]._shutdown()  # waits for the program's threads, which may do all the work
            sys.stdout.flush()
        finally:
            os._exit(code)


def _enter(request: dict[str, Any], set_up: int) -> None:
    """Confine this process, and report that or the problem through the pipe `set_up`."""
    try:
        confine(memory_bytes=request["memory_bytes"], cpu_seconds=request["cpu_seconds"])
        sys.addaudithook(build_audit([*sys.path, *request["folders"]]))
    except (OSError, ValueError) as error:
        os.write(set_up, str(error).encode())
        os._exit(1)
    os.write(set_up, READY)
    os.close(set_up)


def _close_standard() -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    os.close(nothing)


def _read_all(descriptor: int, limit: int = 2**16) -> bytes:
    """Return what comes until the pipe is closed, `limit` bytes at most."""
    parts, size = [], 0
    while size < limit:
        part = os.read(descriptor, min(limit - size, 2**16))
        if not part:
            break
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def build_audit(folders: list[str]) -> Callable[[str, tuple[Any, ...]], None]:
    """Return a hook that refuses files outside of `folders` and calls into C, by the interpreter's audit events.

    It keeps a program from reading the data set or the memory of other processes by ordinary ways.
    """
    allowed = tuple(f"{os.path.realpath(each)}{end}" for each in folders if each for end in ("/", ".zip"))
    allowed += (*(f"{each}/" for each in folders if each), "/usr/share/zoneinfo", "/etc/localtime")
    files = ("/dev/null", "/dev/stdin", "/dev/stdout", "/dev/urandom", *folders)
    find_path, as_text = os.path.abspath, os.fsdecode

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("open", "os.listdir", "os.scandir"):
            path = arguments[0]
            if isinstance(path, int) or (path is None and event != "open"):
                return
            path = find_path(as_text(path))
            if not (path.startswith(allowed) or path in files):
                raise PermissionError(f"programs read the standard library alone, not {path}")
        elif event.startswith("ctypes.") or (event == "object.__setattr__" and arguments[1] == "__code__"):
            raise PermissionError(f"programs have no {event}")

    return refuse


def confine(*, memory_bytes: int, cpu_seconds: int) -> None:
    """Drop privileges, limit resources and filter system calls, irrevocably. Raises OSError, ValueError."""
    libc = ctypes.CDLL(None, use_errno=True)
    _drop_capabilities(libc)
    _call(libc.prctl, PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    with open("/proc/self/statm") as sizes:
        used = int(sizes.read().split()[0]) * resource.getpagesize()
    limits = {
        resource.RLIMIT_AS: used + memory_bytes,  # on top of the interpreter
        resource.RLIMIT_CPU: cpu_seconds,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 64,
    }
    for limit, value in limits.items():
        resource.setrlimit(limit, (value, value))
    _install_filter(libc, build_filter(platform.machine()))


def build_filter(machine: str) -> list[tuple[int, int, int, int]]:
    """Return the filter as (code, jump if true, jump if false, value). Raises ValueError for an unknown machine."""
    if machine not in MACHINES:
        raise ValueError(f"machine is {machine}; system calls are known for {', '.join(MACHINES)}")
    audit, allowed, open_file, open_at, clone, prlimit = MACHINES[machine]
    program = [
        *((LOAD, 0, 0, MACHINE_AT), (IF_EQUAL, 1, 0, audit), (RETURN, 0, 0, KILL)),
        (LOAD, 0, 0, NUMBER_AT),
        *_allow_unless(open_at, argument=2, any_of=CHANGES_FILES),
        # clone() may start a thread, not a process; the bit marks what is allowed, so the test is inverted.
        *((IF_EQUAL, 0, 4, clone), (LOAD, 0, 0, ARGUMENTS_AT), (IF_ANY, 0, 1, CLONE_THREAD), (RETURN, 0, 0, ALLOW)),
        (RETURN, 0, 0, REFUSE | EPERM),
        *_allow_unless(prlimit, argument=0, any_of=0xFFFFFFFF),  # its own limits only: process 0
    ]
    if open_file is not None:
        program += _allow_unless(open_file, argument=1, any_of=CHANGES_FILES)
    for number in allowed.values():
        program += [(IF_EQUAL, 0, 1, number), (RETURN, 0, 0, ALLOW)]
    # ENOSYS, not EPERM: the C library then takes an older call (clone3 becomes clone) instead of giving up.
    return [*program, (RETURN, 0, 0, REFUSE | ENOSYS)]


def _allow_unless(number: int, *, argument: int, any_of: int) -> list[tuple[int, int, int, int]]:
    """Allow the call `number` unless its argument has one of the bits."""
    return [
        (IF_EQUAL, 0, 4, number),
        (LOAD, 0, 0, ARGUMENTS_AT + 8 * argument),
        (IF_ANY, 1, 0, any_of),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, REFUSE | EPERM),
    ]


def _install_filter(libc: ctypes.CDLL, program: list[tuple[int, int, int, int]]) -> None:
    code = b"".join(struct.pack("<HBBI", operation, yes, no, value) for operation, yes, no, value in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(buffer)))
    _call(libc.prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _call(libc.prctl, PR_SET_SECCOMP, FILTER_MODE, ctypes.byref(header), 0, 0)


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    """Drop every capability: root may still read root's files, and no more."""
    header = ctypes.create_string_buffer(struct.pack("<Ii", CAPABILITY_VERSION_3, 0), 8)
    none = ctypes.create_string_buffer(24)
    _call(libc.capset, ctypes.byref(header), ctypes.byref(none))


def _call(function: object, *arguments: object) -> None:
    assert callable(function), "a function of the C library"
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{getattr(function, '__name__', '')}: {os.strerror(number)}")


if __name__ == "__main__":
    main()
