#!/usr/bin/env python3
"""Write the costs of training on a rented GPU into the guide: python tools/gpu_table.py

The table stands between two markers in nbs/guides/several_gpus.qmd, and is computed from
results/gpu.json, which `benchmarks/gpu.py` writes on an NVIDIA GPU. What has not been measured, the
table says so. `--check` changes nothing, and ends with status 1 if the table is out of date.
"""
import argparse, json, sys
from pathlib import Path

root = Path(__file__).resolve().parents[1]
begin, end = '<!-- costs: made by tools/gpu_table.py -->', '<!-- end of costs -->'
price = 2.0      # dollars for an hour; look up your own
images, epochs = 1_281_167, 90   # ImageNet, as in the ResNet paper and torchvision's recipe
missing = 'not measured'

def found_by(record, part):
    "What a part of the record found, if it ended well"
    res = (record or {}).get('parts', {}).get(part, {})
    return res.get('found') or {} if res.get('state') == 'ok' else {}

def cifar(record, part):
    "How ResNet-18 did on CIFAR-10, and in how many seconds"
    found = found_by(record, part)
    if not found: return missing, None
    how = f"{found['test']:.2%} correct after {found['epochs']} epochs, {found['precision']}"
    return how, found['train_seconds']

def imagenet(record, name):
    "The images per second of a training step, and the seconds of all of ImageNet"
    rate = found_by(record, 'throughput').get(name, {}).get('images_per_second', {}).get('ours')
    if not rate: return missing, None
    return f'{rate:,.0f} images/s, bf16', images*epochs/rate

def prediction(record):
    "Photos per second, and the seconds of a million"
    rate = found_by(record, 'predict').get('images_per_second')
    return (f'{rate:,.0f} photos/s', 1e6/rate) if rate else (missing, None)

def duration(seconds):
    "Such as '12.3 s', '4.5 minutes' or '6.7 hours'"
    if seconds < 120: return f'{seconds:.1f} s'
    return f'{seconds/60:.1f} minutes' if seconds < 7200 else f'{seconds/3600:.1f} hours'

def table(record):
    "The lines between the markers"
    if record and (record.get('rehearsal') or record.get('quick')):
        sys.exit('this record is a rehearsal: nothing of it counts')
    rows = {
        'ResNet-18 on CIFAR-10, toward 94%': cifar(record, 'cifar94'),
        'ResNet-18 on CIFAR-10, toward 96%': cifar(record, 'cifar96'),
        f'ResNet-50 on ImageNet, 224 px, {epochs} epochs': imagenet(record, 'resnet50'),
        f'AlexNet on ImageNet, 224 px, {epochs} epochs': imagenet(record, 'alexnet_tv'),
        'a million photos classified by ResNet-50': prediction(record)}
    device = (record or {}).get('machine', {}).get('device')
    lines = [f'One {device}, from a record of `benchmarks/gpu.py`:' if device else
             'No GPU has been measured yet:', '',
             f'| on one GPU | measured | takes | costs at {price:g} dollars an hour |',
             '|---|---|---:|---:|']
    for what, (how, seconds) in rows.items():
        cost = ('', '') if seconds is None else (
            duration(seconds), f'{seconds/3600*price:,.2f} dollars')
        lines.append(f'| {what} | {how} | {cost[0]} | {cost[1]} |')
    return lines

def updated(text, record):
    "The guide with the table of `record`"
    head, rest = text.split(begin)
    return '\n'.join([head + begin, *table(record), end]) + rest.split(end)[1]

def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--check', action='store_true')
    p.add_argument('--root', type=Path, default=root)
    a = p.parse_args()
    guide, file = a.root/'nbs/guides/several_gpus.qmd', a.root/'results/gpu.json'
    record = json.loads(file.read_text(encoding='utf-8')) if file.exists() else None
    old = guide.read_text(encoding='utf-8')
    new = updated(old, record)
    if old == new: return
    if a.check: sys.exit(f'{guide}: the table of costs is out of date: python tools/gpu_table.py')
    guide.write_text(new, encoding='utf-8')

if __name__ == '__main__': main()
