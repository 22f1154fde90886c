# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # Pneumonia on chest X-rays: a convolutional network from scratch
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/) Choose *Upload* there, and give it this notebook.
#
# A radiograph goes in, a probability comes out: does this child have pneumonia? In this notebook you download 5,856 chest
# X-rays, look at them, build a **convolutional neural network (CNN)** with Keras, train it from random weights, and find
# out how far its answers can be trusted.
#
# ![What a finished run shows: a phantom film, the probability of pneumonia, the map of what speaks for it](../docs/first_screen.png)
#
# Run everything from top to bottom first (**Runtime → Run all** in Colab), then change one setting and run a section again.
#
# 0 Set up · 1 Get the data · 2 Load · 3 Explore · 4 Split by patient · 5 Build the CNN · 6 Train · 7 Evaluate · 8 Look at the
# answers · 9 Change one thing · 10 Limits, exercises
#
# > **For learning only. NOT intended for clinical use.** Nothing here may decide about a patient.

# %% [markdown]
# ## 0. Set up
#
# *What will this run do, on which machine, and how long will it take?*
#
# **TensorFlow** computes with arrays on a CPU or GPU, and works out derivatives. **Keras** is the layer above it: it describes
# a network in a few readable lines. The scores are not written into this text: the code prints them, so they are those of *your*
# run. Cells that only carry tools are folded.
#
# Change what you like in the cell *Settings*; the folded one above it has the rest. `None` means "what the preset says"; `auto` is
# `full` on a GPU and `quick` on a CPU. An empty `DATA_DIR` means: find the data, or get it. `SEED` starts every random
# number of a training.
#
# After a change, run that cell, and then the section that you want to see again. One whose data no longer fit the settings says
# which to run first.

# %% tags=["hide-input"]
# @title Packages: what is missing is installed
import importlib.util
import itertools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

packages = {"cv2": "opencv-python", "filelock": "filelock", "jinja2": "jinja2", "kaggle": "kaggle", "keras": "keras",
            "matplotlib": "matplotlib", "numpy": "numpy", "pandas": "pandas", "PIL": "pillow", "pydantic": "pydantic", "scipy": "scipy",
            "seaborn": "seaborn", "sklearn": "scikit-learn", "tensorflow": "tensorflow", "tqdm": "tqdm"}
missing = [package for module, package in packages.items() if importlib.util.find_spec(module) is None]
if missing:  # only what is missing: Colab has everything, and replacing its packages would force a restart
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *missing], check=True)

os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_CPU_ALLOCATOR_USE_BFC": "true"} | os.environ  # hush; memory is kept for the next step
saved = os.dup(2)
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries say a lot while they look for devices
try:
    with tempfile.TemporaryDirectory() as os.environ["KERAS_HOME"]:  # not ~/.keras: what its keras.json asks for may not fit
        import keras
    keras.ops.ones(1)
finally:
    os.dup2(saved, 2)

import cv2
import numpy as np
import pandas as pd
import seaborn as sns
from keras import layers
from scipy import special
from sklearn import metrics

# imports of the package

# %% tags=["hide-input", "advanced"]
# @title Settings, advanced: the rest of them
CACHE_DIR = "data/cache"  # decoded images; "" keeps none
SPLIT_SEED = 0  # decides which patients validate: leave it alone while you compare runs
VALIDATION_FRACTION = 0.15
WEIGHT_DECAY = 0.004
DROPOUT = 0.3
AUG_AFFINE = 0.5  # how strong each augmentation is
AUG_INTENSITY = 0.5
AUG_BLUR_NOISE = 0.5
FLIP = False
CLASS_WEIGHTS = False
PATIENCE = 3  # epochs without progress before the learning rate falls; three times as many before the training ends
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
RESIZE_MODE = "squash"  # @param ["squash", "fit", "crop"]
EPOCHS = None  # @param {type:"raw"}
BASELINE_EPOCHS = None  # @param {type:"raw"}
BATCH_SIZE = 32  # @param {type:"integer"}
LEARNING_RATE = 0.001  # @param {type:"number"}
AUGMENT = True  # @param {type:"boolean"}
BOOTSTRAP_SAMPLES = 1000  # @param {type:"integer"}
SEED = 0  # @param {type:"integer"}

# %% [markdown]
# ### What follows from the settings
#
# The folded cells hold tools, a module each. A wrong setting says so now, not after ten minutes of training. The images will be
# kept as whole numbers from 0 to 255, one byte a pixel. (As 64-bit floats they would take eight times as much, which is what ends
# many notebooks on this data.) The minutes are a rough guess, from timing one small convolution.
#
# If the device is a CPU and you are in Colab: **Runtime → Change runtime type → T4 GPU** makes the full preset a matter of
# minutes. On a CPU the quick preset uses smaller images and gives a weaker network; all the rest is the same.

# %%
from cxr.storage import to_json, mount_drive, prepare_folder, write_atomically  # fold

# %%
from cxr.devices import (  # fold
    choose_dtype_policy,
    summarize_environment,
    package_versions,
    detect_device,
    distribution_strategy,
    enable_determinism,
    dtype_policy_scope,
)

# %%
from cxr.models import load_model  # fold

# %%
import cxr.settings  # fold

# %%
from cxr.sections import Tour  # fold

# %%
from cxr.plots import (  # fold
    Look,
    show_figure,
    image_label,
    plot_class_balance,
    plot_confusion_matrix,
    plot_roc_pr_curves,
    plot_learning_curves,
    plot_images_per_patient,
    plot_architecture,
    plot_images,
    plot_reliability,
    plot_small_validation_sets,
    receptive_field,
    format_metrics,
)

# %%
from cxr.runs import validation_set_id, list_runs, publish_run, read_verified, validate_run  # fold

# %%
device_kind, device_name, capability = detect_device()
strategy, device_count = distribution_strategy()
if "tour" not in globals():
    tour = Tour(device_kind)
settings = tour.start("0 Set up", globals())
in_project = Path.cwd().name == "notebooks" and Path("../download_data.sh").is_file()
home = Path("..") if in_project else Path(".")
output_dir = (mount_drive() if settings.SAVE_TO_DRIVE else home) / settings.OUTPUT_DIR
prepare_folder(output_dir, "OUTPUT_DIR", 200e6)
sns.set_theme(style="whitegrid", rc={"figure.dpi": 100, "axes.titlesize": 11})
precision = choose_dtype_policy(settings.MIXED_PRECISION, device_kind, capability)
tour.finish()
summarize_environment(settings, device_kind, device_name, precision, 5856)

# %% [markdown]
# ## 1. Get the data
#
# *Are all the radiographs here, and are they the ones that they claim to be?*
#
# They come from Kermany, Zhang and Goldbaum [1]: children of one to five years, one hospital in Guangzhou, sorted by doctors
# into NORMAL and PNEUMONIA. Kaggle holds the most used copy, and no account is needed. A download that was cut off goes on where
# it stopped. (A Kaggle key belongs into `~/.kaggle/kaggle.json`, never into a cell.)
#
# Two **releases** are in use: Kaggle's copy of version 2, and version 3 at Mendeley. Their files have other names, and many of
# the healthy test films are of other children. So a score can only be compared with one from the same release.
#
# When no source can be reached, **phantoms** stand in for patients: radiograph-like pictures that the notebook draws, so that
# everything still runs. They carry the word PHANTOM in the picture, in the file and under each figure. What a network learns
# from them says nothing about patients. The sentence below says which data these are.

# %%
if "tour" not in globals():
    raise RuntimeError("Section 1 needs the tools and the settings: run section 0 first.")
import cxr.release  # fold

# %%
import cxr.download  # fold

# %%
import cxr.phantoms  # fold

# %%
from cxr.dataset import (  # fold
    check_unreadable,
    describe_data,
    find_data,
    identify_dataset,
    identify_release,
    is_official,
    list_images,
    kaggle_only_mask,
)

