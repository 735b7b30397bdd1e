"""Exit codes of the `scalerl` command, and the errors that choose one. PURE."""

from scalerl_api.wire import EXIT_FINISHED as EXIT_FINISHED
from scalerl_api.wire import EXIT_INVALID as EXIT_INVALID
from scalerl_api.wire import EXIT_RETRY as EXIT_RETRY

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130  # as in a shell: 128 + the number of SIGINT


class CommandError(Exception):
    """The command failed; `code` is its exit code."""

    def __init__(self, message: str, code: int = EXIT_FAILED):
        super().__init__(message)
        self.code = code


class UsageError(CommandError):
    """The command line is wrong."""

    def __init__(self, message: str):
        super().__init__(message, EXIT_USAGE)
