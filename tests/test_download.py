"What can go wrong while a file is downloaded, one by one, against a server on this machine"
import errno, gzip, hashlib, os, re, shutil, signal, subprocess, sys, threading, time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from resnet_course import data, download
from resnet_course.core import CourseError
from resnet_course.download import fetch

BODY = os.urandom(300_000)
SUM = hashlib.sha256(BODY).hexdigest()

class Server(ThreadingHTTPServer):
    "Serves BODY; `faults` are used up one a request, `seen` keeps the Range headers"
    daemon_threads = True
    def __init__(self):
        super().__init__(('127.0.0.1', 0), Handler)
        self.faults, self.seen, self.ranges, self.slow = [], [], True, 0
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f'http://127.0.0.1:{self.server_port}/file.bin'

class Handler(BaseHTTPRequestHandler):
    def log_message(self, *a): pass
    def do_GET(self):
        srv = self.server
        srv.seen.append(self.headers.get('Range'))
        fault = srv.faults.pop(0) if srv.faults else None
        if isinstance(fault, int): return self.send_error(fault)
        if fault == 'redirect':
            self.send_response(302); self.send_header('Location', srv.url); self.end_headers(); return
        if fault == 'close': self.connection.close(); return
        start = int(re.match(r'bytes=(\d+)-', self.headers['Range'])[1]) if srv.ranges and self.headers.get('Range') else 0
        if start >= len(BODY): return self.send_error(416)
        body = BODY[start:] if fault != 'wrong' else bytes(len(BODY) - start)
        self.send_response(206 if start else 200)
        self.send_header('Content-Length', str(len(body)))
        if start: self.send_header('Content-Range', f'bytes {start + (fault == "shifted")}-{len(BODY) - 1}/{len(BODY)}')
        self.end_headers()
        try:
            if fault in ('short', 'stall'):
                self.wfile.write(body[:len(body)//3]); self.wfile.flush()
                if fault == 'stall': time.sleep(2)
                self.connection.close(); return
            for i in range(0, len(body), 30_000): self.wfile.write(body[i:i + 30_000]); time.sleep(srv.slow)
        except OSError: pass

@pytest.fixture
def srv():
    s = Server()
    yield s
    s.shutdown(); s.server_close()

def get(srv, tmp_path, **kw):
    return fetch(srv.url, tmp_path/'sub'/'file.bin', SUM, **{**dict(wait=0.01, timeout=5, progress=False), **kw})

def nothing_left(tmp_path): return not [f for f in (tmp_path/'sub').iterdir() if not f.name.endswith('.lock')]

def test_whole(srv, tmp_path):
    assert get(srv, tmp_path).read_bytes() == BODY
    get(srv, tmp_path)
    assert len(srv.seen) == 1   # what is there and right is not fetched again

def test_truncated_goes_on_where_it_ended(srv, tmp_path):
    srv.faults = ['short']
    assert get(srv, tmp_path).read_bytes() == BODY
    assert srv.seen == [None, 'bytes=100000-']

def test_server_without_ranges_starts_again(srv, tmp_path):
    srv.ranges, srv.faults = False, ['short']
    assert get(srv, tmp_path).read_bytes() == BODY

def test_server_with_wrong_range_is_asked_again(srv, tmp_path):
    srv.faults = ['short', 'shifted']
    assert get(srv, tmp_path).read_bytes() == BODY

def test_wrong_bytes(srv, tmp_path):
    srv.faults = ['wrong']
    with pytest.raises(CourseError, match='wrong checksum'): get(srv, tmp_path)
    assert nothing_left(tmp_path)

@pytest.mark.parametrize('code', [401, 403, 404, 410])
def test_refused_at_once(srv, tmp_path, code):
    srv.faults = [code]
    with pytest.raises(CourseError, match=f'{code}.*Wanted as .*file.bin'): get(srv, tmp_path)
    assert len(srv.seen) == 1 and nothing_left(tmp_path)

@pytest.mark.parametrize('code', [500, 502, 503, 429, 408])
def test_server_trouble_then_fine(srv, tmp_path, code):
    srv.faults = [code, code]
    assert get(srv, tmp_path).read_bytes() == BODY

def test_server_trouble_for_good(srv, tmp_path):
    srv.faults = [500]*9
    with pytest.raises(CourseError, match='500'): get(srv, tmp_path, tries=3)
    assert len(srv.seen) == 3

def test_stall(srv, tmp_path):
    srv.faults, t = ['stall'], time.time()
    assert get(srv, tmp_path, timeout=0.3).read_bytes() == BODY
    assert time.time() - t < 1.5 and srv.seen[1] == 'bytes=100000-'

def test_dropped_connection(srv, tmp_path):
    srv.faults = ['close', 'close']
    assert get(srv, tmp_path).read_bytes() == BODY

def test_redirect(srv, tmp_path):
    srv.faults = ['redirect']
    assert get(srv, tmp_path).read_bytes() == BODY

def test_no_network(tmp_path):
    with pytest.raises(CourseError, match='no connection.*Wanted as'):
        fetch('http://127.0.0.1:9/file.bin', tmp_path/'sub'/'file.bin', tries=1, progress=False)

def test_no_space_announced(srv, tmp_path, monkeypatch):
    monkeypatch.setattr(download.shutil, 'disk_usage', lambda p: type('U', (), dict(free=1000)))
    with pytest.raises(CourseError, match='do not fit'): get(srv, tmp_path)

def test_no_space_found_out(srv, tmp_path, monkeypatch):
    class Full:
        def __init__(self, *a): open(*a).close()
        def __enter__(self): return self
        def __exit__(self, *a): pass
        def write(self, b): raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(download, 'open', Full, raising=False)
    with pytest.raises(CourseError, match='No space left'): get(srv, tmp_path)
    assert nothing_left(tmp_path)

def test_stale_part_of_something_else(srv, tmp_path):
    (tmp_path/'sub').mkdir()
    (tmp_path/'sub'/'file.bin.part').write_bytes(b'x'*1000)
    assert get(srv, tmp_path).read_bytes() == BODY

@pytest.mark.parametrize('n', [len(BODY), len(BODY) + 10])
def test_part_as_long_as_the_file_or_longer(srv, tmp_path, n):
    (tmp_path/'sub').mkdir()
    (tmp_path/'sub'/'file.bin.part').write_bytes((BODY + bytes(10))[:n])
    assert get(srv, tmp_path).read_bytes() == BODY

def test_damaged_file_is_fetched_again(srv, tmp_path):
    (tmp_path/'sub').mkdir()
    (tmp_path/'sub'/'file.bin').write_bytes(BODY[:-1] + b'!')
    assert get(srv, tmp_path).read_bytes() == BODY

CHILD = "import sys; from resnet_course.download import fetch; fetch(*sys.argv[1:4], progress=False)"

def child(srv, tmp_path): return subprocess.Popen([sys.executable, '-c', CHILD, srv.url, str(tmp_path/'sub'/'file.bin'), SUM])

def test_killed_half_way(srv, tmp_path):
    srv.slow = 0.2
    p, part = child(srv, tmp_path), tmp_path/'sub'/'file.bin.part'
    end = time.time() + 30
    while not (part.exists() and part.stat().st_size > 60_000) and time.time() < end: time.sleep(0.02)
    p.send_signal(signal.SIGKILL); p.wait()
    assert not (tmp_path/'sub'/'file.bin').exists()
    srv.slow = 0
    assert get(srv, tmp_path).read_bytes() == BODY   # the lock of the dead process does not hold it up
    assert srv.seen[-1].startswith('bytes=') and srv.seen[-1] != 'bytes=0-'

def test_two_at_once(srv, tmp_path):
    srv.slow = 0.05
    ps = [child(srv, tmp_path) for _ in range(2)]
    assert [p.wait(60) for p in ps] == [0, 0]
    assert (tmp_path/'sub'/'file.bin').read_bytes() == BODY and len(srv.seen) == 1

def published(tmp_path, monkeypatch, srv, name, body, files, sums={}):
    "Makes `srv` the publisher of a set"
    monkeypatch.setitem(globals(), 'BODY', body)
    info = replace(data.datasets[name], urls={srv.url.replace('file.bin', u): (len(body), hashlib.md5(body).hexdigest()) for u in files}, sums=sums)
    monkeypatch.setitem(data.datasets, name, info)

def test_a_set_from_its_publisher(srv, tmp_path, monkeypatch):
    src = tmp_path/'src'/'cifar-100-python'
    src.mkdir(parents=True)
    for n in ('train', 'test', 'meta'): (src/n).write_bytes(n.encode())
    body = Path(shutil.make_archive(tmp_path/'set', 'gztar', tmp_path/'src')).read_bytes()
    published(tmp_path, monkeypatch, srv, 'cifar100', body, ['cifar-100-python.tar.gz'])
    srv.faults = ['short', 500]
    root = tmp_path/'root'
    folder = data.get_set('cifar100', root, progress=False)
    assert folder == root/'cifar-100-python' and (folder/'meta').read_bytes() == b'meta'
    assert data.get_set('cifar100', root) == folder and len(srv.seen) == 3          # not fetched again
    assert {p.name for p in root.iterdir() if p.name[0] != '.'} == {'cifar-100-python', 'archives'} and not list((root/'archives').glob('[!.]*'))

def test_a_set_of_single_files(srv, tmp_path, monkeypatch):
    raw, names = bytes([0, 0, 8, 1, 0, 0, 0, 1, 7]), list(data.datasets['fashion_mnist'].sums)
    published(tmp_path, monkeypatch, srv, 'fashion_mnist', gzip.compress(raw), [f'{n}.gz' for n in names],
              {n: hashlib.sha256(raw).hexdigest() for n in names})
    folder = data.get_set('fashion_mnist', tmp_path/'root', progress=False)
    assert folder == tmp_path/'root/FashionMNIST/raw'
    assert data.read_idx(folder/'t10k-labels-idx1-ubyte').tolist() == [7]

def test_a_set_without_a_network(tmp_path, monkeypatch):
    info = data.datasets['cifar10']
    monkeypatch.setitem(data.datasets, 'cifar10', replace(info, urls={'http://127.0.0.1:9/cifar.tgz': next(iter(info.urls.values()))}))
    monkeypatch.setattr(download.time, 'sleep', lambda s: None)
    with pytest.raises(CourseError, match="no connection.*Wanted as .*cifar.tgz.*'fashion_mnist_mini' and 'digits' work now"):
        data.get_dls('cifar10', root=tmp_path)

def test_a_damaged_set_is_not_kept(srv, tmp_path, monkeypatch):
    published(tmp_path, monkeypatch, srv, 'cifar100', b'no archive', ['cifar-100-python.tar.gz'])
    with pytest.raises(CourseError, match='cannot unpack'): data.get_set('cifar100', tmp_path, progress=False)
    assert not (tmp_path/'cifar-100-python').exists()

def test_a_data_folder_one_cannot_write_to(tmp_path):
    (tmp_path/'file').write_text('')
    with pytest.raises(CourseError, match='cannot write to'): data.get_set('cifar100', tmp_path/'file')
