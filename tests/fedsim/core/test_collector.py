"""What is garbage is collected sooner or later, and nothing is looked through while a run is prepared."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from fedsim.core import collector


class Ring:
    """Garbage that only the collector notices, once nobody has a name for it."""

    def __init__(self) -> None:
        self.me = self


def is_there(ring: "weakref.ref[Ring]") -> bool:
    return ring() is not None


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    yield
    gc.enable()
    collector.run_is_over()


def test_no_collection_inside_and_collections_again_outside() -> None:
    assert gc.isenabled()
    with collector.paused():
        assert not gc.isenabled()
        with collector.paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_what_was_there_at_the_end_is_passed_over_until_the_run_is_over() -> None:
    with collector.paused():
        ring = weakref.ref(Ring())
    later = weakref.ref(Ring())
    gc.collect()
    assert is_there(ring)
    assert not is_there(later)
    collector.run_is_over()
    gc.collect()
    assert not is_there(ring)


def test_what_one_run_has_left_is_collected_before_the_next_is_prepared() -> None:
    with collector.paused():
        ring = weakref.ref(Ring())
    with collector.paused():  # of the same run
        pass
    assert is_there(ring)
    collector.run_is_over()
    with collector.paused():
        assert not is_there(ring)


def test_a_block_that_fails_changes_nothing() -> None:
    collector.run_is_over()
    with pytest.raises(KeyError), collector.paused():
        raise KeyError
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_a_program_that_has_switched_the_collector_off_keeps_it_off() -> None:
    gc.disable()
    with collector.paused():
        pass
    assert not gc.isenabled()
