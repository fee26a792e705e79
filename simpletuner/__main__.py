"""``python -m simpletuner``."""

from simpletuner.cli.main import main

main()
