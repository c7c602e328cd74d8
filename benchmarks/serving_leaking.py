"""`efftune`, whose server keeps 10 kB of each picture for good: what a soak must notice."""

from typing import Any

from efftune.cli.main import main
from efftune.serving.answering import Predicting

LEAKED_BYTES = 10_000

_answer = Predicting.__call__
_kept = list[bytes]()


def leaking(self: Predicting, picture: Any) -> Any:
    _kept.append(b"x" * LEAKED_BYTES)
    return _answer(self, picture)


if __name__ == "__main__":
    Predicting.__call__ = leaking  # type: ignore[method-assign]
    main()
