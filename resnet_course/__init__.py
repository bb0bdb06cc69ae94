__version__ = "0.1.0"

import importlib, warnings

# fastai 2.8 uses torch.jit.script, which torch 2.9 and later deprecate: users cannot change that
warnings.filterwarnings('ignore', message='.*torch.jit.script.* is deprecated',
                        category=FutureWarning)
# fastai 2.8 sets an option that pandas 3 deprecates, as soon as it is imported
warnings.filterwarnings('ignore', message="The 'mode.chained_assignment' option is deprecated",
                        category=DeprecationWarning)

# The calls that most programs need, imported when first used: `import resnet_course` stays instant
_calls = dict(get_dls='loaders', create_model='models', load_weights='weights',
              course_learner='learner', fit_recipe='recipes', run_stages='finetune')
__all__ = [*_calls]

def __getattr__(name):
    "Import one of `__all__`"
    if name not in _calls: raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(f'{__name__}.{_calls[name]}'), name)
