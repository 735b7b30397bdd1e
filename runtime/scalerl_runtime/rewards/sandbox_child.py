"""Runs one untrusted program under a system-call filter; started by the sandbox as a file. I/O, standard library only.

Standard input holds a JSON object: program, tests, nonce, memory_bytes, cpu_seconds. Standard output receives READY
once the filter is installed, or the error that prevented it, and the nonce after the last test has passed.
"""

import ctypes
import json
import os
import platform
import resource
import signal
import struct
import sys
import types

READY = b"ready\n"

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

PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
FILTER_MODE = 2
CAPABILITY_VERSION_3 = 0x20080522


def main() -> None:
    """Restrict this process, then run the program and its tests."""
    request = json.load(sys.stdin)
    result = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    try:
        confine(memory_bytes=request["memory_bytes"], cpu_seconds=request["cpu_seconds"])
    except (OSError, ValueError) as error:
        os.write(result, str(error).encode())
        sys.exit(1)
    os.write(result, READY)
    module = types.ModuleType("program")  # dataclasses and pickle look a class's module up
    sys.modules["program"] = module
    exec(compile(request["program"], "<program>", "exec"), module.__dict__)
    exec(compile(request["tests"], "<tests>", "exec"), module.__dict__)
    os.write(result, request["nonce"].encode())  # not reached after sys.exit(0) in the program
    os._exit(0)  # a thread of the program must not delay the result


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
