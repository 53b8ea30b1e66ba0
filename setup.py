"Reads everything from settings.ini, where nbdev keeps it too."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
ini = ConfigParser(delimiters=["="], interpolation=None)
ini.read(here/"settings.ini", encoding="utf-8")
cfg = ini["DEFAULT"]
extras = {name: cfg[f"{name}_requirements"].split() for name in ("offline", "tracking", "llm", "export", "bench", "dev")}

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(here/"README.md").read_text(encoding="utf-8") if (here/"README.md").exists() else "",
    long_description_content_type="text/markdown",
    author=cfg["author"],
    license="Apache-2.0",
    python_requires=f">={cfg['min_python']}",
    packages=find_packages(include=["neuralkit", "neuralkit.*"]),
    package_data={"neuralkit": ["*/shapes/*.json"]},
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    entry_points={
        "console_scripts": [cfg["console_scripts"]],
        "papermill.io": ["neuralkit-run://=neuralkit.core.papermill:RunHandler"],
    },
)
