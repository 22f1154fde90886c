# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # Pneumonia on chest X-rays: a convolutional network from scratch
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/) In Colab, choose **File → Upload notebook** and select this file.
#
# Does this child have pneumonia? In this notebook you download 5,856 chest radiographs,
# build a **convolutional neural network (CNN)** with Keras, train it from random
# weights, and find out how far its predictions can be trusted.
#
# ![What a finished run shows: a phantom radiograph, the predicted probability of pneumonia, and the Grad-CAM map](../docs/first_screen.png)
#
# Run everything from top to bottom first (**Runtime → Run all** in Colab). Then change
# one setting and run a section again. Subsections marked *(optional)* can be skipped at
# first reading, but their cells have to be run.
#
# 0 Setup · 1 Data · 2 Images as arrays · 3 Exploration · 4 Split by patient · 5 Model ·
# 6 Training · 7 Evaluation · 8 Inspection · 9 Comparison of runs · 10 Conclusion
#
# > **For learning only. NOT intended for clinical use.** Nothing here may decide about a patient.

# %% [markdown]
# ## 0. Setup
#
# *What will this run do, on which machine, and how long will it take?*
#
# **TensorFlow** computes with arrays on a CPU or GPU and differentiates what it
# computes. **Keras** is the layer above it: it describes a network in a few readable
# lines. No score is written into this text. The code prints them, so they are those of
# *your* run. Cells that only define helper functions are collapsed; the imports are in
# the collapsed cell *Packages*.
#
# The cell *Settings* holds what you will want to change; the collapsed cell above it
# holds the rest. `None` means "as the preset says". The preset `auto` is `full` on a
# GPU and `quick` on a CPU. An empty `DATA_DIR` means: find the data set, or download
# it. `SEED` makes a training repeatable.
#
# After a change, run the settings cell and then the section that you want to repeat.
# Each section begins with `settings = section(n)`, which validates the settings and
# tells you if an earlier section has to be run again first.

# %% tags=["hide-input"]
# @title Packages: check them, and install what is missing
import contextlib
import gc
import importlib.metadata
import importlib.util
import itertools
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

packages = {
    "cv2": "opencv-python",
    "filelock": "filelock",
    "jinja2": "jinja2",
    "kaggle": "kaggle",
    "keras": "keras",
    "matplotlib": "matplotlib",
    "numpy": "numpy",
    "pandas": "pandas",
    "PIL": "pillow",
    "pydantic": "pydantic",
    "scipy": "scipy",
    "seaborn": "seaborn",
    "sklearn": "scikit-learn",
    "tensorflow": "tensorflow",
    "tqdm": "tqdm",
}


def find_missing():
    """Return the packages whose module is not there; an empty folder is no module."""
    specs = {name: importlib.util.find_spec(name) for name in packages}
    return [
        packages[name] for name, spec in specs.items() if not (spec and spec.origin)
    ]


# Only what is missing: replacing packages that Colab has would force a restart.
if missing := find_missing():
    pip = [sys.executable, "-m", "pip", "install", "--quiet", *missing]
    subprocess.run(pip, check=False)
    importlib.invalidate_caches()
    if missing := find_missing():
        raise RuntimeError(
            f"Packages that could not be installed: {', '.join(missing)}. In a "
            f"terminal, run `{sys.executable} -m pip install --force-reinstall "
            f"{' '.join(missing)}`, and restart the kernel."
        )
keras_version = importlib.metadata.version("keras")
if int(keras_version.split(".")[0]) < 3:
    raise RuntimeError(
        f"Keras {keras_version} is installed, and this notebook needs Keras 3: "
        "run `%pip install --upgrade keras`, and restart the kernel."
    )
backend = os.environ.get("KERAS_BACKEND", "tensorflow")
if backend not in ("tensorflow", "jax"):
    raise RuntimeError(
        f"KERAS_BACKEND is {backend!r}, and this notebook runs with tensorflow or jax: "
        "remove the environment variable, and restart the kernel."
    )

# Fewer messages; and on a CPU, TensorFlow keeps its memory for the next step.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")

# A library that ends the process takes its message along. Then this file is left, and
# the next start asks another process for the reason.
marker = Path(tempfile.gettempdir()) / "chest-xray-notebook-imports-keras"
keras_home = os.environ.get("KERAS_HOME")
stderr = os.dup(2)
with tempfile.TemporaryDirectory() as empty, tempfile.TemporaryFile() as messages:
    # The user's keras.json may ask for what does not fit.
    os.environ["KERAS_HOME"] = empty
    os.dup2(messages.fileno(), 2)  # libraries print a lot while they look for devices
    gc.disable()  # it would take a quarter of the time, and find nothing
    try:
        if marker.exists():
            command = [sys.executable, "-c", "import keras; keras.ops.ones(1)"]
            trial = subprocess.run(command, stderr=messages, check=False)
            if trial.returncode:
                raise RuntimeError("Keras cannot be imported here: see above.")
        with contextlib.suppress(OSError):
            marker.touch()
        import keras

        keras.ops.ones(1)
    except BaseException:
        messages.seek(0)
        print(messages.read().decode(errors="replace"))
        raise
    finally:
        gc.enable()
        os.dup2(stderr, 2)
        os.close(stderr)
        marker.unlink(missing_ok=True)
        if keras_home is None:
            del os.environ["KERAS_HOME"]
        else:
            os.environ["KERAS_HOME"] = keras_home

import cv2
import numpy as np
import pandas as pd
from IPython.display import Markdown, display
from keras import layers
from scipy import special
from sklearn import metrics

# imports of the package

# %% tags=["hide-input", "advanced"]
# @title Settings, advanced
CACHE_DIR = "data/cache"  # decoded images; "" keeps none
SPLIT_SEED = 0  # decides which patients validate: leave it alone while you compare runs
VALIDATION_FRACTION = 0.15
TARGET_SENSITIVITY = 0.98  # of the threshold, on validation images
WEIGHT_DECAY = 0.004
DROPOUT = 0.3
AUG_AFFINE = 0.5  # strength of each augmentation
AUG_INTENSITY = 0.5
AUG_BLUR_NOISE = 0.5
FLIP = False
CLASS_WEIGHTS = False
PATIENCE = 3  # epochs without progress until the learning rate falls (x 3: the end)
DETERMINISTIC = False
MIXED_PRECISION = "auto"  # "on", "off"
PRESETS = {
    "full": {"IMAGE_SIZE": 128, "EPOCHS": 22, "BASELINE_EPOCHS": 4},
    "quick": {"IMAGE_SIZE": 80, "EPOCHS": 9, "BASELINE_EPOCHS": 2},
}

# %% tags=["parameters"]
# @title Settings
PRESET = "auto"  # @param ["auto", "full", "quick"]
DATA_DIR = ""  # @param {type:"string"}
OUTPUT_DIR = "outputs"  # @param {type:"string"}
SAVE_TO_DRIVE = False  # @param {type:"boolean"}
RUN_NAME = "reference"  # @param {type:"string"}
IMAGE_SIZE = None  # @param {type:"raw"}
RESIZE_MODE = "stretch"  # @param ["stretch", "pad", "center_crop"]
EPOCHS = None  # @param {type:"raw"}
BASELINE_EPOCHS = None  # @param {type:"raw"}
BATCH_SIZE = 32  # @param {type:"integer"}
LEARNING_RATE = 0.001  # @param {type:"number"}
AUGMENT = True  # @param {type:"boolean"}
BOOTSTRAP_SAMPLES = 1000  # @param {type:"integer"}
SEED = 0  # @param {type:"integer"}

# %% [markdown]
# ### Device, memory and time
#
# Settings are validated here, not after ten minutes of training. The images are kept as
# integers from 0 to 255, one byte per pixel. The training time is a rough estimate,
# from timing one small convolution.
#
# If the device is a CPU and you are in Colab, **Runtime → Change runtime type → T4
# GPU** makes the full preset a matter of minutes. On a CPU, the quick preset uses
# smaller images and gives a weaker network; everything else is the same.

# %%
from cxr.evaluation import Estimate  # again
import cxr.labels  # fold
import cxr.storage  # fold
import cxr.devices  # fold
import cxr.settings  # fold
import cxr.sections  # fold
import cxr.plots  # fold
import cxr.runs  # fold

# %%
device_kind, device_name, capability = detect_device()
strategy, device_count = distribution_strategy()
if "section" not in globals():
    section = SectionTracker(globals(), device_kind)
settings = section(0)
in_project = Path.cwd().name == "notebooks" and Path("../download_data.sh").is_file()
home = Path("..") if in_project else Path(".")
output_dir = (mount_drive() if settings.SAVE_TO_DRIVE else home) / settings.OUTPUT_DIR
prepare_folder(output_dir, "OUTPUT_DIR", 200e6)
set_plot_style()
dtype_policy = choose_dtype_policy(settings.MIXED_PRECISION, device_kind, capability)
expected_images = 5856  # of the real data set, which is not here yet
summarize_environment(settings, device_kind, device_name, dtype_policy, expected_images)

# %% [markdown]
# ## 1. Data
#
# *Are all the radiographs here, and what do they look like?*
#
# The radiographs come from Kermany, Zhang and Goldbaum [1, 2]: children of one to five
# years, one hospital in Guangzhou, labeled by doctors as NORMAL or PNEUMONIA. Kaggle
# hosts the most widely used copy; no account is needed. The archive of 2.4 GB contains
# every image twice, and a small macOS file for each; only one copy is extracted. An
# interrupted download continues where it stopped. (A Kaggle key belongs in
# `~/.kaggle/kaggle.json`, never into a cell.)
#
# When no source can be reached, the notebook draws **phantoms**, radiograph-like images
# that stand in for patients, so that everything still runs. They carry the word PHANTOM
# in the image, in the file and under each figure. What a network learns from them says
# nothing about patients. The first sentence below says which data these are.
#
# **Guess first:** cover the captions: can you tell which of these children are ill?

