"""How make has llama.cpp compiled: by what the processor has, and by what the compiler takes."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CPUINFO = Path("/proc/cpuinfo")
SAPPHIRE_RAPIDS = "avx512f avx512_bf16 avx512_fp16 amx_tile amx_int8"


@pytest.fixture
def make(tmp_path: Path) -> Path:
    """A file to write a processor's flags into."""
    if shutil.which("make") is None or platform.system() != "Linux":
        pytest.skip("needs GNU make and Linux")
    return tmp_path / "cpuinfo"


def exported(cpuinfo: Path, processor: str, **environment: str) -> tuple[str, str]:
    """CMAKE_ARGS and CXXFLAGS as the commands of the Makefile see them."""
    cpuinfo.write_text(f"flags\t\t: fpu {processor} rdpid\n")
    kept = {name: value for name, value in os.environ.items() if name not in {"CMAKE_ARGS", "CXXFLAGS", "CXX"}}
    done = subprocess.run(
        ["make", "-s", f"CPUINFO={cpuinfo}", '--eval=show: ; @echo "$$CMAKE_ARGS|$$CXXFLAGS"', "show"],
        cwd=ROOT,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    cmake, _, compiler = done.stdout.strip().partition("|")
    return cmake, compiler


@pytest.mark.parametrize("processor", ["avx2", "avx512f avx512_bf16", ""])
def test_most_processors_are_left_to_llama_cpp(make: Path, processor: str) -> None:
    assert exported(make, processor, CXX="true") == ("", "")


def test_amx_and_half_floats_are_left_out(make: Path) -> None:
    cmake, compiler = exported(make, SAPPHIRE_RAPIDS)
    assert "-DGGML_NATIVE=OFF" in cmake
    assert "-DGGML_AVX512_BF16=ON" in cmake
    assert "AMX" not in cmake
    assert "FP16" not in cmake
    assert compiler == ""


def test_your_own_flags_win(make: Path) -> None:
    assert exported(make, SAPPHIRE_RAPIDS, CXX="true", CMAKE_ARGS="-DGGML_CUDA=on") == ("-DGGML_CUDA=on", "")


TILES = """
#include <cstdint>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
struct Config { uint8_t palette = 0, start = 0, reserved[14] = {}; uint16_t bytes[16] = {}; uint8_t rows[16] = {}; };
__attribute__((noinline)) void configure() {
    alignas(64) Config config = {};
    config.palette = 1;
    config.rows[0] = 8; config.bytes[0] = 64;
    _tile_loadconfig(&config);
}
__attribute__((noinline)) void copy(int8_t *to, int8_t first) {
    int8_t from[512];
    for (int i = 0; i < 512; i++) from[i] = first + i;
    _tile_loadd(0, from, 64);
    _tile_stored(0, to, 64);
}
int main() {
    if (syscall(SYS_arch_prctl, 0x1023, 18)) return 0; /* the system doesn't give AMX to programs */
    int8_t copied[512];
    configure();
    copy(copied, 3);
    for (int i = 0; i < 512; i++) if (copied[i] != (int8_t) (3 + i)) return 1;
    return 0;
}
"""


@pytest.mark.skipif(
    not CPUINFO.exists() or "amx_int8" not in CPUINFO.read_text() or shutil.which("c++") is None,
    reason="needs AMX and a C++ compiler",
)
def test_with_the_header_a_tile_holds_what_was_stored_for_it(tmp_path: Path) -> None:
    """Without it, GCC 12 leaves the rows out of the configuration, and the program dies at the first load."""
    source, program = tmp_path / "tiles.cpp", tmp_path / "tiles"
    source.write_text(TILES)
    flags = ["-O3", "-mamx-tile", "-mavx512f", "-include", str(ROOT / "tools" / "amx_tiles.h")]
    subprocess.run(["c++", *flags, "-o", str(program), str(source)], check=True, capture_output=True)
    assert subprocess.run([str(program)], check=False).returncode == 0
