"""`python -P -m mistudio_cli.supervisor`: see `mistudio_cli.supervisor.main`."""

import sys

from mistudio_cli.supervisor.main import main
from tasks.errors import UserError

if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (OSError, UserError) as problem:
        sys.exit(str(problem))