# %%
import cxr.release  # fold
import cxr.download  # fold
import cxr.phantoms  # fold
import cxr.dataset  # fold

# %%
settings = section(1)
data_dir = find_data(home, settings.DATA_DIR)
listed = list_images(data_dir)
data_kind = identify_dataset(data_dir, listed)
release = identify_release(listed, data_kind)
official = is_official(data_dir, release)
images_are = image_label(data_kind)
show = partial(show_figure, folder=output_dir / "figures", data_kind=data_kind)
print(describe_data(data_dir, listed, data_kind, release, official))

sample = listed.groupby("label").head(4)
first_images = [
    cv2.imread(str(data_dir / path), cv2.IMREAD_GRAYSCALE) for path in sample.path
]
readable = [number for number, image in enumerate(first_images) if image is not None]
captions = [CLASS_NAMES[sample.label.iloc[number]] for number in readable]
colors = label_colors(sample.label.iloc[readable])
figure = plot_images([first_images[number] for number in readable], captions, 4, colors)
show(figure, "first_images", f"Some {images_are}, as they are in the files")
listed.groupby(["folder", "finding"], sort=False).size().unstack(fill_value=0)

# %% [markdown]
# **How to read it:** healthy lungs are dark, with fine vessels. In pneumonia, fluid
# fills air sacs, which then appear white: bacterial forms often show one dense patch,
# viral ones a haze in both lungs. The table counts the files by folder and finding.
# Patient and finding are read from the file name: `person63_bacteria_306.jpeg` is an
# image of patient 63 with bacterial pneumonia, and in `IM-0115-0001.jpeg` and
# `NORMAL2-IM-0115-0001.jpeg` the patient is 0115. The numbers restart in each series,
# so two children may share a number. They then count as one patient, which can only
# keep more images together.
#
# Two **releases** are in use: Kaggle's copy of version 2, and version 3 at Mendeley.
# Their file names differ, and so do many of the normal test images. A score can only be
# compared with scores on the same release.

# %% [markdown]
# ## 2. Images as arrays
#
# *How do thousands of JPEG files become arrays that a network can process?*
#
# An image is a table of gray levels, from 0 for black to 255 for white. A network needs
# all images at one size, so each file is decoded and resized to a square of
# `IMAGE_SIZE` pixels.
#
# Radiographs are rarely square. `RESIZE_MODE` decides how they become square: `stretch`
# distorts them, `pad` adds black borders (which reveal the original aspect ratio),
# `center_crop` discards the edges.
#
# Below is the function that reads one file. The figure shows an image before and after.
# The JPEG decoder skips detail that resizing would discard anyway. A file that is
# empty, truncated or not an image raises an error.

# %%
import cxr.images  # fold

# %%
from cxr.images import read_image  # show

# %%
settings = section(2)
original = first_readable_image(data_dir, listed.path)
resized = resize_to_square(
    original, 1, original.shape[::-1], settings.IMAGE_SIZE, settings.RESIZE_MODE
)
captions = [
    f"{image.shape[1]} × {image.shape[0]} pixels, {image.nbytes / 1e3:,.0f} kB"
    for image in (original, resized)
]
title = f"{resized.size / original.size:.1%} of {original.size:,} pixels remain"
show(plot_images([original, resized], captions, 2), "resizing", title)

# %% [markdown]
# ### All images
#
# `load_split` reads a folder with all CPU cores. A damaged file neither stops the run
# nor disappears: it is listed with the reason. Decoded images are kept in `CACHE_DIR`
# and **memory-mapped**: they behave like an array, but the operating system reads a
# part from the disk only when it is used. The next start is fast, because nothing is
# decoded again. These arrays are never changed: augmentation works on copies of a
# batch, and rescaling to 0–1 is a layer of the network. **Guess first:** how many
# megabytes do all training images take with one byte a pixel (`uint8`)? And how many as
# `float64` (eight bytes) in three equal channels, which is what many notebooks make of
# them until the memory is full?

# %%
cache_dir = home / settings.CACHE_DIR if settings.CACHE_DIR else None
arrays, tables, problems = [], [], []
for folder in ("train", "val", "test"):
    in_folder = listed[listed.folder == folder]
    x, table, unreadable_files = load_split(
        data_dir,
        in_folder,
        settings.IMAGE_SIZE,
        f"Loading {folder}",
        cache_dir,
        settings.RESIZE_MODE,
    )
    arrays.append(x)
    tables.append(table)
    problems.append(unreadable_files)
x_train_folder, x_val_folder, x_test = arrays
loaded = pd.concat(tables, ignore_index=True)  # one row for each image, in this order
y_train_folder, y_val_folder, y_test = [
    table.label.to_numpy(np.uint8) for table in tables
]
unreadable = check_unreadable(listed, problems)

megabytes = x_train_folder.size / 1e6
print(
    f"train takes {megabytes:,.1f} MB as uint8, and {24 * megabytes:,.1f} MB as "
    "float64 in three channels (8 bytes × 3 channels)."
)
describe_arrays(
    train=(x_train_folder, y_train_folder),
    val=(x_val_folder, y_val_folder),
    test=(x_test, y_test),
)

# %% [markdown]
# ## 3. Exploration
#
# *What does a network see, and what could it learn that has nothing to do with
# pneumonia?*
#
# **Guess first:** which class is more frequent, and what accuracy does a program reach
# that always predicts that class? Its **sensitivity**, the fraction of ill children
# that it finds, is 100%; its **specificity**, the fraction of healthy children that it
# recognizes as healthy, is 0%. So **accuracy**, the fraction of correct predictions, is
# misleading when classes are imbalanced. The majority-class accuracy is the floor that
# any model must exceed.

# %%
from cxr.evaluation import Estimate, auc_and_average_precision  # again
from cxr.evaluation import cluster_bootstrap_weights, percentile_ci  # again
from cxr.evaluation import format_estimate, format_metrics  # again
from cxr.linear_baseline import border_mask  # again
import cxr.split  # fold
import cxr.confounders  # fold

# %%
settings = section(3)
title = (
    f"{y_train_folder.mean():.0%} of the {images_are} in train show pneumonia, "
    f"{y_test.mean():.0%} of those in test"
)
show(plot_class_balance(loaded), "class_balance", title)
for folder, table in loaded.groupby("folder", sort=False):
    print(
        f"Always predicting PNEUMONIA on {folder}: accuracy {table.label.mean():.1%}, "
        f"sensitivity 100%, specificity 0% ({len(table):,} images)."
    )

# %% [markdown]
# ### Examples by finding
#
# Each row of the next figure shows one finding. **Guess first:** which is harder to
# recognize, the bacterial or the viral form? Section 8 gives the network's answer.

# %%
rng = np.random.default_rng(settings.SEED)
train_folder = loaded[loaded.folder == "train"]
chosen = np.concatenate(
    [
        rng.permutation(np.flatnonzero(train_folder.finding == finding))[:5]
        for finding in FINDING_COLORS
    ]
)
captions = [
    f"{CLASS_NAMES[label]} ({finding})" if label else CLASS_NAMES[label]
    for label, finding in zip(train_folder.label[chosen], train_folder.finding[chosen])
]
colors = label_colors(y_train_folder[chosen])
title = f"Training images, {settings.IMAGE_SIZE} pixels wide ({images_are})"
show(plot_images(x_train_folder[chosen], captions, colors=colors), "samples", title)

# %% [markdown]
# ### Patients and duplicates
#
# If a **patient** has several images, they can end up on both sides of a split, and so
# can **identical images** in two files. The model is then evaluated on what it was
# trained on (*data leakage*). If identical images have different labels, at least one
# label is wrong.

# %%
images_per_patient = loaded.groupby("patient").size()
title = (
    f"{(images_per_patient > 1).mean():.0%} of {len(images_per_patient):,} patients "
    f"have several {images_are}, at most {images_per_patient.max()}"
)
show(plot_images_per_patient(loaded), "images_per_patient", title)
image_hashes, duplicates = find_duplicates(itertools.chain(*arrays), loaded)
print(
    f"{len(duplicates)} groups of identical images ({duplicates.images.sum()} images): "
    f"{(duplicates.patients > 1).sum()} with two patients, "
    f"{(duplicates.labels > 1).sum()} with two labels, "
    f"{(duplicates.folders > 1).sum()} in two folders."
)

# %% [markdown]
# ### Shortcuts: what predicts the label besides the lungs?
#
# Children with and without pneumonia may have been X-rayed on different machines, by
# different people, lying or standing. Then the aspect ratio of an image, its border,
# its corners, the letter that marks a side, and even the size of the file are
# correlated with the label. Such a **confounder**, here also called a *shortcut
# feature*, allows **shortcut learning**: a network that uses it scores well until it is
# applied to images from elsewhere. **Guess first:** how well can a classifier do
# without any shape or position inside the lungs?
#
# Below is a linear classifier (a weighted sum) of each of these features, on the train
# and val folders only. Each patient is scored by a model trained on other patients
# (**cross-fitting**), because on its own training patients any model looks too good.
# The border is 12% of the width on each side. The gray levels are a histogram of the
# whole image: it includes the brightness of the lungs, but not where a pixel lies. The
# **AUC** is the probability that a random child with pneumonia gets a higher score than
# a random healthy child; 0.5 is chance level, and below 0.5 the order is reversed. The
# brackets hold its 95% confidence interval (CI), which section 7 explains.

# %%
pool = loaded[loaded.folder != "test"]
pool_labels = pool.label.to_numpy()
groups = group_patients(pool.patient, image_hashes[: len(pool)])
features = shortcut_features([*x_train_folder, *x_val_folder], pool)
shortcut_scores = {
    name: crossfit_ridge(values, pool_labels, groups)
    for name, values in features.items()
}
shortcuts = shortcut_aucs(
    shortcut_scores,
    pool_labels,
    pool.patient,
    settings.BOOTSTRAP_SAMPLES,
    settings.SEED,
)
if pool[["width", "height"]].drop_duplicates().shape[0] > 1:
    title = describe_aspect_ratios(pool, images_are)
    show(plot_aspect_ratios(pool), "aspect_ratios", title)
