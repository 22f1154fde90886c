"""The model card of a run."""

import jinja2
import keras
import numpy as np

CARD = """\
# Model card: {{ model.name }}, run '{{ report.run }}'

{% if report.data == "phantom" %}
> **PHANTOM: this network has learned from drawn pictures. No number below says anything about patients.**

{% endif %}
> **For learning only. NOT intended for clinical use.** Nothing here may decide about a patient.

## Model details

{{ "{:,} parameters".format(model.count_params()) }}, trained from random weights on {{ report.device }}
with Keras {{ report.versions.keras }} ({{ report.versions.backend }}). In: float32 {{ "(n, {1}, {2}, {3})".format(*model.input_shape) }},
gray levels from 0 to 255, {{ resize_mode }}. Out: the probability of class 1, PNEUMONIA (0 is NORMAL); temperature
{{ "%.3f"|format(report.temperature) }} and shift {{ "%.3f"|format(report.shift) }} are in its weights. {{ minutes }} minutes so far, with
{% for name, value in report.settings.items() if not name.endswith("_DIR") %}{{ name }} {{ value }}{{ ", " if not loop.last }}{% endfor %}.

## Intended use

Learning how such a network is built, trained, measured and doubted. Not for screening, triage, research on patients or any decision
about a person; nor for adults, views from the side, other body parts, photographs of films. It always answers, also where it knows nothing.

## Training and evaluation data

{{ source }} The part to learn from and the held-out part share no patient, as far as file names tell.
{{ report.unreadable|length }} files could not be read. Test was opened once, after the threshold had been chosen.

| images | {{ report.counts|join(" | ") }} |
| --- |{{ " --- |" * report.counts|length }}
{% for label in ("NORMAL", "PNEUMONIA") %}
| {{ label }} | {{ report.counts.values()|map(attribute=label)|join(" | ") }} |
{% endfor %}

## Metrics and quantitative analyzes

At {{ "%.4f"|format(report.threshold.value) }} ({{ report.threshold.how }}) and above the answer is PNEUMONIA. Intervals: 95 %, by bootstrap
over patients. Calibration error (ECE) on validation: {{ "%.3f before scaling, %.3f after"|format(error.before, \
error.after) }}; on test: {{ "%.3f"|format(error.test) }}.

| score | validation | test |
| --- | --- | --- |
{% for name, one in report.test.items() if one.low is defined %}
| {{ name }} | {{ describe(report.validation[name]) }} | {{ describe(one) }} |
{% endfor %}

## Factors, caveats and recommendations

Of the changes that were tried on the held-out images, {{ shifted }}. Sick and healthy films differ in more than disease (frame, letters,
machine): a classifier that sees no place within the lungs has an AUC of {{ describe(report.clues["all of these"]) }} here. On held-out
films on which it misleads, this network has {{ describe(ours["AUC, conflicting"]) }}; on the others, {{ \
describe(ours["AUC, agreeing"]) }}. Age, sex and origin are unknown, so fairness between groups is not measured. Some labels are
wrong. Validation resembles training, another hospital will not: measure again on its films before believing anything.

## License and citations

Code: MIT.{% if report.data == "chest-xray-pneumonia" %} Radiographs: Kermany, Zhang, Goldbaum, doi:10.17632/rscbjbr9sj, CC BY 4.0;
Kermany et al., Cell 172, 2018.{% endif %} Card: arXiv:1810.03993. Calibration: Platt, 1999. Residual networks: arXiv:1512.03385.
"""


def format_with_ci(scores: dict) -> str:
    """Return a score as "0.912 [0.890–0.931]", or say that there was nothing to measure."""
    known = scores["value"] is not None and np.isfinite(scores["value"])
    return (
        "{value:.3f} [{low:.3f}–{high:.3f}]".format(**scores)
        if known
        else "not measurable"
    )


def render_model_card(report: dict, model: keras.Model) -> str:
    """Return the model card of a run, in Markdown, after Mitchell et al., 2019 (arXiv:1810.03993); all numbers are those of `report`."""
    source = {
        "phantom": "PHANTOM radiographs, drawn by the notebook: they show no patient.",
        "chest-xray-pneumonia": "The chest X-ray set of Kermany, Zhang and Goldbaum: children of one to five years, one hospital in "
        f"Guangzhou, labels by doctors, {report['release']}, "
        + (
            "in the official split."
            if report["official_split"]
            else "**not** in the official split: scores cannot be compared with published ones."
        ),
    }
    aucs = {
        name: one["auc"]
        for name, one in report["shifts"].items()
        if one["auc"] is not None and np.isfinite(one["auc"])
    }
    worst = min(aucs, key=aucs.__getitem__, default="")
    shifted = (
        "none can be measured"
        if not worst
        else (
            f"{worst!r} was the worst, with an AUC of {aucs[worst]:.3f} instead of {aucs['unchanged']:.3f}"
        )
    )
    resize_mode = {
        "stretch": "the whole picture shrunk to a square",
        "pad": "the whole picture shrunk at its own aspect, between black bars",
        "center_crop": "the middle square of the picture, shrunk",
    }[report["settings"].get("RESIZE_MODE", "stretch")]
    return jinja2.Template(CARD, trim_blocks=True, keep_trailing_newline=True).render(
        report=report,
        model=model,
        describe=format_with_ci,
        error=report["expected_calibration_error"],
        shifted=shifted,
        resize_mode=resize_mode,
        ours=report["classifiers"]["residual CNN"],
        source=source.get(
            report["data"], "Pictures that whoever ran the notebook provided."
        ),
        minutes=f"{sum(report['seconds'].values()) / 60:.1f}",
    )
