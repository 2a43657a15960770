"""Size of the report of many samples, and how long Chromium takes to open, sort and search it.

    python benchmarks/report.py [--samples 1000] [--contigs 1000]

Needs Chromium, chromedriver and selenium. The tables are drawn at random, as in the tests. The
page is opened three times; the median is shown.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from selenium import webdriver

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from reporting import make_results

from virnuc_rules.report.page import write_report

TIMED = """
const start = performance.now();
{}
document.body.getBoundingClientRect();  // lays the page out
return performance.now() - start;
"""
STEPS = {
    "sort samples": "document.querySelector('#samples th button').click();",
    "sort contigs by id": "document.querySelectorAll('#contigs th button')[1].click();",
    "search contigs": """const field = document.querySelector('#contigs input');
        field.value = 'node_77'; field.oninput();""",
}


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--contigs", type=int, default=1000, help="of each sample")
    arguments = parser.parse_args()
    names = [f"sample_{index:05d}" for index in range(arguments.samples)]
    with tempfile.TemporaryDirectory() as folder:
        config = make_results(Path(folder), dict.fromkeys(names, arguments.contigs))
        page, start = config.run.results / "report.html", time.monotonic()
        run = write_report(config, page)
        print(f"{len(names):,} samples, {run.contigs.total:,} contigs")
        print(f"write the report: {time.monotonic() - start:.1f} s")
        print(f"page: {page.stat().st_size / 1e6:.1f} MB, {run.contigs.listed:,} contigs listed")
        browse(page)


def browse(page: Path) -> None:
    """Print the times in the browser."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    times = []
    for _ in range(3):
        driver.get("about:blank")
        driver.get(page.as_uri())
        script = "return performance.getEntriesByType('navigation')[0].loadEventEnd"
        times.append(driver.execute_script(script))
    print(f"open: {statistics.median(times) / 1000:.2f} s")
    for name, step in STEPS.items():
        print(f"{name}: {driver.execute_script(TIMED.replace('{}', step)) / 1000:.2f} s")
    driver.quit()


if __name__ == "__main__":
    main()
