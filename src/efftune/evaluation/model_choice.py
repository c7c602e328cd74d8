"""Choice of the model by what the training pictures and the time allow.

Heads are fitted on the frozen features of each model and judged out of fold, first on few training
pictures, then on more; whoever is clearly beaten drops out. What is computed is cached for the run.
Validation and test pictures are not looked at.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

AUTO = "auto"  # instead of a model's name
_RUNGS = (300, 1000)  # training pictures; then all of them
_EACH = 5  # pictures of a class that the first rung has at least, on average
_FINALISTS = 3  # models that are tried on all pictures
_BEATEN = 2.0  # standard errors
_ALIKE = 1.0  # standard errors

Outcome = Literal["chosen", "as good", "worse", "beaten", "too slow"]


@dataclass(frozen=True)
class ModelTrial:
    """How a head on the frozen features of a model did.

    Attributes:
        model: its name.
        image_size: side of its input square, in pixels.
        pictures: number of training pictures that it was last tried on; 0 if it was too slow to
            be tried.
        accuracy: out of fold, 0 to 1.
        loss: cross-entropy out of fold at the best temperature, in nats.
        excess: the loss minus that of the best model on the same pictures.
        error: standard error of `excess`.
        milliseconds: per picture, decoding included.
        seconds: estimated duration of a run; 0 if there is no budget.
        outcome: `as good` means larger than the one chosen, and better by less than noise; `worse`,
            not as good as the best; `beaten`, dropped early.
    """

    model: str
    image_size: int
    pictures: int = 0
    accuracy: float = 0.0
    loss: float = 0.0
    excess: float = 0.0
    error: float = 0.0
    milliseconds: float = 0.0
    seconds: float = 0.0
    outcome: Outcome = "too slow"

    def to_dict(self) -> dict[str, Any]:
        """As written to `run.json`."""
        return asdict(self)
