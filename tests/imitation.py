"""A device that this machine does not have, imitated on the CPU with real numbers

`imitate('cuda')` yields the number of times that the CPU has waited for the device. Tensors on the
device say that they are there, and compute on the CPU. `imitate('mps')` refuses what Apple's GPUs
refuse: float64, and, up to PyTorch 2.6, resizing with anti-aliasing.
"""
from contextlib import contextmanager
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

cuda = torch.device('cuda', 0)
# what reads values back from the device, and so waits for it
reads = {'_local_scalar_dense', 'equal', 'nonzero', 'masked_select', 'is_nonzero', '_unique2',
         'unique_dim', 'repeat_interleave'}

class OnDevice(torch.Tensor):
    "A tensor that claims to be on `device`; its values are in `inner`, on the CPU"
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner, device):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(),
            dtype=inner.dtype, layout=inner.layout, device='meta', dispatch_device=True)

    def __init__(self, inner, shown): self.inner, self.shown = inner, shown

    # for Python; what PyTorch itself asks for is `prim.device`
    @property
    def device(self): return self.shown
    @property
    def is_cuda(self): return self.shown.type == 'cuda'
    def as_subclass(self, kind): return self   # it is nobody else's
    def __repr__(self): return f'OnDevice({self.inner})'

    @classmethod
    def __torch_dispatch__(cls, f, types, args=(), kwargs=None):
        if f is torch.ops.prim.device.default: return cuda
        raise RuntimeError('this tensor is used outside `imitate`')

class Imitation(TorchDispatchMode):
    "Computes on the CPU what is asked of the device, and takes note of what would wait for it"
    def __init__(self, kind, old=False):
        super().__init__()
        self.device, self.old, self.waits = torch.device(kind, 0), old, []

    def is_here(self, device): return device is not None and torch.device(device).type == 'cuda'

    def __torch_dispatch__(self, f, types, args=(), kwargs=None):
        if f is torch.ops.prim.device.default: return cuda
        kwargs, name = dict(kwargs or {}), f.overloadpacket.__name__
        found = []
        tree_map(lambda o: found.append(o) if isinstance(o, torch.Tensor) else None, (args, kwargs))
        mine = [o for o in found if isinstance(o, OnDevice)]
        to = kwargs.get('device')
        if name in ('_to_copy', 'copy_'): self.note_copy(f, name, found, to, args, kwargs)
        elif mine: self.check(f, name, found)
        if mine and (name in reads or self.has_mask(name, args)): self.waits.append(name)
        here = self.is_here(to) if to is not None else bool(mine)
        if to is not None: kwargs['device'] = 'cpu'
        inner = [(o, o.inner) for o in mine]
        res = f(*tree_map(self.unwrap, args), **tree_map(self.unwrap, kwargs))
        if here: self.refuse(name, res)
        def wrap(o):
            if not isinstance(o, torch.Tensor): return o
            for outer, i in inner:
                if o is i: return outer   # changed in place
            return OnDevice(o, self.device) if here else o
        return tree_map(wrap, res)

    @staticmethod
    def unwrap(o): return o.inner if isinstance(o, OnDevice) else o

    @staticmethod
    def has_mask(name, args):
        return name in ('index', 'index_put_', '_index_put_impl_') and any(
            o is not None and o.dtype in (torch.bool, torch.uint8) for o in args[1])

    def note_copy(self, f, name, found, to, args, kwargs):
        "A copy between CPU and device waits, unless it is asked not to"
        goes = self.is_here(to) if name == '_to_copy' and to is not None else None
        if name == 'copy_': goes = isinstance(found[1], OnDevice)
        crosses = goes is not None and goes != isinstance(found[0], OnDevice)
        blocks = not (kwargs.get('non_blocking') or (name == 'copy_' and len(args) > 2 and args[2]))
        if crosses and blocks: self.waits.append(f'{name} {tuple(found[0].shape)}')

    def check(self, f, name, found):
        "As on a real device, its tensors meet others of the CPU only if those are single numbers"
        alien = [o for o in found if not isinstance(o, OnDevice) and o.ndim]
        if alien and name not in ('index', 'index_put_', '_index_put_impl_'):
            raise RuntimeError(f'{f}: expected all tensors on {self.device}')
        if alien: self.waits.append(f'{name} by a tensor on the CPU')

    def refuse(self, name, res):
        "What Apple's GPUs do not have"
        if self.device.type != 'mps': return
        if isinstance(res, torch.Tensor) and res.dtype == torch.float64:
            raise TypeError("the MPS framework doesn't support float64")
        if self.old and name == '_upsample_bilinear2d_aa':
            raise NotImplementedError(f'aten::{name} is not implemented for the MPS device')

class AsCuda(TorchFunctionMode):
    "PyTorch for Linux sends nothing to an Apple GPU: send it to the imitated CUDA device"
    def __torch_function__(self, f, types, args=(), kwargs=None):
        if f is torch.device: return f(*args, **dict(kwargs or {}))
        def other(o):
            is_mps = isinstance(o, (str, torch.device)) and str(o).startswith('mps')
            return torch.device('cuda', 0) if is_mps else o
        return f(*tree_map(other, args), **tree_map(other, dict(kwargs or {})))

@contextmanager
def imitate(kind, **kwargs):
    "Inside the block, `kind` is a device; yields the `Imitation`. For processes that end after it"
    # what PyTorch's fake tensors do where there is no GPU; it cannot be taken back
    if not torch.cuda.is_available(): torch._C._ensureCUDADeviceGuardSet()
    with (mock.patch('resnet_course.core._absence', lambda device: ''),
          mock.patch('torch.cuda._lazy_init', lambda: None),
          mock.patch('torch.cuda.synchronize', lambda device=None: None),
          mock.patch('torch.mps.synchronize', lambda: None),
          torch.backends.cudnn.flags(enabled=False),
          AsCuda(), Imitation(kind, **kwargs) as mode):
        torch._C._set_only_lift_cpu_tensors(True)   # lists become tensors on the CPU, and are sent
        yield mode
