"Packaging: everything is read from settings.ini, which nbdev reads too."
import json, re, shutil
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

cp = ConfigParser(delimiters=['='])
cp.read(Path(__file__).parent/'settings.ini', encoding='utf-8')
cfg = cp['DEFAULT']
# PyPI does not know where the repository is: links become absolute, images link to raw files
base = f"{cfg['git_url']}/blob/{cfg['branch']}/"
readme = Path('README.md').read_text(encoding='utf-8')
raw = base.replace('/blob/', '/raw/')
readme = re.sub(r'(!\[[^\]]*\]\(|src=")(?![a-z]+:|[#/])', rf'\g<1>{raw}', readme)
readme = re.sub(r'(\]\(|href=")(?![a-z]+:|[#/])', rf'\g<1>{base}', readme)

folders = 'lessons', 'solutions', 'guides', 'images'
extensions = '.ipynb', '.png', '.svg', '.jpg'

def in_wheel(f):
    "Does the wheel need this file of `nbs`?"
    return (f.parent.name in folders and f.suffix in extensions
            and not f.name.startswith('readme_'))

class BuildWithLessons(build_py):
    "Put the lessons into the wheel, for `resnet_course.lessons`, without their outputs"
    def run(self):
        super().run()
        if self.editable_mode: return   # a checkout has them in nbs
        for f in sorted(Path('nbs').glob('*/*')):
            if not in_wheel(f): continue
            to = Path(self.build_lib)/'resnet_course/notebooks'/f.relative_to('nbs')
            to.parent.mkdir(parents=True, exist_ok=True)
            if f.suffix != '.ipynb': shutil.copyfile(f, to)
            else:
                nb = json.loads(f.read_text(encoding='utf-8'))
                for c in nb['cells']:
                    if c['cell_type'] == 'code': c.update(outputs=[], execution_count=None)
                text = json.dumps(nb, indent=1, ensure_ascii=False) + '\n'
                to.write_text(text, encoding='utf-8')

pythons = ['3.10', '3.11', '3.12', '3.13']

setup(
    name=cfg['lib_name'], version=cfg['version'],
    description=cfg['description'], keywords=cfg['keywords'],
    long_description=readme, long_description_content_type='text/markdown',
    author=cfg['author'], author_email=cfg['author_email'], url=cfg['git_url'],
    project_urls={'Documentation': cfg['doc_host'] + cfg['doc_baseurl'],
                  'Changelog': f'{base}CHANGELOG.md', 'Issues': f"{cfg['git_url']}/issues"},
    # the images of Fashion-MNIST come under the MIT license
    license_expression='Apache-2.0 AND MIT',
    license_files=['LICENSE', 'resnet_course/assets/*/LICENSE'],
    python_requires=f">={cfg['min_python']}",
    packages=find_packages(include=['resnet_course', 'resnet_course.*']), zip_safe=False,
    include_package_data=False, package_data={'resnet_course': ['assets/**/*']},
    cmdclass=dict(build_py=BuildWithLessons),
    install_requires=cfg['requirements'].split(),
    extras_require=dict(dev=cfg['dev_requirements'].split(),
                        lessons=cfg['lessons_requirements'].split(),
                        onnx=cfg['onnx_requirements'].split(),
                        app=cfg['app_requirements'].split(),
                        heic=cfg['heic_requirements'].split(),
                        log=cfg['log_requirements'].split(),
                        recipes=cfg['recipes_requirements'].split()),
    entry_points=dict(console_scripts=cfg['console_scripts'].split(),
                      nbdev=[f"{cfg['repo']}={cfg['repo']}._modidx:d"]),
    classifiers=['Development Status :: 3 - Alpha', 'Intended Audience :: Education',
                 'Natural Language :: English',
                 *[f'Programming Language :: Python :: {v}' for v in pythons]])
