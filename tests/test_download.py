"Downloads that fail, one by one, against a local server, and archives that cannot be unpacked"
import errno, gzip, hashlib, io, os, re, shutil, signal, subprocess, sys, tarfile, threading, time
import warnings, zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from faults import Faults, write

from resnet_course import download
from resnet_course.core import CourseError
from resnet_course.datasets import datasets, get_dataset, read_idx
from resnet_course.download import fetch, unpack
from resnet_course.loaders import get_dls

faults = Faults()

@faults.error('a download without a network', 'no connection')
def _(folder): fetch('http://127.0.0.1:9/x.tgz', folder/'x.tgz', tries=1, progress=False)

@faults.error('an archive that writes outside its folder', 'not safe')
def _(folder):
    with zipfile.ZipFile(folder/'x.zip', 'w') as archive: archive.writestr('../x', 'x')
    unpack(folder/'x.zip', folder/'out')

@faults.error('an archive that is none', 'cannot unpack')
def _(folder): unpack(write(folder/'x.zip', 'no'), folder/'out')

@pytest.mark.parametrize('fault', faults, ids=lambda fault: fault.title)
def test_input_gets_an_error(fault, tmp_path): fault.check(tmp_path)

members = ['..', '.', './.', '', '/', '/x', '//x', 'a/../x', 'a/..', '../x', 'C:/x', 'C:x', 'c:\\x',
           '\\x', '\\\\host\\x', 'a\\..\\x', '..\\x', 'x'*300, 'a/' + 'x'*300]

@pytest.mark.parametrize('kind', ['zip', 'tar'])
@pytest.mark.parametrize('name', members, ids=[ascii(m)[:20] for m in members])
def test_members_with_names_that_are_refused(name, kind, tmp_path):
    archive = write_archive(tmp_path/f'x.{kind}', ['first', name])
    with pytest.raises(CourseError) as e: unpack(archive, tmp_path/'out')
    assert '\n' not in str(e.value) and archive.name in str(e.value)
    assert [p.name for p in tmp_path.iterdir()] == [archive.name]

@pytest.mark.parametrize('kind', ['zip', 'tar'])
@pytest.mark.parametrize('names', [['x', 'x'], ['x', './x'], ['a/x', 'b', 'a//x']], ids='-'.join)
def test_two_members_of_one_name(names, kind, tmp_path):
    archive = write_archive(tmp_path/f'x.{kind}', names)
    with pytest.raises(CourseError, match='two members'): unpack(archive, tmp_path/'out')
    assert [p.name for p in tmp_path.iterdir()] == [archive.name]

@pytest.mark.parametrize('kind', ['zip', 'tar'])
def test_odd_names_that_are_taken(kind, tmp_path):
    names = ['./a/x', 'a/..x', 'a/...', '..b', 'x'*255, 'é 猫']
    out = unpack(write_archive(tmp_path/f'x.{kind}', ['./', 'a/', 'a/', *names]), tmp_path/'out')
    assert sum(p.is_file() for p in out.rglob('*')) == len(names)

def write_archive(path, names):
    "An archive with small members of these names; those that end with a slash are folders"
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')   # two of one name
        if path.suffix == '.zip':
            with zipfile.ZipFile(path, 'w') as z:
                for name in names: z.writestr(zipfile.ZipInfo(name), 'x'*(name[-1:] != '/'))
            return path
        with tarfile.open(path, 'w') as t:
            for name in names:
                m = tarfile.TarInfo(name)
                if name[-1:] == '/' and len(name) > 1: m.type = tarfile.DIRTYPE
                else: m.size = 1
                t.addfile(m, io.BytesIO(b'x'))
    return path

BODY = os.urandom(300_000)
SUM = hashlib.sha256(BODY).hexdigest()

