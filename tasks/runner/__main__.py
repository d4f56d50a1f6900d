"""`python -P -m tasks.runner`: see `tasks.runner.main`."""

import sys

from tasks.runner.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