# %%
settings = tour.start("1 Get the data", globals())
data_dir = find_data(home, settings.DATA_DIR)
all_files = list_images(data_dir)
data_kind = identify_dataset(data_dir, all_files)
pictures, release = image_label(data_kind), identify_release(all_files, data_kind)
print(describe_data(data_dir, all_files, data_kind, release, official := is_official(data_dir, release)))
tour.finish(data_dir, all_files.to_csv())
all_files.groupby(["split", "finding"], sort=False).size().unstack(fill_value=0)

# %% [markdown]
# ## 2. Load the images into NumPy arrays
#
# *How do thousands of JPEG files of all sizes become arrays that a network can read?*
#
# A picture is a table of gray levels, 0 for black to 255 for white. A network wants all of them in one size, so each file is
# decoded and shrunk to a square of `IMAGE_SIZE` pixels.
#
# A film is no square, and `RESIZE_MODE` says what becomes of it: `squash` stretches it, and what is in it shows the stretch; `fit`
# keeps the aspect and adds black bars, which spell the shape out; `crop` takes the middle and loses the edge.
#
# Here is the function, and what it does to one film. The JPEG decoder leaves out detail that shrinking would discard anyway (it
# reduces a film `by` 2, 4 or 8), which saves time. A file that is empty, cut off or no picture is an error, never half a film.

# %%
if "tour" not in globals():
    raise RuntimeError("Section 2 needs the tools and the settings: run section 0 first.")
from cxr.images import describe_arrays, first_readable_image, resize_to_square  # fold

# %%
from cxr.images import read_image, shrink  # show

# %%
settings = tour.start("2 Load the images", globals())
film = first_readable_image(data_dir, all_files.path)
small = resize_to_square(film, 1, film.shape[::-1], settings.IMAGE_SIZE, settings.RESIZE_MODE)
captions = [f"{picture.shape[1]} × {picture.shape[0]} pixels, {picture.nbytes / 1e3:,.0f} kB" for picture in (film, small)]
title = f"Of {film.size:,} gray levels, {small.size:,} are left"
show_figure(plot_images([film, small], captions, 2), title, "one_film", output_dir, data_kind)

# %% [markdown]
# ### From one film to thousands
#
# `load_split` reads a whole folder with all cores. A broken file neither stops everything nor vanishes: it is listed with the
# reason. What was read once is kept in `CACHE_DIR` and **mapped** into memory: it looks like an array, and its pages come from
# the disk when they are touched. So the next start is quick. Nothing changes the arrays afterwards: what a network does to its
# input happens inside the network. **Guess first:** how many megabytes do all training images take, with one byte a pixel
# (`uint8`)? And as the `float32` in three equal channels that networks for color photographs want? The code says both.

# %%
from cxr.images import load_split  # show

cache_dir = home / settings.CACHE_DIR if settings.CACHE_DIR else None
loaded = [load_split(data_dir, all_files[all_files.split == split], settings.IMAGE_SIZE, f"Loading {split}", cache_dir,
                     settings.RESIZE_MODE)
          for split in ("train", "val", "test")]
(x_train, train_files, _), (x_val, val_files, _), (x_test, test_files, _) = loaded
y_train, y_val, y_test = [files.label.to_numpy(np.uint8) for _, files, _ in loaded]
unreadable = check_unreadable(all_files, [broken for _, _, broken in loaded])
tour.finish(x_train, x_val, x_test, *[files.path.tolist() for _, files, _ in loaded])
as_bytes, as_floats = (x_train.size * np.dtype(kind).itemsize / 1e6 for kind in ("uint8", "float32"))
print(f"train takes {as_bytes:,.1f} MB as uint8, {as_floats:,.1f} MB as float32, {3 * as_floats:,.1f} MB as float32 in three channels.")
describe_arrays(train=(x_train, y_train), val=(x_val, y_val), test=(x_test, y_test))

# %% [markdown]
# ## 3. Explore
#
# *What does a network get to see, and what could it learn that has nothing to do with pneumonia?*
#
# **Guess first:** which class is more frequent, and what would a program score that always gives that answer? Its accuracy,
# printed below the figure, is the floor that any network must beat. It finds every sick child and frightens every healthy one,
# so **accuracy**, the share of right answers, misleads where classes are out of balance.
#
# Then look: healthy lungs are dark, with fine vessels. Pneumonia fills air sacs with fluid: bacterial forms often show one dense
# patch, viral ones a haze in both lungs. Can you tell the rows apart?

# %%
if "tour" not in globals():
    raise RuntimeError("Section 3 needs the tools and the settings: run section 0 first.")
settings = tour.start("3 Explore", globals())
files = pd.concat([train_files, val_files, test_files], ignore_index=True)
title = f"{y_train.mean():.0%} of the {pictures} in train show pneumonia, {y_test.mean():.0%} of those in test"
show_figure(plot_class_balance(files), title, "class_balance", output_dir, data_kind)
for split, rows in files.groupby("split", sort=False):
    print(f'Always answering "pneumonia" on {split}: accuracy {rows.label.mean():.1%} of {len(rows):,} {pictures}, specificity 0.')

# %%
by_finding = [np.flatnonzero(train_files.finding == finding) for finding in ("normal", "bacterial", "viral", "unknown")]
rows = np.concatenate([np.random.default_rng(settings.SEED).permutation(rows)[:5] for rows in by_finding])
captions = [f"{CLASS_NAMES[label]} ({finding})" if label else "NORMAL"
            for label, finding in train_files.loc[rows, ["label", "finding"]].itertuples(index=False)]
title = f"Some {pictures} for training, at {settings.IMAGE_SIZE} pixels"
show_figure(plot_images(x_train[rows], captions, colors=label_colors(y_train[rows])), title, "samples", output_dir, data_kind)

# %% [markdown]
# ### Patients and twins
#
# If a **patient** has many images, some may end up on both sides of a split, and **identical images** do the same. Two labels in a
# group are a mistake of whoever sorted them; two folders make the test easier than it should be.

# %%
from cxr.split import count_leaked, find_duplicates, group_patients  # fold

# %%
per_patient = files.groupby("patient").size()
title = f"{(per_patient > 1).mean():.0%} of {len(per_patient):,} patients have several {pictures}, one has {per_patient.max()}"
show_figure(plot_images_per_patient(files), title, "images_per_patient", output_dir, data_kind)
digests, duplicates = find_duplicates(itertools.chain(x_train, x_val, x_test), files)
print(f"{len(duplicates)} groups of identical {pictures} ({duplicates.images.sum()} images): "
      f"{(duplicates.patients > 1).sum()} under two patients, {(duplicates.labels > 1).sum()} with two labels, "
      f"{(duplicates.folders > 1).sum()} in two folders.")

# %% [markdown]
# ### What does a film tell without its lungs?
#
# Sick and healthy children may have been X-rayed on other machines, by other people, lying or standing. Then the **shape** of a film,
# its frame, its corners, the letter that marks a side, even the size of the file know the diagnosis. A network that reads *them*
# scores well until it meets films from elsewhere. **Guess first:** how well can a classifier do that never looks where the lungs are?
#
# Here is a linear classifier for each such clue, from train and val only. Each patient is answered for by one that learned from
# others (*cross-fitting*). The frame is the outer eighth of each side; the gray levels are counted, wherever they are. The
# **AUC** is the chance that, of a sick and a healthy child, the sick one gets the higher answer;
# 0.5 is a coin. In brackets: how far it may be off by the luck of the patients (section 7 explains how).

# %%
from cxr.evaluation import cluster_bootstrap_weights, enclose, rank  # again
from cxr.confounders import (  # fold
    crossfit_ridge,
    mean_images_by_class,
    describe_shortcuts,
    describe_aspect_ratios,
    shortcut_features,
    plot_aspect_ratios,
    shortcut_aucs,
)

