"A real browser for the tests: chromium, driven by playwright, with what pages do wrong written down"
import os, shutil
from contextlib import contextmanager

import pytest

# No sandbox as root in a container; nothing that calls home
flags = ('--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking '
         '--disable-component-update --disable-sync').split()

def chromium():
    "Where a browser is, or a reason to skip"
    found = os.environ.get('CHROMIUM') or next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
    return found or pytest.skip('no chromium on PATH (Debian: apt-get install chromium); CHROMIUM names another')

@contextmanager
def open_browser():
    "A chromium, closed afterwards"
    pytest.importorskip('playwright', reason='playwright is not installed')
    from playwright.sync_api import sync_playwright
    path = chromium()
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()

def watched(context, ok=('file:', 'data:', 'blob:')):
    "A new page, and the list that its failed or foreign requests and its script errors go to"
    page, wrong = context.new_page(), []
    page.on('pageerror', lambda e: wrong.append(f'script error: {e}'))
    page.on('console', lambda m: wrong.append(f'console: {m.text}') if m.type == 'error' else None)
    page.on('requestfailed', lambda r: wrong.append(f'failed request: {r.url}'))
    page.on('request', lambda r: wrong.append(f'request to elsewhere: {r.url}') if not r.url.startswith(ok) else None)
    return page, wrong
