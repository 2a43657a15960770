"""The report in a real Chromium, from a file, without a network."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from reporting import HOSTILE, make_results
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

from virnuc_rules.report import write_report

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
    write_report(config, config.results / "report.html")
    return config.results / "report.html"


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
    assert "These are demo models" in texts(opened, ".demo")[0]
    assert "not verified" in texts(opened, "#workers")[0]
    assert opened.get_log("browser") == []
    assert opened.execute_script("return document.documentElement.scrollWidth") <= 1200


def test_the_picker_finds_and_draws_a_contig(opened: webdriver.Chrome) -> None:
    assert texts(opened, "#count") == ["430 of 430, the first 300 are listed"]
    search = opened.find_element(By.ID, "search")
    search.send_keys("contig_39")
    listed = texts(opened, "#list span")
    assert listed and all("contig_39" in name for name in listed)
    opened.find_elements(By.CSS_SELECTOR, "#list li")[-1].click()
    assert texts(opened, "#track .contig") == [listed[-1]]
    windows = opened.find_elements(By.CSS_SELECTOR, "#track rect title")
    note = texts(opened, "#track .note")[0]
    assert f"called of {len(windows)} windows" in note
    Select(opened.find_element(By.ID, "call")).select_by_visible_text("no call")
    search.clear()
    search.send_keys("nobody is called so")
    assert texts(opened, "#count") == ["0 of 430"] and texts(opened, "#track .contig") == []


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_ids_are_only_text(opened: webdriver.Chrome, name: str) -> None:
    opened.find_element(By.ID, "search").send_keys(name)
    assert name in texts(opened, "#list span")
    opened.find_element(By.CSS_SELECTOR, "#list li").click()
    assert texts(opened, "#track .contig") == [name]
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
