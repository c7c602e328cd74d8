"""Accuracy against training time as a picture."""

from pathlib import Path

from efftune.errors import UsageError
from efftune.evaluation.comparison import ComparedRun, Comparison
from efftune.report import plots

_WIDE = 10  # times the quickest run's seconds, from which an axis is better logarithmic


def draw(comparison: Comparison, path: Path) -> None:
    """Draw accuracy against seconds, with 95 % intervals.

    Args:
        comparison: what to draw.
        path: of the PNG to write.

    Raises:
        UsageError: it cannot be written.
    """
    runs = comparison.standings
    figure = plots.new_figure(7.2, 4.2 + 0.2 * len(runs))
    place = figure.subplots()
    for number, each in enumerate(runs, 1):
        spot = (each.run.seconds, each.accuracy)
        reach = [[each.accuracy - each.low], [each.high - each.accuracy]]
        name = f"{number}  {_name(each.run)}"
        place.errorbar(*spot, yerr=reach, marker="o", capsize=3, label=name)
        place.annotate(str(number), spot, xytext=(6, 4), textcoords="offset points")
    # Names lie beneath the drawing: beside their points they would lie upon each other.
    for text in figure.legend(loc="outside lower left", frameon=False).get_texts():
        text.set_parse_math(False)
    seconds = [each.run.seconds for each in runs]
    if max(seconds) > _WIDE * min(seconds) > 0:
        place.set_xscale("log", subs=[2, 5])
        place.xaxis.set_major_formatter("{x:g}")
        place.xaxis.set_minor_formatter("{x:g}")
        place.tick_params(axis="x", which="both", length=4, pad=4)
    else:
        place.set_xlim(0, 1.1 * max(seconds) or 1)
    place.set(xlabel="seconds", ylabel=f"{comparison.split} accuracy")
    place.set_title(f"On {comparison.pictures:,} pictures that count for all", fontsize=10)
    place.grid(alpha=0.3)
    try:
        plots.save(figure, path)
    except OSError as error:
        raise UsageError(f"Cannot write {path}: {error.strerror}. Name another file.") from None


def _name(run: ComparedRun) -> str:
    folder = run.folder.resolve().name.encode(errors="replace").decode()  # may be any bytes
    return f"{folder} ({run.model.removeprefix('efficientnet-')}, {run.recipe})"
