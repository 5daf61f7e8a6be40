#!/usr/bin/env bash
# Installs what run.sh needs to build for arm64 Linux and to run the result here. It takes nothing from Rust's own
# servers: one Debian suite has rustc and the standard libraries of both processors in one version. A private apt
# chooses the packages and checks signatures and SHA-256 sums; nothing is installed into the system.
#
# It goes to $LLM_QUANTIZE_EMULATION, by default llm-quantize-emulation in the user's cache folder; running it again does
# nothing once it is complete. Needs: x86-64 Debian (apt, archive keys), rustup's toolchain for its linker, a C compiler;
# no root.
set -euo pipefail
cache=${LLM_QUANTIZE_EMULATION:-${XDG_CACHE_HOME:-$HOME/.cache}/llm-quantize-emulation}
suite=forky
minimum=1.95

mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")"
lld=$(rustc --print sysroot)/lib/rustlib/x86_64-unknown-linux-gnu/bin/rust-lld
stamp="$suite $lld $(sha256sum <setup.sh)"
if [ "$(cat "$cache/stamp" 2>/dev/null)" = "$stamp" ]; then exit 0; fi
root=$cache/root apt=$cache/apt libraries=$cache/root/usr/lib/aarch64-linux-gnu
rm -rf "$cache/stamp" "$apt" "$root"
mkdir -p "$apt"/{etc/{apt.conf.d,sources.list.d,preferences.d},state/lists/partial,cache/archives/partial} "$root"

# rustc's package wants a C compiler of the same suite. The system's links just as well, so apt is told that it is there.
for package in gcc binutils libc6-dev; do
  printf 'Package: %s\nStatus: install ok installed\nArchitecture: amd64\nVersion: 999:0\nProvides: libc-dev\n\n' "$package"
done >"$apt/status"
cat >"$apt/etc/sources.list" <<SOURCES
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $suite main
SOURCES
# Mirrors may lag behind by more than the index's two weeks: its date is not checked.
cat >"$apt/apt.conf" <<CONFIGURATION
Dir "$apt"; Dir::Etc "etc"; Dir::State "state"; Dir::State::status "$apt/status"; Dir::Cache "cache";
APT::Architecture "amd64"; APT::Architectures { "amd64"; "arm64"; }; APT::Install-Recommends "false";
APT::Sandbox::User ""; Acquire::Languages "none"; Acquire::Retries "3"; Acquire::Check-Valid-Until "false";
CONFIGURATION
export APT_CONFIG=$apt/apt.conf

cd "$apt/cache/archives"
apt-get -qq update
apt-get -qq --yes --download-only install rustc qemu-user
version=$(dpkg-deb --field rustc_*.deb Version)
dpkg --compare-versions "$version" ge "$minimum" || { echo "setup: $suite has rustc $version only" >&2; exit 1; }
# For arm64 there is nothing but libraries, without their dependencies (a second LLVM).
apt-get -qq download "libstd-rust-dev:arm64=$version" {libc6,libc6-dev,libgcc-s1}:arm64
for package in *.deb; do
  case $package in
    qemu-user_*) dpkg-deb --fsys-tarfile "$package" | tar -x -C "$root" ./usr/bin/qemu-aarch64 ;;
    *) dpkg-deb --extract "$package" "$root" ;;
  esac
done
ln -s usr/lib "$root/lib"
ln -s libgcc_s.so.1 "$libraries/libgcc_s.so"

# The suite's rustc runs with the suite's C library, which may be newer than the system's.
cat >"$root/rustc" <<WRAPPER
#!/bin/sh
exec "$root/usr/lib64/ld-linux-x86-64.so.2" --library-path "$root/usr/lib/x86_64-linux-gnu" "$root/usr/bin/rustc" "\$@"
WRAPPER
chmod +x "$root/rustc"
# The linker is called without a C compiler, which would have known where the C library is.
cat >"$root/cargo.toml" <<CONFIGURATION
[build]
rustc = "$root/rustc"
target = "aarch64-unknown-linux-gnu"
target-dir = "$cache/target"
incremental = false
[profile.dev]
debug = false
[target.aarch64-unknown-linux-gnu]
runner = ["$root/usr/bin/qemu-aarch64", "-L", "$root"]
linker = "$lld"
rustflags = [
  "-Clinker-flavor=ld.lld", "-Lnative=$libraries", "-Clink-arg=--sysroot=$root",
  "-Clink-arg=--dynamic-linker=/lib/ld-linux-aarch64.so.1", "-Clink-arg=$libraries/Scrt1.o",
]
CONFIGURATION
rm -rf "$apt"
printf '%s\n' "$stamp" >"$cache/stamp"
echo "setup: rustc $version and $("$root/usr/bin/qemu-aarch64" --version | head -1) in $SECONDS s" >&2