# %%
pool = pd.concat([train_files, val_files], ignore_index=True)
pool_labels, pool_groups = pool.label.to_numpy(), group_patients(pool.patient, digests[: len(pool)])
said = {name: crossfit_ridge(values, pool_labels, pool_groups)
        for name, values in shortcut_features([*x_train, *x_val], pool).items()}
clue_scores, no_lung = shortcut_aucs(said, pool_labels, pool.patient, settings.BOOTSTRAP_SAMPLES, settings.SEED), said["all of these"]
tour.finish(digests.tolist(), no_lung)
show_figure(plot_aspect_ratios(pool), describe_aspect_ratios(pool, pictures), "shapes", output_dir, data_kind)
title = f"What differs by class, and where: the mean of {len(y_train):,} {pictures}"
panels, captions = mean_images_by_class(x_train, y_train)
show_figure(plot_images(panels, captions, 4), title, "surroundings", output_dir, data_kind)
print(describe_shortcuts(clue_scores, pictures))
format_metrics(AUC=clue_scores).rename_axis(f"{len(pool):,} {pictures}, without the lungs")

# %% [markdown]
# **How to read it:** compare the two rows. What differs outside the lungs is a clue that has nothing to do with pneumonia: an AUC whose
# interval lies above 0.5 says that a network *can* use it. Whether ours *does* cannot be seen on a validation set with the same clues.
# Section 7 asks the films on which they mislead.

# %% [markdown]
# ## 4. A validation set worth having
#
# *How many images does it take to steer a training, and which ones may they be?*
#
# During training, a **validation set** decides when the learning rate drops, which epoch is kept, and later the threshold. The
# official `val` folder has 16 images. Here it joins `train`, and a share of the **patients** is set aside: all images of a
# patient go to one side, identical images too, and normal, bacterial and viral keep their proportions (a *stratified split by
# group*). The part to learn from is called `fit`, the part to validate on `holdout`.

# %%
if "tour" not in globals():
    raise RuntimeError("Section 4 needs the tools and the settings: run section 0 first.")
from cxr.batches import perturb_batches, make_batches  # fold

# %%
from cxr.split import split_by_patient  # show

settings = tour.start("4 A validation set", globals())
pool_files = pool.assign(part=split_by_patient(pool, pool_groups, settings.VALIDATION_FRACTION, settings.SPLIT_SEED))
fit_rows = (pool_files.part == "fit").to_numpy()
by_image = count_leaked(pool_groups, np.random.default_rng(settings.SPLIT_SEED).permutation(~fit_rows))
print(f"{count_leaked(pool_groups, ~fit_rows)} of {(~fit_rows).sum()} held-out {pictures} share their patient with the part to learn from; "
      f"had they been drawn by image, {by_image} would.")
tour.finish(pool_files.part.tolist())
pool_files.groupby(["part", "finding"], sort=False).agg(images=("path", "size"), patients=("patient", "nunique"))

# %% [markdown]
# **How to read it:** siblings on both sides would let validation reward a network that remembers patients. The split rules that out,
# at no cost. One caution stays: validation and training come from the same folder and series, and other patients, at other
# times, can still be harder.
#
# ### Sixteen images, or hundreds?
#
# To try that out we need a classifier at once, so here is one that takes a second: it looks at thumbnails of 24 × 24 pixels,
# gives every pixel one weight, and adds up. It answers for the held-out patients; then sets of different sizes are drawn from
# these answers. **Guess first:** what accuracies might 16 images show?

# %%
from cxr.linear_baseline import predict_ridge, fit_ridge, make_thumbnails  # show

thumbnails = make_thumbnails(itertools.chain(x_train, x_val), 24)
right = ((predict_ridge(thumbnails, pool_labels, fit_rows) > 0) == pool_labels)[~fit_rows]
title = f"What sets of held-out {pictures} show of a classifier that is right in {right.mean():.1%}"
show_figure(plot_small_validation_sets((16, len(right)), right, settings.SPLIT_SEED), title, "small_validation", output_dir, data_kind)

# %% [markdown]
# **How to read it:** with 16 images chance moves the score more than any choice of yours could; whoever keeps the epoch that
# looks best on them keeps a lucky one. Notice, too, how far so simple a model comes: this task has easy clues.
#
# ### Batches
#
# Training looks at a few images at a time, a **batch**, drawn in a new order in each **epoch**, which is one pass through all of
# them. `ImageBatches` gathers a batch when it is asked for. All batches have the same shape, because a GPU compiles the training
# step anew for each shape: the last batch is filled up with images of weight 0.
#
# To watch a training, each held-out film is looked at four times: as it is, and with three of eighteen changes of exposure, sharpness,
# framing or letters (section 7 names them). As they are, most epochs answer nearly all of them rightly, so the best would be a lucky one.

# %%
from cxr.batches import ImageBatches  # show

# %%
from cxr.robustness import (  # fold
    describe_aspect_ratio_use,
    mask_border,
    pool_perturbations,
    keep_only_border,
    evaluate_perturbations,
    plot_robustness,
    vary,
)

# %% [markdown]
# ## 5. Build the CNN
#
# *What does each layer do to a radiograph, and how do they become a network?*
#
# A dense network would give each pixel its own weight, as the classifier of section 4 did, and would have to learn a patch of
# pneumonia anew at every place. A **convolutional neural network (CNN)** looks through a small window that slides over the
# picture with the same few weights everywhere: the **kernel**. At each place, the pixels under it are multiplied by its weights
# and added up.
#
# This kernel, written by hand, answers where it gets brighter from top to bottom. (Outside the picture everything counts as 0,
# hence the frame.) **Predict:** which outlines will stay?

# %%
if "tour" not in globals():
    raise RuntimeError("Section 5 needs the tools and the settings: run section 0 first.")
settings = tour.start("5 Build the CNN", globals())
radiograph = x_train[np.flatnonzero(y_train)[0]][None].astype("float32") / 255
kernel = np.array([[-1, -2, -1], [0, 0, 0], [1, 2, 1]], "float32")
convolution = layers.Conv2D(1, 3, padding="same", use_bias=False)
convolution.build(radiograph.shape)
convolution.set_weights([kernel[:, :, None, None]])
edges = keras.ops.convert_to_numpy(convolution(radiograph))
captions = ["input", f"output of the kernel {kernel.astype(int).tolist()}"]
title = "Convolution finds one pattern, everywhere (gray is 0)"
show_figure(plot_images([radiograph, edges / 4 + 0.5], captions, 2), title, "layer_convolution", output_dir, data_kind)

# %% [markdown]
# **How to read it:** outlines that run across the picture stay, white where it gets brighter downwards and black where it gets
# darker. Those that run up and down vanish: above and below them it is as bright.
#
# ### ReLU and pooling
#
# The *rectified linear unit*, **ReLU**, keeps what is positive and sets the rest to 0: "the pattern is here" or nothing.
# Without such a bend between them, any number of convolutions would amount to a single one.
#
# **Max pooling** keeps the largest value of each block. The map gets smaller, later layers see more of the chest at once, and a
# pattern that shifts by a pixel often gives the same answer. The price: *where* in its block the pattern lay is lost, and so are
# the weaker answers beside it. Usual blocks are 2 × 2; here 4 × 4, to make it visible.

# %%
rectified = keras.ops.convert_to_numpy(layers.ReLU()(edges))
pooled = keras.ops.convert_to_numpy(layers.MaxPooling2D(4)(rectified))
title = (f"ReLU leaves {np.mean(rectified > 0):.0%} of the values; "
         f"max pooling makes {pooled[0, ..., 0].size:,} of {rectified[0, ..., 0].size:,}")
captions = ["convolution (gray is 0)", "ReLU (black is 0)", "max pooling"]
show_figure(plot_images([edges / 4 + 0.5, rectified, pooled], captions, 3), title, "layer_relu_pooling", output_dir, data_kind)

