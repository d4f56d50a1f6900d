"""GPUs of this machine: read through NVML or the files of a Jetson, which may be used, who holds them."""