else:
    print("All files have one size, so the aspect ratio reveals nothing here.")
means, captions = mean_images_by_class(x_train_folder, y_train_folder)
title = f"Where the classes differ: mean of {len(x_train_folder):,} {images_are}"
show(plot_images(means, captions, 4), "mean_images", title)
print(describe_shortcuts(shortcuts, images_are))
format_metrics(AUC=shortcuts).rename_axis(f"{len(pool):,} {images_are}")

# %% [markdown]
# **How to read it:** in the third row of mean images, white is brighter in pneumonia
# and black is brighter in normal images; the fourth column shows where side markers
# lie. The lungs should differ. What differs outside them is not the disease itself,
# though a very ill child may be X-rayed in another position. An AUC whose interval lies
# above 0.5 means that a network *can* use this feature. Whether ours *does* cannot be
# seen on a validation set with the same confounders. Section 7 evaluates the models on
# images where these features help least.

# %% [markdown]
# ## 4. Split by patient
#
# *How many validation images are needed, and which images may be used?*
#
# A **validation set** decides when the training ends and which state of the network is
# kept (section 6); later, the decision threshold is chosen on it (section 7). The `val`
# folder of Kaggle's release has only 16 images. Here it joins the `train` folder, and a
# fraction of the **patients** is set aside: all images of a patient go to one side,
# identical images too, and normal, bacterial and viral images keep their proportions (a
# *stratified group split*). From here on, *train* and *val* mean the two sides of this
# split.

# %%
import cxr.calibration  # fold

# %%
from cxr.split import split_by_patient  # show

settings = section(4)
files = loaded.assign(split="test")
files.loc[pool.index, "split"] = split_by_patient(
    pool, groups, settings.VALIDATION_FRACTION, settings.SPLIT_SEED
)
val_files = files[files.split == "val"]
y_val = val_files.label.to_numpy()
is_val = (files.split[pool.index] == "val").to_numpy()
shuffled = np.random.default_rng(settings.SPLIT_SEED).permutation(is_val)
print(
    f"Patient-level split: {count_leaked(groups, is_val)} of {is_val.sum()} validation "
    f"images share a patient with training (an image-level split: "
    f"{count_leaked(groups, shuffled)})."
)
shared = set(files.patient[files.split == "test"]) & set(pool.patient)
print(
    f"Patient numbers of test that also occur in train or val: {len(shared)}. (Numbers "
    "restart in each series: the same number need not be the same child.)"
)
files.groupby(["split", "finding"], sort=False).agg(
    images=("path", "size"), patients=("patient", "nunique")
)

# %% [markdown]
# **How to read it:** with images of one patient on both sides, validation would reward
# a network that memorizes patients. The patient-level split rules that out at no cost.
# (A number that occurs under several findings is counted in each of these rows.) One
# caution remains: train and val come from the same series of images. Patients from
# another time or place can be harder.
#
# ### Batches
#
# Training processes a few images at a time, a **batch**. The order is new in each
# **epoch**, which is one pass through all training images. `make_batches` gathers a
# batch when Keras asks for it. All batches have the same shape, because a GPU compiles
# the training step anew for each shape: the last batch is filled up with images of
# weight 0.

# %%
import cxr.batches  # fold
import cxr.evaluation  # fold
import cxr.linear_baseline  # fold
import cxr.robustness  # fold

# %% [markdown]
# ### 16 validation images, or more?
#
# A linear classifier answers this in a second: it sees thumbnails of 24 × 24 pixels and
# has one weight for each pixel. It predicts the validation images; then many sets of
# 16, and many of the full size, are drawn from these predictions, with replacement.
# **Guess first:** which accuracies might 16 images show?

# %%
val_batches = make_batches("val", files, arrays, batch_size=32)
linear_model = LinearBaseline(size=24).fit(make_batches("train", files, arrays, 256))
correct = (linear_model.predict(val_batches) >= 0.5) == y_val
title = (
    f"Accuracy estimated from 16 and from {len(correct)} validation images "
    f"(reference {correct.mean():.1%}, always PNEUMONIA {y_val.mean():.1%})"
)
figure = plot_small_validation_sets((16, len(correct)), correct, settings.SPLIT_SEED)
show(figure, "small_validation_sets", title)

# %% [markdown]
# **How to read it:** with 16 images, the accuracy varies more by chance than between
# reasonable models, so an epoch chosen on them is mostly a lucky one. Compare the
# reference with the majority-class accuracy of section 3: what such a simple model
# gains may come in part from shortcuts, which section 7 tests.

# %% [markdown]
# ## 5. Model
#
# *What does each layer do to a radiograph, and how do layers become a network?*
#
# A dense network would give each pixel its own weight, as the linear classifier of
# section 4 does, and would have to learn the appearance of pneumonia anew at every
# position. A **convolutional neural network (CNN)** applies a small set of weights, the
# **kernel**, at every position of the image: the pixels under the kernel are multiplied
# by its weights and summed. The sums form a new image, a **map**.
#
# The kernel below, written by hand, responds where the image gets brighter from top to
# bottom. (Without padding, the map is two pixels smaller than the image.) **Guess
# first:** which outlines remain?

# %%
import cxr.models  # fold
import cxr.augmentation  # fold

# %%
settings = section(5)
first_positive = np.flatnonzero(y_train_folder)[0]
radiograph = x_train_folder[first_positive][None].astype("float32") / 255
kernel = np.array([[-1, -2, -1], [0, 0, 0], [1, 2, 1]], "float32")
convolution = layers.Conv2D(1, 3, use_bias=False)
convolution.build(radiograph.shape)
convolution.set_weights([kernel[:, :, None, None]])
edges = keras.ops.convert_to_numpy(convolution(radiograph))
captions = ["input", f"output of the kernel {kernel.astype(int).tolist()}"]
title = "A convolution detects one pattern at every position (gray is 0)"
show(plot_images([radiograph, edges / 4 + 0.5], captions, 2), "convolution", title)

# %% [markdown]
# **How to read it:** horizontal outlines remain, white where the image gets brighter
# downward and black where it gets darker. Vertical outlines vanish, because the image
# is equally bright above and below.
#
# ### ReLU and pooling
#
# The *rectified linear unit*, **ReLU**, keeps positive values and sets the others to 0.
# Without such a nonlinearity, any number of convolutions would be equivalent to a
# single one.
#
# **Max pooling** keeps the largest value of each block. The map gets smaller, so later
# layers see more of the chest at once, and a pattern that shifts by a pixel often gives
# the same output. The price: the exact position within the block is lost. Blocks are
# usually 2 × 2; here they are 4 × 4 to make the effect visible.

# %%
rectified = keras.ops.convert_to_numpy(layers.ReLU()(edges))
pooled = keras.ops.convert_to_numpy(layers.MaxPooling2D(4)(rectified))
title = (
    f"ReLU keeps {np.mean(rectified > 0):.0%} of the values; max pooling reduces "
    f"{rectified[0, ..., 0].size:,} to {pooled[0, ..., 0].size:,}"
)
captions = ["convolution (gray is 0)", "ReLU (black is 0)", "max pooling"]
figure = plot_images([edges / 4 + 0.5, rectified, pooled], captions, 3)
show(figure, "relu_pooling", title)

# %% [markdown]
# ### Batch normalization, dense layers, sigmoid
#
# One image is dark, the next one bright. **Batch normalization** shifts and scales each
# map to mean 0 and standard deviation 1 (almost) over the batch, and then applies a
# learned scale and offset per channel, which speeds up training. For predictions, the
# layer uses running averages from training instead: after each batch, `momentum` ·
# average + (1 − `momentum`) · batch.
#
# A **dense** layer connects every input value to every unit, with a weight for each
# connection. At the end of the network, it sums the evidence into one number, the
# **logit**. The **sigmoid** function, 1 / (1 + exp(−logit)), turns the logit into a
# probability.

# %%
batch = x_train_folder[:64].astype("float32") / 255
normalized = keras.ops.convert_to_numpy(
    layers.BatchNormalization()(batch, training=True)
)
print(
    f"Batch of {len(batch)}: mean {batch.mean():.2f}, standard deviation "
    f"{batch.std():.2f}; after batch normalization {abs(normalized.mean()):.2f} and "
    f"{normalized.std():.2f}."
)
for logit in (-3, 0, 3):
    print(f"A logit of {logit} is a probability of {special.expit(logit):.3f}.")

# %% [markdown]
# ### The baseline
#
# Convolution, ReLU and pooling, four times, then two dense layers: this is the plain
# **baseline** that the refinements below have to beat. Each convolution has many
# kernels, and each kernel produces its own map, also called a **channel**. A kernel
# covers all *in* channels before it, and adds one **bias**. So *out* kernels of k × k
# have k · k · in · out + out parameters: check the rows of the summary.

# %%
from cxr.models import build_baseline  # show

baseline_untrained = build_baseline(settings.IMAGE_SIZE)
baseline_untrained.summary()

# %% [markdown]
# ### Augmentation
#
# A rotated, darker or noisier radiograph has the same diagnosis. **Augmentation** shows
# a different variant of each image in every epoch, **only in training**. So it is
# harder for the network to memorize images, and it relies less on what differs between
# machines.
#
# - *Affine*: rotation, zoom, stretching and translation in one interpolation, because
#   several would blur the image several times.
# - *Intensity*: gamma (the nonlinear brightness curve of an exposure), contrast and
#   brightness.
# - *Blur and noise*: in and out of focus, and grain.
#
# OpenCV and NumPy do this on the CPU while batches are gathered, so the network that a
# GPU compiles stays free of it. The random numbers of an image follow from `SEED`, the
# epoch and its row in the data set, so a training is repeatable. There is no left–right
# flip: it would put the heart on the wrong side. (`FLIP = True` tries it.)

