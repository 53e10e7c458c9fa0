"""A model version's honest figures, read out of its evaluation."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bankportal.web.words import capitalised, number, share

if TYPE_CHECKING:
    from bankportal.services.models import ModelVersion

Row = dict[str, Any]


@dataclass(frozen=True)
class Figures:
    """What was measured on customers the model never saw. Figures that an evaluation lacks are `None` or empty."""

    model: "ModelVersion"
    evaluation: Row

    @property
    def rows_test(self) -> int:
        """How many customers it was measured on."""
        return int(self.evaluation.get("rows_test", 0))

    @property
    def auc(self) -> float | None:
        """Area under the ROC curve."""
        return self._part("auc").get("value")

    @property
    def auc_interval(self) -> str:
        """The 95% interval of the AUC: "0.901 to 0.925"; blank where there is none."""
        auc = self._part("auc")
        return f"{number(auc['low'], 3)} to {number(auc['high'], 3)}" if {"low", "high"} <= auc.keys() else ""

    @property
    def baselines(self) -> list[Row]:
        """What simpler rules reach on the same customers."""
        return list(self.evaluation.get("baselines") or [])

    @property
    def best_baseline(self) -> Row | None:
        """The simpler rule with the highest AUC."""
        return max(self.baselines, key=lambda baseline: float(baseline["auc"]), default=None)

    @property
    def ceiling(self) -> Row:
        """The best achievable figures, where the data was simulated."""
        return self._part("ceiling")

    @property
    def ceiling_text(self) -> str:
        """The share of the ceiling that was reached, in words; blank where there is no ceiling."""
        reached = self.ceiling.get("share_of_ceiling")
        return "" if reached is None else f"{share(float(reached))} of what is achievable"

    @property
    def reliability(self) -> list[Row]:
        """Predicted against observed shares, bin by bin."""
        return list(self.evaluation.get("reliability") or [])

    @property
    def confusion(self) -> list[Row]:
        """Right and wrong calls at each cut-off."""
        return list(self.evaluation.get("confusion") or [])

    @property
    def without_behaviour(self) -> Row:
        """The figures with every behavioural factor blank."""
        return self._part("without_behaviour")

    @property
    def extra_rows(self) -> list[Row]:
        """More rows to stand beside the model: without behaviour, the best achievable, the true probabilities."""
        parts = (
            ("Without behaviour", "this model with every behavioural factor blank", self.without_behaviour),
            ("Best achievable", "knowing how the data was made, from the same factors", self._ceiling("achievable")),
            ("True probabilities", "knowing also what no bank can see", self._ceiling("truth")),
        )
        return [{"name": name, "detail": detail, **part} for name, detail, part in parts if part]

    def _ceiling(self, name: str) -> Row:
        return dict(self.ceiling.get(name) or {})

    @property
    def warnings(self) -> list[str]:
        """What the evaluation warns about."""
        return [str(warning) for warning in self.evaluation.get("warnings") or []]

    def _part(self, name: str) -> Row:
        return dict(self.evaluation.get(name) or {})


def figures(model: "ModelVersion") -> Figures:
    """Return a version's figures."""
    return Figures(model, dict(model.evaluation))


def facts(values: Row) -> list[tuple[str, str]]:
    """Flatten a manifest's record into labels and values for a table.

    >>> facts({"max_depth": 10000, "recipe": {"seed": 7}})
    [('Max depth', '10,000'), ('Recipe: seed', '7')]
    """
    flat: list[tuple[str, str]] = []
    for name, value in values.items():
        label = capitalised(name.replace("_", " "))
        if isinstance(value, dict):
            flat += [(f"{label}: {inner[:1].lower()}{inner[1:]}", text) for inner, text in facts(value)]
        else:
            flat.append((label, _fact(value)))
    return flat


def _fact(value: object) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case int():
            return number(value)
        case float():
            return number(value, 4).rstrip("0").rstrip(".")
        case dict():
            return " ".join(f"{name} {_fact(inner)}" for name, inner in value.items())
        case list() | tuple():
            return ", ".join(_fact(item) for item in value) or "none"
    return str(value)
