"""This process's living descendants. I/O."""

import psutil


def living_children() -> set[psutil.Process]:
    """Return them without zombies: a fork of a killed process may be one here, if this process adopts orphans."""
    return {each for each in psutil.Process().children(recursive=True) if each.status() != psutil.STATUS_ZOMBIE}
