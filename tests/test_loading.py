"""Loading through the cache: never stale, never trusted when broken, mapped from the disk, and gathered in batches."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import cv2
import keras
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image


@pytest.fixture
def pictures(notebook, tmp_path):
    """A folder with 24 pictures, each of one grey level of its own, and their table."""
    for split, count in (("train", 8), ("test", 4)):
        for number, name in enumerate(("NORMAL", "PNEUMONIA")):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for image in range(count):
                grey = Image.new("L", (70 + image, 60), 20 + 25 * image + 10 * number)
                grey.save(tmp_path / "set" / split / name / f"picture{image}.jpeg")
    return tmp_path / "set"


@pytest.fixture
def load(notebook, pictures, tmp_path, monkeypatch):
    """load(): (x, files, broken, number of pictures decoded), through the cache; checked against a load without one."""
    decoded, decode = [], cv2.imdecode

    def counted(data, flag):
        decoded.append(len(data))
        return decode(data, flag)

    monkeypatch.setattr(cv2, "imdecode", counted)

    def run(size=32):
        files = notebook.list_images(pictures)
        decoded.clear()
        x, table, broken = notebook.load_split(pictures, files, size, "Loading all", tmp_path / "cache")
        count = len(decoded)
        true_x, true_table, true_broken = notebook.load_split(pictures, files, size, "Loading all")
        assert np.array_equal(x, true_x) and table.equals(true_table) and broken.path.equals(true_broken.path)
        return x, table, broken, count

    return run


def test_the_second_load_comes_from_the_cache_and_is_read_only(load, capsys):
    first = load()
    again = load()
    assert (first[3], again[3]) == (24, 0) and "24 images from the cache" in capsys.readouterr().out
    assert np.array_equal(first[0], again[0]) and again[1].equals(first[1])
    for x in (first[0], again[0]):
        with pytest.raises(ValueError, match="read-only"):
            x[0, 0, 0, 0] = 1


def replace_same_size_and_time(folder):
    path, donor = folder / "train/NORMAL/picture1.jpeg", folder / "train/NORMAL/picture2.jpeg"
    before = path.stat()
    content = bytearray(path.read_bytes())
    shutil.copy(donor, path.with_name("new"))
    new = path.with_name("new").read_bytes()
    path.with_name("new").write_bytes(new[:-2] + b"\0" * (len(content) - len(new)) + new[-2:] if len(new) <= len(content) else new)
    path.with_name("new").replace(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES = {
    "added": lambda folder: shutil.copy(folder / "train/NORMAL/picture1.jpeg", folder / "train/NORMAL/a.jpeg"),
    "removed": lambda folder: (folder / "train/NORMAL/picture1.jpeg").unlink(),
    "renamed": lambda folder: (folder / "train/NORMAL/picture1.jpeg").rename(folder / "train/NORMAL/z.jpeg"),
    "touched": lambda folder: (folder / "train/NORMAL/picture1.jpeg").touch(),
    "replaced": lambda folder: Image.new("L", (70, 60), 255).save(folder / "train/NORMAL/picture1.jpeg"),
    "replaced, same size and time": replace_same_size_and_time,
    "two swapped": lambda folder: [(folder / f"train/NORMAL/{a}").rename(folder / f"train/NORMAL/{b}") for a, b in
                                   (("picture1.jpeg", "x"), ("picture2.jpeg", "picture1.jpeg"), ("x", "picture2.jpeg"))],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_cache_is_never_stale(load, pictures, change):
    load()
    CHANGES[change](pictures)
    count = load()[3]
    assert count == len([path for path in pictures.rglob("*") if path.is_file()])
    assert load()[3] == 0


def test_another_size_has_a_cache_of_its_own(load):
    load(32)
    assert load(40)[3] == 24 and load(32)[3] == load(40)[3] == 0


@pytest.mark.parametrize("name", ["read_image", "shrink", "read_odd_picture"])
def test_a_changed_loader_makes_the_cache_anew(notebook, load, monkeypatch, name):
    """As when a reader edits the function in the notebook and runs section 2 again."""
    load()
    old = getattr(notebook, name)

    def changed(*arguments):
        result = old(*arguments)
        return (255 - result[0], result[1]) if name == "read_image" else 255 - result

    monkeypatch.setitem(notebook.load_split.__globals__, name, changed)
    assert load()[3] == 24


def damage(path, change):
    path.write_bytes(change(path.read_bytes()))


DAMAGES = {
    "truncated": lambda place: damage(place / "images.bin", lambda old: old[:-1000]),
    "one bit turned": lambda place: damage(place / "images.bin", lambda old: old[:5000] + bytes([old[5000] ^ 1]) + old[5001:]),
    "zeros after a crash": lambda place: damage(place / "images.bin", lambda old: old[:4096] + bytes(len(old) - 4096)),
    "no images": lambda place: (place / "images.bin").unlink(),
    "record cut": lambda place: damage(place / "record.json", lambda old: old[: len(old) // 2]),
    "record empty": lambda place: damage(place / "record.json", lambda old: b""),
    "record of something else": lambda place: damage(place / "record.json", lambda old: b"[1, 2]"),
    "record with fewer rows": lambda place: damage(place / "record.json", lambda old: json.dumps(
        {**json.loads(old), "rows": json.loads(old)["rows"][:-1]}).encode()),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_broken_cache_is_never_trusted(load, tmp_path, kind):
    load()
    place, = (tmp_path / "cache").iterdir()
    DAMAGES[kind](place)
    assert load()[3] == 24 and load()[3] == 0


def test_a_load_that_is_killed_leaves_nothing_that_looks_whole(notebook, load, pictures, tmp_path):
    code = f"""if True:
        import sys, time; sys.path.insert(0, {str(ROOT / 'notebooks')!r})
        import functions
        notebook = functions.load("load_split", "list_images", "read_image")
        real = notebook.read_image
        def slow(*arguments):
            time.sleep(0.05)
            return real(*arguments)
        notebook.load_split.__globals__["read_image"] = slow
        notebook.load_split({str(pictures)!r}, notebook.list_images({str(pictures)!r}), 32, "Loading all", {str(tmp_path / 'cache')!r})"""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    while not list((tmp_path / "cache").glob("*.unfinished/images.bin")):
        assert child.poll() is None
        time.sleep(0.01)
    time.sleep(0.1)
    child.kill()
    child.wait()
    assert load()[3] == 24
    assert [path.name.endswith("unfinished") for path in (tmp_path / "cache").iterdir()] == [False]


def test_broken_files_are_remembered_but_passing_trouble_of_the_disk_is_not(notebook, load, pictures, monkeypatch):
    (pictures / "test/NORMAL/picture0.jpeg").write_bytes(b"no picture")

    def failing(path, mode):
        if "picture3" in str(path):
            raise OSError(5, "Input/output error")
        return open(path, mode)

    with monkeypatch.context() as trouble:
        trouble.setitem(notebook.read_image.__globals__, "open", failing)
        broken = load()[2]
        assert len(broken) == 5 and broken.problem.str.contains("Input/output error").sum() == 4
    x, table, broken, count = load()
    assert count == 23 and broken.path.tolist() == ["test/NORMAL/picture0.jpeg"] and len(x) == len(table) == 23
    assert load()[3] == 0, "what is no picture today will be none tomorrow"


def test_images_after_a_broken_one_move_up(notebook):
    x = np.arange(3000, dtype=np.uint16)[:, None]
    problems = ["bad" if number % 7 == 0 or number > 2900 else "" for number in range(3000)]
    count = notebook.keep_good(x, [(1, 1, problem) for problem in problems])
    assert x[:count, 0].tolist() == [number for number in range(3000) if not problems[number]]


def test_without_room_for_a_cache_the_images_are_kept_in_memory_and_this_is_said(notebook, pictures, tmp_path, capsys):
    files = notebook.list_images(pictures)
    (tmp_path / "file").write_text("in the way")
    blocked = notebook.load_split(pictures, files, 32, "Loading all", tmp_path / "file")
    assert "No cache: CACHE_DIR" in capsys.readouterr().out
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # the disk is full after 10 kB
    try:
        full = notebook.load_split(pictures, files, 32, "Loading all", tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "is full" in capsys.readouterr().out and not list((tmp_path / "cache").iterdir())
    assert len(blocked[0]) == 24 and np.array_equal(blocked[0], full[0]) and not full[0].flags.writeable


def test_two_loads_at_once_read_the_files_once(notebook, load, pictures, tmp_path, capsys):
    results = []
    files = notebook.list_images(pictures)

    def one():
        results.append(notebook.load_split(pictures, files, 32, "Loading all", tmp_path / "cache")[0])

    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert capsys.readouterr().out.count("from the cache") == 2 and all(np.array_equal(results[0], x) for x in results)


def test_an_interrupted_load_stops_at_once(notebook, pictures, monkeypatch, tmp_path):
    """Ctrl-C must not wait for the rest of a hundred thousand pictures."""
    files = notebook.list_images(pictures)
    many = files.loc[files.index.repeat(1000)].reset_index(drop=True)
    read = []

    def interrupted(path, size):
        read.append(path)
        if len(read) in (100, 4000, 8000):  # again, as one that falls into a destructor is lost; a user, too, would press again
            os.kill(os.getpid(), signal.SIGINT)
        return np.zeros((size, size), np.uint8), (size, size)

    monkeypatch.setitem(notebook.read_images.__globals__, "read_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        notebook.load_split(pictures, many, 32, "Loading all", tmp_path / "cache")
    assert len(read) < 12_000 and not list((tmp_path / "cache").iterdir())


MEASURE = """if True:
    import json, os, resource, sys
    sys.path.insert(0, sys.argv[1])
    import functions, pandas
    notebook = functions.load("load_split")
    files = pandas.DataFrame({"path": [f"{number}.jpeg" for number in range(int(sys.argv[3]))]})
    limit, cache = int(sys.argv[4]), sys.argv[5] or None
    if limit:
        now = int(open("/proc/self/status").read().split("VmData:")[1].split()[0]) * 1024
        resource.setrlimit(resource.RLIMIT_DATA, (now + limit, now + limit))
    x, table, broken = notebook.load_split(sys.argv[2], files, 256, "Loading", cache)
    total = sum(int(x[start: start + 100].sum(dtype="uint64")) for start in range(0, len(x), 100))
    print("\\n" + json.dumps([x.nbytes, total, len(broken), int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024]))"""


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """5,000 names of one picture of 300 × 280 pixels: 328 MB as arrays of 256 × 256."""
    folder = tmp_path_factory.mktemp("many")
    Image.new("L", (300, 280), 100).save(folder / "one", "JPEG")
    for number in range(5000):
        os.link(folder / "one", folder / f"{number}.jpeg")
    return folder


def measure_load(folder, limit, cache=""):
    done = subprocess.run([sys.executable, "-c", MEASURE, str(ROOT / "notebooks"), str(folder), "5000", str(limit), str(cache)],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_peak_memory_is_the_arrays_and_less_than_300_megabytes(many):
    size, total, broken, peak = measure_load(many, 0)
    assert size == 5000 * 256**2 and total == 100 * size and not broken
    assert peak < size + 300e6


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: a limit to the memory that does not count mapped files")
def test_a_folder_larger_than_the_memory_is_mapped(many, tmp_path):
    """200 MB more than the process had before it started loading, for 328 MB of images; twice, once from the cache."""
    for _ in range(2):
        size, total, broken, _ = measure_load(many, 200_000_000, tmp_path / "cache")
        assert size == 5000 * 256**2 and total == 100 * size and not broken
    with pytest.raises(AssertionError, match="MemoryError"):
        measure_load(many, 200_000_000)


def test_batches_show_each_image_once_an_epoch_in_an_order_that_the_seed_decides(notebook):
    arrays = [np.arange(50, dtype=np.uint8).reshape(50, 1, 1, 1), np.arange(50, 60, dtype=np.uint8).reshape(10, 1, 1, 1)]
    rows = np.arange(1, 60, 2)
    batches = notebook.ImageBatches(arrays, rows, rows * 2, 8, seed=3)
    epochs = []
    for epoch in range(3):
        images, labels = (np.concatenate(parts) for parts in zip(*(batches[number] for number in range(len(batches)))))
        assert [len(batches[number][0]) for number in range(len(batches))] == [8, 8, 8, 6]
        assert sorted(images.ravel()) == rows.tolist() and np.array_equal(images.ravel() * 2, labels)
        epochs.append(images.ravel().tolist())
        batches.start_epoch(epoch + 1)
    assert len({tuple(order) for order in epochs}) == 3
    again = notebook.ImageBatches(arrays, rows, rows * 2, 8, seed=3)
    assert again[0][0].ravel().tolist() == epochs[0][:8]
    plain = notebook.ImageBatches(arrays, rows[::-1], rows, 8)
    plain.start_epoch(1)
    assert plain[0][0].ravel().tolist() == rows[::-1][:8].tolist()


def test_fit_takes_the_batches_in_their_order_epoch_after_epoch(notebook, tmp_path):
    """The same weights as from a loop of single steps over the orders that the seed gives."""
    generator = np.random.default_rng(0)
    arrays = [generator.integers(256, size=(count, 4, 4, 1), dtype=np.uint8) for count in (30, 11)]
    rows, labels = np.arange(41), generator.integers(2, size=41)

    def make_model():
        keras.utils.set_random_seed(0)
        inputs = keras.Input((4, 4, 1))
        x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
        model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(x))
        model.compile(keras.optimizers.SGD(0.5), "binary_crossentropy", metrics=["accuracy", keras.metrics.AUC(name="auc")])
        return model

    model = make_model()
    fit = notebook.ImageBatches(arrays, rows, labels, 8, seed=5)
    notebook.train(model, fit, notebook.ImageBatches(arrays, rows, labels, 8), 3, tmp_path, SimpleNamespace(PATIENCE=3))
    by_hand, together = make_model(), np.concatenate(arrays)
    for epoch in range(3):
        order = np.random.default_rng((5, epoch)).permutation(41)
        for start in range(0, 41, 8):
            by_hand.train_on_batch(together[order[start: start + 8]], labels[order[start: start + 8]])
    for got, expected in zip(model.get_weights(), by_hand.get_weights()):
        assert np.allclose(got, expected, atol=1e-6)
    x = np.concatenate(arrays)
    assert np.allclose(notebook.predict_probabilities(model, x, batch_size=7), model.predict(x, verbose=0)[:, 0], atol=1e-6)