# %%
from cxr.augmentation import augment_image  # show

# %%
augmentation = make_augmentation(
    settings.AUG_AFFINE, settings.AUG_INTENSITY, settings.AUG_BLUR_NOISE, settings.FLIP
)
unmodified = x_train_folder[first_positive, :, :, 0]
variants = [
    augmentation(unmodified, np.random.default_rng((settings.SEED, epoch)))
    for epoch in range(9)
]
captions = ["unmodified"] + [f"epoch {epoch + 1}" for epoch in range(9)]
title = f"Augmentation: one image as nine epochs might show it ({images_are})"
show(plot_images([unmodified, *variants], captions), "augmentation", title)

# %% [markdown]
# ### The residual network
#
# Deeper networks can represent more, but plain deep networks are hard to train. A
# **residual block** [3] adds its input to its output through a **skip connection** (the
# paper says shortcut connection; here, *shortcut* always means a confounder). The block
# only has to learn a *correction*, and gradients (section 6) reach the first layers
# directly. Where the block changes the size or the number of channels, a pooling and a
# 1 × 1 convolution (a *projection*) fit the skip connection to it.
#
# The network first subtracts the **local mean** intensity, which suppresses differences
# in brightness and gradual changes of it, and scales the rest of each image to standard
# deviation 1 (*layer normalization*). The price: the absolute brightness of a large
# region is lost. **Guess first:** an image and the same image with a brightness
# gradient: how similar do they become?
#
# At the end, **global average pooling** replaces each map by its mean. **Dropout** sets
# a random fraction of these means to 0 in training, so that none becomes indispensable.

# %%
from cxr.models import residual_block, subtract_local_mean  # show

# %%
gradient = np.linspace(-0.25, 0.25, settings.IMAGE_SIZE, dtype="float32")[:, None, None]
pair = [radiograph, np.clip(radiograph + gradient, 0, 1)]
filtered = [
    keras.ops.convert_to_numpy(subtract_local_mean(image, settings.IMAGE_SIZE))
    for image in pair
]
before, after = [
    np.corrcoef(images[0].ravel(), images[1].ravel())[0, 1]
    for images in (pair, filtered)
]
title = (
    "Local mean subtraction removes a brightness gradient "
    f"(correlation {before:.3f} → {after:.3f})"
)
captions = ["image", "with a gradient", "image, filtered", "with a gradient, filtered"]
panels = [*pair, *(image + 0.5 for image in filtered)]
show(plot_images(panels, captions, 4), "local_mean", title)

# %%
from cxr.models import build_cnn  # show

cnn_untrained = build_cnn(settings.IMAGE_SIZE, settings.DROPOUT)
cnn_untrained.summary(layer_range=["radiograph", "stage1_block1_relu2"])

# %% [markdown]
# ### Size and receptive field
#
# The summary above ends with the first residual block. In the diagrams, a box is a
# block, or successive layers with maps of one shape (height × width × channels); an arc
# is a skip connection. **Parameters** are all numbers that a network stores: weights,
# biases, and four numbers for each channel of a batch normalization: a learned scale
# and offset, and two running averages, which Keras calls *non-trainable*.
#
# The **receptive field** [5] of a unit is the square of input pixels that can influence
# it (apart from the local mean and the scaling, which use a larger part of the image).
# It can be larger than the image, which it then covers. It grows with each convolution,
# and faster after each pooling or *stride* (a convolution of stride 2 is evaluated at
# every second position only). If it is smaller than a lung, a unit judges texture in a
# patch; if it covers the image, one unit can compare both lungs. (The dense layers of
# the baseline combine all positions, but with a weight of its own for each.) **Guess
# first:** which of the two networks can?

# %%
networks = {baseline_untrained: "pool4", cnn_untrained: "features"}
for network, last_layer in networks.items():
    parameters = f"{network.count_params():,} parameters"
    title = f"{network.name}: {len(network.layers)} layers, {parameters}"
    show(
        plot_architecture(network),
        f"architecture_{network.name}",
        title,
        data_kind="diagram",
    )
    field, stride = receptive_field(network, last_layer)
    verdict = "covers the image, so one unit can compare both lungs"
    if field < settings.IMAGE_SIZE:
        width = f"is {field / settings.IMAGE_SIZE:.0%} as wide as the image"
        verdict = f"{width}, so no unit sees the whole chest"
    print(f"{network.name}: receptive field {field} × {field} px; it {verdict}.")

# %% [markdown]
# ## 6. Training
#
# *Do the networks learn, and when should they stop?*
#
# With p the predicted probability of pneumonia, the **loss** of an image is −log p if
# its label is PNEUMONIA and −log (1 − p) if it is NORMAL (*binary cross-entropy*): it
# is large where the network is confidently wrong. Its **gradient** ∂loss/∂w says for
# each weight w how fast the loss increases with it; **backpropagation** computes it
# from the last layer to the first. After each batch, the **optimizer** takes a step: w
# ← w − learning rate · gradient. **Adam** scales the steps by running averages of the
# gradient and of its square; **AdamW** also shrinks the weights a little (*weight
# decay*). A **learning rate** that is too large overshoots the minimum; one that is too
# small makes no progress.
#
# After each epoch, *callbacks*, which Keras calls at fixed points of a training,
# monitor the loss on the validation images. (Not the accuracy or the AUC: the loss also
# notices how wrong a confident prediction is.)
#
# - **ReduceLROnPlateau** reduces the learning rate when the loss has not improved for
#   `PATIENCE` epochs;
# - **ModelCheckpoint** saves the network after each epoch whose validation loss is the
#   lowest so far;
# - **EarlyStopping** ends the training after three times as many epochs without
#   improvement.
#
# Each validation image is used four times: unmodified, and with three of eighteen
# **perturbations**, which differ from image to image, of exposure, sharpness, framing
# or markers (the figure on robustness in section 7 names them). Unmodified images are
# easy: many epochs may be almost perfect on them, and picking the best one would be
# luck. The validation loss, accuracy and AUC printed below are those of all four
# copies, so they cannot be compared with the scores of section 7, which are those of
# the unmodified images. If a callback watched the *test* set instead, the test score
# would be too good, because test had chosen the epoch.

# %%
import cxr.training  # fold

# %%
from cxr.training import make_callbacks  # show

# %% [markdown]
# ### Training the baseline
#
# Every training is a **run** with a name, kept in `OUTPUT_DIR/runs/NAME/`. A training
# that is lost with its session resumes after its last finished epoch; `TrainingRun` is
# the callback that takes care of this. If *you* stop it (the square button), its best
# epoch counts.

# %%
settings = section(6)
enable_determinism(settings.DETERMINISTIC)
runs_dir = output_dir / "runs"
check_run_folder(runs_dir, settings.RUN_NAME)
run_info = {"data": data_kind, "validation_set": validation_set_id(files)}
dtype_policy = choose_dtype_policy(settings.MIXED_PRECISION, device_kind, capability)
val_monitor = add_perturbed_copies(
    make_batches("val", files, arrays, settings.BATCH_SIZE, devices=device_count)
)
print(
    f"{(files.split == 'train').sum():,} training images, {len(y_val):,} validation "
    f"images; at most {settings.BASELINE_EPOCHS} epochs for the baseline and "
    f"{settings.EPOCHS} for the residual network. Without a lower validation loss, the "
    f"learning rate falls after {settings.PATIENCE} epochs, and training ends after "
    f"{3 * settings.PATIENCE}."
)

if settings.BASELINE_EPOCHS:
    keras.utils.set_random_seed(settings.SEED)
    train_batches = make_batches(
        "train",
        files,
        arrays,
        batch_size=settings.BATCH_SIZE,
        seed=settings.SEED,
        devices=device_count,
    )
    with strategy.scope(), dtype_policy_scope(dtype_policy):
        baseline = build_baseline(settings.IMAGE_SIZE)
        baseline.compile(
            optimizer=keras.optimizers.Adam(settings.LEARNING_RATE),
            loss="binary_crossentropy",
            weighted_metrics=[
                keras.metrics.BinaryAccuracy(name="accuracy"),
                keras.metrics.AUC(name="auc"),
            ],
        )
        callbacks = make_callbacks(runs_dir / "baseline", settings.PATIENCE)
        with TrainingRun(
            folder=runs_dir / "baseline",
            model=baseline,
            callbacks=callbacks,
            epochs=settings.BASELINE_EPOCHS,
            train_batches=train_batches,
            val_batches=val_monitor,
            settings=settings,
            about=run_info,
        ) as baseline_run:
            baseline.fit(
                train_batches,
                validation_data=val_monitor,
                epochs=settings.BASELINE_EPOCHS,
                initial_epoch=baseline_run.first_epoch,
                callbacks=[*callbacks, baseline_run],
                shuffle=False,  # the batches shuffle themselves
                verbose=0,  # TrainingRun prints one line for each epoch
            )

# %% [markdown]
# ### Training the residual network
#
# Three things differ from the baseline besides the network: augmentation, AdamW instead
# of Adam, and more epochs. (`CLASS_WEIGHTS = True` would let both classes count the
# same in the loss.) **Guess first:** from which epoch on does the validation loss stay
# above the training loss?

