"""The report in a real Chromium, from a file, without a network."""

import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from browser import BROWSER, DRIVER, start_browser
from harness import BUNDLE
from reporting import HOSTILE, make_results
from scipy.special import expit
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select

from virnuc_rules.config.model import Config
from virnuc_rules.config.run_folder import RunFolder
from virnuc_rules.report.page import write_report

pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="no Chromium: apt-get install chromium chromium-driver"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    driver = start_browser(1200, 1600)
    yield driver
    driver.quit()


TAXA = "Viruses;<b>Caudo</b>", "Viruses;Micro"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = make_results(tmp_path_factory.mktemp("run"), {"lake": 400, "gut": 30})
    columns = {
        "sample": ["lake", "gut"], "contig_index": [7, 8], "region": pa.nulls(2, pa.int64()),
        "genomad.taxonomy": TAXA, "checkv.completeness": ["99.5", None],
    }  # fmt: skip
    pq.write_table(pa.table(columns), config.run.results / "viruses.parquet")
    write_report(config, config.run.results / "report.html")
    return config.run.results / "report.html"


@pytest.fixture
def opened(browser: webdriver.Chrome, page: Path) -> webdriver.Chrome:
    browser.get(page.as_uri())
    return browser


def texts(browser: webdriver.Chrome, selector: str) -> list[str]:
    return [found.text for found in browser.find_elements(By.CSS_SELECTOR, selector)]


def column(browser: webdriver.Chrome, section: str, at: int) -> list[str]:
    """Return the texts of a column of a table."""
    script = """return [...document.querySelectorAll(`#${arguments[0]} .rows tbody tr`)].map(
                  (tr) => tr.cells[arguments[1]].textContent)"""
    found: list[str] = browser.execute_script(script, section, at)
    return found


def head(browser: webdriver.Chrome, section: str, text: str) -> WebElement:
    """Return the header of a column."""
    heads = browser.find_elements(By.CSS_SELECTOR, f"#{section} th[aria-sort]")
    (found,) = [each for each in heads if each.text.split(" ↑")[0].split(" ↓")[0] == text]
    return found


def search(browser: webdriver.Chrome, section: str, text: str) -> None:
    field = browser.find_element(By.CSS_SELECTOR, f"#{section} input")
    field.clear()
    field.send_keys(text)


def test_it_renders_without_errors(opened: webdriver.Chrome) -> None:
    assert opened.title == "VirNuc report"  # and nothing hostile has changed it
    assert len(opened.find_elements(By.CSS_SELECTOR, "#figures svg")) == 3
    assert "relative score of a window" in texts(opened, "#figures text")
    assert texts(opened, "#reasons code") == ["no_open_frame"]
    assert texts(opened, ".demo strong") == ["DEMO MODEL"]
    assert "not verified" in texts(opened, "#workers")[0]
    assert opened.get_log("browser") == []
    assert opened.execute_script("return document.documentElement.scrollWidth") <= 1200


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read_on_the_colours_of_the_heat_map(
    opened: webdriver.Chrome, scheme: str
) -> None:
    """Contrast of at least 4.5, WCAG 2 AA, by its definition of relative luminance."""
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    colours = opened.execute_script(
        """return [...document.querySelectorAll("#samples .h")].map((e) => getComputedStyle(e)).map(
             (style) => [style.color, style.backgroundColor])"""
    )
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert len({ground for _, ground in colours}) == 6

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for pair in colours:
        low, high = sorted(map(luminance, pair))
        assert (high + 0.05) / (low + 0.05) >= 4.5, pair


def test_samples_are_sorted_and_searched(opened: webdriver.Chrome) -> None:
    assert column(opened, "samples", 0) == ["lake", "gut"]
    name = head(opened, "samples", "sample")
    name.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    assert name.get_attribute("aria-sort") == "ascending"
    assert column(opened, "samples", 0) == ["gut", "lake"]
    bases = head(opened, "samples", "bases")
    for direction in ("descending", "ascending"):  # numbers begin with the largest
        bases.find_element(By.TAG_NAME, "button").click()
        assert bases.get_attribute("aria-sort") == direction
        numbers = [int(t.replace(",", "")) for t in column(opened, "samples", 12)]
        assert numbers == sorted(numbers, reverse=direction == "descending")
    assert name.get_attribute("aria-sort") == "none"
    search(opened, "samples", "GU")
    assert column(opened, "samples", 0) == ["gut"]


