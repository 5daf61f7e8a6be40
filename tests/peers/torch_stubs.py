"""Stand-ins for the NVIDIA libraries that PyPI's torch is linked against.

PyPI has no CPU build of torch, and the CUDA build pulls in gigabytes of NVIDIA libraries although a run on the CPU
never calls them. The dynamic loader only asks that each library, version and symbol exists. This script reads what
torch's own libraries ask for and compiles one small shared library for each NVIDIA library, whose every function
answers "no device": error 100, or a text where the text of an error is asked for.

Usage: python torch_stubs.py SITE_PACKAGES     (writes into torch/lib, which is on torch's search path)
"""
import collections
import pathlib
import re
import subprocess
import sys

NVIDIA_LIBRARY = re.compile(r"^lib(cu|nv|nccl)")
NVIDIA_SYMBOL = re.compile(r"^_*(cu|nv|nccl)")
NO_DEVICE = 100  # cudaErrorNoDevice, CUDA_ERROR_NO_DEVICE
# These return a text; the driver's cuGetErrorString fills one in and returns an error like the others.
ERROR_TEXT = re.compile(r"^(?!cuGet).*(Error|Status|Result)(String|Name)$|^ncclGetLastError$")


def readelf(*args):
    return subprocess.run(["readelf", "-W", *args], check=True, capture_output=True, text=True).stdout


def wanted(lib_dir):
    """({library: {(symbol, version, is_data)}}, the same for symbols that name no library), over torch's libraries."""
    need = {}
    unversioned, defined = set(), set()
    libraries = [p for p in sorted(lib_dir.glob("*.so*")) if not NVIDIA_LIBRARY.match(p.name)]
    for path in libraries:
        for name in re.findall(r"NEEDED.*\[(.*)\]", readelf("-d", path)):
            if NVIDIA_LIBRARY.match(name):
                need.setdefault(name, set())
        version_of, file = {}, None
        for line in readelf("-V", path).splitlines():
            if m := re.search(r"File: (\S+)", line):
                file = m[1]
            elif (m := re.search(r"Name: (\S+)", line)) and file:
                version_of[m[1]] = file
        for line in readelf("--dyn-syms", path).splitlines():
            f = line.split()
            if len(f) < 8:
                continue
            name, _, version = f[7].partition("@")
            version = version.strip("@")
            if f[6] != "UND":
                defined.add(name)
            elif version:
                if NVIDIA_LIBRARY.match(version_of.get(version, "")):
                    need.setdefault(version_of[version], set()).add((name, version, f[3] == "OBJECT"))
            elif f[4] != "WEAK" and NVIDIA_SYMBOL.match(name):
                unversioned.add((name, None, f[3] == "OBJECT"))
    return need, {u for u in unversioned if u[0] not in defined}


def stand_in(name, is_data):
    """C text of one symbol."""
    if is_data:
        return f"char {name}[4096];"
    if ERROR_TEXT.search(name):
        return f'const char *{name}(void) {{ return "no device"; }}'
    return f"int {name}(void) {{ return {NO_DEVICE}; }}"


def main():
    lib_dir = pathlib.Path(sys.argv[1]) / "torch" / "lib"
    need, loose = wanted(lib_dir)
    first = True
    for soname, symbols in sorted(need.items()):
        # Symbols without a version say nothing of their library: any one may hold them.
        symbols = symbols | (loose if first else set())
        first = False
        code, versions = [], collections.defaultdict(list)
        for name, version, data in sorted(symbols, key=str):
            code.append(stand_in(name, data))
            if version:
                versions[version].append(name)
        script = lib_dir / (soname + ".map")
        script.write_text("".join(f"{v} {{ global: {' '.join(n + ';' for n in names)} }};\n" for v, names in versions.items())
                          or "NOTHING { local: nothing; };\n")
        subprocess.run(["cc", "-shared", "-fPIC", "-w", "-fno-builtin", "-x", "c", "-", "-o", str(lib_dir / soname),
                        f"-Wl,-soname,{soname}", f"-Wl,--version-script={script}"],
                       input="\n".join(code), text=True, check=True)
        script.unlink()
    print(f"stubs: {len(need)} libraries, {sum(map(len, need.values()))} functions")


main()