# %%
keras.utils.set_random_seed(settings.SEED)
train_batches = make_batches(
    "train",
    files,
    arrays,
    batch_size=settings.BATCH_SIZE,
    seed=settings.SEED,
    devices=device_count,
    balance_classes=settings.CLASS_WEIGHTS,
    augmentation=augmentation if settings.AUGMENT else None,
)
with strategy.scope(), dtype_policy_scope(dtype_policy):
    cnn = build_cnn(settings.IMAGE_SIZE, settings.DROPOUT)
    cnn.compile(
        optimizer=keras.optimizers.AdamW(
            settings.LEARNING_RATE, weight_decay=settings.WEIGHT_DECAY
        ),
        loss="binary_crossentropy",
        weighted_metrics=[
            keras.metrics.BinaryAccuracy(name="accuracy"),
            keras.metrics.AUC(name="auc"),
        ],
    )
    callbacks = make_callbacks(runs_dir / settings.RUN_NAME, settings.PATIENCE)
    with TrainingRun(
        folder=runs_dir / settings.RUN_NAME,
        model=cnn,
        callbacks=callbacks,
        epochs=settings.EPOCHS,
        train_batches=train_batches,
        val_batches=val_monitor,
        settings=settings,
        about=run_info,
    ) as training_run:
        cnn.fit(
            train_batches,
            validation_data=val_monitor,
            epochs=settings.EPOCHS,
            initial_epoch=training_run.first_epoch,
            callbacks=[*callbacks, training_run],
            shuffle=False,
            verbose=0,
        )

# %%
history = training_run.history
best = history.loc[history.val_loss.idxmin()]
title = (
    f"The validation loss is lowest ({best.val_loss:.3f}) in epoch {best.epoch:.0f} of "
    f"{len(history)} ({images_are})"
)
show(plot_learning_curves(history), "learning_curves", title)
print(describe_learning_curves(history))

# %% [markdown]
# **How to read it:** if both losses decrease, the network learns what generalizes. If
# the training loss decreases and the validation loss increases, the network memorizes
# training images (*overfitting*): more augmentation, dropout or weight decay, or fewer
# epochs, are the usual remedies. If both stay high, it cannot learn the task
# (*underfitting*). The gap itself says less, because dropout and augmentation act in
# training only, and the validation images are perturbed here. A validation loss that
# jumps from epoch to epoch says that single epochs are unreliable, in part because the
# running averages of batch normalization lag behind the weights; it usually calms down
# once the learning rate has fallen.

# %% [markdown]
# ## 7. Evaluation
#
# *How good are the predictions for patients whom the network has never seen, and how
# certain is that?*
#
# With TP, FP, FN, TN for true and false positives and negatives (positive: PNEUMONIA):
#
# | metric | formula | meaning |
# |---|---|---|
# | **sensitivity** (recall) | TP / (TP + FN) | fraction of the ill children who are found |
# | **specificity** | TN / (TN + FP) | fraction of the healthy children who pass |
# | **precision** (PPV) | TP / (TP + FP) | fraction of the alarms that are right |
# | **F1** | 2 · TP / (2 · TP + FN + FP) | harmonic mean of sensitivity and precision |
# | **AUC** | area under the ROC curve | how well the scores separate the classes (section 3) |
# | **average precision** | area under the PR curve | precision at all sensitivities, averaged |
#
# The **ROC curve** plots sensitivity against 1 − specificity for all thresholds, the
# **PR curve** precision against sensitivity. Each metric has a 95% confidence interval
# from the **bootstrap**: patients are drawn with replacement, `BOOTSTRAP_SAMPLES`
# times, and the interval covers 95% of the resulting scores. Patients are drawn, not
# images, because images of one child are alike. If a metric is exactly 0 or 1, every
# bootstrap sample repeats it; then the exact (Clopper–Pearson) interval for the number
# of patients is shown, which is wide where there are few.

# %%
import cxr.thresholds  # fold
import cxr.model_comparison  # fold

# %%
from cxr.evaluation import cluster_bootstrap_weights  # show

# %% [markdown]
# ### Calibration
#
# We reload the epoch with the lowest validation loss (not the last one) and predict the
# unmodified validation images. No model has seen the test set yet.
#
# A network is **calibrated** if its probabilities match frequencies: of the children
# for whom it predicts 80%, 80% have pneumonia. Networks are often overconfident, or
# biased to one class. **Platt scaling** [7] divides every logit by a *temperature* and
# adds a *shift*, both fitted on validation; the ranking of the images, and so the AUC,
# does not change. The **expected calibration error** (ECE) is the mean distance between
# predicted probability and observed frequency, in ten bins of the probability. The ECE
# after scaling is cross-fitted: each patient's probability is scaled with parameters
# fitted to *other* patients. If these probabilities do not have a lower loss (section
# 6) than the unscaled ones, scaling is not applied. **Guess first:** will it help?

# %%
from cxr.calibration import fit_platt_scaling  # show

settings = section(7)
bootstrap = {"bootstrap_samples": settings.BOOTSTRAP_SAMPLES, "seed": settings.SEED}
runs_dir = output_dir / "runs"
run_dir = runs_dir / settings.RUN_NAME
model, record = load_run(run_dir, settings, validation_set_id(files))
print(
    f"Reloaded: epoch {record['best_epoch']} of {record['epochs']} of the run "
    f"{record['name']!r}."
)

logits = predict_logits(model, val_batches)
temperature, shift, crossfitted = choose_calibration(y_val, logits, val_files.patient)
calibrate_model(model, temperature, shift)
y_prob_val = apply_calibration(logits, temperature, shift)

curves = {"before scaling": special.expit(logits), "after scaling": crossfitted}
ece_before, ece_after = [
    expected_calibration_error(y_val, probabilities)
    for probabilities in curves.values()
]
title = (
    f"Calibration error {ece_before:.3f} before Platt scaling, {ece_after:.3f} after "
    f"({images_are})"
)
show(plot_reliability(y_val, curves), "reliability", title)
print(describe_calibration(temperature, shift))
ece_by_chance = {
    name: chance_calibration_error(probabilities, **bootstrap)
    for name, probabilities in curves.items()
}
for name, ece in zip(curves, (ece_before, ece_after)):
    print(describe_calibration_error(f"validation {name}", ece, ece_by_chance[name]))

# %% [markdown]
# **How to read it:** points on the diagonal are calibrated; points below it mean
# overestimated probabilities, points above it underestimated ones. A temperature above
# 1 makes the network less certain; a positive shift raises every probability. The bars
# are 95% intervals: there are few images in the middle, so these points scatter. For
# the same reason a calibrated network shows an error too; the printed lines say how
# large it may be by chance.
#
# ### Decision threshold
#
# A probability becomes a decision at a **threshold**. A missed pneumonia is worse than
# a false alarm, so we fix the sensitivity: the threshold is the highest one that finds
# the fraction `TARGET_SENSITIVITY` of the children with pneumonia in all validation
# images, unmodified and with each of the eighteen perturbations. Few unmodified images
# score near the threshold, so a handful of them would determine it, and images from
# elsewhere will not look like them. (The better a network separates the classes, the
# higher this threshold is: a lower one would only add false alarms.) **Guess first:**
# above or below 0.5?

# %%
from cxr.thresholds import threshold_at_sensitivity  # show

predict_model = partial(predict_probabilities, model)
perturbed = {"unchanged": y_prob_val} | predict_perturbed(predict_model, val_batches)
y_pooled, y_prob_pooled = pool_perturbations(y_val, perturbed)
threshold_rule = (
    f"highest threshold with a sensitivity of {settings.TARGET_SENSITIVITY:.0%}"
)
threshold = threshold_at_sensitivity(
    y_pooled, y_prob_pooled, settings.TARGET_SENSITIVITY
)
print(
    f"The {threshold_rule} on {len(y_pooled):,} validation images "
    f"({len(y_val)} of them unmodified) is {threshold:.3f}."
)
print(describe_threshold(y_pooled, y_prob_pooled, threshold))

# %% [markdown]
# ### Scores on validation
#
# Now the scores of the unmodified validation images follow, with their confidence
# intervals. Their sensitivity need not be exactly the one aimed at, since the threshold
# was chosen on the perturbed images too. They are saved with the run, so that section 9
# can compare runs.

# %%
validation = metrics_with_ci(
    y_val, y_prob_val, val_files.patient, threshold, **bootstrap
)
record |= {
    "temperature": temperature,
    "shift": shift,
    "calibration_error": {
        "before": ece_before,
        "after": ece_after,
        "after_by_chance": ece_by_chance["after scaling"],
    },
    "threshold": threshold,
    "validation": validation,
}
record = save_validation(
    run_dir, record, val_files, y_prob_val, globals().get("training_run")
)
format_metrics(validation=validation).rename_axis(images_are)

# %% [markdown]
# ### What other thresholds would cost (optional)
#
# Other purposes need other thresholds. Five rules are compared, each chosen on all
# unmodified and perturbed validation images and scored on the unmodified ones: ours, a
# fixed sensitivity; the largest sensitivity + specificity (`youden` [6]); the same with
# sensitivity counted twice; the lowest total cost if a missed pneumonia costs as much
# as five false alarms; and 0.5. A lower threshold misses fewer children and raises more
# false alarms. **PPV** and **NPV** are the fractions of positive and of negative
# predictions that are right; they depend on the **prevalence**, the fraction of
# children with pneumonia. **Guess first:** if one child in twenty has pneumonia, how
# many of the alarms are right? The figure shows a hundred children as dots.

# %%
thresholds = {
    "fixed_sensitivity": threshold,
    "youden": youden_threshold(y_pooled, y_prob_pooled),
    "sensitivity_counts_double": youden_threshold(y_pooled, y_prob_pooled, 2),
    "false_negative_costs_5": min_cost_threshold(y_pooled, y_prob_pooled, 5),
    "one_half": 0.5,
}
figure, title = plot_hundred_children(
    validation["sensitivity"]["value"], validation["specificity"]["value"]
)
show(figure, "hundred_children", title)
compare_thresholds(y_val, y_prob_val, thresholds).rename_axis(
    f"validation, {images_are}"
)

