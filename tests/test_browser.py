"""The notebook in JupyterLab, with a browser, a mouse and a keyboard.

`make test-browser` runs it, `make test` does not. Screenshots are written to
outputs/browser/: of every section, in the light and the dark theme, and of every
figure, which no theme changes.
"""

import contextlib
import json
import re
import shutil
import subprocess
import sys
from collections import Counter

import pytest
from conftest import ROOT, hide_project
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from test_notebook import NOTEBOOK, SMALLEST

from cxr.phantoms import write_phantoms

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1800)]
SCREENSHOTS = ROOT / "outputs" / "browser"
LAPTOP = 1366, 768
PREFERENCES = {  # all cells stay in the page, and JupyterLab shows no dialogs
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
IDLE = '.jp-Notebook-ExecutionIndicator[data-status="idle"]'
READ_CELLS = """
const errors = '[data-mime-type$=".error"], [data-mime-type$=".stderr"]';
return [...document.querySelectorAll(".jp-Notebook .jp-Cell")].map(cell => ({
    code: cell.classList.contains("jp-CodeCell"),
    heading: cell.querySelector("h2")?.innerText ?? "",
    folded: Boolean(cell.querySelector(".jp-InputPlaceholder")),
    prompt: cell.querySelector(".jp-InputArea-prompt")?.innerText.trim() ?? "",
    figures: [...cell.querySelectorAll(".jp-OutputArea img")].map(
        image => image.offsetHeight && image.naturalWidth),
    text: cell.querySelector(".jp-OutputArea")?.innerText ?? "",
    errors: [...cell.querySelectorAll(errors)].map(output => output.innerText),
}));"""


class Lab:
    """JupyterLab with the notebook open, as a user sees and uses it."""

    def __init__(self, browser, folder):
        self.browser = browser
        self.folder = folder

    def wait(self, condition, what, seconds=300):
        """Wait until `condition()` is true, and return its value."""
        try:
            waiting = WebDriverWait(
                self.browser,
                seconds,
                poll_frequency=0.3,
                ignored_exceptions=[StaleElementReferenceException],
            )
            return waiting.until(lambda _: condition())
        except TimeoutException:
            raise AssertionError(f"not after {seconds} s: {what}") from None

    def visible(self, selector, parent=None):
        """Return the elements that are displayed, of the page or of one element."""
        elements = (parent or self.browser).find_elements(By.CSS_SELECTOR, selector)
        return [element for element in elements if element.is_displayed()]

    def find(self, selector, text=None, parent=None):
        """Wait for an element, with this text if one is given, and return it."""

        def matches():
            elements = self.visible(selector, parent)
            return [element for element in elements if text in (None, element.text)]

        return self.wait(matches, text or selector)[0]

    def act(self):
        return ActionChains(self.browser)

    def cells(self):
        """Return the page's content cell by cell, each with its number and section.

        The section is the number in the last heading.
        """
        cells = self.browser.execute_script(READ_CELLS)
        section = None
        for number, cell in enumerate(cells):
            heading = re.match(r"(\d+)\.", cell["heading"])
            section = int(heading[1]) if heading else section
            cell |= {"section": section, "number": number}
        return cells

    def element(self, number):
        return self.browser.find_elements(By.CSS_SELECTOR, ".jp-Notebook .jp-Cell")[
            number
        ]

    def scroll_to(self, element, block="center"):
        self.browser.execute_script(
            "arguments[0].scrollIntoView({block: arguments[1], behavior: 'instant'})",
            element,
            block,
        )
        return element

    def menu(self, *path):
        """Choose an item of the menu bar by its words."""
        for depth, words in enumerate(path):
            selector = ".lm-Menu-itemLabel" if depth else ".lm-MenuBar-itemLabel"
            self.act().move_to_element(self.find(selector, words)).click().perform()

    def change_settings(self, values):
        """Type values into the settings cell, line by line; leave the cursor there."""
        is_settings = ["\nRUN_NAME = " in source for source in self.sources()]
        number = is_settings.index(True)

        def find_line(name):
            # An editor draws only the lines on the screen and near it.
            cell = self.scroll_to(self.element(number), "nearest")
            for line in cell.find_elements(By.CSS_SELECTOR, ".cm-line"):
                if line.text.startswith(f"{name} = "):
                    return line
            return None

        for name, value in values.items():
            line = self.wait(lambda name=name: find_line(name), f"the line of {name}")
            self.act().click(self.scroll_to(line)).perform()
            new = f"{name} = {value!r}"
            select_line = self.act().send_keys(Keys.HOME).key_down(Keys.SHIFT)
            select_line.send_keys(Keys.END).key_up(Keys.SHIFT).perform()
            self.act().send_keys(new).perform()
            self.wait(
                lambda new=new: new in self.element(number).text.split("\n"),
                f"the settings cell contains {new}",
            )
        return number

    @staticmethod
    def sources():
        return [
            "".join(cell["source"])
            for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
        ]

    def select_sections(self, first, last):
        """Select cells: click on the first heading, with Shift on the last cell."""
        numbers = [
            cell["number"]
            for cell in self.cells()
            if cell["section"] is not None and first <= cell["section"] <= last
        ]
        start = self.find(".jp-InputPrompt", parent=self.element(numbers[0]))
        self.act().click(self.scroll_to(start)).perform()
        end = self.find(".jp-InputPrompt", parent=self.element(numbers[-1]))
        self.scroll_to(end)
        self.act().key_down(Keys.SHIFT).click(end).key_up(Keys.SHIFT).perform()
        selected = ".jp-Notebook .jp-Cell.jp-mod-selected"
        chosen = self.browser.find_elements(By.CSS_SELECTOR, selected)
        assert len(chosen) == len(numbers)

    def finish(self, after, sections, seconds=1500):
        """Wait until these sections have run; return the cells.

        The execution count of each of their code cells then exceeds `after`. Fails at
        once if a cell shows an error.
        """

        def done():
            cells = self.cells()
            failed = {
                cell["number"]: cell["errors"] for cell in cells if cell["errors"]
            }
            assert not failed, f"cells show errors: {failed}"
            counts = [
                re.fullmatch(r"\[(\d+)\]:", cell["prompt"])
                for cell in cells
                if cell["code"] and cell["section"] in sections and not cell["folded"]
            ]  # a collapsed cell shows no count
            is_idle = self.browser.find_elements(By.CSS_SELECTOR, IDLE)
            is_done = all(count and int(count[1]) > after for count in counts)
            return cells if is_idle and is_done else None

        return self.wait(done, f"the cells of sections {sections} have run", seconds)

    def take_screenshot(self, name):
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.browser.save_screenshot(str(SCREENSHOTS / f"{name}.png"))

    def take_screenshots(self, theme, with_figures=False):
        """Take a screenshot of the beginning of each section, and of each figure."""
        numbers = Counter()
        for cell in self.cells():
            section = cell["section"]
            element = self.element(cell["number"])
            if cell["heading"] and section is not None:
                self.scroll_to(element, "start")
                self.take_screenshot(f"{theme}-{section:02}")
            if not (with_figures and cell["figures"]):
                continue
            for image in element.find_elements(By.CSS_SELECTOR, ".jp-OutputArea img"):
                numbers[section] += 1
                self.scroll_to(image)
                self.take_screenshot(f"{theme}-{section:02}-figure-{numbers[section]}")


@contextlib.contextmanager
def serve(folder):
    """Start JupyterLab in a folder, with its own preferences.

    Yields the process and the folder in which it writes its address.
    """
    private = folder / ".private"
    for name, values in PREFERENCES.items():
        target = private / f"settings/@jupyterlab/{name}.jupyterlab-settings"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(values))
    places = {
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
    }
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--port=0",
        "--IdentityProvider.token=lab",
    ]
    with (
        (SCREENSHOTS / "jupyterlab.log").open("w") as log,
        subprocess.Popen(
            command,
            cwd=folder,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env=hide_project(private / "ipython")
            | {name: str(private / place) for name, place in places.items()},
        ) as server,
    ):
        try:
            yield server, private / "runtime"
        finally:
            server.terminate()  # it ends its kernels
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """The notebook, alone with a few phantoms, open in JupyterLab in Chromium."""
    shutil.rmtree(SCREENSHOTS, ignore_errors=True)
    SCREENSHOTS.mkdir(parents=True)
    folder = tmp_path / "empty"
    folder.mkdir()
    shutil.copy(NOTEBOOK, folder)
    write_phantoms(folder / "phantoms", 120, 8, 40)
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for word in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--no-proxy-server",
        "--window-size={},{}".format(*LAPTOP),
    ):
        options.add_argument(word)
    with (
        serve(folder) as (server, runtime),
        webdriver.Chrome(
            options, webdriver.ChromeService(shutil.which("chromedriver"))
        ) as browser,
    ):
        opened = Lab(browser, folder)

        def address():
            log = SCREENSHOTS / "jupyterlab.log"
            assert server.poll() is None, log.read_text()[-2000:]
            for path in runtime.glob("jpserver-*.json"):
                if path.stat().st_size:
                    return json.loads(path.read_text())["url"]
            return None

        url = opened.wait(address, "JupyterLab has started")
        browser.get(f"{url}lab/tree/{NOTEBOOK.name}?token=lab")
        try:
            yield opened
        finally:
            opened.take_screenshot("last")


