"""`python -P -m tasks.worker`: see `tasks.worker.main`."""

import sys

from tasks.worker.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
