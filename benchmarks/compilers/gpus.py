"""GPUs as XLA's compiler has to know them where there is none to ask.

What it wants is the message ``stream_executor.GpuTargetConfigProto`` in text form. The numbers are
the public ones: NVIDIA's white papers on Turing, the A100 and the H100, the H200 data sheet, and
the table of compute capabilities in the CUDA C++ Programming Guide. XLA plans its kernels by them
(how many blocks, what fits shared memory); close is close enough.
"""

from typing import NamedTuple


class Gpu(NamedTuple):
    """A kind of GPU: its name in CUDA, and numbers with their units."""

    name: str
    capability: tuple[int, int]  # of computation: major, minor
    cores: int  # streaming multiprocessors
    clock_ghz: float  # boost
    memory_gib: int
    memory_gb_per_s: int
    l2_mib: int
    shared_kib: int  # of memory that a multiprocessor's blocks share
    threads: int  # at most on a multiprocessor

    def config(self) -> str:
        """Returns the target's message, in text form."""
        major, minor = self.capability
        accelerated = "feature_extension: ACCELERATED_FEATURES" if major >= 9 else ""
        return f"""
gpu_device_info {{
  cuda_compute_capability {{ major: {major} minor: {minor} {accelerated} }}
  core_count: {self.cores}
  clock_rate_ghz: {self.clock_ghz}
  device_memory_size: {self.memory_gib << 30}
  memory_bandwidth: {self.memory_gb_per_s * 10**9}
  l2_cache_size: {self.l2_mib << 20}
  shared_memory_per_core: {self.shared_kib << 10}
  shared_memory_per_block: {48 << 10}
  shared_memory_per_block_optin: {(self.shared_kib - 1) << 10}
  fpus_per_core: {128 if major >= 9 else 64}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: {self.threads}
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  driver_version: "13.0.0"
  runtime_version: "12.9.0"
  compile_time_toolkit_version: "12.9.0"
  dnn_version: "9.10.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
runtime_version {{ major: 12 minor: 9 }}
device_description_str: "{self.name}"
"""


GPUS = {
    "t4": Gpu("Tesla T4", (7, 5), 40, 1.59, 16, 320, 4, 64, 1024),
    "a100": Gpu("NVIDIA A100-SXM4-80GB", (8, 0), 108, 1.41, 80, 2039, 40, 164, 2048),
    "h100": Gpu("NVIDIA H100 80GB HBM3", (9, 0), 132, 1.98, 80, 3352, 50, 228, 2048),
    "h200": Gpu("NVIDIA H200", (9, 0), 132, 1.98, 141, 4800, 50, 228, 2048),
}
