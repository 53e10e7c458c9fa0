"""A model version's figures as text."""

from rich.table import Table

from bankportal.cli.common import console
from bankportal.services.models import ModelVersion


def show_version(version: ModelVersion) -> None:
    """Print what is known of a version: figures on held-out customers, baselines, ceiling, confusion, warnings."""
    screen = console()
    evaluation = version.evaluation
    screen.print(f"\n[bold]{version.product.title} model {version.version}[/bold], seed {version.seed}")
    screen.print(f"manifest {version.manifest_digest}\nforest   {version.forest_digest}")
    screen.print(f"trained on {evaluation['rows_train']:,} customers, evaluated on {evaluation['rows_test']:,} others")
    screen.print(_discrimination(version))
    screen.print(_confusion(version))
    for warning in evaluation["warnings"]:
        screen.print(f"[bold yellow]Warning:[/] {warning}")


def _discrimination(version: ModelVersion) -> Table:
    evaluation = version.evaluation
    auc = evaluation["auc"]
    table = Table("", "ROC AUC", "average precision", "Brier", "calibration error", title="On held-out customers")
    table.add_row(
        "this forest",
        f"{auc['value']:.4f} (95%: {auc['low']:.4f} to {auc['high']:.4f})",
        _figure(evaluation["average_precision"]),
        _figure(evaluation["brier"]),
        _figure(evaluation["calibration_error"]),
    )
    if blank := evaluation["without_behaviour"]:
        table.add_row("… behaviour blank", _figure(blank["auc"]), "", _figure(blank["brier"]))
    for baseline in evaluation["baselines"]:
        name = f"{baseline['name']} ({baseline['detail']})" if baseline["detail"] else baseline["name"]
        figures = (baseline["auc"], baseline["average_precision"], baseline["brier"])
        table.add_row(name, *(_figure(figure) for figure in figures))
    for kind, ceiling in (evaluation["ceiling"] or {}).items():
        if isinstance(ceiling, dict):
            table.add_row(f"ceiling: {kind}", _figure(ceiling["auc"]), "", _figure(ceiling["brier"]))
    return table


def _confusion(version: ModelVersion) -> Table:
    label = version.product.label
    table = Table(
        "from score", "right 1", "wrong 1", "right 0", "wrong 0", "precision", "recall", title=f"1: {label.meaning}"
    )
    for cut in version.evaluation["confusion"]:
        counts = (f"{cut[name]:,}" for name in ("tp", "fp", "tn", "fn"))
        table.add_row(f"{cut['cut_off']:.2f}", *counts, _figure(cut["precision"]), _figure(cut["recall"]))
    return table


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
