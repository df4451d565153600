"""What a step needs, read while the step before it computes."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def read_ahead(read: Callable[[int], T], steps: Iterable[int], readers: int = 1) -> Generator[T, None, None]:
    """`read` of each step, in order, by so many threads; who closes it early waits only for reads that have begun."""
    ahead = iter(steps)
    with ThreadPoolExecutor(max_workers=readers) as pool:
        waiting = deque(pool.submit(read, step) for step in islice(ahead, readers))
        try:
            while waiting:
                found = waiting.popleft().result()
                waiting.extend(pool.submit(read, step) for step in islice(ahead, 1))
                yield found
        finally:
            for job in waiting:
                job.cancel()
