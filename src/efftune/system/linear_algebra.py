"""How many threads NumPy and SciPy compute with."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def single_threaded() -> Iterator[None]:
    """Let matrix products and solvers compute in the thread that calls them, for a while.

    Else each shares its work with as many threads as there are processors, and those wait for one
    another by running in circles. With small matrices, or beside other work, that takes many times
    longer than the work itself. Who has larger parts of work gives them to threads of his own.
    """
    import scipy.linalg  # noqa: F401  (what is not loaded yet cannot be limited)
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"):
        yield
