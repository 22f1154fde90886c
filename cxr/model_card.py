"""The model card of a run."""

from typing import Any

import jinja2
import keras
import numpy as np

from cxr.evaluation import format_estimate

CARD = """\
# Model card: {{ model.name }}, run '{{ report.run }}'

{% if report.data == "phantom" %}
> **PHANTOM: this network was trained on drawn images. No number below says anything
> about patients.**

{% endif %}
> **For learning only. NOT intended for clinical use.** Do not use it for any decision
> about a patient.

## Model details

- Architecture: {{ model.name }}, {{ "{:,}".format(model.count_params()) }} parameters,
  trained from random weights on {{ report.device }} with Keras
  {{ report.versions.keras }} ({{ report.versions.backend }})
- Input: float32 {{ "(n, {1}, {2}, {3})".format(*model.input_shape) }}, gray levels from
  0 to 255; {{ resize_mode }}
- Output: probability of class 1, PNEUMONIA (class 0 is NORMAL). Platt scaling with
  temperature {{ "%.3f"|format(report.temperature) }} and shift
  {{ "%.3f"|format(report.shift) }} is part of the weights.
- Settings: {{ settings }}
- Time: {{ minutes }} minutes so far, for the whole notebook

## Intended use

Learning how such a network is built, trained, evaluated and questioned. Out of scope:
screening, triage, research on patients and any decision about a person; adults, lateral
views, other body parts and photographs of radiographs. The network returns a
probability for any image, also for one unlike its training data.

## Training and evaluation data

{{ source }} As far as file names tell, training and validation set
share no patient. {{ report.unreadable|length }} files could not be read. The test set
was used once, after the threshold had been chosen.

| images | {{ report.counts|join(" | ") }} |
| --- |{{ " --- |" * report.counts|length }}
{% for label in ("NORMAL", "PNEUMONIA") %}
| {{ label }} | {{ report.counts.values()|map(attribute=label)|join(" | ") }} |
{% endfor %}

## Metrics and quantitative analyses

An image is predicted as PNEUMONIA if its probability is at least
{{ "%.4f"|format(report.threshold.value) }} ({{ report.threshold.rule }}).
95% confidence intervals: bootstrap over patients. Expected calibration error on
validation: {{ "%.3f"|format(error.before) }} before Platt scaling,
{{ "%.3f"|format(error.after) }} after; on test: {{ "%.3f"|format(error.test) }}.

| metric | validation | test |
| --- | --- | --- |
{% for name, metric in report.test.items() if metric.low is defined %}
| {{ name }} | {{ describe(report.validation[name]) }} | {{ describe(metric) }} |
{% endfor %}

## Factors, caveats and recommendations

- Robustness: {{ robustness }}
- Shortcuts: images with and without pneumonia may differ in more than the disease
  (frame, markers, X-ray machine). A classifier of such shortcut features reaches an
  AUC of {{ describe(report.shortcuts.all) }} here. On the validation images on which
  these shortcuts help least, this network has an AUC of
  {{ describe(network.auc_bias_conflicting) }}; on the others,
  {{ describe(network.auc_bias_aligned) }}.
- Fairness: age, sex and origin are unknown, so groups were not compared.
- Labels: some are wrong.
- Generalization: the validation set resembles the training set; images of another
  hospital do not. Evaluate the network on images of the place where it is to be used.

## License and citations

Code: MIT.{% if report.data == "chest-xray-pneumonia" %} Radiographs: Kermany, Zhang, \
Goldbaum, doi:10.17632/rscbjbr9sj, CC BY 4.0;
Kermany et al., Cell 172, 2018.{% endif %} Model cards: arXiv:1810.03993. Calibration: \
Platt, 1999.
Residual networks: arXiv:1512.03385.
"""


def list_measured_aucs(robustness: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Return {perturbation: AUC}, without those that could not be measured."""
    return {
        name: metrics["auc"]
        for name, metrics in robustness.items()
        if metrics["auc"] is not None and np.isfinite(metrics["auc"])
    }


def describe_worst_perturbation(robustness: dict[str, dict[str, Any]]) -> str:
    """Return a sentence on the perturbation with the lowest validation AUC."""
    aucs = list_measured_aucs(robustness)
    if not aucs:
        return "not measurable."
    worst = min(aucs, key=aucs.__getitem__)
    return (
        f"of the perturbations of validation images, {worst.replace('_', ' ')!r} had "
        f"the lowest AUC, {aucs[worst]:.3f} (unchanged: {aucs['unchanged']:.3f})."
    )


def render_model_card(report: dict[str, Any], model: keras.Model) -> str:
    """Return the model card of a run.

    Parameters
    ----------
    report : dict
        The content of metrics.json; all numbers of the card come from it.
    model : keras.Model
        The published network.

    Returns
    -------
    str
        Markdown.

    References
    ----------
    Mitchell et al., "Model cards for model reporting", 2019, arXiv:1810.03993.
    """
    split = (
        "**not** in the official split: scores cannot be compared with published ones"
    )
    if report["official_split"]:
        split = "in the official split"
    source = {
        "phantom": "PHANTOM radiographs, drawn by the notebook: they show no patient.",
        "chest-xray-pneumonia": (
            "The chest X-ray data set of Kermany, Zhang and Goldbaum: children of one "
            "to five years, one hospital in Guangzhou, labels by physicians, "
            f"{report['release']}, {split}."
        ),
    }.get(report["data"], "Images that the user of the notebook provided.")
    resize_mode = {
        "stretch": "the whole image is stretched to a square",
        "pad": "the whole image is resized at its own aspect ratio and padded",
        "center_crop": "the central square of the image is resized",
    }[report["settings"]["RESIZE_MODE"]]
    settings = ", ".join(
        f"{name} {value}"
        for name, value in report["settings"].items()
        if not name.endswith("_DIR")
    )
    card = jinja2.Template(CARD, trim_blocks=True, keep_trailing_newline=True)
    return card.render(
        report=report,
        model=model,
        describe=format_estimate,
        error=report["calibration_error"],
        robustness=describe_worst_perturbation(report["robustness"]),
        resize_mode=resize_mode,
        network=report["models"]["residual_cnn"],
        settings=settings,
        source=source,
        minutes=f"{sum(report['seconds'].values()) / 60:.1f}",
    )