# %% [markdown]
# **How to read it:** the filled dots are alarms. From left to right, the same network
# meets fewer children with pneumonia, so a larger fraction of its alarms is false: PPV
# = sensitivity · prevalence / (sensitivity · prevalence + (1 − specificity) · (1 −
# prevalence)), which is Bayes' theorem; NPV is the same for predictions of NORMAL.
# **Screening** wants a low threshold that misses nobody; **confirmation** before a
# treatment wants a high one. A threshold belongs to a place and a purpose, and so does
# every PPV.
#
# ### Robustness
#
# Another hospital and another machine give images that are darker, softer, noisier,
# framed otherwise, with other markers. The test set is still closed, but validation
# images can be perturbed. (*Locally equalized*: each region is stretched to full
# contrast.) **Guess first:** which perturbation costs most AUC?

# %%
robustness = evaluate_perturbations(y_val, perturbed, threshold)
robustness_pooled = compute_metrics(y_pooled, y_prob_pooled, threshold)
title = (
    f"The worst perturbation lowers the AUC to {robustness.auc.min():.3f}, "
    f"the specificity to {robustness.specificity.min():.3f} ({images_are})"
)
show(plot_robustness(robustness), "robustness", title)
print(describe_robustness(robustness))
print(f"Pooled AUC, of all perturbations together: {robustness_pooled['auc']:.3f}.")

# %% [markdown]
# **How to read it:** where the AUC stays high and only sensitivity or specificity drop,
# the ranking of the images is intact and only the *threshold* no longer fits. Where the
# AUC drops, the ranking itself gets worse. The pooled AUC ranks the images of all
# perturbations on one scale: it is lower if a perturbation shifts all predictions up or
# down, which is also what a single threshold suffers from.
#
# ### Images on which shortcuts help least
#
# The shortcut classifier of section 3 sees no shape or position inside the lungs. The
# quarter of each class for which it finds the least evidence is **bias-conflicting**
# [12]: there, a model that relies on shortcuts is often wrong. A model that relies on
# the lungs should be unaffected. The other images are **bias-aligned**. Four models are
# compared, each with a threshold chosen by the same rule on the same images. (The
# baseline CNN also had fewer epochs, no augmentation and another optimizer, so the
# comparison is one of complete recipes.) **Guess first:** whose AUC drops most?

# %%
predictors = {
    "linear_border": LinearBaseline(24, border_only=True)
    .fit(make_batches("train", files, arrays, 256))
    .predict,
    "linear_thumbnail": linear_model.predict,
}
if settings.BASELINE_EPOCHS and (runs_dir / "baseline" / "run.json").exists():
    baseline_model, baseline_record = load_run(
        runs_dir / "baseline", settings, validation_set_id(files)
    )
    predictors["baseline_cnn"] = partial(predict_probabilities, baseline_model)

val_probs_by_model, pooled_probs_by_model, model_thresholds = {}, {}, {}
for name, predict in predictors.items():
    val_probs_by_model[name] = predict(val_batches)
    perturbed_probs = {"unchanged": val_probs_by_model[name]} | predict_perturbed(
        predict, val_batches
    )
    _, pooled_probs_by_model[name] = pool_perturbations(y_val, perturbed_probs)
    model_thresholds[name] = threshold_at_sensitivity(
        y_pooled, pooled_probs_by_model[name], settings.TARGET_SENSITIVITY
    )
predictors["residual_cnn"] = predict_model
val_probs_by_model["residual_cnn"] = y_prob_val
pooled_probs_by_model["residual_cnn"] = y_prob_pooled
model_thresholds["residual_cnn"] = threshold

conflicting = bias_conflicting_mask(y_val, shortcut_scores["all"][is_val])
model_metrics = compare_models(
    y_val,
    val_probs_by_model,
    model_thresholds,
    val_files.patient,
    bias_subgroups(conflicting),
    settings,
)
print(describe_bias_gap(model_metrics))
model_choice = compare_on_conflicting(
    y_pooled,
    pooled_probs_by_model,
    np.tile(val_files.patient, len(perturbed)),
    np.tile(conflicting, len(perturbed)),
    settings,
)
print(describe_choice(**model_choice))
table = format_metrics(**model_metrics).T
table.rename_axis(f"validation, {conflicting.sum()} of {len(y_val)} bias-conflicting")

# %% [markdown]
# **How to read it:** compare the columns `auc` and `auc_bias_conflicting`. If the
# models differ more in the second, the validation AUC hides how much they rely on
# shortcuts. A drop can have two causes: reliance on shortcuts, or images that are hard
# anyway. Of two models with similar AUCs, the one that drops less relies less on them.
# The last sentence is the decision, on the bias-conflicting images with all their
# perturbations: few unmodified ones could not tell the models apart, and images from
# elsewhere will differ in both respects. A simpler model is kept only if the residual
# CNN is not significantly better than the best of them. (Sensitivity and specificity
# also depend on where each threshold lies; the AUC does not.)

# %%
if "baseline_cnn" in predictors:
    baseline_record |= {
        "temperature": 1.0,  # scaling would not change its decisions
        "shift": 0.0,
        "threshold": model_thresholds["baseline_cnn"],
        "validation": metrics_with_ci(
            y_val,
            val_probs_by_model["baseline_cnn"],
            val_files.patient,
            model_thresholds["baseline_cnn"],
            **bootstrap,
        ),
    }
    save_validation(
        runs_dir / "baseline",
        baseline_record,
        val_files,
        val_probs_by_model["baseline_cnn"],
    )

# %% [markdown]
# ### Test
#
# The test set is opened once. From here on, do not change anything because of the test
# scores: tuning on test would turn it into a second validation set. (*Run all* opens
# test for the run `reference`. When you try other settings, stop before this cell, as
# section 9 says.) **Guess first:** higher or lower than validation? In a **confusion
# matrix**, each row is a true class. The **curves** show all other thresholds; the dots
# mark ours. Validation and test hold different patients, as far as file names tell
# (section 4), so the interval of their difference follows from the two intervals [13].
# The difference is significant if it excludes 0.

# %%
test_files = files[files.split == "test"]
test_batches = make_batches("test", files, arrays, batch_size=32)
y_prob_test = predict_probabilities(model, test_batches)
test = metrics_with_ci(y_test, y_prob_test, test_files.patient, threshold, **bootstrap)
predictions_by_set = {"validation": (y_val, y_prob_val), "test": (y_test, y_prob_test)}
confusion_matrices = [
    metrics.confusion_matrix(labels, probabilities >= threshold, labels=[0, 1])
    for labels, probabilities in predictions_by_set.values()
]
title = describe_confusion_matrix(confusion_matrices[1], test, images_are)
print(describe_test_scores(validation, test))
figure = plot_confusion_matrix(confusion_matrices, ["validation (by patient)", "test"])
show(figure, "confusion_matrix", title)
title = f"All other thresholds; dots: ours ({images_are})"
show(plot_roc_pr_curves(predictions_by_set, threshold), "roc_pr_curves", title)
format_metrics(validation=validation, test=test).rename_axis(images_are)

# %% [markdown]
# The other models predict the test set in the same evaluation. **Guess first:** does
# the order of the models on validation hold on test?

# %%
test_probs_by_model = {
    name: predict(test_batches) for name, predict in predictors.items()
}
kaggle_only = kaggle_only_mask(test_files)
test_model_metrics = compare_models(
    y_test,
    test_probs_by_model,
    model_thresholds,
    test_files.patient,
    release_subgroups(kaggle_only),
    settings,
)
model_metrics = {
    name: model_metrics[name] | test_model_metrics[name] for name in model_metrics
}
print(describe_order_agreement(model_metrics))
print(describe_releases(test_model_metrics, kaggle_only))
columns = {"auc": "#888888", "auc_bias_conflicting": "#0072B2", "test_auc": "#D55E00"}
title = f"AUC on validation, on its bias-conflicting images, and on test ({images_are})"
show(plot_model_comparison(model_metrics, columns), "model_comparison", title)
on_test = ["test_auc", "test_accuracy", "test_sensitivity", "test_specificity"]
format_metrics(**test_model_metrics).T[on_test].rename_axis(f"test, {images_are}")

# %% [markdown]
# **How to read it:** the choice between the models was made before, on validation: the
# one that holds up on its bias-conflicting and perturbed images. Test only shows
# whether that choice also holds for other patients. (Published scores on the other
# release, such as MedMNIST's, were not measured on the images that only Kaggle's
# release has.)
#
# ### When test differs from validation (optional)
#
# Another prevalence changes the PPV and the calibration even if the network works as
# before. Other images or patients change sensitivity and specificity themselves. The
# prevalence can be estimated from the predictions alone, without labels, and the
# probabilities adapted to it [8]; this is the last row. **Guess first:** which columns
# does it improve?

# %%
train_prevalence = files.label[files.split == "train"].mean()
y_prob_adapted, estimated_prevalence = adapt_to_prevalence(
    y_prob_test, train_prevalence
)
print(describe_prevalence(train_prevalence, estimated_prevalence, y_test.mean()))
table = compare_datasets(
    predictions_by_set | {"test, adapted": (y_test, y_prob_adapted)}, threshold
)
ece_on_test = {
    "test": expected_calibration_error(y_test, y_prob_test),
    "test_by_chance": chance_calibration_error(y_prob_test, **bootstrap),
}
print(describe_calibration_error("test", *ece_on_test.values()))
difference = mean_with_ci(y_prob_test - y_test, test_files.patient, **bootstrap)
print(describe_mean_probability(difference))
print(describe_adapted(table.loc["test"], table.loc["test, adapted"], y_test.mean()))
table.style.format("{:.3f}").set_caption(images_are)

