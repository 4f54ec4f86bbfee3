"""Run the command ``xtrace`` as ``python -m xtrace``."""

from xtrace.cli.start import main

main()
