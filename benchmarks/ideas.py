"""What sweep.py tries: changes of the notebook's text, and lists of recipes."""

STANDARDISE = '    x = layers.LayerNormalization(axis=[1, 2, 3], epsilon=1e-5, center=False, scale=False, name="standardise")(x)'
RELATIVE = '    x = subtract_local_mean(layers.Rescaling(1 / 255, dtype="float32", name="rescale")(inputs), size)'
ABSOLUTE = '    x = layers.Rescaling(1 / 255, name="rescale")(inputs)'
LOSS = ('                  "binary_crossentropy", metrics=[keras.metrics.BinaryAccuracy(name="accuracy"), keras.metrics.AUC(name="auc")])\n'
        "    state")
PLACES = """        height, width = x.shape[1:3]
        down, right = np.arange(height, dtype="float32")[:, None, None] / height, np.arange(width, dtype="float32")[:, None] / width
"""
GATHERED = "        return fill_batch(images, self.labels[chosen], self)"


def add_change(name, change, first=False):
    """Return the change of the notebook that puts one more layer, with this text of its `change`, after RandomTexture, or before."""
    layers = [f"{name}()", "RandomTexture(texture)"] if first else ["RandomTexture(texture)", f"{name}()"]
    layer = f"class {name}(RandomChange):\n    def change(self, x):\n{change}\n\n\nclass RandomTexture(RandomChange):"
    return [("RandomTexture(texture)]", f"{', '.join(layers)}]"), ("class RandomTexture(RandomChange):", layer)]


def add_mixing(change):
    """Return the change of the notebook that has this text mix `images`, uint8, and `labels` of a training batch, with random `draw`."""
    return [(GATHERED, f"""        labels = self.labels[chosen]
        if self.seed is not None:
            draw = np.random.default_rng((self.seed, int(chosen[0]), number))
{change}
        return fill_batch(images, labels, self)""")]