# %% [markdown]
# **How to read it:** differences smaller than the intervals above are noise. (The
# calibration error of validation is not cross-fitted here, so it is a little lower than
# in the figure above. It counts deviations in both directions, which cancel in the mean
# probability.) If the specificity on test is significantly lower than on validation,
# the *images* of healthy children differ. An adaptation moves all probabilities up or
# down; it cannot mend their order. Valid remedies need new, labeled images from the new
# place, to choose the threshold there or to train with them. Tuning the threshold on
# *this* test set is not a remedy. If test is as easy as validation, its images probably
# come from the same series, as in a split of your own: then it says little about images
# from elsewhere.
#
# ### How many labeled images does a new place need? (optional)
#
# Test has been opened, so it can play the new place in an experiment: some of its
# patients are drawn as if their images had been labeled there, a new threshold is
# chosen on these images (the largest sensitivity + specificity), and all *other* test
# images are scored by **balanced accuracy**, the mean of sensitivity and specificity.
# The network and its ranking stay as they are. This experiment uses the labels of test,
# and nothing is chosen by it: no score above or below changes. **Guess first:** how
# many images does it take?

# %%
adaptation = adapt_threshold(
    y_test, y_prob_test, test_files.patient, threshold, seed=settings.SEED
)
title = (
    f"New threshold from {adaptation.index[-1]} labeled images: balanced accuracy "
    f"{adaptation.value.iloc[0]:.3f} → {adaptation.value.iloc[-1]:.3f} ({images_are})"
)
show(plot_adaptation(adaptation), "threshold_adaptation", title)
print(describe_adaptation(adaptation))

# %% [markdown]
# **How to read it:** where the curve rises above the dotted line, labels of the new
# place pay off. A wide band means that so few images may also choose a worse threshold.
# A threshold that travels badly is easily replaced. Where the ranking itself gets
# worse, no threshold helps: the network has to be trained with images from there. A
# part of a gain may also come from the rule, which here weighs sensitivity and
# specificity equally.
#
# The results are now written to `OUTPUT_DIR`: model, history, predictions and metrics,
# all of this run.

# %% tags=["hide-input"]
# @title Write the results of this run to OUTPUT_DIR
columns = ["split", "path", "label", "probability"]
predictions = pd.concat(
    [
        val_files.assign(split="validation", probability=y_prob_val)[columns],
        test_files.assign(probability=y_prob_test)[columns],
    ],
    ignore_index=True,
)
counted = {
    "train_folder": y_train_folder,
    "val_folder": y_val_folder,
    "test": y_test,
    "train": files.label[files.split == "train"].to_numpy(),
    "val": y_val,
}
report = {
    "schema": 1,
    "run": record["name"],
    "data": data_kind,
    "release": release,
    "official_split": official,
    "settings": record["settings"],
    "versions": package_versions(),
    "device": f"{device_kind} ({device_name})",
    "seconds": section.seconds,
    "counts": {
        name: {"NORMAL": int((y == 0).sum()), "PNEUMONIA": int((y == 1).sum())}
        for name, y in counted.items()
    },
    "unreadable": unreadable.to_dict("records"),
    "temperature": temperature,
    "shift": shift,
    "calibration_error": record["calibration_error"] | ece_on_test,
    "robustness": robustness.to_dict("index"),
    "robustness_pooled": robustness_pooled,
    "shortcuts": shortcuts,
    "models": model_metrics,
    "model_choice": model_choice,
    "adaptation": adaptation.to_dict("index"),
    "threshold": {"value": threshold, "rule": threshold_rule},
    "thresholds": thresholds,
    "validation": validation | {"confusion_matrix": confusion_matrices[0]},
    "test": test | {"confusion_matrix": confusion_matrices[1]},
}
publish_run(output_dir, run_dir, record, model, predictions, report)

# %% [markdown]
# ## 8. Inspection
#
# *Where is the network wrong, and what does it look at?*
#
# **Guess first:** are its worst errors images on which you would hesitate yourself?

# %%
import cxr.grad_cam  # fold

# %%
settings = section(8)
bootstrap = {"bootstrap_samples": settings.BOOTSTRAP_SAMPLES, "seed": settings.SEED}
y_pred = y_prob_test >= threshold
wrong = np.flatnonzero(y_pred != y_test)
wrong = wrong[np.argsort(-abs(y_prob_test[wrong] - y_test[wrong]))]
print(f"{len(wrong)} of {len(y_test)} {images_are} in test are misclassified.")
if len(wrong):
    captions = [
        f"{CLASS_NAMES[y_test[row]]}: P = {y_prob_test[row]:.3f}" for row in wrong[:10]
    ]
    figure = plot_images(
        x_test[wrong[:10]], captions, colors=label_colors(y_test[wrong[:10]])
    )
    title = (
        f"Errors on test at threshold {threshold:.3f}, furthest from the label first "
        f"(caption: true class, P(PNEUMONIA); {images_are})"
    )
    show(figure, "errors", title)
finding_difference = compare_findings(y_test, y_prob_test, test_files, **bootstrap)
print(describe_findings(finding_difference))
metrics_by_finding(y_test, y_prob_test, test_files, threshold, **bootstrap).rename_axis(
    f"test, {images_are}"
)

# %% [markdown]
# **How to read it:** if you can read the image easily, a confident error is probably a
# mistake of the network. If you cannot, the label may be wrong. Look for what the
# errors have in common: exposure, rotation, tubes and electrodes, the child's age. The
# table says which finding is detected more easily, though the network was never told
# the finding. Both rows share their normal images, so their AUCs are correlated, and
# overlapping intervals do not decide whether they differ. The interval of the
# *difference* does: the printed sentence gives it.
#
# ### Grad-CAM: where does the network look?
#
# **Grad-CAM** [4] uses the maps of the last convolutional layer. The gradient of the
# logit (section 6) says for each map whether more of it would raise or lower the logit;
# with these weights the maps are summed. Bright regions support the prediction. But a
# plausible map can mean nothing, so there are two sanity checks. A network with
# **random weights** must give a different map; otherwise the map shows the image and
# not what was learned [9]. And covering the **brightest square**, a quarter of the
# image wide, with gray must lower the logit of the predicted class more than covering a
# random one. **Guess first:** by how much?

# %%
from cxr.grad_cam import grad_cam  # show

# %%
chosen, captions, counts = select_examples(y_test, y_prob_test, y_pred, settings.SEED)
heatmaps = grad_cam(model, x_test[chosen], y_pred[chosen])
figure = plot_grad_cam(x_test[chosen], heatmaps, captions, label_colors(y_test[chosen]))
show(figure, "grad_cam", f"Grad-CAM of some of {counts} ({images_are})")

some = np.random.default_rng(settings.SEED).permutation(len(y_test))[:48]
checks = sanity_check_grad_cam(
    model, x_test[some], y_pred[some], test_files.patient.iloc[some], **bootstrap
)
print(describe_grad_cam_checks(checks, f"{len(some)} {images_are}"))

# %% [markdown]
# **How to read it:** bright regions support the prediction that was made: PNEUMONIA for
# a true positive, NORMAL for a true negative (the maps of NORMAL predictions may look
# alike: there is no finding to point at). Bright on the lungs is what one hopes for; on
# a marker, a border, a tube or the abdomen it may be a shortcut. If the occlusion
# interval of the brightest square is not entirely above that of a random square, or the
# rank correlation with random weights is near 1 (both maps put the pixels in the same
# order), do not trust the maps. The printed line says how much of the maps lies on the
# border, where there is little lung. Even maps that pass do not show that the network
# recognizes pneumonia: they show roughly where the evidence lies, not which property of
# the region counts. A network that relies on a shortcut inside the chest gets a
# plausible map too.
#
# ### Does the network use the border or the aspect ratio?
#
# Section 3 shows what the border of an image reveals about the label. Now it is masked,
# or shown alone. **Guess first:** which AUC remains?

# %%
print(describe_aspect_ratio_use(test_files, y_prob_test, settings))
view_probs = {"whole image": y_prob_val}
for name, perturb in (
    ("border masked", mask_border),
    ("border only", keep_only_border),
):
    batches = perturb_batches(val_batches, perturb)
    view_probs[name] = predict_probabilities(model, batches)
border_use = {
    name: metrics_with_ci(
        y_val, probabilities, val_files.patient, threshold, **bootstrap
    )
    for name, probabilities in view_probs.items()
}
auc_lost = paired_auc_difference(
    y_val,
    view_probs["whole image"],
    view_probs["border masked"],
    val_files.patient,
    **bootstrap,
)
aucs = [border_use[view]["auc"] for view in ("border masked", "border only")]
print(describe_border_use(*aucs, auc_lost))
report["inspection"] = {
    "bacterial_minus_viral_auc": finding_difference,
    "grad_cam": checks,
    "auc_border_masked": border_use["border masked"]["auc"],
    "auc_border_only": border_use["border only"]["auc"],
    "auc_lost_without_border": auc_lost,
}
format_metrics(**border_use).loc[["auc", "accuracy"]].rename_axis(
    f"validation, {images_are}"
)

# %% [markdown]
# **How to read it:** if the AUC does not drop significantly with the border masked, the
# network does not need it. If it drops, the network may use the border, or be confused
# by a gray one, which looks unusual (accuracy suffers from that, too). A high AUC on
# the border alone means that it *can* use the border, as the linear classifier of
# section 3 may. Within one class, the aspect ratio should not matter: a correlation
# whose interval excludes 0 is a warning.
#
# **What was done about shortcuts, and what remains.** The augmentation of section 5
# makes intensity, sharpness and framing less informative, and perturbed images help to
# choose the epoch and the threshold. Local mean subtraction significantly improved the
# AUC on images from acquisition sources that were excluded from training. These methods
# brought no significant improvement: swapped or covered borders, added markers,
# averages of two images, more weight for bias-conflicting ones (`docs/results.md` of
# this project). Expect less on images from other sources than validation promises.
#
# ### Your own image (optional)
#
# A network predicts something for every image, for a cat too. So first: **how different
# is the image from the training images?** Global average pooling (the layer `average`)
# turns each image into one number per channel, its **feature vector**; the
# **Mahalanobis distance** [11] measures how far it lies from the center of the training
# images. The limit is a distance that only few validation images exceed. Color, aspect
# ratio and a DICOM header are checked as well. If a warning appears, no prediction is
# reported. No warning does not mean that the prediction is correct.

