"""The report in a real Chromium, from a file, without a network."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from reporting import HOSTILE, make_results
from scipy.special import expit
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from virnuc_rules.report.page import write_report

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="no Chromium: apt-get install chromium chromium-driver"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER or ""
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1200,1600",
        "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = make_results(tmp_path_factory.mktemp("run"), {"lake": 400, "gut": 30})
    write_report(config, config.run.results / "report.html")
    return config.run.results / "report.html"


@pytest.fixture
def opened(browser: webdriver.Chrome, page: Path) -> webdriver.Chrome:
    browser.get(page.as_uri())
    return browser


def texts(browser: webdriver.Chrome, selector: str) -> list[str]:
    return [found.text for found in browser.find_elements(By.CSS_SELECTOR, selector)]


def test_it_renders_without_errors(opened: webdriver.Chrome) -> None:
    assert opened.title == "VirNuc report"  # and nothing hostile has changed it
    assert len(opened.find_elements(By.CSS_SELECTOR, "#scores rect")) > 30
    assert len(opened.find_elements(By.CSS_SELECTOR, "#lengths rect")) == 7
    assert texts(opened, "#reasons .name") == ["no_open_frame"]
    assert len(opened.find_elements(By.CSS_SELECTOR, "#top svg")) == 6
    assert texts(opened, ".demo strong") == ["DEMO MODEL"]
    assert "not verified" in texts(opened, "#workers")[0]
    assert opened.get_log("browser") == []
    assert opened.execute_script("return document.documentElement.scrollWidth") <= 1200


def test_places_and_scores_are_those_of_the_window_table(
    opened: webdriver.Chrome, page: Path
) -> None:
    """The page computes where windows are; the table has it from the code that cut them."""
    found = opened.execute_script(
        """return ID.map((id, row) => {
             const {total, start, end} = windowsOf(row), {name} = DATA.samples[C.sample[row]];
             return Array.from({length: total}, (_, at) => {
               const {call, score} = scoreOf(row, at);
               return [name, C.contig_index[row], at + 1, start(at), end(at), call, score];
             });
           }).flat()"""
    )
    drawn = {tuple(window[:6]): window[6] for window in found}
    table = {
        (name, *(w[key] for key in ("contig_index", "window", "start", "end", "call"))): w
        for name in ("lake", "gut")
        for w in pq.read_table(page.parent / name / "windows.parquet").to_pylist()
    }
    assert drawn.keys() == table.keys() and len(table) == len(found) > 1000
    shown = {key: 0 if w["margin"] is None else expit(w["margin"]) for key, w in table.items()}
    assert all(abs(drawn[key] - value) < 1 / 120 for key, value in shown.items())


def test_the_picker_finds_and_draws_a_contig(opened: webdriver.Chrome) -> None:
    assert texts(opened, "#count") == ["430 of 430, the first 300 are shown"]
    search = opened.find_element(By.ID, "search")
    search.send_keys("node_39")
    listed = texts(opened, "#list span")
    assert listed and all("NODE_39" in name for name in listed)
    opened.find_elements(By.CSS_SELECTOR, "#list li")[-1].click()
    assert texts(opened, "#track b") == [listed[-1]]
    numbers = dict(text.split("\n") for text in texts(opened, "#track .numbers > div"))
    paths = opened.find_elements(By.CSS_SELECTOR, "#track path")
    drawn = {p.get_attribute("class"): (p.get_attribute("d") or "").count("M") for p in paths}
    assert sum(drawn.values()) == int(numbers["windows"])
    assert drawn["virus"] + drawn["non_viral"] == int(numbers["called windows"])
    assert drawn["virus"] == int(numbers["viral windows"].split()[0])
    ActionChains(opened).move_to_element(
        opened.find_element(By.CSS_SELECTOR, "#track svg")
    ).perform()
    assert re.match(r"window \d+, [\d,]+ to [\d,]+: ", texts(opened, "#track .readout")[0])
    Select(opened.find_element(By.ID, "call")).select_by_visible_text("no call")
    search.clear()
    search.send_keys("nobody is called so")
    assert texts(opened, "#count") == ["0 of 430"] and texts(opened, "#track b") == []


def test_the_list_by_sample_order_and_keys(opened: webdriver.Chrome) -> None:
    Select(opened.find_element(By.ID, "of")).select_by_visible_text("gut")
    assert texts(opened, "#count") == ["30 of 430"]
    Select(opened.find_element(By.ID, "order")).select_by_visible_text("longest first")
    notes = texts(opened, "#list small")
    lengths = [int(note.split(", ", 1)[1].split(" ")[0].replace(",", "")) for note in notes]
    assert len(lengths) == 30 and lengths == sorted(lengths, reverse=True)
    first = opened.find_element(By.CSS_SELECTOR, "#list li")
    first.send_keys(Keys.ARROW_DOWN)
    assert texts(opened, "#track b") == [texts(opened, "#list span")[1]]
    Select(opened.find_element(By.ID, "order")).select_by_visible_text("by relative score")
    scores = [note.rsplit(" ", 1)[1] for note in texts(opened, "#list small")]
    assert scores == sorted(scores, key=lambda text: -1 if text == "–" else float(text))[::-1]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_ids_are_only_text(opened: webdriver.Chrome, name: str) -> None:
    opened.find_element(By.ID, "search").send_keys(name)
    assert name in texts(opened, "#list span")
    opened.find_element(By.CSS_SELECTOR, "#list li").click()
    assert texts(opened, "#track b") == [name]
    assert opened.title == "VirNuc report" and opened.get_log("browser") == []


def test_figures_of_one_sample(opened: webdriver.Chrome) -> None:
    before = texts(opened, "#lengths text")
    Select(opened.find_element(By.ID, "sample")).select_by_visible_text("gut")
    assert texts(opened, "#lengths text") != before


def test_on_a_narrow_screen(opened: webdriver.Chrome) -> None:
    opened.set_window_size(500, 1000)
    opened.refresh()
    wide = opened.execute_script("return document.documentElement.scrollWidth")
    opened.set_window_size(1200, 1600)
    assert wide <= 500


def test_a_hundred_thousand_contigs(
    browser: webdriver.Chrome, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = make_results(tmp_path_factory.mktemp("ocean"), {"ocean": 100_000})
    write_report(config, config.run.results / "report.html")
    browser.get((config.run.results / "report.html").as_uri())
    assert texts(browser, "#count") == ["100,000 of 100,000, the first 300 are shown"]
    browser.find_element(By.ID, "search").send_keys("NODE_99998_")
    assert texts(browser, "#list span") == ["NODE_99998_length_99998_cov_99998.000000"]
    assert len(browser.find_elements(By.CSS_SELECTOR, "#track path")) == 3
    assert browser.get_log("browser") == []