# %% [markdown]
# ### Batch normalization and dense layers
#
# One film is dark, the next one bright. **Batch normalization** shifts and scales each map to mean 0 and standard deviation 1 over
# the batch, so a network learns faster. In use it applies running averages from training: after each batch,
# `momentum` · average + (1 − `momentum`) · batch.
#
# A **dense** layer joins every value to every unit with a weight of its own (random before training, as below). At the end it
# weighs the evidence into one number, the **logit**; the **sigmoid** function, 1 / (1 + exp(−logit)), makes that a probability.
#
# Convolution, ReLU and pooling, four times, then two dense layers: that is the plain **baseline**, which the refinements below
# have to beat. Each of its convolutions has many kernels, and each kernel makes a map of its own, a **channel**. A kernel looks at
# all *in* channels before it, and adds one number, its **bias**. So *out* kernels of k × k take k · k · in · out + out weights.

# %%
batch = x_train[:64].astype("float32") / 255
normalized = keras.ops.convert_to_numpy(layers.BatchNormalization()(batch, training=True))
captions = [f"{name}: mean {values.mean() + 1e-6:.2f}, deviation {values.std():.2f}"
            for name, values in (("before", batch), ("after", normalized))]
title = f"Batch normalization puts {len(batch)} {pictures} on one scale; here is the first"
show_figure(plot_images([batch[0], normalized[0] / 5 + 0.5], captions, 2), title, "layer_batch_normalization", output_dir, data_kind)

