"""The options that all splits have, whatever their steps are."""

from dataclasses import dataclass

from fedsim.core.errors import UserError
from fedsim.core.names import find_name, quoting_hint

MOST_CLIENTS = 10_000_000
TEST_SETS = ("domain", "matched", "natural")


@dataclass(frozen=True)
class SplitOptions:
    """The options ``split.*`` that do not belong to a step.

    Raises:
        UserError: If a value is not possible.
    """

    num_clients: int | None = None
    """Clients in all. null: ten, or as ``clients_per_domain`` says. With ``naturalid``, null is every id, and a number
    draws that many of them."""
    clients_per_domain: int | None = None
    """Clients in each domain, with ``domain``. null: one, or five where another step divides the domains."""
    test: str = "domain"
    """``domain``: the test set of the client's domain; ``matched``: test images drawn to the client's own distribution
    of classes; ``natural``: the test images of its own id (``naturalid``)."""
    leave_out: str | list[str] | None = None
    """Domains that nobody trains on; the global model's accuracy on them is reported."""
    validation: float = 0.0
    """Share of each client's training images that is held out for validation."""
    drop_empty: bool = False
    """Leave clients without images out, instead of refusing the split."""
    pooled: bool = False
    """Whether every client trains on the training images of all; they differ in their test images alone. For
    ``strategy=central``."""

    def __post_init__(self) -> None:
        for key, value in (("num_clients", self.num_clients), ("clients_per_domain", self.clients_per_domain)):
            if value is not None and not 1 <= value <= MOST_CLIENTS:
                raise UserError(
                    f"split.{key}={value} is not possible: choose a whole number from 1 to {MOST_CLIENTS}, or null."
                )
        if self.test not in TEST_SETS:
            raise UserError(f"split.test={self.test} is not possible: choose {', '.join(TEST_SETS)}.")
        if not 0 <= self.validation < 1:
            raise UserError(f"split.validation={self.validation} is not possible: choose a number from 0 to below 1.")

    def left_out(self, domain_names: tuple[str, ...]) -> list[str]:
        """Return the domains that ``leave_out`` names.

        Raises:
            UserError: If one does not exist, or all are left out.
        """
        if self.leave_out is None:
            return []
        given = self.leave_out if isinstance(self.leave_out, list) else [self.leave_out]
        names = [find_name(name, domain_names) for name in given]
        if None in names or not set(names) < set(domain_names):
            unread = next((name for name, found in zip(given, names, strict=True) if found is None), "")
            raise UserError(
                f"split.leave_out={self.leave_out} is not possible: choose from {', '.join(domain_names)}, "
                f"but not all{quoting_hint(unread)}."
            )
        return [name for name in names if name is not None]
