"""A plot of accuracy against training time."""

from pathlib import Path

from efftune.errors import UsageError
from efftune.evaluation.comparison import ComparedRun, Comparison
from efftune.report import plots

_LOG_RATIO = 10  # between the slowest and fastest run, above which the time axis is logarithmic


def draw(comparison: Comparison, path: Path) -> None:
    """Draw accuracy against training time, with 95 % intervals.

    Args:
        comparison: of two runs or more.
        path: of the PNG to write.

    Raises:
        UsageError: the file cannot be written.
    """
    runs = comparison.standings
    figure = plots.new_figure(7.2, 4.2 + 0.2 * len(runs))
    axes = figure.subplots()
    for number, each in enumerate(runs, 1):
        point = (each.run.seconds, each.accuracy)
        errors = [[each.accuracy - each.low], [each.high - each.accuracy]]
        name = f"{number}  {_name(each.run)}"
        axes.errorbar(*point, yerr=errors, marker="o", capsize=3, label=name)
        axes.annotate(str(number), point, xytext=(6, 4), textcoords="offset points")
    # The names go into a legend below the axes, because next to the points they would overlap.
    for text in figure.legend(loc="outside lower left", frameon=False).get_texts():
        text.set_parse_math(False)
    seconds = [each.run.seconds for each in runs]
    if max(seconds) > _LOG_RATIO * min(seconds) > 0:
        axes.set_xscale("log", subs=[2, 5])
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("{x:g}")
        axes.tick_params(axis="x", which="both", length=4, pad=4)
    else:
        axes.set_xlim(0, 1.1 * max(seconds) or 1)
    axes.set(
        xlabel="training time, seconds",
        ylabel="accuracy" if comparison.out_of_fold else f"{comparison.split} accuracy",
    )
    axes.set_title(f"On the {comparison.pictures:,} pictures common to all runs", fontsize=10)
    axes.grid(alpha=0.3)
    try:
        plots.save(figure, path)
    except OSError as error:
        raise UsageError(f"Cannot write {path}: {error.strerror}. Choose another file.") from None


def _name(run: ComparedRun) -> str:
    folder = plots.drawable(run.folder.resolve().name)
    return f"{folder} ({run.model.removeprefix('efficientnet-')}, {run.recipe})"
