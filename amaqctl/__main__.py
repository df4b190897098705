"""`python -m amaqctl`: the same program as the console script."""

from amaqctl.cli.start import main

main()
