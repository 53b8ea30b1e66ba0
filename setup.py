"Reads everything from settings.ini, where nbdev keeps it too."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).resolve().parent
ini = ConfigParser(delimiters=["="], interpolation=None)
with open(here/"settings.ini", encoding="utf-8") as file: ini.read_file(file)
cfg = ini["DEFAULT"]
extras = {key.removesuffix("_requirements"): cfg[key].split() for key in cfg if key.endswith("_requirements")}
classifiers = [
    "Development Status :: 3 - Alpha",
    "Intended Audience :: Science/Research",
    "Operating System :: OS Independent",
    "Programming Language :: Python :: 3",
    "Topic :: Scientific/Engineering :: Artificial Intelligence",
    "Typing :: Typed",
]

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(here/"README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    keywords=cfg["keywords"].split(),
    classifiers=classifiers,
    python_requires=f">={cfg['min_python']}",
    packages=find_packages(include=["neuralkit", "neuralkit.*"]),
    package_data={"neuralkit": ["py.typed", "*/shapes/*.json"]},
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    entry_points={
        "console_scripts": [cfg["console_scripts"]],
        "papermill.io": ["neuralkit-run://=neuralkit.core.papermill:RunHandler"],
    },
)
