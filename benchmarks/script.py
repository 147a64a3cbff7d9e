"""What the scripts here share: what a user can cause is one line and an exit code, as in the commands."""

import sys
from collections.abc import Callable

from t2i.errors import UserError


def run_script(main: Callable[[], None]) -> None:
    try:
        main()
    except UserError as error:
        print(f"{sys.argv[0]}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
