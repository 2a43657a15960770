"""The pages as a site: `make check` builds it, and finds links that lead nowhere."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from browser import BROWSER, DRIVER, start_browser
from harness import REPO, wait_until
from selenium.webdriver.common.by import By

SOURCES = REPO / "site"
OWN = {Path("assets")}  # the rest of site/ are links


def build(folder: Path, source: Path = REPO) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=source,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        text=True,
        capture_output=True,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built") / "site"
    done = build(folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_each_page_is_where_it_is_in_the_repository() -> None:
    links = [path for path in SOURCES.rglob("*") if path.is_symlink()]
    assert len(links) >= 8
    for link in links:
        assert link.samefile(REPO / link.relative_to(SOURCES)), link
    files = {path.relative_to(SOURCES) for path in SOURCES.rglob("*") if path.is_file()}
    own = {path for path in files if not (SOURCES / path).is_symlink() and path.parts[0] != "docs"}
    assert {path.parent for path in own} == OWN


@pytest.mark.parametrize(
    ("page", "line", "said"),
    [
        ("docs/faq.md", "[x](nowhere.md)", "'nowhere.md', but the target"),
        ("docs/faq.md", "[x](calls.md#nowhere)", "does not contain an anchor '#nowhere'"),
        ("README.md", "[x](virnuc_rules/errors.py)", "'virnuc_rules/errors.py'"),
        ("docs/alone.md", "# A page that no other leads to", "docs/alone.md"),
    ],
)
def test_what_leads_nowhere_is_an_error(tmp_path: Path, page: str, line: str, said: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    shutil.copy(REPO / "mkdocs.yml", source)
    shutil.copytree(SOURCES, source / "site")  # a copy of what the links lead to
    with (source / "site" / page).open("a") as handle:
        handle.write(f"\n{line}\n")
    done = build(tmp_path / "site", source)
    assert done.returncode == 1
    assert said in done.stderr


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    """Links that a reader follows may lead there; what a browser loads by itself may not."""
    loaded = re.compile(
        r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=\"?(?:https?:)?//"
    )
    for path in site.rglob("*.html"):
        assert not loaded.search(path.read_text()), path
    for path in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import )[\"']?(?:https?:)?//", path.read_text()), path


@pytest.mark.skipif(not (BROWSER and DRIVER), reason="no Chromium: apt-get install chromium-driver")
def test_search_without_a_server(site: Path) -> None:
    browser = start_browser(1300, 1000)
    try:
        browser.get((site / "index.html").as_uri())
        browser.find_element(By.CSS_SELECTOR, "label.md-header__button[for=__search]")
        browser.execute_script("document.querySelector('#__search').click()")
        entry = browser.find_element(By.CSS_SELECTOR, "input.md-search__input")
        entry.send_keys("prevalence")
        found = "a.md-search-result__link"
        wait_until(lambda: browser.find_elements(By.CSS_SELECTOR, found))
        links = [
            link.get_attribute("href") for link in browser.find_elements(By.CSS_SELECTOR, found)
        ]
    finally:
        browser.quit()
    assert any("docs/calls.html" in str(link) for link in links)


def test_the_front_page_is_short() -> None:
    assert len((REPO / "README.md").read_text().splitlines()) <= 120


def test_lists_are_lists_also_here(site: Path) -> None:
    """GitHub begins a list without a blank line before it; Python's Markdown takes it for text."""
    for path in site.rglob("*.html"):
        text = re.sub(r"<(pre|script).*?</\1>", "", path.read_text(), flags=re.DOTALL)
        assert not re.search(r"^ {0,3}(?:[-*]|\d+\.) \S.*$", text, re.MULTILINE), path
