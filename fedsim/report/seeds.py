"""Lists of seeds on a command line."""

import re

from fedsim.core.errors import UserError


def read_seeds(text: str) -> list[int]:
    """Read ``3,4,5``.

    Raises:
        UserError: If the text is no list of different seeds.
    """
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise UserError(f"--seeds={text} cannot be read: write whole numbers with commas between them, as 3,4,5.")
    seeds = [int(each) for each in text.split(",")]
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds={text} names a seed twice: name each of them once.")
    return seeds
