"""The instruments of the benchmarks: time, memory, resumable rows and plots."""
