"""``python -m bench``."""

from __future__ import annotations

from bench.errors import end_without


def start() -> None:
    """Run the command line; without the extra, say what is missing and how it comes here."""
    try:
        from bench.cli import main
    except ModuleNotFoundError as reason:
        end_without(reason)
    main(prog_name="python -m bench")


if __name__ == "__main__":
    start()