small = keras.ops.convert_to_numpy(layers.AveragePooling2D(max(1, pooled.shape[1] // 8))(pooled))[0, ..., 0]
weights = np.random.default_rng(settings.SEED).normal(size=small.shape) / small.size**0.5
panels, logit = [small / small.max(), weights / 0.5 + 0.5, small * weights / 0.2 + 0.5], np.sum(small * weights)
captions = ["the map", "one weight a place (gray is 0)", "product, to be added up"]
title = f"Dense: {small.size} products add up to {logit:.2f}; the sigmoid makes it a probability of {special.expit(logit):.2f}"
show_figure(plot_images(panels, captions, 3), title, "layer_dense", output_dir, data_kind)

# %%
from cxr.models import build_baseline  # show

layer = build_baseline(settings.IMAGE_SIZE).get_layer("conv2")
side, _, channels, kernels = layer.kernel.shape
print(f"{layer.name}: {side} · {side} · {channels} · {kernels} + {kernels} = {side * side * channels * kernels + kernels:,} weights; "
      f"Keras counts {layer.count_params():,}.")

# %% [markdown]
# ### Augmentation
#
# A patient turned by three degrees or a film a little darker is still the same diagnosis. **Augmentation** makes another film of
# the same chest in every epoch, **only in training**. So the network cannot learn films by heart, and leans less on what differs
# between machines.
#
# - *Affine*: rotate, zoom, stretch, shift, all in one step, because several steps would blur the image several times.
# - *Intensity*: gamma (which bends the scale of grays, as another exposure does), contrast, brightness.
# - *Blur and noise*: in or out of focus, and grain.
#
# OpenCV and NumPy do this on the CPU while batches are gathered, so the network itself, which a GPU compiles, stays free of it.
# The random numbers of an image follow from `SEED`, the epoch and its place in the data set: a training can be repeated.
#
# There is no left–right flip: it would put the heart on the wrong side. (`FLIP = True` tries it.)

# %%
from cxr.augmentation import random_affine, random_intensity, random_blur_noise  # show

# %%
from cxr.augmentation import augment_image, make_augmentation  # show

# %%
augmentation = make_augmentation(settings.AUG_AFFINE, settings.AUG_INTENSITY, settings.AUG_BLUR_NOISE, settings.FLIP)
one_film = x_train[np.flatnonzero(y_train)[0], :, :, 0]
variants = [augmentation(one_film, np.random.default_rng((settings.SEED, epoch))) for epoch in range(9)]
title = f"One of the {pictures}, as ten epochs might show it"
captions = ["as it is"] + ["augmented"] * 9
show_figure(plot_images([one_film, *variants], captions), title, "augmentation", output_dir, data_kind)

# %% [markdown]
# ### The main network
#
# Deeper networks see more, but deep plain ones stop learning. A **residual block** [3] adds its input to its
# output, by a **shortcut**. So it only has to learn a *correction*, and the gradient of section 6 finds a short way back.
#
# Ahead of everything, the **mean gray around each place** is taken away, and the rest brought to a deviation of 1, so tone, light
# and exposure say less. **Predict:** a film, and the same film lit from below: what is left of the difference? The price: nobody can
# tell any more how bright a large place is as a whole.
#
# At the end, **global average pooling** takes the mean of each map, in place of dense weights; **dropout** blanks a share of these
# means in training, so that none becomes indispensable.

# %%
from cxr.models import normalize, residual_block, subtract_local_mean  # show

# %%
light = np.linspace(-0.25, 0.25, settings.IMAGE_SIZE, dtype="float32")[:, None, None]
films = radiograph, np.clip(radiograph + light, 0, 1)
left = [keras.ops.convert_to_numpy(subtract_local_mean(film, settings.IMAGE_SIZE)) for film in films]
before, after = (np.corrcoef(np.reshape(pair, (2, -1)))[0, 1] for pair in (films, left))
title = f"Two lights on one film: their correlation is {before:.3f}, and {after:.3f} once the mean is taken away"
captions = ["the film", "lit from below", "the first, mean away (gray is 0)", "the second"]
show_figure(plot_images([*films, *(one + 0.5 for one in left)], captions, 4), title, "local_mean", output_dir, data_kind)

# %%
from cxr.models import build_cnn  # show

# %% [markdown]
# ### How large are they, and how far does a unit see?
#
# In the diagrams, a box is a map (height × width × channels): the smaller, the fewer pixels; the wider, the more channels. An arc
# is a shortcut. **Parameters** are all the numbers that a network keeps: weights, biases, and the averages of batch normalization.
#
# The **receptive field** of a unit is the square of input pixels that can influence it, but for the mean at the entrance. It grows
# with each convolution, and faster after each halving. Where it is smaller than a lung, a unit judges texture in a patch; where it
# exceeds the picture, one unit can weigh a haze on the left against the heart on the right. **Predict:** which of the two networks can?

# %%
networks = [build_baseline(settings.IMAGE_SIZE), build_cnn(settings.IMAGE_SIZE, settings.DROPOUT)]
for network, last in zip(networks, ("pool4", "features")):
    field, step = receptive_field(network, last)
    title = f"{network.name}: {len(network.layers)} layers, {network.count_params():,} parameters"
    show_figure(plot_architecture(network), title, f"architecture_{network.name}", output_dir, "diagram")
    print(f"A unit in the middle of its last map sees {field} × {field} pixels, {'no' if field < settings.IMAGE_SIZE else 'a'} whole "
          f"picture of {settings.IMAGE_SIZE} × {settings.IMAGE_SIZE}; neighboring units look {step} pixels apart.")
tour.finish()

# %% [markdown]
# ## 6. Train
#
# *Do the networks learn, and when should they stop?*
#
# The **loss** of a film is −log p if the child is sick and −log (1 − p) if healthy (*binary cross-entropy*): large where the
# network is confidently wrong. Its **gradient** ∂loss/∂w tells for each weight w how fast the loss rises with it;
# **backpropagation** works it out from the last layer to the first. After each batch, the **optimizer** steps down: w ← w − rate ·
# gradient. **Adam** evens the steps out, by the gradient's running mean and size; **AdamW** also pulls each weight a little towards
# 0 (*weight decay*), so that none grows without need. Too large a **learning rate** overshoots, too small a one gets nowhere.
#
# Callbacks watch the loss on the held-out films, as they are and changed (section 4):
#
# - **ReduceLROnPlateau** lowers the rate when it stops falling;
# - **ModelCheckpoint** keeps the best epoch in a file;
# - **EarlyStopping** ends the training when nothing improves any more.

# %%
if "tour" not in globals():
    raise RuntimeError("Section 6 needs the tools and the settings: run section 0 first.")
from cxr.training import TrainingRun  # fold

# %%
from cxr.training import make_callbacks  # show

# %% [markdown]
# ### Two trainings
#
# First the baseline, for a few epochs, then the residual network. Every training is a **run** with a name, kept in
# `OUTPUT_DIR/runs/NAME/`; one that is lost with its session goes on after its last finished epoch. If *you* stop it (the square
# button), its best epoch counts. **Predict:** from which epoch on will the dashed validation loss stay above the solid one? The
# legend tells.
#
# **How to read it:** both losses fall: the network learns what carries over. Training falls and validation rises: it learns films
# by heart (*overfitting*). Both stay high: it cannot learn (*underfitting*). The distance itself says less: dropout acts in
# training only, and the films are changed in other ways.
#
# If the AUC of the baseline is as high, validation cannot tell the two apart, perhaps for the easy clues of section 3. Section 7
# puts both, and simpler classifiers, before films on which those clues mislead.

# %%
settings = tour.start("6 Train", globals())
enable_determinism(settings.DETERMINISTIC)
runs_dir, about = output_dir / "runs", {"data": data_kind, "holdout": validation_set_id(pool_files)}
precision = choose_dtype_policy(settings.MIXED_PRECISION, device_kind, capability)
watched = add_perturbed_copies(make_batches("holdout", pool_files, [x_train, x_val], settings.BATCH_SIZE, devices=device_count))
print(f"{fit_rows.sum():,} {pictures} to learn from, {(~fit_rows).sum():,} to validate on, {len(watched.labels):,} with the changed ones.")
if settings.BASELINE_EPOCHS:
    keras.utils.set_random_seed(settings.SEED)
    fit = make_batches("fit", pool_files, [x_train, x_val], settings.BATCH_SIZE, settings.SEED, device_count)
    callbacks = make_callbacks(runs_dir / "baseline", settings.PATIENCE)
    with strategy.scope(), dtype_policy_scope(precision):
        baseline = build_baseline(settings.IMAGE_SIZE)
        baseline.compile(keras.optimizers.Adam(settings.LEARNING_RATE), "binary_crossentropy",
                         weighted_metrics=[keras.metrics.BinaryAccuracy(name="accuracy"), keras.metrics.AUC(name="auc")])
        with TrainingRun(runs_dir / "baseline", baseline, callbacks, settings.BASELINE_EPOCHS, fit, watched, settings, about) as run:
            baseline.fit(fit, validation_data=watched, epochs=settings.BASELINE_EPOCHS, initial_epoch=run.first_epoch,
                         callbacks=[*callbacks, run], shuffle=False, verbose=0)

# %%
run_dir = runs_dir / settings.RUN_NAME
keras.utils.set_random_seed(settings.SEED)
augmentation = make_augmentation(settings.AUG_AFFINE, settings.AUG_INTENSITY, settings.AUG_BLUR_NOISE, settings.FLIP) if settings.AUGMENT else None
fit = make_batches("fit", pool_files, [x_train, x_val], settings.BATCH_SIZE, settings.SEED, device_count, settings.CLASS_WEIGHTS,
                   augmentation)
callbacks = make_callbacks(run_dir, settings.PATIENCE)
with strategy.scope(), dtype_policy_scope(precision):
    model = build_cnn(settings.IMAGE_SIZE, settings.DROPOUT)
    model.compile(keras.optimizers.AdamW(settings.LEARNING_RATE, weight_decay=settings.WEIGHT_DECAY), "binary_crossentropy",
                  weighted_metrics=[keras.metrics.BinaryAccuracy(name="accuracy"), keras.metrics.AUC(name="auc")])
    with TrainingRun(run_dir, model, callbacks, settings.EPOCHS, fit, watched, settings, about) as run:
        model.fit(fit, validation_data=watched, epochs=settings.EPOCHS, initial_epoch=run.first_epoch, callbacks=[*callbacks, run],
                  shuffle=False, verbose=0)  # the batches shuffle themselves
history_table = run.history
tour.finish((run_dir / "run.json").read_text(encoding="utf-8"))
best = history_table.loc[history_table.val_loss.idxmin()]
title = f"Validation loss is lowest ({best.val_loss:.3f}) in epoch {best.epoch:.0f} of {len(history_table)} ({pictures})"
show_figure(plot_learning_curves(history_table), title, "learning_curves", output_dir, data_kind)

# %% [markdown]
# ## 7. Evaluate
#
# *How good are the answers on patients that the network has never met, and how sure can we be of that?*
#
# | score | formula | in words |
# |---|---|---|
# | **sensitivity** (recall) | hits / (hits + misses) | sick children found |
# | **specificity** | passes / (passes + false alarms) | healthy children left in peace |
# | **precision** (PPV) | hits / (hits + false alarms) | alarms that are right |
# | **F1** | 2 · hits / (2 · hits + misses + false alarms) | both of hits' shares in one |
# | **AUC** | | a sick child gets a higher answer than a healthy one |
# | **average precision** | | precision, averaged over all sensitivities |
#
# Each has a 95 % interval from the **bootstrap**: draw patients with repetition, `BOOTSTRAP_SAMPLES` times, and see in which range the
# score lies. Patients, not images: the films of one child are alike, and would count as more evidence than they are.

# %%
if "tour" not in globals():
    raise RuntimeError("Section 7 needs the tools and the settings: run section 0 first.")
from cxr.evaluation import (  # fold
    adapt_to_prevalence,
    expected_calibration_error,
    choose_calibration,
    min_cost_threshold,
    threshold_at_sensitivity,
    compare_datasets,
    compare_thresholds,
    describe_calibration,
    describe_confusion_matrix,
    describe_threshold,
    describe_rule,
    describe_prevalence,
    measure,
    predict_probabilities,
    predictive_values,
    to_logits,
)

# %%
from cxr.evaluation import cluster_bootstrap_weights, enclose, score  # show

# %% [markdown]
# ### Probabilities that mean what they say
#
# Of all children to whom a network gives 80 %, eighty in a hundred should be ill: then it is **calibrated**. Networks are
# often too sure, or lean to one side. **Platt scaling** [7] divides every logit by a temperature and adds a shift, both fitted on
# validation; the order of the answers, and so the AUC, stays as it is. The **expected calibration error** (ECE) is the average
# distance between what was said and what was so. To be fair, each patient's answers are changed by what was fitted to *others*; where
# that does not help, nothing is changed. **Predict:** will it help?

# %%
from cxr.evaluation import fit_platt_scaling  # show

# %% [markdown]
# ### Where to draw the line
#
# A probability becomes an answer at a **threshold**. Counting sensitivity and specificity alike leads to the **Youden index** [6];
# as a missed pneumonia is worse than a false alarm, ours makes *twice* the sensitivity plus the specificity as large as can be on the
# held-out patients. But hardly any of their films gets an answer near the line, so a handful would place it by chance. So each film
# counts several times: as it is, and with another exposure, sharpness, frame or letter. **Guess first:** above or below 0.5?
#
# The network is read back, is calibrated, gets its threshold. Its answers for test are still unknown.

# %%
from cxr.evaluation import choose_threshold  # show

settings = tour.start("7 Evaluate", globals())
run_dir = output_dir / "runs" / settings.RUN_NAME
holdout = make_batches("holdout", pool_files, [x_train, x_val], batch_size=32)
y_holdout, holdout_files = holdout.labels, pool_files[pool_files.part == "holdout"]
model, record, changed = validate_run(run_dir, holdout, holdout_files, settings, globals().get("run"))  # of section 6, if it has run
rival = None
if settings.BASELINE_EPOCHS and (run_dir.parent / "baseline" / "run.json").exists():
    rival = validate_run(run_dir.parent / "baseline", holdout, holdout_files, settings)[0]
p_holdout, threshold, validation = changed["unchanged"], record["threshold"], record["validation"]
print(f"On {len(y_holdout)} {pictures} held out, as they are and with {len(changed) - 1} changes, {describe_rule()} is largest at the "
      f"threshold {threshold:.3f}.\n{describe_threshold(*pool_perturbations(y_holdout, changed), threshold)}")

# %%
errors = record["expected_calibration_error"]
title = describe_calibration(record, f"{len(y_holdout)} {pictures}")
raw = special.expit((to_logits(p_holdout) - record["shift"]) * record["temperature"])
said = {"before": raw, "after": choose_calibration(y_holdout, raw, holdout_files.patient)[2]}
show_figure(plot_reliability(y_holdout, said), title, "reliability", output_dir, data_kind)

# %% [markdown]
# **How to read it:** points on the gray line are calibrated; below it the network says more than is so. A temperature above 1
# takes certainty away, a shift above 0 makes every answer more of an alarm. The bars are 95 % intervals: in the middle there are
# few images, so the points jump.
#
# ### What another threshold would cost
#
# To let sensitivity count twice is a choice, and others have their reasons too. **Guess first:** if one child in twenty
# has pneumonia, how many of the alarms are right? A hundred children, drawn as dots, show it.

# %%
from cxr.model_comparison import (  # fold
    predict_all,
    compare_models,
    describe_bias_gap,
    describe_order_agreement,
    bias_conflicting_mask,
    bias_subgroups,
    release_subgroups,
    plot_model_comparison,
    plot_hundred_children,
)

# %%
choices = {"ours": threshold, "Youden, films as they are": choose_threshold(y_holdout, p_holdout, miss=1),
           "sensitivity 95 %": threshold_at_sensitivity(y_holdout, p_holdout),
           "a miss costs 5 alarms": min_cost_threshold(y_holdout, p_holdout), "0.5": 0.5}
figure, title = plot_hundred_children(validation["sensitivity"]["value"], validation["specificity"]["value"])
show_figure(figure, title, "a_hundred_children", output_dir, data_kind)
compare_thresholds(y_holdout, p_holdout, choices).rename_axis(f"{len(y_holdout)} held-out {pictures}")

# %% [markdown]
# **How to read it:** count the filled dots, the alarms. The same network meets fewer sick children from left to right, so a larger part
# of its alarms are false: PPV = sensitivity · share / (sensitivity · share + (1 − specificity) · (1 − share)), which is Bayes'
# theorem; NPV is the same for the all-clears. **Screening** many wants a low line that misses nobody; **confirming** before a
# treatment wants a high one. So a threshold belongs to a place and a purpose, and so does every PPV.
#
# ### What if the films were different?
#
# Another hospital, another machine: darker, softer, noisier, cut otherwise, with other letters. No answer for test may be looked at
# yet, but the held-out films can be changed. **Predict:** which change hurts most?

# %%
shifts = evaluate_perturbations(y_holdout, changed, threshold)
together = compute_metrics(*pool_perturbations(y_holdout, changed), threshold)
title = (f"AUC {shifts.auc['unchanged']:.3f} on validation as it is, at worst {shifts.auc.min():.3f} "
         f"({shifts.auc.idxmin()}), {together['auc']:.3f} for all together;\n{pictures}")
show_figure(plot_robustness(shifts), title, "shifts", output_dir, data_kind)

# %% [markdown]
# **How to read it:** where the AUC stays high and only sensitivity or specificity fall, the network still ranks the children
# rightly and the *threshold* no longer fits. Where the AUC falls, it has lost the picture itself. The AUC for all films together is
# that of one line for all: it falls too where a change carries healthy films across it.
#
# ### Films on which the clues mislead
#
# Section 3 has a classifier that never sees a lung. The quarter of the healthy held-out films that it takes for sick most, and of
# the sick ones for healthy, are **conflicting**: there, whoever goes by the clues is wrong [12]. Who goes by the lungs does
# not mind. The other films **agree** with the clues. Four classifiers answer, each with a line of its own. **Predict:** which of
# them will fall most?

# %%
learned, conflicting = (thumbnails, pool_labels, fit_rows), bias_conflicting_mask(y_holdout, no_lung[~fit_rows])
said = predict_all(learned, thumbnails[~fit_rows], rival, holdout, p_holdout)
lines = {name: choose_threshold(y_holdout, answers) for name, answers in said.items()} | {"residual CNN": threshold}
rivals = compare_models(y_holdout, said, lines, holdout_files.patient, bias_subgroups(conflicting), settings)
print(describe_bias_gap(rivals))
format_metrics(**rivals).T.rename_axis(f"held-out {pictures}, {conflicting.sum()} conflicting")

# %% [markdown]
# **How to read it:** down the first column, then down the fourth. Where the fourth tells them apart better than the first,
# validation hides what the classifiers go by. A fall from agreeing to conflicting has two causes: the clues, and that these are
# hard films. Who falls less than the others leans on the clues less.
#
# ### Test, opened once
#
# From here on nothing may be changed because of the answers: who tunes until test looks good has made it a second validation
# set. **Predict:** higher or lower than validation? In a **confusion matrix** a row is the truth: bottom right is the sensitivity,
# top left the specificity. **Curves** show other thresholds; dots are ours. Then the other three classifiers answer, at the same
# opening: will their order be that of validation, or that of the conflicting films?

# %%
p_test = predict_probabilities(model, x_test)
test = metrics_with_ci(y_test, p_test, test_files.patient, threshold, settings.BOOTSTRAP_SAMPLES, settings.SEED)
sets = {"validation": (y_holdout, p_holdout), "test": (y_test, p_test)}
matrices = [metrics.confusion_matrix(labels, said >= threshold, labels=[0, 1]) for labels, said in sets.values()]
print(title := describe_confusion_matrix(matrices[1], test, pictures))
show_figure(plot_confusion_matrix(matrices, ["validation (by patient)", "test"]), title, "confusion_matrix", output_dir, data_kind)
show_figure(plot_roc_pr_curves(sets, threshold), f"All other thresholds; dots: ours ({pictures})", "roc_pr_curves", output_dir, data_kind)
format_metrics(validation=validation, test=test).rename_axis(pictures)

# %%
said = predict_all(learned, make_thumbnails(x_test, 24), rival, x_test, p_test)
on_test = compare_models(y_test, said, lines, test_files.patient, release_subgroups(kaggle_only_mask(test_files)), settings)
joined = {name: row | on_test[name] for name, row in rivals.items()}
print(describe_order_agreement(joined))
figure = plot_model_comparison(joined, {"AUC": "#888888", "AUC, conflicting": "#0072B2", "test AUC": "#D55E00"})
show_figure(figure, f"Validation, the films on which the clues mislead, and test ({pictures})", "classifiers", output_dir, data_kind)
format_metrics(**on_test).T.rename_axis(f"test, {pictures}")

# %% [markdown]
# **How to read it:** where the orange points follow the blue ones and not the gray ones, a validation set with the same clues was
# no guide, and the conflicting films were one. That is why a CNN, even if a linear classifier does nearly as well on validation:
# it has to do well elsewhere. (A column "Kaggle's" counts healthy children whom only this release has: published scores on the
# other, such as MedMNIST's, were not measured on them.)
#
# ### When test is not like validation
#
# Another share of sick children changes the **PPV** and the calibration even if the network works as before (Bayes' theorem).
# Other films or patients change sensitivity and specificity themselves. What can be done honestly, with no label from test?
# The share of the sick can be estimated from the answers alone, and the probabilities adapted to it [8]; that is the last row.
# **Predict:** which columns will it mend?

# %%
learned_share = pool_labels[fit_rows].mean()
p_adapted, estimated_share = adapt_to_prevalence(p_test, learned_share)
table = compare_datasets(sets | {"test, adapted": (y_test, p_adapted)}, threshold)
print(describe_prevalence(learned_share, estimated_share, y_test.mean()))
table.style.format("{:.3f}").set_caption(pictures)

# %% [markdown]
# **How to read it:** smaller differences than the intervals above are noise. If *announced* and *truly* come closer and the
# calibration error falls, it was the share that had changed. If specificity is lower on test than its validation interval allows,
# the *films* of healthy children differ: no arithmetic mends that. Honest remedies need new, labeled films from the new place, to set
# the threshold there, or to train with them. To move it until *this* test looks good is not one.
#
# The results are now put beside each other in `OUTPUT_DIR`: model, history, predictions, metrics, all of this run.

# %% tags=["hide-input"]
# @title The results of this run, put beside each other
columns = ["split", "path", "label", "probability"]
predictions = pd.concat([holdout_files.assign(split="validation", probability=p_holdout)[columns],
                         test_files.assign(probability=p_test)[columns]], ignore_index=True)
counted = {"train": y_train, "val": y_val, "test": y_test, "validation": y_holdout}
report = {
    "run": settings.RUN_NAME, "data": data_kind, "release": release, "official_split": official, "settings": record["settings"],
    "versions": package_versions(), "device": f"{device_kind} ({device_name})", "seconds": tour.seconds,
    "counts": {name: {"NORMAL": int((y == 0).sum()), "PNEUMONIA": int((y == 1).sum())} for name, y in counted.items()},
    "unreadable": unreadable.to_dict("records"),
    "temperature": record["temperature"], "shift": record["shift"],
    "expected_calibration_error": errors | {"test": expected_calibration_error(y_test, p_test)},
    "shifts": shifts.to_dict("index"), "clues": clue_scores, "classifiers": joined,
    "changed_together": {name: {"value": value} for name, value in together.items()},
    "threshold": {"value": threshold, "how": f"largest {describe_rule()} on validation, films as they are and changed"},
    "validation": validation | {"confusion_matrix": matrices[0]},
    "test": test | {"confusion_matrix": matrices[1]}}
publish_run(output_dir, run_dir, record, model, predictions, report)
tour.finish(threshold, p_test)

# %% [markdown]
# ## 8. Look at the answers
#
# *Where is the network wrong, and what does it look at?*
#
# **Predict:** are its worst mistakes films on which you would hesitate yourself?

# %%
if "tour" not in globals():
    raise RuntimeError("Section 8 needs the tools and the settings: run section 0 first.")
from cxr.grad_cam import sanity_check_grad_cam, describe_checks, select_examples, plot_grad_cam, metrics_by_finding  # fold

# %%
settings = tour.start("8 Look at the answers", globals())
wrong = sorted(np.flatnonzero((p_test >= threshold) != y_test), key=lambda row: -abs(p_test[row] - threshold))
print(f"{len(wrong)} of {len(y_test)} {pictures} in test are answered wrongly.")
if wrong:
    captions = [f"{CLASS_NAMES[y_test[row]]}, answer {p_test[row]:.3f}" for row in wrong[:10]]
    figure = plot_images(x_test[wrong[:10]], captions, colors=label_colors(y_test[wrong]))
    show_figure(figure, f"Mistakes on test, the farthest from the threshold first ({pictures})", "mistakes", output_dir, data_kind)
metrics_by_finding(y_test, p_test, test_files, threshold, settings.BOOTSTRAP_SAMPLES, settings.SEED).rename_axis(f"test, {pictures}")

# %% [markdown]
# **How to read it:** the caption gives the label and the probability of PNEUMONIA. A confident mistake on a clear film is
# the network's; one on a film that nobody could read may be the label's. Look for what they share: exposure, rotation,
# tubes and electrodes, the child's age. The table asks which kind of pneumonia it finds more easily, though it was never told
# the kind: a consolidation changes one place a lot, a haze the whole lung a little. Both rows share their
# healthy films, so do not judge by whether the intervals overlap; section 9 shows how a difference gets its own.
#
# ### Grad-CAM: where does it look?
#
# **Grad-CAM** [4] asks how the logit would change if each map of the last convolutional layer were a little stronger, and
# adds up the maps with these gradients as weights. Bright places speak for the network's answer. But a map can please and mean
# nothing, so there are two checks. A network with **random weights** must give another map, or the map shows the picture and not
# what was learned [9]. And covering the **brightest square** must lower the score more than covering one anywhere. **Guess first:**
# by how much?

# %%
from cxr.grad_cam import grad_cam  # show

# %%
answers = p_test >= threshold
rows, captions, title = select_examples(y_test, p_test, answers, settings.SEED)
figure = plot_grad_cam(x_test[rows], grad_cam(model, x_test[rows], answers[rows]), captions, label_colors(y_test[rows]))
show_figure(figure, f"What speaks for the answer: {title} ({pictures})", "grad_cam", output_dir, data_kind)

some = np.random.default_rng(settings.SEED).permutation(len(y_test))[:48]
checks = sanity_check_grad_cam(model, x_test[some], answers[some], test_files.patient.iloc[some], settings.BOOTSTRAP_SAMPLES, settings.SEED)
print(describe_checks(checks, f"{len(some)} {pictures}"))

# %% [markdown]
# **How to read it:** bright places speak for the answer given: for pneumonia on a hit, for *healthy* on a film that passed.
# Bright on the lungs is what one hopes for; on a letter, a border, a tube or the belly it may be something other than the
# disease. A correlation near 1 would mean that training hardly matters for the map; near 0 or below, it has changed it wholly. Where
# the first fall is not surely larger than the second, do not believe the map.
#
# ### Shortcuts: does it read the letters, or the frame?
#
# Section 3 shows what the frame of a film can tell, section 7 what it costs to go by such clues. Now hide it from our network, or
# show it nothing else. **Predict:** which AUC is left?

# %%
print(describe_aspect_ratio_use(test_files, p_test, settings))
views = {"the whole film": holdout, "the frame hidden": perturb_batches(holdout, mask_border),
         "only the frame": perturb_batches(holdout, keep_only_border)}
rows = {name: metrics_with_ci(y_holdout, predict_probabilities(model, batches), holdout_files.patient, threshold, settings.BOOTSTRAP_SAMPLES, settings.SEED)
        for name, batches in views.items()}
format_metrics(**rows).loc[["auc", "accuracy"]].rename_axis(f"held-out {pictures}")

# %% [markdown]
# **How to read it:** if the AUC hardly falls with the frame hidden, the network does not need it (accuracy may fall all the same:
# a gray frame makes a strange film). A high one on the frame alone means that it *can* read the frame, as section 3's classifier
# does. Within one class the shape should not matter: a correlation surely away from 0 is a warning.
#
# **What was done about it, and what is left.** The augmentation of section 5 makes tone, sharpness and framing say less; changed
# films help to choose the epoch and the threshold. To take away the mean around each place surely lifted the ranking of real
# films whose make was left out of training. Much else did not: frames
# swapped or covered, letters put on, mixed films, more weight for conflicting ones (`docs/results.md` of this project). So on films
# of another make expect less than validation promises.
#
# ### Your own picture
#
# A network answers whatever it is shown, a cat too. So first: **how unlike the training images is it?** Average pooling has made
# a few hundred numbers of each picture, its **features**; the **Mahalanobis distance** [11] tells how far it lies from the middle
# of the training images. Color, shape and a DICOM header are checked as well. A warning takes the answer away, but the absence of
# one does not make it right.

# %%
import cxr.dicom  # fold

# %%
from cxr.inference import Familiar, predict_image  # fold

# %%
familiar = Familiar(model, make_batches("fit", pool_files, [x_train, x_val], 64), holdout, pool_files, seed=settings.SEED)
print(f"Beyond {familiar.cut:.1f}, the cut-off, lie {np.mean(familiar.usual > familiar.cut):.1%} of {len(familiar.usual)} held-out "
      f"{pictures} and {np.mean(familiar.measure(x_test) > familiar.cut):.1%} of the {len(x_test)} of test.")

# %%
# @title Your own picture: JPEG, PNG or DICOM; in Colab, drag it into the Files panel. Show only what may leave its hospital
MY_PICTURE = ""  # @param {type:"string"}
if "familiar" not in globals() or familiar.model is not model:
    raise RuntimeError("Your own picture needs the trained network and its answers: run section 8 from its start.")
path = home / Path(MY_PICTURE).expanduser() if MY_PICTURE else data_dir / test_files.path[settings.SEED % len(test_files)]
predict_image(path, model, familiar, threshold, output_dir, "own" if MY_PICTURE else data_kind, pictures,
             settings.RESIZE_MODE)

# %% [markdown]
# ## 9. Change one thing
#
# *Did a change help, or was it luck?*
#
# **To add a run:** in the settings cell of section 0, give a new `RUN_NAME` and change **one** setting, as `AUGMENT = False`. Run
# that cell, then sections 6 and 7 (for `IMAGE_SIZE` sections 2 to 5 before them), then this one. `BASELINE_EPOCHS = 0` saves the
# time of the baseline.
#
# **Predict**, and write it down: will the AUC rise or fall, and by how much?
#
# Every run keeps its record on disk, so after a restart section 0 and this one show them all. They are compared on
# **validation**, because test must not choose anything.

# %%
if "tour" not in globals():
    raise RuntimeError("Section 9 needs the tools and the settings: run section 0 first.")
from cxr.evaluation import cluster_bootstrap_weights, enclose  # again
from cxr.run_comparison import (  # fold
    paired_differences,
    describe_differences,
    reference_run,
    is_significant,
    plot_runs,
    show_runs,
)

# %%
settings = tour.start("9 Change one thing", globals())
runs = list_runs(output_dir / "runs")
show_runs(runs)

# %% [markdown]
# **Compare in pairs.** The intervals in the table say how far each score may be off by the luck of which patients were held out.
# But the runs share that luck: a hard film is hard for all. So draw patients, measure both networks on the *same* draw, subtract,
# and repeat.
#
# If the interval of the difference includes 0, this validation set cannot tell the runs apart: keep the simpler one. If not, other
# *patients* would probably agree, but perhaps not another `SEED`: repeat both with `SEED` 1 and 2, under new names. The best of
# many runs owes part of its lead to luck. So choose here, and open test **once**.

# %%
differences = paired_differences(runs, settings.BOOTSTRAP_SAMPLES, settings.SPLIT_SEED)
others = [one["name"] for one in runs if one["name"] in differences]
sure = sum(is_significant(differences[name]["auc"]) for name in others)
title = (f"{sure} of {len(others)} runs differ in AUC from the reference by more than the luck of the patients "
         f"({image_label(runs[0]['data'])})")
if reference_run(runs):
    show_figure(plot_runs(runs, differences), title, "runs", output_dir, runs[0]["data"])
print(describe_differences(runs, differences))

# %% [markdown]
# ## 10. Limits, exercises
#
# *What may you conclude from all this, and what not?*
#
# **Not for diagnosis.** This network has seen children of one to five years from one hospital, and knows two answers: what is neither
# (a tumour, an adult, a cat) still gets a number. Some labels are wrong; who is one patient is guessed from file names; sick and
# healthy children may differ in more than disease; another hospital will not be like validation.
#
# Weights without such a description are dangerous. A **model card** [10] says it on a page, filled from the record of this run. Read
# it as somebody who was not here: would you trust this network? (`best.keras` needs Keras. For other
# programs, `published.export("model.onnx", format="onnx")` translates it, after `%pip install tf2onnx onnx onnxruntime`. Compare its
# answers with those of `published.predict` before you use it.)

# %%
if "tour" not in globals():
    raise RuntimeError("Section 10 needs the tools and the settings: run section 0 first.")
from cxr.model_card import render_model_card  # fold

# %%
settings = tour.start("10 Limits, exercises", globals())
read_verified(output_dir, report, "best.keras")  # it may be of another run by now
published = load_model(output_dir / "best.keras")  # what section 7 put there, as anybody else gets it
write_atomically(output_dir / "model_card.md", render_model_card(report, published))
report["seconds"] = {title: seconds for title, seconds in tour.seconds.items() if not title.startswith("10")}
write_atomically(output_dir / "metrics.json", to_json(report))
left = ", ".join(sorted(path.name for path in output_dir.iterdir() if "unfinished" not in path.name))
print(f"This run on {pictures} took {sum(tour.seconds.values()) / 60:.1f} minutes and left in {output_dir}: {left}.")

# %% [markdown]
# ### Exercises
#
# Write your guess down first. The folded cell at the end has a solution of each: set `EXERCISE` and run it.
#
# 1. **Another kernel.** Use one that answers to edges from left to right. *Expect:* other outlines; ribs fade.
# 2. **A rare disease.** At which share of sick children is every second alarm of ours false? *Expect:* a small one.
# 3. **In the mirror.** Average the answers for each film and its mirror image. *Expect:* little gain.
#
# ### References and license
#
# 1. Kermany, Zhang, Goldbaum: *Labeled … Chest X-Ray Images for Classification*, doi:10.17632/rscbjbr9sj.
# 2. Kermany et al.: *Identifying Medical Diagnoses …*, Cell 172, 2018.
# 3. He et al.: *Deep Residual Learning*, arXiv:1512.03385.
# 4. Selvaraju et al.: *Grad-CAM*, arXiv:1610.02391.
# 5. Araujo et al.: *Computing Receptive Fields*, Distill, 2019.
# 6. Youden: *Index for rating diagnostic tests*, Cancer 3, 1950.
# 7. Platt: *Probabilistic Outputs for Support Vector Machines*, 1999; Guo et al., arXiv:1706.04599.
# 8. Saerens et al.: *Adjusting the Outputs of a Classifier …*, Neural Computation 14, 2002.
# 9. Adebayo et al.: *Sanity Checks for Saliency Maps*, arXiv:1810.03292.
# 10. Mitchell et al.: *Model Cards*, arXiv:1810.03993.
# 11. Lee et al.: *Detecting Out-of-Distribution Samples*, arXiv:1807.03888.
# 12. Nam et al.: *Learning from Failure*, arXiv:2007.02561; Zech et al., PLoS Medicine 15, 2018; DeGrave et al., Nature Machine
#     Intelligence 3, 2021.
#
# Code: MIT license. Radiographs: CC BY 4.0.

# %% tags=["hide-input"]
# @title Solutions
EXERCISE = 0  # @param [0, 1, 2, 3] {type:"raw"}
if EXERCISE == 1:
    sideways = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], "float32")
    convolution.set_weights([sideways[:, :, None, None]])
    turned = keras.ops.convert_to_numpy(convolution(radiograph))
    figure = plot_images([radiograph, edges / 4 + 0.5, turned / 4 + 0.5], ["input", "from the top", "from the left"], 3)
    show_figure(figure, "Two kernels", "exercise_1", output_dir, data_kind)
if EXERCISE == 2:
    at = validation["sensitivity"]["value"], validation["specificity"]["value"]
    share = (1 - at[1]) / (1 - at[1] + at[0])  # where sensitivity x share = (1 - specificity) x (1 - share)
    print(f"At {share:.2%} sick, {predictive_values(*at, share)[0]:.0%} of the alarms are right.")
if EXERCISE == 3:
    mirrored = predict_probabilities(model, perturb_batches(holdout, lambda picture: picture[:, ::-1]))
    both = special.expit((to_logits(p_holdout) + to_logits(mirrored)) / 2)
    for name, said in {"as it is": p_holdout, "mirrored": mirrored, "mean of both": both}.items():
        auc = metrics_with_ci(y_holdout, said, holdout_files.patient, threshold, settings.BOOTSTRAP_SAMPLES, settings.SEED)["auc"]
        print(f"{name}: AUC {auc['value']:.4f} [{auc['low']:.4f}, {auc['high']:.4f}]")
