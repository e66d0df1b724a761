"""GPUs as XLA's compiler has to know them where there is none to ask.

What it wants is the message ``stream_executor.GpuTargetConfigProto`` in text form. The numbers are
the public ones: NVIDIA's white papers on Turing, the A100 and the H100, the H200 data sheet, and
the table of compute capabilities in the CUDA C++ Programming Guide. XLA plans its kernels by them
(how many blocks, what fits shared memory); close is close enough.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A kind of GPU.

    Attributes:
      name: as CUDA gives it.
      capability: (major, minor) of its compute capability.
      cores: streaming multiprocessors.
      clock_ghz: boost.
      memory_bytes: of the device.
      memory_bytes_per_s: between device and memory.
      l2_bytes: of the second-level cache.
      shared_bytes: of memory that a multiprocessor's blocks share.
      threads: at most on a multiprocessor.
    """

    name: str
    capability: tuple[int, int]
    cores: int
    clock_ghz: float
    memory_bytes: int
    memory_bytes_per_s: int
    l2_bytes: int
    shared_bytes: int
    threads: int = 2048

    def config(self) -> str:
        """Returns the target's message, in text form."""
        major, minor = self.capability
        accelerated = "feature_extension: ACCELERATED_FEATURES" if major >= 9 else ""
        return f"""
gpu_device_info {{
  cuda_compute_capability {{ major: {major} minor: {minor} {accelerated} }}
  core_count: {self.cores}
  clock_rate_ghz: {self.clock_ghz}
  device_memory_size: {self.memory_bytes}
  memory_bandwidth: {self.memory_bytes_per_s}
  l2_cache_size: {self.l2_bytes}
  shared_memory_per_core: {self.shared_bytes}
  shared_memory_per_block: {48 * 1024}
  shared_memory_per_block_optin: {self.shared_bytes - 1024}
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
    "t4": Gpu(
        *("Tesla T4", (7, 5), 40, 1.59, 16 << 30, 320_000_000_000, 4 << 20, 64 << 10),
        threads=1024,
    ),
    "a100": Gpu(
        "NVIDIA A100-SXM4-80GB", (8, 0), 108, 1.41, 80 << 30, 2_039_000_000_000, 40 << 20, 164 << 10
    ),
    "h100": Gpu(
        "NVIDIA H100 80GB HBM3", (9, 0), 132, 1.98, 80 << 30, 3_352_000_000_000, 50 << 20, 228 << 10
    ),
    "h200": Gpu(
        "NVIDIA H200", (9, 0), 132, 1.98, 141 << 30, 4_800_000_000_000, 50 << 20, 228 << 10
    ),
}
