"""What pyproject.toml cannot say: the shipped profiles become a folder of the package."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["amaqctl", "amaqctl.*"]), "amaqctl.shipped_profiles"],
    package_dir={"amaqctl.shipped_profiles": "profiles"},
)
