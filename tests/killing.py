"""A process of its own that fills the caches of a config in children, and kills them without warning.

Everything heavy is imported once; each child is a fork, so a kill costs no start-up. Prints how many kills met a child
at work.
"""

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

from house import resolved

from simpletuner import plans
from simpletuner.preparation import prepare
from simpletuner.progress import Recorded
from simpletuner.training.runtime import Runtime


def main() -> None:
    """Usage: killing.py CONFIG MODEL KILLS SEED; without kills, the caches are filled undisturbed."""
    path, model, kills, seed = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    chance, met, longest = random.Random(seed), 0, 0.5
    config = resolved(path, model)
    while met < kills:
        child, began = begun(path, model), time.monotonic()
        time.sleep(chance.uniform(0, longest))
        if os.waitpid(child, os.WNOHANG)[0]:  # it was done before: begin again with nothing
            shutil.rmtree(plans.cache_folder(config))
            continue
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        met += 1
        longest = max(longest, 1.2 * (time.monotonic() - began))
    status = os.waitpid(begun(path, model), 0)[1]
    print(met)
    sys.exit(os.waitstatus_to_exitcode(status))


def begun(path: Path, model: Path) -> int:
    """A child that scans and encodes, and ends."""
    child = os.fork()
    if child:
        return child
    config = resolved(path, model)
    prepare(config, Runtime.start("no", 7), Recorded()).close()
    os._exit(0)


if __name__ == "__main__":
    main()
