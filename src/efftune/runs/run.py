"""Finished runs, read from their folders: evaluate, report, review, explain, export, push."""

import json
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Unpack

from efftune.data import relabelling
from efftune.data.examples import Examples
from efftune.data.relabelling import LABELS_FILE, Decision
from efftune.data.sources.table_columns import Columns
from efftune.delivery import export as exports
from efftune.delivery import export_requests, hub, hub_push
from efftune.delivery import photos as run_photos
from efftune.delivery.export import Export, Exportable
from efftune.delivery.export_requests import ExportOptions
from efftune.delivery.hub_push import Pushed
from efftune.delivery.judging import Originals
from efftune.errors import UsageError
from efftune.evaluation import other_pictures, suspects
from efftune.evaluation.metrics import Evaluation, SplitEvaluation
from efftune.model.classifier import Classifier
from efftune.model.engines import devices
from efftune.model.engines.devices import Device
from efftune.recipe.recipe import Recipe
from efftune.report import explanation_images, model_card, notebook, report, review
from efftune.report.explanation_images import ExplanationFile
from efftune.runs import loading
from efftune.system import files, stored
from efftune.system.progress import OnProgress, showing


@dataclass(frozen=True, repr=False)
class Run:
    """A finished run.

    Attributes:
        folder: the run folder.
        recipe: all settings, as used.
        evaluation: the metrics on the validation and test splits, or out of fold.
        record: the contents of `run.json`: versions, machine, seconds per phase, checksums, etc.
        device: where its classifier is computed: `cpu`, or `gpu` for NVIDIA GPUs through JAX.
    """

    folder: Path
    recipe: Recipe
    evaluation: Evaluation
    record: dict[str, Any]
    device: Device = "cpu"

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "cpu") -> "Run":
        """Read a run folder.

        Args:
            folder: the run folder.
            device: where to compute its classifier; see `load`.

        Raises:
            UsageError: the folder does not exist, or there is no usable GPU.
            DataError: it is not a finished run, or one of its files is missing or damaged.
        """
        folder = files.user_path(folder)
        record = loading.record_of(folder)
        with stored.reading(folder / "recipe.toml"):
            settings = (folder / "recipe.toml").read_text(encoding="utf-8")
            recipe = Recipe().changed(**tomllib.loads(settings))
        with stored.reading(folder / "evaluation.json"):
            metrics_json = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
            evaluation = Evaluation.from_dict(metrics_json)
        return cls(folder, recipe, evaluation, record, devices.for_prediction(device))

    def __repr__(self) -> str:
        """The folder and the test accuracy, without leaks if there are any."""
        clean, test = self.evaluation.test_without_leaks, self.evaluation.test
        score = f"test={test!r}" if clean is None else f"test_without_leaks={clean!r}"
        return f"Run({str(self.folder)!r}, {score})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the result, the classes, some mistakes, a link to the report."""
        return str(notebook.show(self.folder, self.record, self.evaluation))

    @property
    def summary(self) -> dict[str, Any]:
        """The summary that `efftune train --json` prints, as plain JSON values.

        `val` and `test` are of all pictures of the splits. Where some have copies or relatives in
        an earlier split, `leaked` counts them, and `val_without_leaks` and `test_without_leaks`
        are of the others, if there are any.
        """
        cross_validation, scores = self.evaluation.cross_validation, {}
        for name in ("val", "test", "val_without_leaks", "test_without_leaks"):
            score: SplitEvaluation | None = getattr(self.evaluation, name)
            if score is not None:
                scores[name] = {"accuracy": score.accuracy}
                if name.startswith("test"):
                    scores[name] |= {"low": score.low, "high": score.high}
        leaked = {
            name: count for name, count in self.record["data"].get("leaked", {}).items() if count
        }
        return {
            "run": str(self.folder),
            "model": self.record["model"]["name"],
            "recipe": self.recipe.name,
            "seconds": round(sum(self.record["seconds"].values()), 2),
            **scores,
            **({"leaked": leaked} if leaked else {}),
            "judged_by": f"{cross_validation.folds} folds" if cross_validation else "test pictures",
        }

    def report(self) -> Path:
        """Write `report.html` and `MODEL_CARD.md` again from the files in the run folder.

        Returns:
            The path of the page.

        Raises:
            DataError: a file that the report needs is missing or damaged.
        """
        loading.require_pictures(self.folder, self.record)
        model_card.write(self.folder)
        return report.write(self.folder)

    def review(self) -> Path:
        """Write `review.html`, a page for keeping, changing or dropping suspect labels.

        Returns:
            The path of the page.

        Raises:
            DataError: the run has no suspect labels, or a file is missing or damaged.
        """
        loading.require_pictures(self.folder, self.record)
        return review.write(self.folder)

    def accept(self, count: int) -> Path:
        """Accept the suggested labels of the most suspect training pictures without a review.

        Args:
            count: the number of pictures, 1 or more. Earlier decisions stay, also those about
                some of these pictures.

        Returns:
            The path of `labels.csv` in the run folder, for `train(…, labels=…)`.

        Raises:
            UsageError: `count` is below 1.
            DataError: the run has no suspect labels.
        """
        if count < 1:
            raise UsageError(f"Accept 1 suggestion or more. Received: {count}.")
        loading.require_pictures(self.folder, self.record)
        path = self.folder / LABELS_FILE
        decisions = relabelling.read(path) if path.exists() else {}
        for each in suspects.read(self.folder, review.why_missing)[:count]:
            decisions.setdefault(each.name, Decision(each.label, "relabel", each.suggested))
        relabelling.write(path, decisions)
        return path

    def explain(
        self,
        pictures: Sequence[str | Path],
        out: str | Path = "explained",
        label: str | None = None,
        *,
        on_unreadable: Callable[[Path, str], None] | None = None,
        on_progress: OnProgress = "auto",
    ) -> list[ExplanationFile]:
        """Draw Grad-CAM heatmaps that show the evidence for a class in each picture.

        Args:
            pictures: paths of the pictures.
            out: a folder for one PNG per picture, created if necessary.
            label: the class to explain; by default the predicted class.
            on_unreadable: as for `Classifier.predict`.
            on_progress: as for `train`.

        Raises:
            UsageError: the class is unknown, or `out` is not writable.
            DataError: a picture cannot be decoded and `on_unreadable` is not given.
        """
        with showing(on_progress) as show:
            return explanation_images.explain(
                self.classifier,
                [files.user_path(path) for path in pictures],
                files.output_path(out),
                label,
                on_unreadable=on_unreadable,
                on_progress=lambda done, total: show("explain", done, total),
            )

    def export(
        self,
        names: str | Sequence[str],
        into: str | Path | None = None,
        *,
        photos: str | Path | None = None,
        on_progress: OnProgress = "auto",
        **options: Unpack[ExportOptions],
    ) -> list[Export]:
        """Write the classifier as files for other programs, each judged on this run's pictures.

        Args:
            names: one or several formats (`onnx`, `openvino`, `openvino-f16`, `openvino-int8`,
                `litert`, `litert-f16`, `litert-int8`, `savedmodel`), or what they are for
                (`mediapipe` or `android`, `raspberry-pi`, `frigate`, `photoprism`, `ovms`,
                `triton`, `browser`, `python`).
            into: a folder, in which each gets one; by default `exports` in the run folder.
            photos: the source of this run's pictures, if it has moved.
            on_progress: as for `train`.
            options: `batch`: how many pictures each call takes: 1, or any number by default;
                applications get what they need. `max_drop`: by how much a file of 8 bits may lower
                the accuracy on the validation pictures, 0 to 1, by default 0.005. For `browser`,
                `runtime`: the archive of ONNX Runtime Web, as `npm pack` writes it; `fetch`:
                whether to download that, if it was not before.

        Returns:
            The files, with their receipts.

        Raises:
            UsageError: a name is unknown, or what it needs is not installed; an application cannot
                use the classifier; the pictures are not where they were; or a folder cannot be
                written to.
            DiskFull: there is no room for a file.
            DataError: the pictures have changed, or a file answers otherwise than the classifier;
                such a file is not kept.
        """
        loading.require_pictures(self.folder, self.record)
        into = self.folder / "exports" if into is None else files.output_path(into)
        with showing(on_progress) as show:
            requested = export_requests.read(names, into, options, show)
            export_requests.require_possible(
                requested, self.folder, self.record["model"]["image_size"]
            )
            source = self.record["source"] if photos is None else str(photos)
            classifier = loading.load(self.folder)  # on the CPU, as are those who use the files
            found = run_photos.of_run(
                self.folder, self.recipe, source, classifier.class_names, show
            )
            originals = Originals.of(
                classifier, found.judged, found.missing, partial(show, "photos")
            )
            run = Exportable(self.record, self.recipe, originals, found.training)
            made = [
                exports.export(run, request, partial(show, f"export {request.name}"))
                for request in requested
            ]
            if into == self.folder / "exports":
                self.report()  # which shows their receipts
            return made

    def push(
        self,
        repository: str,
        *,
        private: bool = False,
        with_report: bool = False,
        on_progress: OnProgress = "auto",
    ) -> Pushed:
        """Put this run on the Hugging Face Hub, for `load_from_hub`.

        Neither pictures nor their names are put there, nor any path of this machine.

        Args:
            repository: `hf:USER/NAME`; made if there is none.
            private: only those may see it whom its owner allows.
            with_report: also what the report shows: names of pictures, small ones, predictions.
            on_progress: as for `train`.

        Raises:
            UsageError: the package huggingface_hub is not installed, there is no token, access is
                refused, or the repository holds something else.
            DataError: a file of the run is missing or was modified, or the Hub cannot be reached.
        """
        repo = hub.repository(repository)
        hub.require_installed()
        loading.load(self.folder)  # for its checksums
        if with_report:
            loading.require_pictures(self.folder, self.record)
        told = {"private": private, "with_report": with_report}
        with showing(on_progress) as show:
            return hub_push.push(self.folder, self.recipe, repo, partial(show, "push"), **told)

    @cached_property
    def classifier(self) -> Classifier:
        """The trained classifier.

        Raises:
            DataError: its files were modified after the run finished.
        """
        return loading.load(self.folder, device=self.device)

    def evaluate(
        self,
        source: str | Path,
        split: str | None = None,
        *,
        columns: Columns | None = None,
        on_progress: OnProgress = "auto",
    ) -> tuple[SplitEvaluation, Examples]:
        """Evaluate this run's classifier on another set of labelled pictures.

        Args:
            source: as for `train`; its classes must be a subset of the classifier's.
            split: the split to use; by default the source's test split or, without one, all
                pictures.
            columns: the columns of a table; by default those that the run was trained with.
            on_progress: as for `train`.

        Returns:
            The metrics, and the examples, including those set aside.

        Raises:
            UsageError: the source does not exist, or has no such split.
            DataError: no picture can be decoded, or a class is unknown.
        """
        columns = columns or Columns.of(self.recipe)
        with showing(on_progress) as show:
            return other_pictures.evaluate(
                self.classifier, source, split, columns=columns, on_progress=show
            )
