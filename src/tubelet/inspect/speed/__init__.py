"""Measuring: `tubelet bench` and the scripts in benchmarks/ stand on it. A leaf: nothing imports it but the command."""
