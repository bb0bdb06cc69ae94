#!/usr/bin/env python3
"""Draw the site's icon and the card that is shown where a link to it is shared: nbs/assets/favicon.png, social.png."""
from pathlib import Path

import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

images = Path(__file__).resolve().parents[2]/'nbs/assets'
blue, light, ink = '#1a5fb0', '#dbe9fb', '#14213d'

def canvas(w, h, color):
    "A figure of `w`×`h` pixels, its axes measured in pixels"
    fig = plt.figure(figsize=(w/100, h/100), dpi=100, facecolor=color)
    ax = fig.add_axes([0, 0, 1, 1], xlim=(0, w), ylim=(0, h))
    ax.axis('off')
    return fig, ax

def block(ax, x, y, s, color, fill, lw):
    "A residual block: two layers in a column, and the shortcut around them, `s` pixels high"
    for dy in (.2, .56): ax.add_patch(FancyBboxPatch((x - .26*s, y + dy*s), .52*s, .2*s, boxstyle=f'round,pad=0,rounding_size={.05*s}', fc=fill, ec=color, lw=lw))
    arrow = dict(arrowstyle='-|>', mutation_scale=lw*6, color=color, lw=lw, shrinkA=0, shrinkB=0)
    for a, b in ((-.06, .2), (.4, .56), (.76, 1.06)): ax.add_patch(FancyArrowPatch((x, y + a*s), (x, y + b*s), **arrow))
    ax.add_patch(FancyArrowPatch((x, y + .06*s), (x, y + .88*s), connectionstyle='bar,fraction=-0.6', **arrow))

def favicon():
    fig, ax = canvas(64, 64, 'none')
    ax.add_patch(FancyBboxPatch((2, 2), 60, 60, boxstyle='round,pad=0,rounding_size=12', fc=blue, ec='none'))
    for y in (14, 36): ax.add_patch(FancyBboxPatch((12, y), 24, 13, boxstyle='round,pad=0,rounding_size=3', fc='white', ec='none'))
    ax.plot([24, 24], [6, 58], color='white', lw=2.5, zorder=0)
    ax.plot([24, 50, 50, 24], [9.5, 9.5, 54, 54], color='white', lw=3.5)
    fig.savefig(images/'favicon.png', transparent=True)

def social():
    from resnet_course.loaders import get_dls
    dls = get_dls('fashion_mnist_mini', bs=64, augment=False, seed=7)
    xb, yb = dls.test.one_batch()
    fig, ax = canvas(1200, 630, 'white')
    ax.text(70, 470, 'resnet_course', fontsize=52, weight='bold', color=ink, va='center')
    ax.text(72, 382, 'Learn ResNet and AlexNet by building, training,\nfine-tuning and reading them', fontsize=23, color=ink, va='center', linespacing=1.4)
    ax.text(72, 300, 'make demo    make test', fontsize=19, family='monospace', color=blue, va='center')
    block(ax, 985, 330, 220, blue, light, 3)
    side, gap = 118, 14
    for i in range(8):
        x = 72 + i*(side + gap)
        ax.imshow(xb[i, 0].float().cpu(), cmap='gray_r', extent=(x, x + side, 96, 96 + side), aspect='auto', zorder=1)
        ax.text(x + side/2, 72, dls.vocab[int(yb[i])], fontsize=12.5, ha='center', va='center', color='#445')
    ax.set(xlim=(0, 1200), ylim=(0, 630))
    fig.savefig(images/'social.png')

if __name__ == '__main__':
    images.mkdir(exist_ok=True)
    favicon()
    social()
