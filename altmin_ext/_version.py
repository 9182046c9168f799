"""The version of the package and of its native module; the build reads it from here."""

__version__ = "0.1.0"
