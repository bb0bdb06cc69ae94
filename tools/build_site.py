#!/usr/bin/env python3
"""Build the site into _docs, offline and without Quarto

    python tools/build_site.py [--force]

nbdev processes the notebooks, and smalldocs, which reads the same _quarto.yml, renders them. The
result opens from its folder (_docs/index.html) and loads nothing from other hosts. Where Quarto is
installed, `nbdev_docs` builds the same sources, without what this file and tools/site add.
"""
import argparse, re, shutil, sys
from pathlib import Path

here = Path(__file__).resolve().parent
KATEX = 'https://cdn.jsdelivr.net/npm/katex@0.16.11/dist'

def process(cfg, force):
    "Prepare notebooks for Quarto, in _proc, as `nbdev_proc_nbs` does, without installing Quarto"
    from nbdev.doclinks import _build_modidx
    from nbdev.quarto import refresh_quarto_yml
    from nbdev.serve import proc_nbs
    refresh_quarto_yml()
    _build_modidx()
    proc = cfg.config_path/'_proc'
    # nbdev compares with its own script only, but ours prepares pages, too
    showdoc = cfg.lib_path/'showdoc.py'
    if proc.exists() and proc.stat().st_mtime < showdoc.stat().st_mtime: force = True
    # nbdev keeps the files it made before: remove those without a source
    for f in sorted(proc.rglob('*'), reverse=True):
        if f.is_file() and not (cfg.nbs_path/f.relative_to(proc)).exists(): f.unlink()
    return proc_nbs(cfg.nbs_path, force=force, n_workers=2)

def refuse_double(page, other):
    "End the build if two pages would be written to the same file (some systems ignore case)"
    if str(page.out).lower() != str(other.out).lower(): return
    sys.exit(f'nbs/{other.src} and nbs/{page.src} would both become {page.out} (nbdev drops the '
             'number from the name of a notebook): rename one of them')

def course_site(root):
    "smalldocs' site, with two additions"
    from smalldocs.config import load
    from smalldocs.site import Site, rel

    class CourseSite(Site):
        def read(self, src):
            "Pages go where nbdev says: api/16_loaders.ipynb becomes api/loaders.html"
            page = super().read(src)
            name = page.front.get('output-file')
            if name: page.out = src.with_name(str(name))
            for other in self.pages.values(): refuse_double(page, other)
            return page

        def resolve(self, href, page, record=True):
            "Make nbdev's absolute links to documentation relative within the site"
            base = self.project.website['site-url'].rstrip('/') + '/'
            if not href.startswith(base): return super().resolve(href, page, record)
            path, tail = re.match(r'([^#?]*)(.*)', href[len(base):], re.S).groups()
            if record and path and not self.has_page(path):
                self.broken.append((str(page.src), href))
            return rel(path or 'index.html', page) + tail

        def has_page(self, path): return path in {str(p.out) for p in self.pages.values()}

    return CourseSite(load(root), quiet=True)

def local_search(out):
    "Make the search index a script: a page opened from a folder may not fetch anything"
    index = (out/'search.json').read_text(encoding='utf-8')
    (out/'search.js').write_text(f'window.searchIndex = {index};\n', encoding='utf-8')
    (out/'search.json').unlink()
    js = out/'site_libs/smalldocs.js'
    old = 'const r = await fetch(offset + "search.json");\n      index = await r.json();'
    new = ('await new Promise((ok, no) => { const s = document.createElement("script"); '
           's.src = offset + "search.js"; s.onload = ok; s.onerror = no; '
           'document.head.append(s); });\n      index = window.searchIndex;')
    text = js.read_text(encoding='utf-8')
    assert old in text, 'smalldocs fetches its index in another way now'
    js.write_text(text.replace(old, new), encoding='utf-8')

def local_files(out):
    "Load math and fonts from the site itself, not from other hosts"
    shutil.copytree(here/'site/katex', out/'site_libs/katex')
    for css in (out/'site_libs/themes').rglob('*.css'):
        text = re.sub(r'@import url\(https://fonts[^)]*\);', '', css.read_text(encoding='utf-8'))
        css.write_text(text, encoding='utf-8')

def base_script(root):
    "A script that makes links start at the site's top, unless the page was opened as itself"
    path = re.sub(r'https?://[^/]*', '', root) + '/'
    return (f"<script>if (!location.pathname.endsWith('/404.html')) "
            f"document.head.append(Object.assign(document.createElement('base'), "
            f"{{href: location.pathname.startsWith('{path}') ? '{path}' : '/'}}));</script>")

def finish(html, out, root):
    "Make the last changes to one page"
    up = '../'*(len(html.relative_to(out).parts) - 1)
    text = html.read_text(encoding='utf-8')
    for url in (KATEX + '/contrib', KATEX): text = text.replace(url, f'{up}site_libs/katex')
    # smalldocs does not look at links in outputs
    text = re.sub(rf'(<a [^>]*href="){re.escape(root)}/', rf'\g<1>{up}', text)
    # Figures that a cell made have no alt text of their own
    text = re.sub(r'<img (?![^>]*\balt=)', '<img alt="Figure made by the code above" ', text)
    # An icon within a link that has a label is decoration
    text = re.sub(r'(<i class="bi[^"]*") role="img"', r'\1 aria-hidden="true"', text)
    # A server shows the page of an unknown address at any depth; links have to start at the top
    if html == out/'404.html': text = text.replace('<head>', f'<head>{base_script(root)}', 1)
    # The notebooks are in the folders of their pages, for download without a network
    meta = '<meta name="course:notebooks" content="local">'
    text = text.replace('</head>', f'{meta}</head>', 1)
    html.write_text(text, encoding='utf-8')

def build(force=False):
    "Build everything into the folder that settings.ini names; returns warnings, one per line"
    from nbdev.config import get_config
    cfg = get_config()
    site = course_site(process(cfg, force))
    site.build()
    # `CourseSite` reads output-file; smalldocs follows the system's scheme anyway, and styles.css
    # gives its pages the widths of Quarto's grid
    known = 'output-file is not read', 'respect-user-color-scheme is ignored', 'grid is ignored'
    warnings = [w for w in site.warnings if not any(k in w for k in known)]
    out, url = site.out, site.project.website['site-url'].rstrip('/')
    local_search(out)
    local_files(out)
    for html in out.rglob('*.html'): finish(html, out, url)
    # The notebooks themselves, for download
    for d in ('lessons', 'solutions', 'guides'):
        for nb in (cfg.nbs_path/d).glob('*.ipynb'): shutil.copy(nb, out/d/nb.name)
    shutil.rmtree(cfg.doc_path, ignore_errors=True)
    shutil.move(out, cfg.doc_path)
    print(f'{len(site.pages)} pages in {cfg.doc_path}')
    return warnings

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--force', action='store_true',
                   help='process every notebook, not only the changed ones')
    warnings = build(p.parse_args().force)
    print(*warnings, sep='\n', file=sys.stderr)
    sys.exit(any('broken link' in w for w in warnings))