# What is tried and is no setting: pairs of (text in the built notebook, which must be there once; what takes its place).
PATCHES = {
    "smoothing": [('                  "binary_crossentropy", metrics',
                   "                  keras.losses.BinaryCrossentropy(label_smoothing=0.1), metrics")],
    "erasing": [("RandomTexture(texture)]",
                 'RandomTexture(texture), layers.RandomErasing(0.5, (0.02, 0.2), value_range=(0, 1), dtype="float32")]')],
    "unstandardised": [(STANDARDISE, "    pass")],
    "averaged": [  # Polyak's moving average of the weights is what is validated and kept
        ("weight_decay=settings.WEIGHT_DECAY)", "weight_decay=settings.WEIGHT_DECAY, use_ema=True, ema_momentum=0.99)"),
        ("callbacks=[shuffle, *steering, state])",
         "callbacks=[shuffle, keras.callbacks.SwapEMAWeights(swap_on_epoch=True), *steering, state])")],
    "wide": [("stretch, right, down = self.draw(x, -0.15, 0.15)", "stretch, right, down = self.draw(x, -0.45, 0.45)")],
    # A curve of five straight pieces, each with a slope of its own, in place of gamma.
    "curves": [("        x = keras.ops.power(keras.ops.clip(x, 1e-4, 1), keras.ops.exp(self.draw(x, -0.7, 0.7)))",
                "        rise = keras.ops.softmax(keras.ops.concatenate([self.draw(x, -2, 2) for _ in range(5)], axis=-1))\n"
                "        x = keras.ops.sum(rise * keras.ops.clip(5 * x - np.arange(5, dtype='float32'), 0, 1), axis=-1, keepdims=True)")],
    # Each side of the film is covered, up to a sixth of it, with one grey level, in half of the pictures.
    "frame": add_change("RandomFrame", PLACES + """\
        top, bottom, left, end = (keras.ops.maximum(self.draw(x, -1 / 6, 1 / 6), 0) for _ in range(4))
        kept = keras.ops.cast((down >= top) & (down < 1 - bottom) & (right >= left) & (right < 1 - end), x.dtype)
        return kept * x + (1 - kept) * self.draw(x, 0, 1)"""),
    # Half of the pictures get the frame of another film, up to a sixth of the width on each side.
    "swapped": add_change("RandomSwap", PLACES + """\
        top, bottom, left, end = (self.draw(x, 0, 1 / 6) for _ in range(4))
        kept = keras.ops.cast((down >= top) & (down < 1 - bottom) & (right >= left) & (right < 1 - end), x.dtype)
        kept = keras.ops.maximum(kept, keras.ops.cast(self.draw(x, -1, 1) > 0, x.dtype))
        return kept * x + (1 - kept) * keras.random.shuffle(x, axis=0, seed=self.generator)"""),
    # Two bright marks, as large as a letter, somewhere in the outer third, in half of the pictures.
    "marks": add_change("RandomMarks", PLACES + """\
        for _ in range(2):
            row, column, side = self.draw(x, 0, 1), self.draw(x, -0.33, 0.33), self.draw(x, 0.02, 0.05)
            column = keras.ops.where(column < 0, 1 + column, column)
            there = keras.ops.cast((abs(down - row) < 1.4 * side) & (abs(right - column) < side), x.dtype)
            there *= keras.ops.cast(self.draw(x, -1, 1) > 0, x.dtype)
            hollow = keras.ops.cast((abs(down - row) < 0.7 * side) & (abs(right - column) < 0.5 * side), x.dtype)
            x = keras.ops.maximum(x, there * (1 - hollow) * self.draw(x, 0.7, 1))
        return x""", first=True),
    # Films to learn from on which the frame misleads, a quarter of each class, count four times: by a linear classifier of the frame that
    # never answers for a patient from whom it has learnt.
    "conflicting": [("device_count, settings.CLASS_WEIGHTS)\n", """device_count, settings.CLASS_WEIGHTS)
from sklearn.model_selection import GroupKFold
framed, own, clue = thumbnails.copy(), np.flatnonzero(fit_rows), np.zeros(fit_rows.sum())
framed[:, 3:-3, 3:-3] = 0
for learn, rest in GroupKFold(5).split(own, groups=pool_groups[own]):
    clue[rest] = answer_linearly(framed.copy(), pool_labels, np.isin(np.arange(len(pool_labels)), own[learn]))[own[rest]]
sick = np.flatnonzero(fit.labels == 1), np.flatnonzero(fit.labels == 0)
unlike = np.concatenate([sick[0][np.argsort(clue[sick[0]])[:len(sick[0]) // 4]], sick[1][np.argsort(-clue[sick[1]])[:len(sick[1]) // 4]]])
fit = ImageBatches(fit.arrays, np.append(fit.rows, np.repeat(fit.rows[unlike], 3)), np.append(fit.labels, np.repeat(fit.labels[unlike], 3)),
                   fit.size, fit.seed, fit.devices, fit.class_weights)
""")],
    # A light or a shadow that comes from one side, a corner or the middle.
    "shade": [("(x - mean) * keras.ops.exp(self.draw(x, -0.5, 0.5)) + mean + self.draw(x, -0.25, 0.25)",
               "(x - mean) * keras.ops.exp(self.draw(x, -0.5, 0.5)) + mean + self.draw(x, -0.25, 0.25) + sum(self.draw(x, -0.4, 0.4) * side"
               " for side in shade(*x.shape[1:3]))"),
              ("class RandomTexture(RandomChange):", """def shade(height, width):
    down, right = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    return [side[:, :, None].astype("float32") for side in (down, right, down * right, down**2 - 0.5, right**2 - 0.5)]


class RandomTexture(RandomChange):""")],
    # What the clues of section 3 know already need not be learnt: the loss is that of the product of both answers (Clark et al. 2019,
    # arXiv:1909.03683), the clues' being cross-fitted. Labels to learn from: 1000 + 100 × the label + the log odds by the clues.
    "experts": [("device_count, settings.CLASS_WEIGHTS)\n", """device_count, settings.CLASS_WEIGHTS)
from sklearn.linear_model import LogisticRegression
clue = no_lung[fit_rows][:, None]
odds = LogisticRegression(C=100).fit(clue, fit.labels).decision_function(clue)
fit.labels = (1000 + 100 * fit.labels.astype("float32") + np.clip(odds, -8, 8)).astype("float32")


def split_labels(labels):
    labels = keras.ops.cast(keras.ops.reshape(labels, (-1, 1)), "float32")
    sick = keras.ops.where(labels > 500, keras.ops.cast(labels > 1050, "float32"), labels)
    return sick, keras.ops.where(labels > 500, labels - 1000 - 100 * sick, 0 * labels)


def expert_loss(labels, answers):
    (sick, known), answers = split_labels(labels), keras.ops.clip(answers, 1e-7, 1 - 1e-7)
    logit = keras.ops.log(answers) - keras.ops.log(1 - answers) + known
    return keras.losses.binary_crossentropy(sick, logit, from_logits=True)


class ExpertAccuracy(keras.metrics.BinaryAccuracy):
    def update_state(self, labels, answers, sample_weight=None):
        super().update_state(split_labels(labels)[0], answers, sample_weight)


class ExpertAUC(keras.metrics.AUC):
    def update_state(self, labels, answers, sample_weight=None):
        super().update_state(split_labels(labels)[0], answers, sample_weight)


"""),
                (LOSS, '                  expert_loss, metrics=[ExpertAccuracy(name="accuracy"), ExpertAUC(name="auc")])\n    state')],
    # In half of the pictures the grey levels of another one, rank for rank.
    "histogram": add_change("RandomHistogram", """        flat = keras.ops.reshape(x, (keras.ops.shape(x)[0], -1))
        other = keras.random.shuffle(keras.ops.sort(flat, axis=1), axis=0, seed=self.generator)
        moved = keras.ops.take_along_axis(other, keras.ops.argsort(keras.ops.argsort(flat, axis=1), axis=1), axis=1)
        return keras.ops.where(self.draw(x, -1, 1) > 0, keras.ops.reshape(moved, keras.ops.shape(x)), x)"""),
    # MixStyle (Zhou et al. 2021, arXiv:2104.02008): in half of the batches each channel has the mean and spread of another film's.
    "mixstyle": [("            x = residual_block(x, filters, stride if block == 0 else 1, f\"stage{stage}_block{block + 1}\")",
                  "            x = residual_block(x, filters, stride if block == 0 else 1, f\"stage{stage}_block{block + 1}\")\n"
                  "        x = MixStyle(name=f\"mix{stage}\")(x) if stage < 3 else x"),
                 ("def residual_block(", """@keras.saving.register_keras_serializable()
class MixStyle(layers.Layer):
    def __init__(self, **rest):
        super().__init__(**rest)
        self.generator = keras.random.SeedGenerator()

    def call(self, x, training=False):
        if not training:
            return x
        count = keras.ops.shape(x)[0]
        mean = keras.ops.stop_gradient(keras.ops.mean(x, axis=(1, 2), keepdims=True))
        spread = keras.ops.stop_gradient(keras.ops.sqrt(keras.ops.var(x, axis=(1, 2), keepdims=True) + 1e-6))
        order = keras.random.shuffle(keras.ops.arange(count), seed=self.generator)
        own = keras.random.beta((count, 1, 1, 1), 0.3, 0.3, seed=self.generator)
        mixed = [own * one + (1 - own) * keras.ops.take(one, order, axis=0) for one in (mean, spread)]
        use = keras.ops.cast(keras.random.uniform((1, 1, 1, 1), seed=self.generator) < 0.5, x.dtype)
        return use * ((x - mean) / spread * mixed[1] + mixed[0]) + (1 - use) * x


def residual_block(""")],
    "stretch": [("stretch, right, down = self.draw(x, -0.15, 0.15)", "stretch, right, down = self.draw(x, -0.3, 0.3)")],
    "plain": [("    model = build_cnn(settings.IMAGE_SIZE, settings.DROPOUT)", "    model = build_baseline(settings.IMAGE_SIZE)"),
              ('    x = layers.Flatten(name="flatten")(x)\n',
               '    x = layers.Flatten(name="flatten")(layers.Activation("linear", name="features")(x))\n'),
              ('activation="relu", name="dense")', 'activation="relu", name="average")')],  # the names that section 8 looks for
    # A second answer learns to tell bacterial from viral. With the first one's loss its loss is that of three classes: -log P(finding)
    # = -log P(pneumonia) - log P(kind | pneumonia). Labels to learn from: 0 normal, 1 kind unknown, 2 bacterial, 3 viral.
    "findings": [
        ("    class_weights = len(labels) / 2 / np.bincount(", """    if part == "fit":
        labels = pool_files.finding.map({"normal": 0, "bacterial": 2, "viral": 3}).fillna(1).to_numpy(np.uint8)[rows]
    class_weights = len(labels) / 2 / np.bincount("""),
        ('    x = layers.Dropout(dropout, name="dropout")(x)\n    x = layers.Dense(1, ',
         '    x = layers.Dropout(dropout, name="dropout")(x)\n    x = layers.Dense(2, '),
        (LOSS, '                  finding_loss, metrics=[FirstAccuracy(name="accuracy"), FirstAUC(name="auc")])\n    state'),
        ("settings.SEED, device_count, settings.CLASS_WEIGHTS)\n", """settings.SEED, device_count)


def finding_loss(labels, answers):
    labels = keras.ops.reshape(labels, (-1, 1))
    sick, viral, known = (keras.ops.cast(one, "float32") for one in (labels > 0, labels == 3, labels > 1))
    return (keras.losses.binary_crossentropy(sick, answers[:, :1])
            + known[:, 0] * keras.losses.binary_crossentropy(viral, answers[:, 1:]))


class FirstAccuracy(keras.metrics.BinaryAccuracy):
    def update_state(self, labels, answers, sample_weight=None):
        super().update_state(keras.ops.reshape(labels, (-1, 1)) > 0, answers[:, :1], sample_weight)


class FirstAUC(keras.metrics.AUC):
    def update_state(self, labels, answers, sample_weight=None):
        super().update_state(keras.ops.reshape(labels, (-1, 1)) > 0, answers[:, :1], sample_weight)


"""),
    ],
    # The learning rate falls along a cosine too (Loshchilov and Hutter 2017, arXiv:1608.03983); ReduceLROnPlateau still lowers it.
    "cosine": [("    return [keras.callbacks.ReduceLROnPlateau(", """    def cool(epoch):
        return 1 + np.cos(np.pi * epoch / COSINE_EPOCHS)

    return [keras.callbacks.LearningRateScheduler(lambda epoch, rate: float(rate * cool(epoch) / cool(max(epoch - 1, 0)))),
            keras.callbacks.ReduceLROnPlateau("""),
               ("class NetworkCheckpoint(", "COSINE_EPOCHS = EPOCHS\n\n\nclass NetworkCheckpoint(")],
    # IBN (Pan et al. 2018, arXiv:1807.09441): half of the channels are normalised film by film, in all stages but the last.
    "ibn": [("""    x = layers.Conv2D(filters, 3, strides=stride, padding="same", use_bias=False, name=f"{name}_conv1")(x)
    x = normalise(f"{name}_norm1")(x)
""", """    if filters < 192:
        halves = [layers.Conv2D(filters // 2, 3, strides=stride, padding="same", use_bias=False, name=f"{name}_conv1{half}")(x) """
             """for half in "ab"]
        halves = [layers.GroupNormalization(-1, epsilon=1e-5, name=f"{name}_alone1")(halves[0]), normalise(f"{name}_norm1")(halves[1])]
        x = layers.Concatenate(name=f"{name}_both1")(halves)
    else:
        x = layers.Conv2D(filters, 3, strides=stride, padding="same", use_bias=False, name=f"{name}_conv1")(x)
        x = normalise(f"{name}_norm1")(x)
""")],
    # Mixup (Zhang et al. 2018, arXiv:1710.09412): each film is mixed with another one of its batch, and so are their labels.
    "mixup": add_mixing("""\
            share = draw.beta(0.4, 0.4, len(chosen)).astype(np.float32)
            share = np.maximum(share, 1 - share)
            images = np.round(share[:, None, None, None] * images + (1 - share[:, None, None, None]) * images[::-1]).astype(np.uint8)
            labels = (share * labels + (1 - share) * labels[::-1]).astype(np.float32)"""),
    # Half of the films are mixed with another one of their class (Yao et al. 2022, arXiv:2201.00299; whatever their makes).
    "lisa": add_mixing("""\
            share = draw.uniform(0, 1, len(chosen)).astype(np.float32)[:, None, None, None]
            other = np.arange(len(chosen))
            for label in (0, 1):
                own = np.flatnonzero(labels == label)
                other[own] = draw.permutation(own)
            mixed = np.round(share * images + (1 - share) * images[other]).astype(np.uint8)
            images = np.where(draw.uniform(0, 1, len(chosen))[:, None, None, None] < 0.5, mixed, images)"""),
    # Half of the films have no letters (the marks of section 3), or those of another film, at their place.
    "bare": [
        *add_mixing("            images = swap_letters(images, draw, put_on=False)"),
        ("class ImageBatches(", """def swap_letters(images, draw, put_on):
    size, before, others = images.shape[1], images[:, :, :, 0].copy(), draw.permutation(len(images))
    paint_out = list_shifts(size)["letters painted out"]
    for row in np.flatnonzero(draw.uniform(0, 1, len(images)) < 0.5):
        images[row, :, :, 0] = paint_out(before[row])
        if put_on:
            other = before[others[row]]
            marks = cv2.resize(find_marks(other[:, :, None]), (size, size), interpolation=cv2.INTER_NEAREST)
            images[row, :, :, 0] = np.where(cv2.dilate(marks, np.ones((5, 5))), other, images[row, :, :, 0])
    return images


class ImageBatches(""")],
    # In half of the films the amplitudes of all waves are mixed with another film's, the phases stay (Xu et al. 2021, arXiv:2105.11121).
    "spectrum": add_mixing("""\
            count = len(chosen)
            waves, share = np.fft.rfft2(images[:, :, :, 0]), draw.uniform(0, 1, (count, 1, 1)) * (draw.uniform(0, 1, (count, 1, 1)) < 0.5)
            mixed = ((1 - share) * np.abs(waves) + share * np.abs(waves[draw.permutation(count)])) * np.exp(1j * np.angle(waves))
            images = np.clip(np.round(np.fft.irfft2(mixed, images.shape[1:3])), 0, 255).astype(np.uint8)[:, :, :, None]"""),
    # Every film is turned, moved and stretched so that its chest lies where that of the mean film to learn from does (by the enhanced
    # correlation coefficient, Evangelidis and Psarakis 2008), which is found in two rounds.
    "aligned": [("(x_train, train_files, _), (x_val, val_files, _), (x_test, test_files, _) = loaded", """

def relieve(grey):
    fine, coarse = (cv2.GaussianBlur(grey.astype(np.float32), (0, 0), len(grey) / part) for part in (40, 6))
    return fine - coarse


def align(x, mean):
    aligned, size, sought = np.array(x), x.shape[1], relieve(mean)
    for row in range(len(x)):
        place = np.eye(2, 3, dtype=np.float32)
        try:
            cv2.findTransformECC(sought, relieve(x[row, :, :, 0]), place, cv2.MOTION_AFFINE, (3, 60, 1e-4), None, 5)
        except cv2.error:  # it does not converge: the film stays as it is
            continue
        aligned[row, :, :, 0] = cv2.warpAffine(x[row, :, :, 0], place, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                                               borderMode=cv2.BORDER_REFLECT)
    return aligned


def average(x, files):
    return np.mean([x[(files.label == label).to_numpy()].mean(axis=0)[:, :, 0] for label in (0, 1)], axis=0)


middle = average(*loaded[0][:2])
middle = average(align(loaded[0][0], middle), loaded[0][1])
loaded = [(align(x, middle), files, broken) for x, files, broken in loaded]
(x_train, train_files, _), (x_val, val_files, _), (x_test, test_files, _) = loaded""")],
    # Half of the places of the last map are blanked at random, so that no one place decides.
    "scatter": [("""    x = layers.Activation("linear", name="features")(x)
""", """    x = layers.Dropout(0.5, noise_shape=(None, *x.shape[1:3], 1), name="scatter")(x)
    x = layers.Activation("linear", name="features")(x)
""")],
    # A smaller receptive field, which judges texture rather than framing (as in Brendel and Bethge 2019, arXiv:1904.00760).
    "bag": [("""    x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"{name}_conv2")(x)
""", """    x = layers.Conv2D(filters, 1 if filters > 64 else 3, padding="same", use_bias=False, name=f"{name}_conv2")(x)
""")],
    # The mean of the weights of all steps of the second half is kept (Cha et al. 2021, arXiv:2102.08604), its statistics estimated anew.
    "swa": [("class NetworkCheckpoint(", """class WeightAverage(keras.callbacks.Callback):
    def __init__(self, network, first):
        super().__init__()
        self.network, self.first, self.count, self.mean, self.now = network, first, 0, None, False

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch >= self.first

    def on_train_batch_end(self, batch, logs=None):
        if self.now:
            values, self.count = self.network.get_weights(), self.count + 1
            self.mean = values if self.mean is None else [mean + (value - mean) / self.count for mean, value in zip(self.mean, values)]


def settle_average(model, average, fit, state):
    average.network.set_weights(average.mean)
    norms = [layer for layer in average.network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for number in range(len(fit)):
        for layer in norms:
            layer.momentum = number / (number + 1)
        model(keras.ops.convert_to_tensor(fit[number][0]), training=True)
    for layer in norms:
        layer.momentum = 0.95
    average.network.save(state.folder / "training.keras")
    state.best = take_digest((state.folder / "training.keras").read_bytes())


class NetworkCheckpoint("""),
            ("                          callbacks=[shuffle, *steering, state])",
             """                          callbacks=[shuffle, *steering, *([average] if model.name == "training" else []), state])
                if model.name == "training":
                    settle_average(model, average, fit, state)"""),
            ("    with state.hold_folder():\n        try:\n            first = state.resume(model)",
             """    average = WeightAverage(model.layers[-1], epochs // 2)
    with state.hold_folder():
        try:
            first = state.resume(model)""")],
    # No mean is taken away.
    "absolute": [(RELATIVE, ABSOLUTE)],
    # The epoch is chosen, and the rate lowered, by the held-out films as they are.
    "unvaried": [("watched = vary(", "watched = (")],
    # What is left is divided by its deviation in the same window: local contrast normalisation (Jarrett et al. 2009).
    "local": [(RELATIVE, ABSOLUTE + """
    around = layers.AveragePooling2D(size // 3, 1, padding="same", name="around")(x)
    x = layers.Subtract(name="apart")([x, around])
    spread = layers.AveragePooling2D(size // 3, 1, padding="same", name="spread")(x * x)
    x = x / keras.ops.sqrt(spread + 1e-3)""")],
}
PATCHES["bag2"] = PATCHES["bag"] + [(
    """    x = layers.Conv2D(filters, 3, strides=stride, padding="same", use_bias=False, name=f"{name}_conv1")(x)
""", """    x = layers.Conv2D(filters, 1 if filters > 128 else 3, strides=stride, padding="same", use_bias=False, name=f"{name}_conv1")(x)
""")]
for other in ("ibn", "mixup", "lisa"):
    PATCHES[f"cosine and {other}"] = PATCHES["cosine"] + PATCHES[other]
