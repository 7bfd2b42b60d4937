"""Metadata of the package; build system and tool settings are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
about: dict[str, str] = {}
exec((ROOT / "spear_tts_pytorch" / "version.py").read_text(encoding="utf-8"), about)

extras = {
    "hubert": ["transformers>=4.40", "scikit-learn>=1.3"],
    "clip": ["x-clip>=0.14"],
    "phonemes": ["phonemizer>=3.3", "espeakng-loader>=0.2"],
    "demo": ["espeakng-loader>=0.2", "scikit-learn>=1.3", "jiwer>=3.0", "matplotlib>=3.7"],
    "plots": ["matplotlib>=3.7"],
    "transcripts": ["pysubs2>=1.7", "praatio>=6.0"],
    "lhotse": ["lhotse>=1.20", "urllib3>=2.0"],  # lhotse imports urllib3 without requiring it
    "track": ["tensorboard>=2.15", "wandb>=0.16"],
}
extras["all"] = sorted({requirement for group in extras.values() for requirement in group})
extras["test"] = [
    *extras["demo"],
    *extras["hubert"],
    *extras["phonemes"],
    *extras["transcripts"],
    *extras["lhotse"],
    "pytest>=8.0",
    "pytest-xdist>=3.5",
    "hypothesis>=6.100",
    "pandas>=2.0",
    "polars>=1.0",
    "duckdb>=1.0",
    "datasets>=2.19",
    "tensorboard>=2.15",
    "ruff>=0.5",
    "pyright[nodejs]>=1.1.400",  # node from the package index, not from elsewhere
    "mypy>=1.13",
    "build>=1.0",
]

setup(
    name="spear-tts-pytorch",
    version=about["__version__"],
    description="Text to semantic speech tokens from a little transcribed speech: the first stage of SPEAR-TTS",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="spear-tts-pytorch contributors",
    license_expression="MIT",
    license_files=["LICENSE"],
    keywords=["text-to-speech", "semantic tokens", "backtranslation", "low-resource speech", "pytorch"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3.14",
        "Topic :: Multimedia :: Sound/Audio :: Speech",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    packages=find_packages(include=["spear_tts_pytorch", "spear_tts_pytorch.*"]),
    package_data={"spear_tts_pytorch": ["py.typed"]},
    install_requires=[
        "torch>=2.5",
        "typing_extensions>=4.10",
        "einops>=0.7",
        "beartype>=0.18.2",
        "tqdm>=4.64",
        "accelerate>=1.0",
        "safetensors>=0.4.3",
        "huggingface_hub>=0.25",
        "numpy>=1.24",
        "filelock>=3.12",
        "soundfile>=0.12.1",
        "soxr>=0.4",
        "pyarrow>=15.0",
        "tomlkit>=0.12",
        "jinja2>=3.1",
    ],
    extras_require=extras,
    entry_points={"console_scripts": ["spear-tts = spear_tts_pytorch.cli:main"]},
)
