#!/bin/sh
# Installs the compilers and the emulator that are missing, where apt-get can be used; says what is left out elsewhere.
set -u

missing=""
command -v arm-none-eabi-gcc >/dev/null 2>&1 || missing="$missing gcc-arm-none-eabi libnewlib-arm-none-eabi"
command -v cc >/dev/null 2>&1 || missing="$missing gcc libc6-dev"
command -v qemu-system-arm >/dev/null 2>&1 || missing="$missing qemu-system-arm"
[ -n "$missing" ] || exit 0

root=""
if [ "$(id -u)" != 0 ]; then
    if command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then root="sudo"; else root="none"; fi
fi
if command -v apt-get >/dev/null 2>&1 && [ "$root" != none ]; then
    echo "installing with apt-get:$missing"
    log=$(mktemp)
    # shellcheck disable=SC2086
    if $root apt-get update -qq >"$log" 2>&1 &&
        DEBIAN_FRONTEND=noninteractive $root apt-get install -y -qq --no-install-recommends $missing >>"$log" 2>&1; then
        rm -f "$log"
        exit 0
    fi
    echo "apt-get did not succeed:"
    tail -5 "$log"
    rm -f "$log"
fi

command -v arm-none-eabi-gcc >/dev/null 2>&1 ||
    echo "note: no arm-none-eabi-gcc here; PlatformIO fetches its own toolchain at the first build."
command -v cc >/dev/null 2>&1 ||
    echo "note: no host C compiler here; --engine host and the host comparison are left out."
command -v qemu-system-arm >/dev/null 2>&1 ||
    echo "note: no qemu-system-arm here; the mps2 boards are left out, nucleo-f746 runs in the built-in simulator."
exit 0
