"A real browser for the tests: chromium, driven by playwright, and a record of what pages do wrong"
import os, shutil
from contextlib import contextmanager

import pytest

# No sandbox as root in a container; no background requests
flags = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
         '--disable-background-networking', '--disable-component-update', '--disable-sync']

def chromium():
    "Path of a browser; skips the test if there is none"
    if 'CHROMIUM' in os.environ: return os.environ['CHROMIUM']
    for name in ('chromium', 'chromium-browser', 'google-chrome'):
        path = shutil.which(name)
        if path: return path
    pytest.skip('no chromium on PATH (Debian: apt-get install chromium); CHROMIUM names another')

@contextmanager
def open_browser():
    "Yield a chromium, and close it afterwards"
    pytest.importorskip('playwright', reason='playwright is not installed')
    from playwright.sync_api import sync_playwright
    path = chromium()
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()

def watched(context, ok=('file:', 'data:', 'blob:')):
    "A new page, and a list of its script errors and its failed or external requests"
    page, wrong = context.new_page(), []
    def on_console(m):
        if m.type == 'error': wrong.append(f'console: {m.text}')
    def on_request(r):
        if not r.url.startswith(ok): wrong.append(f'external request: {r.url}')
    page.on('pageerror', lambda e: wrong.append(f'script error: {e}'))
    page.on('console', on_console)
    page.on('requestfailed', lambda r: wrong.append(f'failed request: {r.url}'))
    page.on('request', on_request)
    return page, wrong
