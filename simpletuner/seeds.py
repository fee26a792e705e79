"""Where all randomness comes from: a number derived from the run's seed, a purpose and a sample number.

Nothing here has state. Whoever needs random numbers derives a seed for exactly the thing it draws, so that a draw
depends neither on what was drawn before nor on how many processes, workers or interruptions there were.
"""

from __future__ import annotations

import secrets
from hashlib import blake2b


def derive(seed: int, purpose: str, *numbers: int | str) -> int:
    """A 63-bit seed for one purpose, such as ``derive(seed, "noise", sample_number)``."""
    text = "/".join([str(seed), purpose, *(str(number) for number in numbers)])
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def fresh() -> int:
    """A new seed for a run that asks for none; the run writes it down, so that it can be resumed."""
    return secrets.randbelow(2**31 - 1) + 1
