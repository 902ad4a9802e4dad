"""The parts of run.py, the benchmarks on the CPU: what is timed, who runs it, and how it is reported."""
