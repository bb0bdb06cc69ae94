#!/usr/bin/env python3
"""Build the site into _docs, offline and without Quarto: nbdev's own processing, then smalldocs, which reads the same _quarto.yml.

    python tools/build_site.py [--force]

The result opens from its folder (_docs/index.html) and asks no other host for anything. Where Quarto is installed,
`nbdev_docs` builds the same sources; what differs is only what this file and tools/site add.
"""
import argparse, re, shutil, sys
from pathlib import Path

here = Path(__file__).resolve().parent
KATEX = 'https://cdn.jsdelivr.net/npm/katex@0.16.11/dist'

def process(cfg, force):
    "Notebooks as nbdev prepares them for Quarto, in _proc: what `nbdev_proc_nbs` does, without installing Quarto"
    from nbdev.doclinks import _build_modidx
    from nbdev.quarto import refresh_quarto_yml
    from nbdev.serve import proc_nbs
    refresh_quarto_yml()
    _build_modidx()
    proc = cfg.config_path/'_proc'
    # nbdev keeps what it made before; what has no source any more must go
    for f in sorted(proc.rglob('*'), reverse=True):
        if f.is_file() and not (cfg.nbs_path/f.relative_to(proc)).exists(): f.unlink()
    return proc_nbs(cfg.nbs_path, force=force, n_workers=2)

def unlinked_code(text):
    "Without the links that nbdev puts into comments of signatures, where no renderer makes them links"
    fence, lines = None, []
    for line in text.split('\n'):
        mark = re.match(r' {0,3}(`{3,}|~{3,})', line)
        if fence and mark and line.strip() == fence: fence = None
        elif fence: line = re.sub(r'\[(`[^`]+`)\]\(https?://[^)]*\)', r'\1', line)
        elif mark: fence = mark[1]
        lines.append(line)
    return '\n'.join(lines)

def course_site(root):
    "smalldocs' site, with two things it lacks"
    from smalldocs.config import load
    from smalldocs.site import Site, rel

    class CourseSite(Site):
        def read(self, src):
            "Pages go where nbdev says: api/14_loaders.ipynb becomes api/loaders.html"
            page = super().read(src)
            if page.front.get('output-file'): page.out = src.with_name(str(page.front['output-file']))
            page.body = unlinked_code(page.body)
            return page

        def resolve(self, href, page, record=True):
            "nbdev's links to documentation are absolute; within the site they become relative"
            base = self.project.website['site-url'].rstrip('/') + '/'
            if not href.startswith(base): return super().resolve(href, page, record)
            path, tail = re.match(r'([^#?]*)(.*)', href[len(base):], re.S).groups()
            if record and path and path not in {str(p.out) for p in self.pages.values()}: self.broken.append((str(page.src), href))
            return rel(path or 'index.html', page) + tail

    return CourseSite(load(root), quiet=True)

def local_search(out):
    "The search index as a script: a page opened from a folder may not fetch anything"
    index = (out/'search.json').read_text(encoding='utf-8')
    (out/'search.js').write_text(f'window.searchIndex = {index};\n', encoding='utf-8')
    (out/'search.json').unlink()
    js = out/'site_libs/smalldocs.js'
    old = 'const r = await fetch(offset + "search.json");\n      index = await r.json();'
    new = ('await new Promise((ok, no) => { const s = document.createElement("script"); s.src = offset + "search.js"; '
           's.onload = ok; s.onerror = no; document.head.append(s); });\n      index = window.searchIndex;')
    text = js.read_text(encoding='utf-8')
    assert old in text, 'smalldocs fetches its index in another way now'
    js.write_text(text.replace(old, new), encoding='utf-8')

def local_files(out):
    "Maths and fonts from here, not from other hosts"
    shutil.copytree(here/'site/katex', out/'site_libs/katex')
    for css in (out/'site_libs/themes').rglob('*.css'):
        css.write_text(re.sub(r'@import url\(https://fonts[^)]*\);', '', css.read_text(encoding='utf-8')), encoding='utf-8')

def finish(html, out, root):
    "What is left to do in one page"
    up = '../'*(len(html.relative_to(out).parts) - 1)
    text = html.read_text(encoding='utf-8')
    text = text.replace(KATEX + '/contrib', f'{up}site_libs/katex').replace(KATEX, f'{up}site_libs/katex')
    # Links that stand in outputs, where smalldocs does not look
    text = re.sub(rf'(<a [^>]*href="){re.escape(root)}/', rf'\g<1>{up}', text)
    # A picture that a cell made says so to those who cannot see it
    text = re.sub(r'<img (?![^>]*\balt=)', '<img alt="Figure made by the code above" ', text)
    # An icon within a link that has a label is decoration
    text = re.sub(r'(<i class="bi[^"]*") role="img"', r'\1 aria-hidden="true"', text)
    # Lessons are beside their pages, to download without a network
    text = text.replace('</head>', '<meta name="course:notebooks" content="local"></head>', 1)
    html.write_text(text, encoding='utf-8')

def build(force=False):
    "Everything, into the folder that settings.ini names; returns what to look at, a line each"
    from nbdev.config import get_config
    cfg = get_config()
    site = course_site(process(cfg, force))
    site.build()
    site.warnings = [w for w in site.warnings if 'output-file is not read' not in w]   # it is, above
    out, url = site.out, site.project.website['site-url'].rstrip('/')
    local_search(out)
    local_files(out)
    for html in out.rglob('*.html'): finish(html, out, url)
    # The notebooks themselves, to download
    for d in ('lessons', 'solutions', 'guides'):
        for nb in (cfg.nbs_path/d).glob('*.ipynb'): shutil.copy(nb, out/d/nb.name)
    shutil.rmtree(cfg.doc_path, ignore_errors=True)
    shutil.move(out, cfg.doc_path)
    print(f'{len(site.pages)} pages in {cfg.doc_path}')
    return site.warnings

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--force', action='store_true', help='process every notebook, not only the changed ones')
    warnings = build(p.parse_args().force)
    print(*warnings, sep='\n', file=sys.stderr)
    sys.exit(any('broken link' in w for w in warnings))