PATCHES["letters"] = [(old, new.replace("put_on=False", "put_on=True")) for old, new in PATCHES["bare"]]
# The mean is that of this part of the film.
for part, name in ((2, "highpass 2"), (3, "highpass"), (5, "highpass 5"), (8, "highpass 8")):
    PATCHES[name] = [(RELATIVE, f"""{ABSOLUTE}
    around = layers.AveragePooling2D(size // {part}, 1, padding="same", name="around")(x)
    x = layers.Subtract(name="apart")([x, around])""")]
# The light twice as strong, and with two other ideas.
PATCHES["strong shade"] = [(old, new.replace("-0.4, 0.4", "-0.8, 0.8")) for old, new in PATCHES["shade"]]
for other in ("frame", "histogram"):
    before, (place, layer) = PATCHES["shade"]
    PATCHES[f"shade and {other}"] = [PATCHES[other][0], before, (place, PATCHES[other][1][1].removesuffix(place) + layer)]
GRIDS = {
    # each choice of the recipe, taken back; but VIEWS, which views.py asks of the networks of the reference
    "ablation": {"no change of pose": {"POSE": 0}, "no change of exposure": {"EXPOSURE": 0}, "no change of texture": {"TEXTURE": 0},
                 "no dropout": {"DROPOUT": 0.0}, "no weight decay": {"WEIGHT_DECAY": 0.0}, "not standardised": {"PATCH": "unstandardised"},
                 "plain network": {"PATCH": "plain"}},
    # those that might matter where the clues always mislead: with --left-out
    "ablation, left out": {"no change of exposure": {"EXPOSURE": 0}, "no mean taken away": {"PATCH": "absolute"},
                           "no change of pose": {"POSE": 0}, "plain network": {"PATCH": "plain"},
                           "watched on films as they are": {"PATCH": "unvaried"}},
    # what else was tried
    "candidates": {"64 pixels": {"IMAGE_SIZE": 64}, "128 pixels": {"IMAGE_SIZE": 128},
                   "stretched three times as wide": {"PATCH": "wide"}, "left-right flip": {"FLIP": True},
                   "class weights": {"CLASS_WEIGHTS": True}, "averaged weights": {"PATCH": "averaged"},
                   "half precision": {"MIXED_PRECISION": "on"}, "pose twice as strong": {"POSE": 1.0},
                   "findings as a second task": {"PATCH": "findings"}, "label smoothing 0.1": {"PATCH": "smoothing"}},
    # against the clues that have nothing to do with lungs
    "shortcuts": {"tone curves of five pieces": {"PATCH": "curves"}, "frame covered at random": {"PATCH": "frame"},
                  "marks put on at random": {"PATCH": "marks"}, "conflicting films four times": {"PATCH": "conflicting"}},
    # the same and more, asked where the clues always mislead: with --left-out
    "left-out": {"a light from one side": {"PATCH": "shade"}, "a light twice as strong": {"PATCH": "strong shade"},
                 "a light, and frame covered": {"PATCH": "shade and frame"}, "a light, and histogram": {"PATCH": "shade and histogram"},
                 "tone curves of five pieces": {"PATCH": "curves"}, "histogram of another film": {"PATCH": "histogram"},
                 "MixStyle": {"PATCH": "mixstyle"}, "frame covered at random": {"PATCH": "frame"},
                 "frame of another film": {"PATCH": "swapped"}, "marks put on at random": {"PATCH": "marks"},
                 "stretched twice as wide": {"PATCH": "stretch"}, "pose twice as strong": {"POSE": 1.0},
                 "exposure twice as strong": {"EXPOSURE": 1.0}, "texture twice as strong": {"TEXTURE": 1.0},
                 "averaged weights": {"PATCH": "averaged"}, "product with the clues' answer": {"PATCH": "experts"}},
    # that question again, for a network that looks closer
    "left-out, closer": {
        "rate along a cosine": {"PATCH": "cosine"}, "IBN": {"PATCH": "ibn"}, "cosine, and IBN": {"PATCH": "cosine and ibn"},
        "cosine, and mixup": {"PATCH": "cosine and mixup"}, "cosine, and mixed in each class": {"PATCH": "cosine and lisa"},
        "half of the last map blanked": {"PATCH": "scatter"}, "smaller field": {"PATCH": "bag"}, "still smaller field": {"PATCH": "bag2"},
        "mean of the weights": {"PATCH": "swa"}, "mean of a half taken away": {"PATCH": "highpass 2"},
        "mean of a third taken away": {"PATCH": "highpass"}, "mean of a fifth taken away": {"PATCH": "highpass 5"},
        "mean of an eighth taken away": {"PATCH": "highpass 8"}, "local contrast": {"PATCH": "local"}},
    # and again, for one that takes the mean away and has its epoch chosen by changed films
    "left-out, last": {
        "aligned": {"PATCH": "aligned"},
        "letters painted out": {"PATCH": "bare"}, "letters of another film": {"PATCH": "letters"},
        "amplitudes of another film": {"PATCH": "spectrum"}, "conflicting films four times": {"PATCH": "conflicting"},
        "findings as a second task": {"PATCH": "findings"}},
    # the shape of a film: needs pictures that still have theirs
    "geometry": {"middle square": {"GEOMETRY": "crop"}, "whole film between bars": {"GEOMETRY": "fit"}},
}
