__version__ = "0.1.0"

import warnings

# fastai 2.8 uses torch.jit.script, which torch 2.9 and later deprecate: nothing that a user of ours could act on
warnings.filterwarnings('ignore', message='.*torch.jit.script.* is deprecated', category=FutureWarning)