def test_the_notebook_is_used_in_jupyterlab_as_its_text_says(lab):
    """Run all cells; change a setting, and run sections 6, 7 and 9 again."""
    sources = lab.sources()
    lab.wait(lambda: len(lab.cells()) == len(sources), "all cells are in the page")
    lab.find(IDLE)
    lab.change_settings(SMALLEST | {"DATA_DIR": "phantoms"})
    lab.menu("Run", "Run All Cells")
    cells = lab.finish(0, range(11))

    book = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    folded = [
        number
        for number, cell in enumerate(book)
        if cell["metadata"].get("jupyter", {}).get("source_hidden")
    ]
    shown_folded = [cell["number"] for cell in cells if cell["code"] and cell["folded"]]
    assert folded and shown_folded == folded
    figures = Counter()
    for cell, source in zip(cells, sources):
        assert all(width > 100 for width in cell["figures"])
        figures[cell["section"]] += len(cell["figures"])
        if re.search(r"^show\(", source, re.MULTILINE):
            assert cell["figures"], f"no figure under: {source}"
    saved = list((lab.folder / "outputs/figures").glob("*.png"))
    assert sum(figures.values()) == len(saved)
    assert all(figures[section] for section in (3, 6, 7, 8, 9)), figures
    lab.take_screenshots("light", with_figures=True)

    count = max(
        int(cell["prompt"].strip("[]:"))
        for cell in cells
        if cell["code"] and not cell["folded"]
    )
    lab.change_settings({"RUN_NAME": "slower", "LEARNING_RATE": 0.0005})
    run_cell = lab.act().key_down(Keys.SHIFT).send_keys(Keys.ENTER)
    run_cell.key_up(Keys.SHIFT).perform()
    lab.select_sections(6, 7)
    lab.menu("Run", "Run Selected Cells")
    lab.finish(count, (6, 7))
    lab.select_sections(9, 9)
    lab.menu("Run", "Run Selected Cells")
    cells = lab.finish(count, (6, 7, 9))
    text = "".join(cell["text"] for cell in cells if cell["section"] == 9)
    assert "slower" in text and "reference" in text
    again = Counter()
    for cell in cells:
        again[cell["section"]] += len(cell["figures"])
    for section in (6, 7, 9):
        assert again[section] == figures[section]
    report = json.loads((lab.folder / "outputs/metrics.json").read_text())
    assert report["run"] == "slower" and report["data"] == "phantom"
    assert report["settings"]["LEARNING_RATE"] == 0.0005
    for run in ("reference", "slower"):
        path = lab.folder / f"outputs/runs/{run}/run.json"
        assert json.loads(path.read_text())["validation"]["auc"]

    lab.menu("Settings", "Theme", "JupyterLab Dark")
    lab.find('body[data-jp-theme-light="false"]')
    lab.take_screenshots("dark")