class Server(ThreadingHTTPServer):
    "Serves BODY; each request uses up one of `faults`, and `seen` collects the Range headers"
    daemon_threads = True
    def __init__(self):
        super().__init__(('127.0.0.1', 0), Handler)
        self.faults, self.seen, self.ranges, self.slow = [], [], True, 0
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f'http://127.0.0.1:{self.server_port}/file.bin'

class Handler(BaseHTTPRequestHandler):
    def log_message(self, *a): pass

    def do_GET(self):
        self.server.seen.append(self.headers.get('Range'))
        fault = self.server.faults.pop(0) if self.server.faults else None
        if isinstance(fault, int): self.send_error(fault)
        elif fault == 'redirect': self.send_redirect()
        elif fault == 'close': self.connection.close()
        else: self.send_body(fault)

    def send_redirect(self):
        self.send_response(302)
        self.send_header('Location', self.server.url)
        self.end_headers()

    def send_body(self, fault):
        start, wanted = 0, self.headers.get('Range')
        if self.server.ranges and wanted: start = int(re.match(r'bytes=(\d+)-', wanted)[1])
        if start >= len(BODY): return self.send_error(416)
        body = bytes(len(BODY) - start) if fault == 'wrong' else BODY[start:]
        self.send_response(206 if start else 200)
        self.send_header('Content-Length', str(len(body)))
        first = start + 1 if fault == 'shifted' else start
        if start: self.send_header('Content-Range', f'bytes {first}-{len(BODY) - 1}/{len(BODY)}')
        self.end_headers()
        try:
            if fault in ('short', 'stall'): self.send_third(body, fault)
            else: self.send_pieces(body)
        except OSError: pass

    def send_third(self, body, fault):
        "Stop after a third of `body`, either at once or after a stall"
        self.wfile.write(body[:len(body)//3])
        self.wfile.flush()
        if fault == 'stall': time.sleep(2)
        self.connection.close()

    def send_pieces(self, body):
        for i in range(0, len(body), 30_000):
            self.wfile.write(body[i:i + 30_000])
            time.sleep(self.server.slow)

@pytest.fixture
def srv():
    s = Server()
    yield s
    s.shutdown()
    s.server_close()

def get(srv, tmp_path, **kw):
    "Download the server's file to sub/file.bin"
    kw = {**dict(wait=0.01, timeout=5, progress=False), **kw}
    return fetch(srv.url, tmp_path/'sub'/'file.bin', SUM, **kw)

def nothing_left(tmp_path):
    "Are there no files besides locks?"
    return not [f for f in (tmp_path/'sub').iterdir() if not f.name.endswith('.lock')]

def test_complete_file_is_not_downloaded_again(srv, tmp_path):
    assert get(srv, tmp_path).read_bytes() == BODY
    get(srv, tmp_path)
    assert len(srv.seen) == 1

def test_interrupted_download_resumes(srv, tmp_path):
    srv.faults = ['short']
    assert get(srv, tmp_path).read_bytes() == BODY
    assert srv.seen == [None, 'bytes=100000-']

def test_server_without_ranges_starts_over(srv, tmp_path):
    srv.ranges, srv.faults = False, ['short']
    assert get(srv, tmp_path).read_bytes() == BODY

def test_wrong_range_is_retried(srv, tmp_path):
    srv.faults = ['short', 'shifted']
    assert get(srv, tmp_path).read_bytes() == BODY

def test_wrong_bytes(srv, tmp_path):
    srv.faults = ['wrong']
    with pytest.raises(CourseError, match='wrong checksum'): get(srv, tmp_path)
    assert nothing_left(tmp_path)

@pytest.mark.parametrize('code', [401, 403, 404, 410])
def test_client_errors_are_final(srv, tmp_path, code):
    srv.faults = [code]
    with pytest.raises(CourseError, match=f'to .*file.bin: .*{code}'): get(srv, tmp_path)
    assert len(srv.seen) == 1 and nothing_left(tmp_path)

@pytest.mark.parametrize('code', [500, 502, 503, 429, 408])
def test_server_errors_are_retried(srv, tmp_path, code):
    srv.faults = [code, code]
    assert get(srv, tmp_path).read_bytes() == BODY

def test_retries_are_limited(srv, tmp_path):
    srv.faults = [500]*9
    with pytest.raises(CourseError, match='500'): get(srv, tmp_path, tries=3)
    assert len(srv.seen) == 3

def test_waits_double(srv, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(download.time, 'sleep', waits.append)
    srv.faults = [500]*9
    with pytest.raises(CourseError): get(srv, tmp_path, tries=4, wait=0.5)
    assert [w for w in waits if w] == [0.5, 1, 2]

def test_stall(srv, tmp_path):
    srv.faults = ['stall']
    assert get(srv, tmp_path, timeout=0.3).read_bytes() == BODY
    assert srv.seen[1] == 'bytes=100000-'   # it did not wait for the rest of the first answer

def test_dropped_connection(srv, tmp_path):
    srv.faults = ['close', 'close']
    assert get(srv, tmp_path).read_bytes() == BODY

def test_redirect(srv, tmp_path):
    srv.faults = ['redirect']
    assert get(srv, tmp_path).read_bytes() == BODY

def test_no_network(tmp_path):
    dest = tmp_path/'sub'/'file.bin'
    with pytest.raises(CourseError, match='to .*file.bin: no connection'):
        fetch('http://127.0.0.1:9/file.bin', dest, tries=1, progress=False)

def test_not_enough_disk_space_at_the_start(srv, tmp_path, monkeypatch):
    class Usage: free = 1000
    monkeypatch.setattr(download.shutil, 'disk_usage', lambda p: Usage)
    with pytest.raises(CourseError, match='not enough disk space'): get(srv, tmp_path)

def test_disk_fills_up_on_the_way(srv, tmp_path, monkeypatch):
    class Full:
        def __init__(self, *a): open(*a).close()
        def __enter__(self): return self
        def __exit__(self, *a): pass
        def write(self, b): raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(download, 'open', Full, raising=False)
    with pytest.raises(CourseError, match='No space left'): get(srv, tmp_path)
    assert nothing_left(tmp_path)

def test_part_of_another_file(srv, tmp_path):
    (tmp_path/'sub').mkdir()
    (tmp_path/'sub'/'file.bin.part').write_bytes(b'x'*1000)
    assert get(srv, tmp_path).read_bytes() == BODY

@pytest.mark.parametrize('n', [len(BODY), len(BODY) + 10])
def test_part_as_long_as_the_file_or_longer(srv, tmp_path, n):
    (tmp_path/'sub').mkdir()
    (tmp_path/'sub'/'file.bin.part').write_bytes((BODY + bytes(10))[:n])
    assert get(srv, tmp_path).read_bytes() == BODY

def test_damaged_file_is_downloaded_again(srv, tmp_path):
    (tmp_path/'sub').mkdir()
    (tmp_path/'sub'/'file.bin').write_bytes(BODY[:-1] + b'!')
    assert get(srv, tmp_path).read_bytes() == BODY

CHILD = '''import sys
from resnet_course.download import fetch
fetch(*sys.argv[1:4], progress=False)'''

def child(srv, tmp_path):
    "Download the server's file in another process"
    args = [srv.url, str(tmp_path/'sub'/'file.bin'), SUM]
    return subprocess.Popen([sys.executable, '-c', CHILD, *args])

def test_killed_halfway(srv, tmp_path):
    srv.slow = 0.2
    p, part = child(srv, tmp_path), tmp_path/'sub'/'file.bin.part'
    end = time.time() + 30
    def halfway(): return part.exists() and part.stat().st_size > 60_000
    while not halfway() and time.time() < end: time.sleep(0.02)
    p.send_signal(signal.SIGKILL)
    p.wait()
    assert not (tmp_path/'sub'/'file.bin').exists()
    srv.slow = 0
    assert get(srv, tmp_path).read_bytes() == BODY   # the dead process's lock does not block
    assert srv.seen[-1].startswith('bytes=') and srv.seen[-1] != 'bytes=0-'

def test_two_processes(srv, tmp_path):
    srv.slow = 0.05
    ps = [child(srv, tmp_path) for _ in range(2)]
    assert [p.wait(60) for p in ps] == [0, 0]
    assert (tmp_path/'sub'/'file.bin').read_bytes() == BODY and len(srv.seen) == 1

def publish(monkeypatch, srv, name, body, files, sums={}):
    "Make `srv` the publisher of dataset `name`: it answers `body` for each of `files`"
    monkeypatch.setitem(globals(), 'BODY', body)
    md5 = hashlib.md5(body).hexdigest()
    urls = {srv.url.replace('file.bin', f): (len(body), md5) for f in files}
    monkeypatch.setitem(datasets, name, replace(datasets[name], urls=urls, sums=sums))

def test_dataset_from_its_publisher(srv, tmp_path, monkeypatch):
    src = tmp_path/'src'/'cifar-100-python'
    src.mkdir(parents=True)
    for n in ('train', 'test', 'meta'): (src/n).write_bytes(n.encode())
    body = Path(shutil.make_archive(tmp_path/'set', 'gztar', tmp_path/'src')).read_bytes()
    publish(monkeypatch, srv, 'cifar100', body, ['cifar-100-python.tar.gz'])
    srv.faults = ['short', 500]
    root = tmp_path/'root'
    folder = get_dataset('cifar100', root, progress=False)
    assert folder == root/'cifar-100-python' and (folder/'meta').read_bytes() == b'meta'
    assert get_dataset('cifar100', root) == folder and len(srv.seen) == 3   # not downloaded again
    visible = {p.name for p in root.iterdir() if p.name[0] != '.'}
    assert visible == {'cifar-100-python', 'archives'}
    assert not list((root/'archives').glob('[!.]*'))

def test_dataset_of_single_files(srv, tmp_path, monkeypatch):
    raw, names = bytes([0, 0, 8, 1, 0, 0, 0, 1, 7]), list(datasets['fashion_mnist'].sums)
    sums = {n: hashlib.sha256(raw).hexdigest() for n in names}
    publish(monkeypatch, srv, 'fashion_mnist', gzip.compress(raw), [f'{n}.gz' for n in names], sums)
    folder = get_dataset('fashion_mnist', tmp_path/'root', progress=False)
    assert folder == tmp_path/'root/FashionMNIST/raw'
    assert read_idx(folder/'t10k-labels-idx1-ubyte').tolist() == [7]

def test_dataset_without_network(tmp_path, monkeypatch):
    info = datasets['cifar10']
    urls = {'http://127.0.0.1:9/cifar.tgz': next(iter(info.urls.values()))}
    monkeypatch.setitem(datasets, 'cifar10', replace(info, urls=urls))
    monkeypatch.setattr(download.time, 'sleep', lambda s: None)
    message = ("to .*cifar.tgz: no connection.*"
               "'fashion_mnist_mini' and 'digits' work without a network")
    with pytest.raises(CourseError, match=message): get_dls('cifar10', root=tmp_path)

def test_damaged_archive_is_not_kept(srv, tmp_path, monkeypatch):
    publish(monkeypatch, srv, 'cifar100', b'no archive', ['cifar-100-python.tar.gz'])
    with pytest.raises(CourseError, match='cannot unpack'):
        get_dataset('cifar100', tmp_path, progress=False)
    assert not (tmp_path/'cifar-100-python').exists()

def test_data_folder_without_write_permission(tmp_path):
    (tmp_path/'file').write_text('')
    with pytest.raises(CourseError, match='cannot write to'):
        get_dataset('cifar100', tmp_path/'file')
