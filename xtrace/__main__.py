"""``python -m xtrace`` is the command ``xtrace``."""

from xtrace.cli.start import main

main()
