"""``python -m bench``."""

from __future__ import annotations

import sys

OURS = ("bench", "enseada")
CANNOT_RUN = 1


def start() -> None:
    """Run the command line; without the extra, say what is missing and how it comes here."""
    try:
        from bench.cli import main
    except ModuleNotFoundError as reason:
        missing = (reason.name or "").partition(".")[0]
        if not missing or missing in OURS:
            raise
        print(f"bench: {missing} is not here: pip install '.[bench]'", file=sys.stderr)
        sys.exit(CANNOT_RUN)
    main(prog_name="python -m bench")


if __name__ == "__main__":
    start()
