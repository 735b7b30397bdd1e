"""`python -m scalerl_operator` is `scalerl`. I/O."""

import sys

from scalerl_operator.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
