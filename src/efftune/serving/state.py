"""What changes while a server runs."""

from dataclasses import dataclass, field

from starlette.exceptions import HTTPException

from efftune.serving.answering import Answering
from efftune.serving.feedback import Feedback
from efftune.serving.metrics import Metrics
from efftune.serving.nearest import TrainingPictures
from efftune.serving.service import Service
from efftune.serving.settings import ServerSettings


@dataclass
class State:
    """What changes while the server runs.

    Attributes:
        settings: of the server.
        service: what answers; None until it is ready.
        is_draining: whether the server is about to stop.
        feedback: keeps corrections; None if that is not wanted.
        training: pictures that `service` was trained on; None until they are ready to be shown.
    """

    settings: ServerSettings
    service: Service | None = None
    is_draining: bool = False
    feedback: Feedback | None = None
    training: TrainingPictures | None = None
    metrics: Metrics = field(init=False)
    answering: Answering = field(init=False)

    def __post_init__(self) -> None:
        """Begin to count, and start no thread yet."""
        self.metrics = Metrics(lambda: (self.answering.waiting, self.answering.at_work))
        self.answering = Answering(self.settings.at_work, self.settings.most_waiting, self.metrics)

    def serve(self, service: Service) -> None:
        """Answer with this from now on; what is at work is answered by what was before."""
        self.metrics.expect(service.expected, service.classifier)
        self.service, self.training = service, None

    @property
    def offered(self) -> dict[str, bool]:
        """What the server offers beside answers, as values for JSON."""
        return {
            "feedback": self.feedback is not None,
            "shows_training": self.training is not None,
        }

    @property
    def is_ready(self) -> bool:
        """Whether it answers pictures, and will go on."""
        return self.service is not None and not self.is_draining

    @property
    def ready(self) -> Service:
        """What answers.

        Raises:
            HTTPException: it is not ready.
        """
        if self.service is None:
            raise HTTPException(503, "The classifier is being loaded.", {"retry-after": "1"})
        return self.service
