"""A headless Chromium for tests of pages, without a network."""

import shutil

from selenium import webdriver

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


def start_browser(width: int, height: int) -> webdriver.Chrome:
    """Start Chromium with a window of so many pixels; it keeps the messages of its console."""
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER or ""
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", f"--window-size={width},{height}",
        "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
