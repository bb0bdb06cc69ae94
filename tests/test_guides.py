"Code blocks in guides, README and prose: names, arguments, subcommands and options exist"
import ast, builtins, inspect, json, re, shlex
from pathlib import Path

import pytest
from typer.main import get_command

from resnet_course.cli import app

root = Path(__file__).resolve().parent.parent
pages = sorted([root/'README.md', root/'CONTRIBUTING.md', *root.glob('nbs/guides/*.qmd'),
                *root.glob('nbs/*.ipynb'), *root.glob('nbs/lessons/*.ipynb'),
                *root.glob('nbs/solutions/*.ipynb')])
by_name = pytest.mark.parametrize('page', pages, ids=lambda p: p.stem)

# names that stand for the reader's own objects
own = {'my_network', 'my_dls', 'net', 'learn', 'dls', 'model', 'report', 'images', 'labels', 'path'}

def prose(page):
    "The page's text; of a notebook, its Markdown"
    text = page.read_text(encoding='utf-8')
    if page.suffix != '.ipynb': return text
    cells = json.loads(text)['cells']
    return '\n\n'.join(''.join(c['source']) for c in cells if c['cell_type'] == 'markdown')

def blocks(page, *languages):
    "The code blocks in these languages, without indentation"
    found = re.findall(r'^( *)```(\w+)\n(.*?)^\1```', prose(page), re.S | re.M)
    return [re.sub(f'^{indent}', '', code, flags=re.M) for indent, lang, code in found
            if lang in languages]

# Python

def python_faults(code, known):
    "What is wrong with a block, and add the names that it defines to `known`"
    code = re.sub(r'^[%!].*$', 'pass', code, flags=re.M)   # commands of a notebook
    tree, faults = ast.parse(code), []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.startswith('resnet_course'):
            exec(ast.unparse(node), known)   # raises for a name that is not there
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            known |= {(o.asname or o.name).split('.')[0]: None for o in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            known.setdefault(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.arg)):
            known.setdefault(getattr(node, 'name', None) or node.arg)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            if node.id in known or node.id in own or hasattr(builtins, node.id): continue
            faults.append(f'{node.id} is not defined')
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            faults += wrong_arguments(known.get(node.func.id), node)
    return faults

def wrong_arguments(f, call):
    "The arguments of a call that a function of this package does not have"
    if not getattr(f, '__module__', '').startswith('resnet_course'): return []
    if any(isinstance(o, ast.Starred) for o in call.args): return []
    named = {o.arg: None for o in call.keywords if o.arg}
    # with **options, some arguments are in there
    try: inspect.signature(f).bind_partial(*call.args, **named)
    except TypeError as e: return [f'{ast.unparse(call)}: {e}']
    return []

@by_name
def test_python_blocks(page):
    known, faults = {}, []
    for code in blocks(page, 'py', 'python'): faults += python_faults(code, known)
    assert not faults

# The command

def words_of(line):
    "The words of a command after `resnet-course`; None for another command"
    words = shlex.split(line, comments=True)
    if words[:1] == ['resnet-course']: return words[1:]
    if '-m' in words and words[words.index('-m') + 1:][:1] == ['resnet_course']:
        return words[words.index('-m') + 2:]
    return None

def command_faults(words):
    "The subcommand and options that do not exist"
    command = get_command(app)
    while hasattr(command, 'commands') and words and not words[0].startswith('-'):
        if words[0] not in command.commands: return [f'no command {words[0]!r}']
        command, words = command.commands[words[0]], words[1:]
    options = {o: p for p in command.params for o in [*p.opts, *p.secondary_opts]}
    options |= dict.fromkeys(command.get_help_option_names(command.make_context('x', [],
                             resilient_parsing=True)))
    used = [w.split('=')[0] for w in words if re.match(r'--?[a-z]', w)]
    return [f'{command.name} has no {o}' for o in used if o not in options]

@by_name
def test_shell_blocks(page):
    faults = []
    for code in blocks(page, 'sh'):
        for line in code.replace('\\\n', ' ').splitlines():
            words = words_of(line)
            if words is not None: faults += command_faults(words)
    assert not faults

@by_name
def test_commands_in_prose(page):
    "Commands in backticks, such as `resnet-course data check`, and options after them"
    text = re.sub(r'^ *```.*?^ *```', '', prose(page), flags=re.S | re.M)
    found = re.findall(r'`(resnet-course [^`…]+)`', text)
    assert not [o for line in found for o in command_faults(words_of(line))]

def test_faults_are_seen():
    known = {}
    assert python_faults('from resnet_course.all import *\nlearn = get_dls("x", sizes=3)', known)
    assert python_faults('fit_recipes(learn)', known) == ['fit_recipes is not defined']
    assert command_faults(['trian']) and command_faults(['train', '--bach', '3'])
    assert command_faults(['data', 'chek']) and not command_faults(['data', 'check', 'x'])
    assert sum(len(blocks(p, 'py', 'python')) for p in pages) > 15
    assert sum(len(blocks(p, 'sh')) for p in pages) > 30
