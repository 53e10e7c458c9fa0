"""Runs JavaScript on a page of the portal in Chromium, where there is no Node: python in_chromium.py CODE ADDRESS."""

import sys

from playwright.sync_api import sync_playwright

from tests.browser.conftest import ARGUMENTS, CHROMIUM, MILLISECONDS


def main(code: str, address: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page()
        page.set_default_timeout(MILLISECONDS)
        page.goto(f"{address}/models/")
        page.on("console", lambda message: print(message.text) if message.type == "log" else None)
        page.evaluate(f"async () => {{\n{code}\n}}")
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