# %%
import cxr.dicom  # fold
import cxr.inference  # fold

# %%
detector = OutOfDistributionDetector(
    model,
    make_batches("train", files, arrays, 64),
    val_batches,
    files[files.split != "test"],
    seed=settings.SEED,
)
outliers = {
    "validation": np.mean(detector.reference_distances > detector.threshold),
    "test": np.mean(detector.distances(x_test) > detector.threshold),
}
print(
    f"Out of distribution (distance above {detector.threshold:.1f}): "
    f"{outliers['validation']:.1%} of the validation images, "
    f"{outliers['test']:.1%} of test."
)

# %%
# @title Your own image (JPEG, PNG or DICOM)
# In Colab, drag it into the Files panel. Use only images that may leave their hospital.
MY_IMAGE = ""  # @param {type:"string"}
if "detector" not in globals() or detector.model is not model:
    raise RuntimeError(
        "Your own image needs the detector: run section 8 from its start."
    )
if MY_IMAGE:
    image_path = home / Path(MY_IMAGE).expanduser()
    show_own = partial(show, data_kind="own image")
else:
    image_path = data_dir / test_files.path.iloc[settings.SEED % len(test_files)]
    show_own = show
predict_image(
    image_path, model, detector, threshold, settings.RESIZE_MODE, show_own, images_are
)

# %% [markdown]
# ## 9. Comparison of runs
#
# *Did a change help, or is the difference noise?*
#
# **To add a run:** in the settings cell of section 0, give a new `RUN_NAME` and change
# **one** setting, such as `AUGMENT = False`. Run that cell, then section 6, and section
# 7 as far as *Test* (for `IMAGE_SIZE`, sections 2 to 5 first), then this section. Leave
# out *Test* itself: the comparison uses validation only, and test is opened once, for
# the run that you finally choose. `BASELINE_EPOCHS = 0` saves the time of the baseline.
# **Guess first**, and write it down: will the AUC increase or decrease, and by how
# much?
#
# The record of each run stays on disk: after a restart, run sections 0 and 9 to see all
# runs.

# %%
import cxr.run_comparison  # fold

from cxr.evaluation import Estimate, auc_and_average_precision  # again
from cxr.evaluation import cluster_bootstrap_weights, percentile_ci  # again
from cxr.evaluation import compute_metrics, format_estimate, format_metrics  # again

# %%
settings = section(9)
records = list_runs(output_dir / "runs")
show_runs(records)

# %% [markdown]
# **Paired comparison.** The intervals in the table include the sampling variability of
# the validation patients. But all runs share these patients: an image that is hard for
# one is hard for all. So patients are resampled, both networks are scored on the *same*
# sample, and the difference is taken, many times.
#
# If the interval of the difference includes 0, the runs are not distinguishable on this
# validation set: keep the simpler one, unless they differ on the bias-conflicting or
# perturbed images of section 7, which say more about images from elsewhere. If it
# excludes 0, the difference is significant for the sampling of patients, but it may
# still depend on `SEED`: repeat both with `SEED` 1 and 2, under new names. The best of
# many runs owes part of its lead to chance.

# %%
differences = paired_differences(
    records, settings.BOOTSTRAP_SAMPLES, settings.SPLIT_SEED
)
if reference_run(records):
    significant = sum(
        is_significant(difference["auc"]) for difference in differences.values()
    )
    compared = records[0]["data"]
    title = (
        f"Runs whose AUC differs significantly from that of the reference: "
        f"{significant} of {len(differences)} ({image_label(compared)})"
    )
    figure = plot_runs(records, differences)
    show_figure(figure, "runs", title, output_dir / "figures", compared)
print(describe_differences(records, differences))

# %% [markdown]
# ## 10. Conclusion
#
# *What did this run find, and what may you conclude from it?*

# %%
import cxr.model_card  # fold
import cxr.conclusion  # fold

from cxr.grad_cam import judge_grad_cam  # again

# %%
settings = section(10)
display(Markdown(summarize_findings(report)))

# %% [markdown]
# ### Limits
#
# **Not for diagnosis.** The data set shows children of one to five years from one
# hospital, and the network knows two classes: anything else (a tumor, an adult, a cat)
# gets a probability as well. Some labels may be wrong; patients are identified by file
# names only; children with and without pneumonia may differ in more than the disease;
# another hospital will differ from validation.
#
# Publishing weights without stating these limits is dangerous. A **model card** [10]
# states them on one page, filled in from the record of this run. Read it as an
# outsider: would you trust this network?

# %%
read_verified(output_dir, report, "best.keras")  # another run may have replaced it
published = load_model(output_dir / "best.keras")
card = render_model_card(report, published)
write_atomically(output_dir / "model_card.md", card)
report["seconds"] = dict(section.seconds)
write_atomically(output_dir / "metrics.json", to_json(report))
written = sorted(
    path.name for path in output_dir.iterdir() if "unfinished" not in path.name
)
print(
    f"This run on {images_are} took {sum(section.seconds.values()) / 60:.1f} minutes. "
    f"In {output_dir}: {', '.join(written)}."
)
display(Markdown(card))

# %% [markdown]
# `best.keras` needs Keras. For other programs, `published.export("model.onnx",
# format="onnx")` translates it, after `%pip install tf2onnx onnx onnxruntime`. Compare
# its predictions with those of `published.predict` before you use it.
#
# ### Exercises
#
# Write your guess down first. The collapsed cell below has a solution of each: set
# `EXERCISE` and run it.
#
# 1. **Another kernel.** Use one that responds to vertical edges. *Expect:* other
#    outlines; the ribs fade.
# 2. **A rare disease.** At which prevalence are half of our network's alarms false?
#    *Expect:* a low one.
# 3. **Test-time augmentation.** Average the predictions for each image and its mirror
#    image. *Expect:* little gain, although the mirror image has the heart on the wrong
#    side.

# %% tags=["hide-input"]
# @title Solutions
EXERCISE = 0  # @param [0, 1, 2, 3] {type:"raw"}
if EXERCISE == 1:
    vertical = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], "float32")
    convolution.set_weights([vertical[:, :, None, None]])
    vertical_edges = keras.ops.convert_to_numpy(convolution(radiograph))
    panels = [radiograph, edges / 4 + 0.5, vertical_edges / 4 + 0.5]
    captions = ["input", "horizontal edges", "vertical edges"]
    show(plot_images(panels, captions, 3), "exercise_1", "Two kernels")
if EXERCISE == 2:
    sensitivity = validation["sensitivity"]["value"]
    specificity = validation["specificity"]["value"]
    # where sensitivity x prevalence = (1 - specificity) x (1 - prevalence)
    prevalence = (1 - specificity) / (1 - specificity + sensitivity)
    ppv = predictive_values(sensitivity, specificity, prevalence)[0]
    print(f"At a prevalence of {prevalence:.2%}, {ppv:.0%} of the alarms are right.")
if EXERCISE == 3:
    mirrored = perturb_batches(val_batches, lambda image: image[:, ::-1])
    y_prob_mirrored = predict_probabilities(model, mirrored)
    averaged = special.expit((to_logits(y_prob_val) + to_logits(y_prob_mirrored)) / 2)
    trials = {
        "unmodified": y_prob_val,
        "mirrored": y_prob_mirrored,
        "mean of both": averaged,
    }
    for name, probabilities in trials.items():
        auc = metrics_with_ci(
            y_val, probabilities, val_files.patient, threshold, **bootstrap
        )["auc"]
        print(f"{name}: AUC {auc['value']:.4f} [{auc['low']:.4f}, {auc['high']:.4f}]")

# %% [markdown]
# ### Glossary
#
# **Bias-aligned, bias-conflicting**: images whose shortcut features point to their
# class; the quarter of each class for which they do so least. **Bootstrap**: resampling
# with replacement, to see how much a score varies. **Calibration**: agreement of
# predicted probabilities and observed frequencies. **Channel**: one of the maps that a
# layer puts out. **Confounder**: a feature that is correlated with the label without
# being the disease. **Cross-fitting**: scoring each patient with a model fitted to
# others. **Logit**: log (p / (1 − p)), the network's output before the sigmoid. **PPV,
# NPV**: the fraction of positive, or negative, predictions that are right.
# **Prevalence**: the fraction of children with the disease.
#
# ### References and license
#
# 1. Kermany, Zhang, Goldbaum: *Labeled … Chest X-Ray Images for Classification*,
#    doi:10.17632/rscbjbr9sj.
# 2. Kermany et al.: *Identifying Medical Diagnoses …*, Cell 172, 2018.
# 3. He et al.: *Deep Residual Learning*, arXiv:1512.03385.
# 4. Selvaraju et al.: *Grad-CAM*, arXiv:1610.02391.
# 5. Araujo et al.: *Computing Receptive Fields*, Distill, 2019.
# 6. Youden: *Index for rating diagnostic tests*, Cancer 3, 1950.
# 7. Platt: *Probabilistic Outputs for Support Vector Machines*, 1999; Guo et al.,
#    arXiv:1706.04599.
# 8. Saerens et al.: *Adjusting the Outputs of a Classifier …*, Neural Computation 14,
#    2002.
# 9. Adebayo et al.: *Sanity Checks for Saliency Maps*, arXiv:1810.03292.
# 10. Mitchell et al.: *Model Cards*, arXiv:1810.03993.
# 11. Lee et al.: *Detecting Out-of-Distribution Samples*, arXiv:1807.03888.
# 12. Nam et al.: *Learning from Failure*, arXiv:2007.02561; Zech et al., PLoS Medicine
#     15, 2018; DeGrave et al., Nature Machine Intelligence 3, 2021.
# 13. Zou, Donner: *Construction of confidence limits about effect measures*, Statistics
#     in Medicine 27, 2008.
#
# Code: MIT license. Radiographs: CC BY 4.0.
