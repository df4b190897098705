"""Where the console script begins: Ctrl-C is looked after before anything slow is imported."""

from __future__ import annotations

from amaqctl.cli.console import interrupt


def main() -> None:
    """Run the program; SIGINT ends it with one line and exit code 130 from here on."""
    interrupt.end_at_once()
    from amaqctl.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