def test_places_and_scores_are_those_of_the_window_table(
    opened: webdriver.Chrome, page: Path
) -> None:
    """The page computes where windows are; the table has it from the code that cut them."""
    found = opened.execute_script(
        """return ID.map((id, row) => {
             const {total, start, end} = windowsOf(row), name = sampleOf(row);
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


def test_the_drawn_regions_are_those_of_the_table(opened: webdriver.Chrome, page: Path) -> None:
    found = opened.execute_script(
        """return ID.map((id, row) => regionsOf(row).map(
             ({start, end}) => [sampleOf(row), C.contig_index[row], start, end])).flat()"""
    )
    table = [
        (name, *(region[key] for key in ("contig_index", "start", "end")))
        for name in ("lake", "gut")
        for region in pq.read_table(page.parent / name / "regions.parquet").to_pylist()
    ]
    assert sorted(map(tuple, found)) == sorted(table) and len(table) > 200


def test_a_contig_is_found_chosen_and_drawn_once(opened: webdriver.Chrome) -> None:
    assert texts(opened, "#contigs [role=status]") == ["430 of 430, 1 to 200 shown"]
    assert len(opened.find_elements(By.CSS_SELECTOR, "#contigs svg")) == 1
    search(opened, "contigs", "node_39")
    listed = column(opened, "contigs", 1)
    assert listed and all("NODE_39" in name for name in listed)
    opened.find_elements(By.CSS_SELECTOR, "#contigs tbody tr")[-1].click()
    assert texts(opened, "#track b") == [listed[-1]]
    assert len(opened.find_elements(By.CSS_SELECTOR, "#contigs svg")) == 1
    numbers = dict(text.split("\n") for text in texts(opened, "#track .numbers > div"))
    paths = opened.find_elements(By.CSS_SELECTOR, "#track path")
    drawn = {p.get_attribute("class"): (p.get_attribute("d") or "").count("M") for p in paths}
    viral, called = re.findall(r"\d+", numbers["viral windows"])
    assert sum(drawn.values()) == int(numbers["windows"])
    assert (drawn["virus"], drawn["virus"] + drawn["non_viral"]) == (int(viral), int(called))
    bars = opened.find_elements(By.CSS_SELECTOR, "#track rect.region")
    assert len(bars) == int(numbers["regions"])
    ActionChains(opened).move_to_element(
        opened.find_element(By.CSS_SELECTOR, "#track svg")
    ).perform()
    assert re.match(r"window \d+, [\d,]+ to [\d,]+: ", texts(opened, "#track .readout")[0])
    search(opened, "contigs", "nobody is called so")
    assert texts(opened, "#contigs [role=status]") == ["0 of 430"]
    assert texts(opened, "#track b") == []


def test_contigs_by_sample_order_page_and_keys(opened: webdriver.Chrome) -> None:
    assert head(opened, "contigs", "call").get_attribute("aria-sort") == "ascending"
    scores = [text for text in column(opened, "contigs", 4) if text != "–"]
    calls = column(opened, "contigs", 0)
    assert set(calls) == {"virus"} and scores == sorted(scores, reverse=True)  # the first page
    first = list(zip(*(column(opened, "contigs", at) for at in (1, 2)), strict=True))
    before, after = opened.find_elements(By.CSS_SELECTOR, "#contigs .pager button")
    after.click()
    assert texts(opened, "#contigs [role=status]") == ["430 of 430, 201 to 400 shown"]
    names = list(zip(*(column(opened, "contigs", at) for at in (1, 2)), strict=True))
    assert len({*first, *names}) == 400
    before.click()
    assert column(opened, "contigs", 1) == [name for name, _ in first]
    assert not before.is_enabled() and after.is_enabled()
    Select(opened.find_element(By.ID, "of")).select_by_visible_text("gut")
    assert texts(opened, "#contigs [role=status]") == ["30 of 430"]
    head(opened, "contigs", "length, bases").find_element(By.TAG_NAME, "button").click()
    lengths = [int(text.replace(",", "")) for text in column(opened, "contigs", 3)]
    assert len(lengths) == 30 and lengths == sorted(lengths, reverse=True)
    opened.find_element(By.CSS_SELECTOR, "#contigs tbody tr").send_keys(Keys.ARROW_DOWN)
    assert texts(opened, "#track b") == [column(opened, "contigs", 1)[1]]
    button = head(opened, "contigs", "relative score").find_element(By.TAG_NAME, "button")
    for direction in (-1, 1):  # contigs without a call are the last ones in both
        button.send_keys(Keys.ENTER)
        scores = column(opened, "contigs", 4)
        known = [float(text) for text in scores if text != "–"]
        assert known == sorted(known)[::direction] and set(scores[len(known) :]) <= {"–"}
    Select(opened.find_element(By.ID, "call")).select_by_visible_text("no call")
    assert set(column(opened, "contigs", 4)) <= {"–"}


def test_annotations_are_only_text_and_can_be_searched(opened: webdriver.Chrome) -> None:
    assert head(opened, "contigs", "genomad.taxonomy")
    search(opened, "contigs", "viruses;")
    assert sorted(column(opened, "contigs", 7)) == sorted(TAXA)
    head(opened, "contigs", "checkv.completeness").find_element(By.TAG_NAME, "button").click()
    assert column(opened, "contigs", 8) == ["99.5", ""]
    assert f"genomad.taxonomy\n{TAXA[0]}" in texts(opened, "#track .numbers > div")


def test_links_are_what_a_browser_takes_for_the_files(opened: webdriver.Chrome, page: Path) -> None:
    folder = page.parent / "odd % #?&'\"<x>"
    folder.mkdir(exist_ok=True)
    config = Config.of(samples=page.parents[1] / "samples.tsv", results=page.parent, bundle=BUNDLE)
    bed = RunFolder(page.parent).sample("gut").bed
    bed.parent.mkdir()
    bed.write_text("a region")
    (page.parent / "viruses.tsv").touch()
    write_report(config, folder / "page.html")
    opened.get((folder / "page.html").as_uri())
    for path in (folder / "summary.tsv", page.parent / "viruses.tsv"):
        link = opened.find_element(By.LINK_TEXT, path.name).get_attribute("href")
        assert link == path.as_uri() and path.exists()
    opened.find_element(By.LINK_TEXT, "tracks/").click()
    assert bed.name in opened.page_source  # a list of the files in the folder
    opened.get_log("browser")  # Chromium warns of its own list


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_ids_are_only_text(opened: webdriver.Chrome, name: str) -> None:
    search(opened, "contigs", name)
    assert name in column(opened, "contigs", 1)
    opened.find_element(By.CSS_SELECTOR, "#contigs tbody tr").click()
    assert texts(opened, "#track b") == [name]
    assert opened.title == "VirNuc report" and opened.get_log("browser") == []


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
    assert texts(browser, "#contigs [role=status]") == ["100,000 of 100,000, 1 to 200 shown"]
    search(browser, "contigs", "NODE_99998_")
    assert column(browser, "contigs", 1) == ["NODE_99998_length_99998_cov_99998.000000"]
    assert len(browser.find_elements(By.CSS_SELECTOR, "#track path")) == 3
    assert browser.get_log("browser") == []


def test_many_samples(browser: webdriver.Chrome, tmp_path_factory: pytest.TempPathFactory) -> None:
    """How much a page grows by each, and that it works; benchmarks/report.py has 1,000 samples."""
    samples = {f"sample_{n:03d}": 5 for n in range(210)}
    config = make_results(tmp_path_factory.mktemp("cohort"), samples)
    page = config.run.results / "report.html"
    write_report(config, page)
    browser.get(page.as_uri())
    assert texts(browser, "#samples [role=status]") == ["210 of 210, 1 to 200 shown"]
    assert len(browser.find_elements(By.CSS_SELECTOR, ".rows tbody tr")) == 400
    head(browser, "samples", "sample").find_element(By.TAG_NAME, "button").click()
    head(browser, "samples", "sample").find_element(By.TAG_NAME, "button").click()
    assert column(browser, "samples", 0)[0].startswith("sample_209")
    search(browser, "samples", "sample_123")
    assert len(column(browser, "samples", 0)) == 1
    assert browser.get_log("browser") == []
    rows = re.findall(r"<tr><td class=\"id\">sample_.*?</tr>", page.read_text(), re.DOTALL)
    assert len(rows) == 210 and max(map(len, rows)) < 2500
