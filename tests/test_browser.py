"""The notebook in JupyterLab, with a browser, a mouse and a keyboard: `make test-browser` runs it, `make test` does not.

Screenshots of every section and figure, in the light and the dark theme, are left in outputs/browser/.
"""

import contextlib
import json
import re
import shutil
import subprocess
import sys

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
PICTURES = ROOT / "outputs" / "browser"
LAPTOP = 1366, 768
PREFERENCES = {  # all cells stay in the page, and JupyterLab asks nothing
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
READ_CELLS = """
return [...document.querySelectorAll(".jp-Notebook .jp-Cell")].map(cell => ({
    code: cell.classList.contains("jp-CodeCell"),
    heading: cell.querySelector("h2")?.innerText ?? "",
    folded: Boolean(cell.querySelector(".jp-InputPlaceholder")),
    prompt: cell.querySelector(".jp-InputArea-prompt")?.innerText.trim() ?? "",
    figures: [...cell.querySelectorAll(".jp-OutputArea img")].map(image => image.offsetHeight && image.naturalWidth),
    text: cell.querySelector(".jp-OutputArea")?.innerText ?? "",
    complaints: [...cell.querySelectorAll('[data-mime-type$=".error"], [data-mime-type$=".stderr"]')].map(output => output.innerText),
}));"""


class Lab:
    """JupyterLab with the notebook open, as a user sees and uses it."""

    def __init__(self, browser, folder):
        self.browser, self.folder = browser, folder

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
            raise AssertionError(f"waited {seconds} s in vain: {what}") from None

    def find(self, selector):
        """Wait for an element to be on the screen, and return it."""
        return self.wait(
            lambda: next(
                (
                    one
                    for one in self.browser.find_elements(By.CSS_SELECTOR, selector)
                    if one.is_displayed()
                ),
                None,
            ),
            selector,
        )

    def cells(self):
        """Return what the page shows of each cell; each is given its section, the number in the last heading."""
        cells, section = self.browser.execute_script(READ_CELLS), None
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

            def find(
                words=words,
                selector=".lm-Menu-itemLabel" if depth else ".lm-MenuBar-itemLabel",
            ):
                return next(
                    (
                        one
                        for one in self.browser.find_elements(By.CSS_SELECTOR, selector)
                        if one.is_displayed() and one.text == words
                    ),
                    None,
                )

            ActionChains(self.browser).move_to_element(
                self.wait(find, " → ".join(path))
            ).click().perform()

    def change_settings(self, values):
        """Type new values into the settings cell, line by line, and leave the cursor there."""
        number = next(
            cell["number"]
            for cell, source in zip(self.cells(), self.sources())
            if "\nRUN_NAME = " in source
        )
        for name, value in values.items():

            def find(
                name=name,
            ):  # an editor draws only the lines on the screen and near it
                self.scroll_to(self.element(number), "nearest")
                return next(
                    (
                        one
                        for one in self.element(number).find_elements(
                            By.CSS_SELECTOR, ".cm-line"
                        )
                        if one.text.startswith(f"{name} = ")
                    ),
                    None,
                )

            ActionChains(self.browser).click(
                self.scroll_to(self.wait(find, f"the line of {name}"))
            ).perform()
            wanted = f"{name} = {value!r}"
            ActionChains(self.browser).send_keys(Keys.HOME).key_down(
                Keys.SHIFT
            ).send_keys(Keys.END).key_up(Keys.SHIFT).send_keys(wanted).perform()
            self.wait(
                lambda wanted=wanted: wanted in self.element(number).text.split("\n"),
                f"the settings cell does not say {wanted}",
            )
        return number

    @staticmethod
    def sources():
        return [
            "".join(cell["source"])
            for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
        ]

    def select_sections(self, first, last):
        """Click on the heading of the first section, and with Shift on the last cell of the last."""
        numbers = [
            cell["number"]
            for cell in self.cells()
            if cell["section"] is not None and first <= cell["section"] <= last
        ]
        start, end = (
            next(
                one
                for one in self.element(number).find_elements(
                    By.CSS_SELECTOR, ".jp-InputPrompt"
                )
                if one.is_displayed()
            )
            for number in (numbers[0], numbers[-1])
        )
        ActionChains(self.browser).click(self.scroll_to(start)).perform()
        ActionChains(self.browser).key_down(Keys.SHIFT).click(
            self.scroll_to(end)
        ).key_up(Keys.SHIFT).perform()
        chosen = self.browser.find_elements(
            By.CSS_SELECTOR, ".jp-Notebook .jp-Cell.jp-mod-selected"
        )
        assert len(chosen) == len(numbers)

    def finish(self, after, sections, seconds=1500):
        """Wait until all code cells of these sections have run since the count was `after`; return the cells.

        Fails at once where a cell shows an error.
        """

        def done():
            cells = self.cells()
            wrong = {
                cell["number"]: cell["complaints"]
                for cell in cells
                if cell["complaints"]
            }
            assert not wrong, f"cells show errors: {wrong}"
            counts = [
                re.fullmatch(r"\[(\d+)\]:", cell["prompt"])
                for cell in cells
                if cell["code"] and cell["section"] in sections and not cell["folded"]
            ]  # a folded cell shows no count
            idle = self.browser.find_elements(
                By.CSS_SELECTOR, '.jp-Notebook-ExecutionIndicator[data-status="idle"]'
            )
            return (
                cells
                if idle and all(count and int(count[1]) > after for count in counts)
                else None
            )

        return self.wait(done, f"the cells of sections {sections} have run", seconds)

    def picture(self, name):
        PICTURES.mkdir(parents=True, exist_ok=True)
        self.browser.save_screenshot(str(PICTURES / f"{name}.png"))

    def album(self, theme):
        """Leave a screenshot of the beginning of each section and one of each figure."""
        shown = {}
        for cell in self.cells():
            if cell["heading"] and cell["section"] is not None:
                self.scroll_to(self.element(cell["number"]), "start")
                self.picture(f"{theme}-{cell['section']:02}")
            for image in (
                self.element(cell["number"]).find_elements(
                    By.CSS_SELECTOR, ".jp-OutputArea img"
                )
                if cell["figures"]
                else []
            ):
                shown[cell["section"]] = shown.get(cell["section"], 0) + 1
                self.scroll_to(image)
                self.picture(
                    f"{theme}-{cell['section']:02}-figure-{shown[cell['section']]}"
                )


@contextlib.contextmanager
def serve(folder):
    """Start JupyterLab in a folder, with preferences of its own; yield its address with the notebook open."""
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
        (PICTURES / "jupyterlab.log").open("w") as log,
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
    """The notebook, alone in a folder with a few phantoms, open in JupyterLab in Chromium."""
    shutil.rmtree(PICTURES, ignore_errors=True)
    PICTURES.mkdir(parents=True)
    folder = tmp_path / "empty"
    folder.mkdir()
    shutil.copy(NOTEBOOK, folder)
    write_phantoms(folder / "phantoms", 200, 16, 60)
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
            assert server.poll() is None, (PICTURES / "jupyterlab.log").read_text()[
                -2000:
            ]
            return next(
                (
                    json.loads(path.read_text())["url"]
                    for path in runtime.glob("jpserver-*.json")
                    if path.stat().st_size
                ),
                None,
            )

        url = opened.wait(address, "JupyterLab has started")
        browser.get(f"{url}lab/tree/{NOTEBOOK.name}?token=lab")
        try:
            yield opened
        finally:
            opened.picture("last")


def test_the_notebook_is_used_in_jupyterlab_as_its_text_says(lab):
    """Smallest settings typed in, Run All Cells, one setting changed, sections 6, 7 and 9 again."""
    sources = lab.sources()
    lab.wait(lambda: len(lab.cells()) == len(sources), "all cells are in the page")
    lab.find('.jp-Notebook-ExecutionIndicator[data-status="idle"]')
    lab.change_settings(SMALLEST | {"DATA_DIR": "phantoms"})
    lab.menu("Run", "Run All Cells")
    cells = lab.finish(0, range(11))

    book = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    folded = [
        number
        for number, cell in enumerate(book)
        if cell["metadata"].get("jupyter", {}).get("source_hidden")
    ]
    assert (
        folded
        and [cell["number"] for cell in cells if cell["code"] and cell["folded"]]
        == folded
    )
    figures = {cell["section"]: 0 for cell in cells}
    for cell, source in zip(cells, sources):
        assert all(width > 100 for width in cell["figures"])
        figures[cell["section"]] += len(cell["figures"])
        if "show_figure(" in source and "def show_figure" not in source:
            assert cell["figures"] or "if " in source, f"no figure under: {source}"
    assert sum(figures.values()) == len(
        list((lab.folder / "outputs/figures").glob("*.png"))
    )
    assert all(figures[section] for section in (3, 6, 7, 8, 9)), figures
    lab.album("light")

    count = max(
        int(cell["prompt"].strip("[]:"))
        for cell in cells
        if cell["code"] and not cell["folded"]
    )
    lab.change_settings({"RUN_NAME": "slower", "LEARNING_RATE": 0.0005})
    ActionChains(lab.browser).key_down(Keys.SHIFT).send_keys(Keys.ENTER).key_up(
        Keys.SHIFT
    ).perform()
    lab.select_sections(6, 7)
    lab.menu("Run", "Run Selected Cells")
    lab.finish(count, (6, 7))
    lab.select_sections(9, 9)
    lab.menu("Run", "Run Selected Cells")
    cells = lab.finish(count, (6, 7, 9))
    told = "".join(cell["text"] for cell in cells if cell["section"] == 9)
    assert "slower" in told and "reference" in told
    for section in (6, 7, 9):
        assert (
            sum(len(cell["figures"]) for cell in cells if cell["section"] == section)
            == figures[section]
        )
    metrics = json.loads((lab.folder / "outputs/metrics.json").read_text())
    assert (
        metrics["run"] == "slower"
        and metrics["settings"]["LEARNING_RATE"] == 0.0005
        and metrics["data"] == "phantom"
    )
    for run in ("reference", "slower"):
        assert json.loads((lab.folder / f"outputs/runs/{run}/run.json").read_text())[
            "validation"
        ]["auc"]

    lab.menu("Settings", "Theme", "JupyterLab Dark")
    lab.find('body[data-jp-theme-light="false"]')
    lab.album("dark")
