"""``python -m enseada`` is the command ``enseada``."""

from __future__ import annotations

from enseada.cli import main

if __name__ == "__main__":
    main(prog_name="enseada")
